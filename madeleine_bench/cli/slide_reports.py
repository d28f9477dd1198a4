"""What `mbench slides` prints and draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.data.bags import BagFile, read_bag_file
from madeleine_bench.embeddings.compute import attention_checked
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import files_under, write_bytes
from madeleine_bench.slides.bag_folder import boxes_on_thumbnail
from madeleine_bench.slides.choice import choose_patches
from madeleine_bench.slides.contours import tissue_contours
from madeleine_bench.slides.folder import PICTURE_SUFFIXES, convert_picture, list_slides
from madeleine_bench.slides.overlay import (
    heat_overlay,
    picture_bytes,
    side_by_side,
    tissue_overlay,
)
from madeleine_bench.slides.patches import PatchSettings
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.tissue import TissueSettings
from madeleine_bench.types import Bag

_PICTURE_PX = 1600
_PANEL_PX = 640  # of a head's heat map; five stand side by side


@dataclass(frozen=True)
class Shown:
    """What the user asked to see of a slide."""

    slide: Path
    out: Path
    bag: Path | None
    encoder: str | None
    stain: str
    organ: str | None
    mpp: float | None


def print_slides(places: Sequence[Path], mpp: float | None) -> None:
    """Print a row for each slide.

    Raises:
        InputError: a path is absent.
        CheckFailed: a slide cannot be read, or its resolution is unknown.
    """
    rows: list[list[str]] = []
    faults: list[str] = []
    for path in [path for place in places for path in list_slides(place).slides]:
        try:
            with Slide(path, mpp) as slide:
                rows.append(_slide_row(slide))
                slide.known_mpp()
        except InputError as error:
            faults.append(str(error))
    print_table(
        f"{len(rows)} slides",
        ["slide", "format", "level 0", "mpp", "levels", "file"],
        rows,
    )
    if faults:
        raise CheckFailed("\n".join(faults))


def convert_pictures(
    places: Sequence[Path], mpp: float, out: Path, jpeg_quality: int | None, overwrite: bool
) -> None:
    """Turn every picture into a slide; the faulty ones are named at the end.

    Raises:
        InputError: a path is absent or holds no picture, or a picture could not be converted.
    """
    pictures = [path for place in places for path in _pictures(place)]
    faults: list[str] = []
    with LiveProgress() as progress:
        progress.phase("convert", len(pictures))
        for path in pictures:
            try:
                convert_picture(path, out, mpp, jpeg_quality=jpeg_quality, overwrite=overwrite)
            except InputError as error:
                faults.append(str(error))
            progress.advance(path.name)
    typer.echo(f"{len(pictures) - len(faults)} slides in {out}")
    if faults:
        raise InputError("\n".join(faults))


def draw_slide(wanted: Shown) -> None:
    """Write a picture of a slide: tissue and patches, or what an encoder attends to.

    Raises:
        InputError: slide, bag or encoder cannot be used together.
    """
    if wanted.out.suffix.lower() != ".png":
        raise InputError(f"--out is {wanted.out}; the picture is a .png")
    if wanted.encoder is not None and wanted.bag is None:
        raise InputError(
            "--encoder needs --bag, the features that it looks at (mbench features extract)"
        )
    with Slide(wanted.slide, wanted.mpp) as slide:
        bag = None if wanted.bag is None else _bag_of(slide, wanted.bag)
        if bag is None or wanted.encoder is None:
            picture = _tissue_picture(slide, bag)
        else:
            picture = _attention_picture(slide, bag, wanted)
    write_bytes(wanted.out, picture)
    typer.echo(f"wrote {wanted.out}")


def _slide_row(slide: Slide) -> list[str]:
    mpp = "unknown" if slide.mpp is None else f"{slide.mpp:.4g} ({slide.mpp_source})"
    levels = ", ".join(f"{down:g}" for down in slide.level_downsamples)
    kind = slide.vendor if slide.phantom is None else f"{slide.vendor}, PHANTOM"
    size = f"{slide.width_px0} x {slide.height_px0}"
    return [slide.slide_id, kind, size, mpp, levels, str(slide.path)]


def _pictures(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]  # whatever it is, opening it says what is wrong
    found = [path for path in files_under(place) if path.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        raise InputError(f"no picture in {place} ({', '.join(PICTURE_SUFFIXES)})")
    return found


def _bag_of(slide: Slide, path: Path) -> tuple[BagFile, NDArray[np.float64]]:
    """Return a bag and its patches as boxes (patch x 4) in level-0 pixels."""
    bag = read_bag_file(path)
    side = bag.facts.patch_size_level0
    if bag.coords is None or bag.coords_unit != "px0" or side is None:
        raise InputError(
            f"{path} does not say where its patches lie: coords in level-0 pixels and the "
            "attribute patch_size_level0 are needed (mbench features extract and TRIDENT write "
            "both)"
        )
    corners = np.asarray(bag.coords, dtype=np.float64)
    boxes = np.hstack([corners, corners + float(side)])
    if len(boxes) and (boxes[:, 2:].max(axis=0) > (slide.width_px0, slide.height_px0)).any():
        raise InputError(f"{path} has patches outside of {slide.path}; is it of another slide?")
    return bag, boxes


def _tissue_picture(slide: Slide, bag: tuple[BagFile, NDArray[np.float64]] | None) -> bytes:
    chosen = choose_patches(slide, _showable(slide), TissueSettings())
    assert chosen.tissue is not None
    assert chosen.thumbnail is not None
    shown = slide.thumbnail(longest_px=_PICTURE_PX)
    across, down = (a / b for a, b in zip(chosen.thumbnail.scale, shown.scale, strict=True))
    contours = [one.scaled(across, down) for one in tissue_contours(chosen.tissue.mask)]
    boxes = (
        boxes_on_thumbnail(chosen, shown.scale) if bag is None else bag[1] / np.tile(shown.scale, 2)
    )
    return picture_bytes(tissue_overlay(shown.rgb, contours, boxes))


def _showable(slide: Slide) -> PatchSettings:
    """Return the usual patches, of 256 micrometres, at no finer resolution than the slide has."""
    mpp = max(1.0, slide.known_mpp())
    return PatchSettings(patch_px=max(1, round(256 / mpp)), mpp=mpp)


def _attention_picture(
    slide: Slide, bag: tuple[BagFile, NDArray[np.float64]], wanted: Shown
) -> bytes:
    assert wanted.encoder is not None
    encoder = load_encoder(find_encoder(wanted.encoder))
    file, boxes = bag
    weights = attention_checked(
        encoder,
        Bag(
            slide.slide_id,
            slide.slide_id,
            np.asarray(file.features, dtype=np.float32),
            stain=wanted.stain,
            coords=file.coords,
            patch_encoder=file.facts.patch_encoder,
            organ=wanted.organ,
        ),
    )
    thumbnail = slide.thumbnail(longest_px=_PANEL_PX)
    places = boxes / np.tile(thumbnail.scale, 2)
    # Times the number of patches: 1 is what a plain mean gives each.
    heads = weights.T * len(weights)
    panels = [
        heat_overlay(thumbnail.rgb, places, head, f"{encoder.card.name}, head {number}")
        for number, head in enumerate(heads, start=1)
    ]
    if len(panels) > 1:
        mean = heads.mean(axis=0)
        panels.append(heat_overlay(thumbnail.rgb, places, mean, f"{encoder.card.name}, mean"))
    return picture_bytes(side_by_side(panels))
