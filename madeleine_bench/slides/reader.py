"""Whole-slide images: opening, resolution, thumbnails and patches. The only door to OpenSlide.

The second reader (tiff.py, dicom.py) takes what OpenSlide refuses.

Coordinates are level-0 pixels (`_px0`): x to the right, y down, of the upper left corner.
"""

import math
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, looking_at
from madeleine_bench.hashing import hash_sample
from madeleine_bench.slides.resolution import GivenMpp, mpp_of, resolve_mpp
from madeleine_bench.slides.tiff import open_tiff_slide
from madeleine_bench.slides.tiled import TiledSlide

_PHANTOM_MARK = "PHANTOM slide of madeleine-bench"
_SNAP = 0.02  # 0.2521 against 0.25 is the calibration of a scanner, not another magnification
_BAND_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class ReadPlan:
    """How square patches of one size and resolution are read from one slide.

    Attributes:
        patch_px: side of a patch as it is handed over.
        size_px0: side of the region it covers, in level-0 pixels.
        level: pyramid level to read from.
        level_px: side of the region in pixels of that level.
    """

    patch_px: int
    size_px0: int
    level: int
    level_px: int

    @property
    def is_exact(self) -> bool:
        """Whether a level has the resolution that was asked for, so that nothing is resampled."""
        return self.level_px == self.patch_px


@dataclass(frozen=True)
class Thumbnail:
    """A whole slide, small.

    Attributes:
        rgb: height x width x 3, uint8.
        mpp: micrometres per pixel of the thumbnail.
        scale: level-0 pixels per thumbnail pixel, along x and along y.
    """

    rgb: NDArray[np.uint8]
    mpp: float
    scale: tuple[float, float]


class Slide(AbstractContextManager["Slide"]):
    """An open slide; several threads may read from it at once.

    Attributes:
        path: the file.
        slide_id: its name without the last suffix, as bags are named.
        width_px0: width at level 0.
        height_px0: height at level 0.
        level_downsamples: for each level, level-0 pixels per pixel, 1.0 first.
        level_sizes: for each level (width, height).
        mpp: micrometres per level-0 pixel, or None where nothing states it.
        mpp_source: who says so, as in `Resolution`.
        mpp_remark: what the user should know of the resolution, or "".
        vendor: the format, as OpenSlide names it.
        phantom: the kind of phantom, such as "rendered"; None for a real slide.
    """

    def __init__(self, path: Path, mpp: GivenMpp = None, force_mpp: GivenMpp = None) -> None:
        """Open a slide.

        Args:
            path: a file that OpenSlide reads (svs, ndpi, mrxs, tiled tiff, ...).
            mpp: micrometres per level-0 pixel where the file states none.
            force_mpp: micrometres per level-0 pixel in place of what the file states.

        Raises:
            InputError: there is no such file, it is no slide, or it is damaged; or a given mpp is
                no plausible number.
        """
        self.path = path
        self.slide_id = path.stem
        slide = _opened(path)
        self._slide: openslide.OpenSlide | TiledSlide | None = slide
        properties = dict(slide.properties)
        self.width_px0, self.height_px0 = slide.dimensions
        self.level_downsamples = tuple(float(d) for d in slide.level_downsamples)
        self.level_sizes = tuple(slide.level_dimensions)
        self.vendor = properties.get("openslide.vendor", "unknown")
        self.phantom = phantom_kind(properties.get("tiff.ImageDescription", ""))
        # OpenSlide hashes the smallest level, unless that is large: then there is no such hash.
        with looking_at(path):
            self.content = f"{path.stat().st_size}:" + (
                properties.get("openslide.quickhash-1") or hash_sample(path)
            )
        self.mpp, self.mpp_source, self.mpp_remark = resolve_mpp(
            properties, mpp_of(mpp, path), mpp_of(force_mpp, path)
        )
        self._glass = f"#{properties.get('openslide.background-color', 'ffffff')}"

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file once reads under way have ended; reading afterwards is an error."""
        self._slide = None  # OpenSlide closes when its last user lets go of it

    def known_mpp(self) -> float:
        """Return micrometres per level-0 pixel.

        Raises:
            InputError: nothing states it; the message says how to give it.
        """
        if self.mpp is None:
            reason = self.mpp_remark or "no mpp, no objective power"
            raise InputError(
                f"{self.path} does not say how many micrometres a pixel is ({reason}). Give it: "
                "--mpp 0.25 for a 40x scan, --mpp 0.5 for 20x, or a table of slide and mpp"
            )
        return self.mpp

    def plan(self, patch_px: int, patch_mpp: float) -> ReadPlan:
        """Return how patches of `patch_px` pixels at `patch_mpp` micrometres a pixel are read.

        The coarsest level that is not too coarse is read and scaled down. A resolution within 2%
        of a level, or of a whole multiple of level 0, is taken for that one.

        Raises:
            InputError: the mpp of the slide is unknown, or the slide was scanned coarser than
                what is asked for, so that patches would have to be made up.
        """
        ratio = _snapped(patch_mpp / self.known_mpp(), self.level_downsamples)
        if ratio < 1.0:
            raise InputError(
                f"{self.path} has {self.known_mpp():g} micrometres a pixel, coarser than the "
                f"{patch_mpp:g} asked for. Ask for {self.known_mpp():g} or more (--patch-mpp), or "
                "give the right --force-mpp if the file states a wrong one"
            )
        level = self._level_of(ratio)
        level_px = max(1, round(patch_px * ratio / self.level_downsamples[level]))
        return ReadPlan(patch_px, max(1, round(patch_px * ratio)), level, level_px)

    def read_patch(self, x_px0: int, y_px0: int, plan: ReadPlan) -> NDArray[np.uint8]:
        """Return one patch, (patch_px, patch_px, 3) RGB; what was not scanned has glass colour.

        Raises:
            InputError: the file is damaged at this place.
        """
        picture = self._read(x_px0, y_px0, plan.level, (plan.level_px, plan.level_px))
        if not plan.is_exact:
            side = (plan.patch_px, plan.patch_px)
            picture = picture.resize(side, Image.Resampling.BOX, reducing_gap=None)
        return np.asarray(picture)

    def thumbnail(self, mpp: float | None = None, longest_px: int | None = None) -> Thumbnail:
        """Return the whole slide, small.

        Whole pixels of a level are averaged, in bands, so that memory stays small even for a slide
        of a single level.

        Args:
            mpp: the picture is as fine as this, or up to twice as fine; never finer than the scan.
            longest_px: no side is longer.

        Raises:
            InputError: the mpp of the slide is unknown, or the file is damaged.
        """
        fine = 1.0 if mpp is None else max(mpp / self.known_mpp(), 1.0)
        longest = max(self.width_px0, self.height_px0)
        coarse = 1.0 if longest_px is None else max(longest / longest_px, 1.0)
        level = self._level_of(max(fine, coarse))
        down = self.level_downsamples[level]
        factor = max(1, math.floor(fine / down + 1e-6), math.ceil(coarse / down - 1e-6))
        rgb = self._reduced(level, factor)
        scale = (self.width_px0 / rgb.shape[1], self.height_px0 / rgb.shape[0])
        return Thumbnail(rgb, self.known_mpp() * scale[0], scale)

    def _level_of(self, ratio: float) -> int:
        """Return the coarsest level that has at most so many level-0 pixels a pixel."""
        return max(i for i, d in enumerate(self.level_downsamples) if d <= ratio * (1 + 1e-6))

    def _reduced(self, level: int, factor: int) -> NDArray[np.uint8]:
        """Return a whole level, blocks of factor x factor pixels averaged."""
        width, height = self.level_sizes[level]
        down = self.level_downsamples[level]
        rows = max(1, _BAND_BYTES // (4 * width * factor)) * factor
        bands = []
        for top in range(0, height, rows):
            size = (width, min(rows, height - top))
            band = self._read(0, round(top * down), level, size)
            bands.append(np.asarray(band.reduce(factor) if factor > 1 else band))
        return np.concatenate(bands)

    def _read(self, x: int, y: int, level: int, size: tuple[int, int]) -> Image.Image:
        slide = self._slide  # held open while it is read, whoever closes this one
        if slide is None:
            raise InputError(f"{self.path} has been closed")
        try:
            region = slide.read_region((x, y), level, size)
        except (openslide.OpenSlideError, OSError) as error:
            raise _damaged(self.path, error) from error
        scanned = region.getchannel("A")
        if scanned.getextrema() == (255, 255):
            return region.convert("RGB")
        glass = Image.new("RGB", size, self._glass)
        glass.paste(region, mask=scanned)
        return glass


def phantom_description(kind: str, text: str) -> str:
    """Return the description of a phantom slide, which every reader of ours knows it by.

    Examples:
        >>> phantom_kind(phantom_description("rendered", "drawn, not scanned"))
        'rendered'
    """
    return f"{_PHANTOM_MARK} ({kind}): {text}"


def phantom_kind(description: str) -> str | None:
    """Return the kind of phantom that a description states; None for a real slide."""
    mark = re.match(rf"{_PHANTOM_MARK} \(([\w.-]+)\)", description)
    return mark.group(1) if mark else None


def _opened(path: Path) -> openslide.OpenSlide | TiledSlide:
    """Return an open slide, by the second reader where OpenSlide refuses it or misses its levels.

    Raises:
        InputError: as `Slide`.
    """
    if not path.is_file():
        dead_link = f"{path} is a link that leads nowhere" if path.is_symlink() else ""
        raise InputError(dead_link or f"no slide {path}")
    try:
        slide = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        check_readable(path, error)
        if (tiled := _tiled(path)) is not None:
            return tiled
        if not isinstance(error, openslide.OpenSlideUnsupportedFormatError):
            raise _damaged(path, error) from error
        raise InputError(
            f"{path} is not a slide that OpenSlide reads: it is of another format, or cut short. A "
            "plain picture (JPEG, PNG, plain TIFF) becomes one by: mbench slides convert"
        ) from error
    is_plain = slide.properties["openslide.vendor"] == "generic-tiff"
    return (_tiled(path) if is_plain else None) or slide


def _tiled(path: Path) -> TiledSlide | None:
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        from madeleine_bench.slides.dicom import open_dicom_slide  # pydicom takes a while to import

        return open_dicom_slide(path)
    return open_tiff_slide(path) if start[:2] in (b"II", b"MM") else None


def _damaged(path: Path, error: Exception) -> InputError:
    """Return the error for a slide that OpenSlide fails on.

    Raises:
        UnreadableFile: it does so because the system refuses to read the file.
    """
    check_readable(path, error)
    return InputError(
        f"{path} cannot be read ({error}): the slide is cut short or damaged. Copy it again from "
        "where it came from"
    )


def _snapped(ratio: float, downsamples: tuple[float, ...]) -> float:
    candidates = [*downsamples, max(1.0, float(round(ratio)))]
    nearest = min(candidates, key=lambda candidate: abs(ratio / candidate - 1.0))
    return nearest if abs(ratio / nearest - 1.0) <= _SNAP else ratio
