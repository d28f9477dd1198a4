"""Plain pictures turned into slides: tiled TIFF pyramids, read and written in strips."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, Protocol

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, replacing
from madeleine_bench.report import Report
from madeleine_bench.slides.folder import list_pictures
from madeleine_bench.slides.resolution import checked_mpp
from madeleine_bench.slides.tiff import (
    JPEG_COMPRESSIONS,
    describe_pages,
    full_pages,
    orientation,
    tiff_image,
)
from madeleine_bench.slides.tiled import Pixels
from madeleine_bench.types import Progress

_TILE_PX = 256
_ORIENTATION = 274  # tag of TIFF and EXIF
_PNG_DEPTH = 24  # where a PNG states the bits of a sample
_PAGED = 10**7  # pixels above which a decoded picture lies in a temporary file
_DARK = 16_383  # a 16-bit picture that nowhere exceeds this was recorded with 14 bits or fewer

# Of JPEG, PNG and BMP, which are decoded as a whole; more is a mistake or a trap. Pillow refuses
# twice its limit, which as it comes is below what scanners export.
_LARGEST_PIXELS = 2 * 10**9
Image.MAX_IMAGE_PIXELS = _LARGEST_PIXELS // 2


class Strips(Protocol):
    """A picture whose rows are read in parts; an array is one.

    Attributes:
        shape: height, width and 3.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and 3."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]:
        """Return some rows, RGB."""


def write_pyramid(
    path: Path,
    picture: Strips,
    *,
    mpp: float,
    description: str,
    jpeg_quality: int | None = None,
) -> None:
    """Write a picture as a pyramid, each level half the size of the one before, atomically.

    Level 0 holds the picture, bit for bit unless it is compressed as JPEG; the others are averages
    of 2 x 2 pixels. The resolution goes into the resolution tags, where OpenSlide looks for it.
    Memory holds some strips of a picture; smaller levels wait in a temporary file beside the slide.

    Args:
        path: the file, .tif or .tiff; replaced when it exists.
        picture: (height, width, 3), RGB.
        mpp: micrometres per pixel.
        description: text of the ImageDescription tag.
        jpeg_quality: 1 to 100 for JPEG tiles; None stores without loss (deflate).

    Raises:
        InputError: the folder cannot be written.
    """
    height, width = picture.shape[:2]
    # A classic TIFF ends at 4 GiB; all levels together are at most 4/3 of the first.
    is_big = height * width * 4 > 2**32 - 2**25
    compression: dict[str, Any] = {"compression": "zlib"}
    if jpeg_quality is not None:
        compression = {"compression": "jpeg", "compressionargs": {"level": jpeg_quality}}
        compression["subsampling"] = (2, 2)
    with ExitStack() as stack:
        temporary = stack.enter_context(replacing(path))
        out = stack.enter_context(tifffile.TiffWriter(temporary, bigtiff=is_big))
        level = picture
        for number in count():
            rows, columns = level.shape[:2]
            per_cm = 1e4 / (mpp * width / columns)
            half_file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            half = _HalfSize(half_file, ((rows + 1) // 2, (columns + 1) // 2, 3))
            out.write(
                _tiles(level, half),
                shape=(rows, columns, 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(_TILE_PX, _TILE_PX),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if number else 0,
                description=description if number == 0 else None,
                metadata=None,
                software="madeleine-bench",
                **compression,
            )
            level = half
            if max(rows, columns) <= _TILE_PX:  # the last level fits into one tile
                return


@dataclass(frozen=True)
class _HalfSize:
    """A picture at half its size, in a temporary file that is written and then read in strips."""

    file: IO[bytes]
    shape: tuple[int, ...]

    def append(self, strip: NDArray[np.uint8]) -> None:
        """Add the rows of a strip of the large picture."""
        self.file.write(Image.fromarray(strip).reduce(2).tobytes())

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Return some rows, RGB."""
        top, bottom, _ = rows.indices(self.shape[0])
        line = self.shape[1] * 3
        self.file.seek(top * line)
        data = self.file.read((bottom - top) * line)
        return np.frombuffer(data, dtype=np.uint8).reshape(bottom - top, *self.shape[1:])


def _tiles(picture: Strips, half: _HalfSize) -> Iterator[NDArray[np.uint8]]:
    """Yield all tiles of a picture, row by row, and write the picture at half its size."""
    height, width = picture.shape[:2]
    for top in range(0, height, _TILE_PX):
        strip = picture[top : top + _TILE_PX]
        half.append(strip)
        for left in range(0, width, _TILE_PX):
            tile = np.zeros((_TILE_PX, _TILE_PX, 3), dtype=np.uint8)
            part = strip[:, left : left + _TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


@dataclass(frozen=True)
class PictureOptions:
    """What of a picture is taken, and how its values become 8 bits.

    Attributes:
        pages: numbers of pages, from 1: one, or three for red, green and blue. Empty where the file
            has one page.
        channels: numbers of channels, from 1, in the same way.
        scale: values that become 0 and 255; None goes by the type of the values.
    """

    pages: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the options once.

        Raises:
            InputError: there are too many or too few numbers, or no range.
        """
        for name, numbers in (("--page", self.pages), ("--channel", self.channels)):
            if len(numbers) not in (0, 1, 3) or any(number < 1 for number in numbers):
                raise InputError(
                    f"{name} is {', '.join(map(str, numbers))}; expected one number from 1, or "
                    "three (red, green, blue)"
                )
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise InputError(
                f"--scale is {self.scale[0]:g} {self.scale[1]:g}; expected a low and a high value"
            )


@dataclass
class _Picture:
    """A picture that is read in strips, upright, as 8-bit RGB.

    Attributes:
        path: the file.
        size: width and height as stored.
        read: returns an area as stored, of left, top, width and height.
        turned: orientation as in EXIF, 1 to 8.
        mode: what the channels are, as Pillow names it.
        scale: values that become 0 and 255.
        palette: colours of the values, for mode P.
        is_negative: whether 0 is white.
        brightest: highest value that was read, of 16 bits.
    """

    path: Path
    size: tuple[int, int]
    read: Callable[[int, int, int, int], Pixels]
    turned: int
    mode: str
    scale: tuple[float, float] | None
    palette: NDArray[np.uint8] | None = None
    is_negative: bool = False
    brightest: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and 3, upright."""
        width, height = self.size if self.turned < 5 else self.size[::-1]
        return (height, width, 3)

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Return rows of the upright picture.

        Raises:
            InputError: the file is damaged, or values cannot become 8 bits by the stated rule.
        """
        height, width, _ = self.shape
        top, bottom, _ = rows.indices(height)
        is_last = bottom == height
        if self.turned in (3, 4, 7, 8):
            top, bottom = height - bottom, height - top
        try:
            if self.turned < 5:
                stored = self.read(0, top, width, bottom - top)
            else:  # columns as stored are rows of the upright picture
                stored = self.read(top, 0, bottom - top, width).swapaxes(0, 1)
        except OSError as error:
            raise _damaged(self.path, error) from error
        down = -1 if self.turned in (3, 4, 7, 8) else 1
        across = -1 if self.turned in (2, 3, 6, 7) else 1
        rgb = self._rgb(np.ascontiguousarray(stored[::down, ::across]))
        if is_last:
            self._check_brightness()
        return rgb

    def _rgb(self, values: Pixels) -> NDArray[np.uint8]:
        """Return values as RGB; what is transparent becomes white."""
        if self.palette is not None:
            return np.take(self.palette, values[..., 0], axis=0)
        values = self._bytes(values)
        if self.is_negative:
            values = 255 - values
        if self.mode == "RGB":
            return values
        if self.mode == "L":
            return np.repeat(values, 3, axis=2)
        layer = Image.frombytes(self.mode, values.shape[1::-1], values.tobytes())
        if self.mode == "CMYK":
            return np.asarray(layer.convert("RGB"))
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, layer.convert("RGBA")).convert("RGB"))

    def _bytes(self, values: Pixels) -> NDArray[np.uint8]:
        """Return values as 8 bits, by the rules of docs/slide-formats.md."""
        kind = values.dtype
        if self.scale is not None:
            low, high = self.scale
            values = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
        elif kind == np.uint8:
            return np.asarray(values, dtype=np.uint8)
        elif kind == np.bool_:
            return np.where(values, np.uint8(255), np.uint8(0))
        elif kind == np.uint16:
            self.brightest = max(self.brightest, int(values.max(initial=0)))
            values = (values.astype(np.uint32) + 128) // 257
            return np.asarray(values, dtype=np.uint8)
        elif kind.kind != "f":
            raise InputError(
                f"{self.path} holds values of type {kind}, so black and white are not known. Say "
                "which values they are: --scale LOW HIGH"
            )
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise InputError(
                f"{self.path} holds values from {low:g} to {high:g}. Floating-point pictures go "
                "from 0 (black) to 1 (white); say what these are: --scale LOW HIGH"
            )
        return np.asarray(np.rint(values * 255), dtype=np.uint8)

    def _check_brightness(self) -> None:
        """Check that a 16-bit picture is not nearly black because it was recorded with fewer bits.

        Raises:
            InputError: it is.
        """
        if 0 < self.brightest <= _DARK:
            bits = self.brightest.bit_length()
            raise InputError(
                f"{self.path} holds 16-bit values, but none above {self.brightest} of 65535, so it "
                "would become nearly black. Say which values are black and white, such as "
                f"--scale 0 {2**bits - 1} for {bits} bits"
            )


def open_picture(path: Path, options: PictureOptions = PictureOptions()) -> _Picture:
    """Return a plain picture whose rows are read in strips, as RGB; transparent parts are white.

    Raises:
        InputError: the file is absent, is no picture, is damaged, or claims over 2 billion pixels;
            or it holds several pages or channels and none is chosen.
    """
    try:
        with path.open("rb") as file:
            is_tiff = file.read(2) in (b"II", b"MM")
        return _open_tiff(path, options) if is_tiff else _open_other(path, options)
    except FileNotFoundError as error:
        dead_link = f"{path} is a link that leads nowhere" if path.is_symlink() else ""
        raise InputError(dead_link or f"no picture {path}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read (JPEG, PNG, TIFF)") from error
    except (
        OSError, SyntaxError, ValueError, IndexError, RuntimeError, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    check_readable(path, error)
    return InputError(f"{path} cannot be read ({error}); it is cut short or damaged")


def _open_tiff(path: Path, options: PictureOptions) -> _Picture:
    with tifffile.TiffFile(path) as file:
        pages = full_pages(file)
        chosen = _chosen_pages(path, describe_pages(pages), len(pages), options)
        first = pages[chosen[0]]
        images = [tiff_image(path, pages[number]) for number in chosen]
        turned, palette = orientation(first), first.colormap
        kind, name = int(first.photometric), getattr(first.photometric, "name", "colours")
        alpha = int(first.extrasamples[0]) if first.extrasamples else 0
        is_decoded = first.compression in JPEG_COMPRESSIONS
    if len({(image.width, image.height, image.samples, image.dtype) for image in images}) > 1:
        raise InputError(f"{path}: the pages of --page have different sizes or types")
    modes = {0: "L", 1: "L", 2: "RGB", 3: "P", 5: "CMYK"} | ({6: "RGB"} if is_decoded else {})
    mode = modes.get(kind)
    if mode is None:
        raise InputError(f"{path} stores colours as {name}; save it as RGB")
    if alpha in (1, 2):
        mode = {"L": "LA", "RGB": "RGBa" if alpha == 1 else "RGBA"}.get(mode, mode)
    if len(images) == 3:
        mode = "RGB"
    channels, mode = _chosen_channels(path, sum(image.samples for image in images), mode, options)

    def read(left: int, top: int, width: int, height: int) -> Pixels:
        parts = [image.read(left, top, width, height) for image in images]
        return np.concatenate(parts, axis=2)[..., channels]

    size = (images[0].width, images[0].height)
    picture = _Picture(path, size, read, turned, mode, options.scale)
    if mode == "P" and palette is not None:
        picture.palette = (palette.T >> 8).astype(np.uint8)
    picture.is_negative = kind == 0
    return picture


def _open_other(path: Path, options: PictureOptions) -> _Picture:
    """Return a JPEG, PNG or other picture, which is decoded as a whole."""
    with Image.open(path) as picture:
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        (frame, *others) = _chosen_pages(path, f"1 to {frames}", frames, options)
        if others:
            raise InputError(f"{path}: three pages are combined in TIFF only; give one --page")
        turned = picture.getexif().get(_ORIENTATION, 1)
        if picture.format in ("PNG", "JPEG", "MPO") and frames == 1 and picture.mode != "CMYK":
            values = _decoded(path, picture)
        else:
            picture.seek(frame)
            has_8_bits = picture.mode[0] not in "IF"
            values = np.asarray(picture.convert("RGBA") if has_8_bits else picture)
    values = values if values.ndim == 3 else values[..., None]
    mode = {1: "L", 2: "LA", 3: "RGB"}.get(values.shape[2], "RGBA")
    channels, mode = _chosen_channels(path, values.shape[2], mode, options)

    def read(left: int, top: int, width: int, height: int) -> Pixels:
        return values[top : top + height, left : left + width][..., channels]

    size = (values.shape[1], values.shape[0])
    return _Picture(path, size, read, turned if 1 <= turned <= 8 else 1, mode, options.scale)


def _decoded(path: Path, picture: Image.Image) -> Pixels:
    """Return the pixels of a JPEG or PNG with all bits; large ones lie in a temporary file."""
    data = path.read_bytes()
    is_png = picture.format == "PNG"
    if not is_png and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0:
        raise ValueError("the last scan has no end")  # the decoder would fill up with grey
    out = None
    bands = {"L": 1, "I;16": 1, "RGB": 3, "RGBA": 4}.get(picture.mode)
    if bands and "transparency" not in picture.info and picture.width * picture.height > _PAGED:
        kind = np.dtype(np.uint16 if is_png and data[_PNG_DEPTH] == 16 else np.uint8)
        shape = (picture.height, picture.width, bands)[: 2 if bands == 1 else 3]
        with tempfile.TemporaryFile() as file:
            out = np.memmap(file, dtype=kind, mode="w+", shape=shape)
    decode = imagecodecs.png_decode if is_png else imagecodecs.jpeg8_decode
    values: Pixels = decode(data, out=out)
    return values


def _chosen_pages(path: Path, listing: str, count: int, options: PictureOptions) -> tuple[int, ...]:
    """Return the pages to take, counted from 0.

    Raises:
        InputError: there are several and none is chosen, or there is no such page.
    """
    if not options.pages and count == 1:
        return (0,)
    if not options.pages or max(options.pages) > count:
        fault = f"so there is no page {max(options.pages)}" if options.pages else "not one picture"
        raise InputError(
            f"{path} holds {count} pages, {fault}. Choose one, or three as red, green and blue: "
            f"--page NUMBER ({listing})"
        )
    return tuple(number - 1 for number in options.pages)


def _chosen_channels(
    path: Path, samples: int, mode: str, options: PictureOptions
) -> tuple[list[int], str]:
    """Return the channels to take, counted from 0, and the mode of Pillow that they make.

    Raises:
        InputError: there are more than the mode has and none is chosen, or there is no such one.
    """
    if options.channels and max(options.channels) <= samples:
        taken = [number - 1 for number in options.channels]
        return taken, "L" if len(taken) == 1 else "RGB"
    if options.channels or samples != len(mode):
        raise InputError(
            f"{path} holds {samples} channels. Choose one, or three as red, green and blue: "
            f"--channel NUMBER, 1 to {samples}"
        )
    return list(range(samples)), mode


def convert_picture(
    path: Path,
    out: Path,
    mpp: float,
    options: PictureOptions = PictureOptions(),
    *,
    overwrite: bool = False,
) -> Path:
    """Write a plain picture as a slide (a tiled TIFF pyramid) and return the slide's path.

    Args:
        path: the picture.
        out: folder of the slide, which keeps the picture's name.
        mpp: micrometres per pixel of the picture.
        options: pages, channels and range of values.
        overwrite: replace a slide that is there.

    Raises:
        InputError: as `open_picture`; or the slide is there already or cannot be written.
    """
    slide = out / f"{path.stem}.tif"
    if slide.resolve() == path.resolve():
        raise InputError(f"{path} would be written over itself; choose another --out")
    if slide.exists() and not overwrite:
        raise InputError(f"{slide} is there already; --overwrite replaces it")
    known_mpp = checked_mpp(mpp, "--mpp")  # before a large picture is read for nothing
    description = f"converted by madeleine-bench from {path.name!a}"
    write_pyramid(slide, open_picture(path, options), mpp=known_mpp, description=description)
    return slide


def convert_pictures(
    places: Sequence[Path],
    out: Path,
    mpp: float,
    progress: Progress,
    options: PictureOptions = PictureOptions(),
    overwrite: bool = False,
) -> Report:
    """Turn every picture into a slide; those that could not be are the problem of the report.

    Raises:
        InputError: a path holds no picture, or two pictures have the same name.
    """
    pictures = list_pictures(places, out, progress.say)
    faults: list[str] = []
    progress.phase("convert", len(pictures))
    for path in pictures:
        try:
            convert_picture(path, out, mpp, options, overwrite=overwrite)
        except InputError as error:
            faults.append(str(error))
        progress.advance(path.name)
    problem = InputError("\n".join(faults)) if faults else None
    return Report({}, [f"{len(pictures) - len(faults)} slides in {out}"], problem=problem)
