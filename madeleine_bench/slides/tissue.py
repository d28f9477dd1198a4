"""Tissue told from glass on a thumbnail of a slide, for H&E, IHC and special stains alike.

Glass is bright and has little colour, whatever its tint; its colour is taken from the slide itself,
as the brightest large mode, and may vary slowly over the picture. A pixel is tissue where it is
denser than glass or more coloured than glass. Otsu's method says by how much, within limits:
on a blank slide it would split noise, and on a slide of tissue alone it would split tissue.

Where it fails: a picture of pale tissue without any glass is taken for a blank slide; smears of
glue are taken for pale tissue; fat that no stain shows (in IHC) is left out where it forms the edge
of a section; the widest alveoli of a pale section count as holes.

References:
    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on
    Systems, Man, and Cybernetics 9, 1979.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import hed_from_rgb
from skimage.filters import threshold_otsu
from skimage.morphology import closing, disk, opening

from madeleine_bench.slides.ink import (
    Floats,
    Mask,
    components_at,
    ink_and_borders,
    large_components,
    padding,
    printed_labels,
    touching_edge,
)

_WORK_MPP = 5.0  # finer pictures are averaged to this first: a cell still has two pixels
_DARKEST = 0.02  # share of light below which scanners see noise; density ends at 1.7
_GLASS_LIGHT = 205  # grey levels; no scanner shows glass darker than this
_GLASS_CHROMA = 32  # grey levels between the channels of the most tinted glass
_GLASS_PEAK = 0.1  # a mode counts that has this share of the height of the highest one
_GLASS_SHARE = 0.002  # less bright area than this says nothing about glass
_WHITE = 245.0  # glass where a picture shows none
_SAMPLES = 150  # glass is looked for at so many places along each side
_FIELD_RANGE = (-0.03, 0.10)  # density by which glass may differ from its own colour
_FIELD_NEAR = 0.015  # density within which a pixel is glass when the field is fitted
_OTSU_RANGE = (0.02, 0.03)  # thresholds: below is noise and tint, above is tissue in any stain
_UNEXPLAINED = 0.2  # largest share of the density of a colour outside of H&E and DAB
_SEED = 2.0  # tissue has a spot this many times above the threshold; uneven light has none


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is told from glass; the defaults are meant for every stain.

    Attributes:
        blur_um: standard deviation of the blur before thresholds; about a cell, so that nuclei and
            the gaps between them count as one tissue, and compression noise averages out.
        closing_um: gaps up to twice this are closed: alveoli, fat cells, cracks from cutting.
        hole_um2: smaller holes are filled; larger ones are lumen of vessels, airways and ducts.
        tissue_um2: smaller pieces are dust; they would not fill half a patch of 256 micrometres.
        ink_um2: smaller spots in the colour of ink are pigment or red cells; a pen's dot is more.
        margin_um: ink and the shadow of dark borders reach this far beyond where they are plain.
    """

    blur_um: float = 5.0
    closing_um: float = 25.0
    hole_um2: float = 20_000.0
    tissue_um2: float = 30_000.0
    ink_um2: float = 20_000.0
    margin_um: float = 60.0


@dataclass(frozen=True)
class Tissue:
    """The tissue of a slide.

    Attributes:
        mask: (height, width) of the thumbnail, True on tissue, False on glass and in holes.
        rejected: share of the picture (0-1) set aside, by reason: "pen" (grey lines and
            areas of glass included), "dust", "dark border" (the scanner's black padding included),
            "label".
    """

    mask: Mask
    rejected: Mapping[str, float]


TissueMethod = Literal["otsu", "hed", "mask"]


def segment_tissue(
    thumbnail: NDArray[np.uint8],
    mpp: float,
    settings: TissueSettings = TissueSettings(),
    method: TissueMethod = "otsu",
) -> Tissue:
    """Return the tissue on a thumbnail.

    Args:
        thumbnail: (height, width, 3), RGB.
        mpp: micrometres per pixel of the thumbnail; best at 2 to 16.
        settings: sizes that matter.
        method: "otsu" for any stain; "hed" takes only what haematoxylin, eosin and DAB explain.
    """
    height, width = thumbnail.shape[:2]
    rgb, black, white, work_mpp = _work_picture(thumbnail, mpp, settings)
    um2 = work_mpp**2
    light = _blurred(rgb, black | white, settings.blur_um / work_mpp)
    light /= _glass(rgb, black | white)
    np.maximum(light, _DARKEST, out=light)
    light[:, white] = 1.0  # black padding stays dark, so that what fades into it is a border
    density = -np.log10(light[0] * light[1] * light[2]) / 3  # the mean over the channels
    np.minimum(light, 1.0, out=light)
    pen, border = ink_and_borders(light, work_mpp, settings.ink_um2 / um2, settings.margin_um)
    border |= black
    aside = border | pen | white
    differs = _differs(light, density, aside)
    shape = _shaped(differs, work_mpp, settings) & ~aside
    printed = printed_labels(shape, light)
    if method == "hed":  # after labels, which are known by the shape of their paper
        shape = _shaped(differs & _explained_by_hed(light), work_mpp, settings) & ~aside
    shape &= ~printed
    # A picture smaller than the smallest piece is not all dust.
    least_um2 = min(settings.tissue_um2, 0.05 * shape.size * um2)
    tissue = large_components(shape, least_um2 / um2)
    reasons = {"pen": pen, "dust": shape & ~tissue, "dark border": border, "label": printed}
    rejected = {reason: float(where.mean()) for reason, where in reasons.items()}
    return Tissue(_resized(tissue, width, height) > 0.5, rejected)


def _work_picture(
    thumbnail: NDArray[np.uint8], mpp: float, settings: TissueSettings
) -> tuple[Floats, Mask, Mask, float]:
    """Return the picture at the working resolution, its black and its white padding, and its mpp.

    Padding has no part in the average, so it has no seam.
    """
    black, white = padding(thumbnail, settings.tissue_um2 / mpp**2)
    height, width = thumbnail.shape[:2]
    shrink = max(1.0, _WORK_MPP / mpp)
    if shrink == 1.0:
        return thumbnail.astype(np.float32), black, white, mpp
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    shown = np.where((black | white)[..., None], np.uint8(0), thumbnail)
    small = np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BOX), dtype=np.float32)
    share_black, share_white = _resized(black, *size), _resized(white, *size)
    part = np.maximum(1.0 - share_black - share_white, 1e-3)[..., None]
    # A pixel that is mostly padding tells little about the rest.
    return small / part, share_black > 0.5, share_white > 0.5, mpp * shrink


def _resized(mask: Mask, width: int, height: int) -> Floats:
    """Return a mask at another size, as shares of 0-1: averaged down, or linear in between."""
    if mask.shape == (height, width):
        return mask.astype(np.float32)
    smaller = height < mask.shape[0] or width < mask.shape[1]
    how = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    picture = Image.fromarray(mask.astype(np.float32))
    return np.asarray(picture.resize((width, height), how), dtype=np.float32)


def _blurred(rgb: Floats, skip: Mask, sigma_px: float) -> Floats:
    """Return the picture (height, width, 3) after a Gaussian blur, as planes (3, height, width).

    Pixels to skip have no part in it.
    """
    sigma = max(sigma_px, 1.0)  # single pixels are noise, however coarse they are
    shown = None if not skip.any() else (~skip).astype(np.float32)
    colour = np.empty((3, *skip.shape), dtype=np.float32)
    for number, plane in enumerate(colour):
        part = rgb[..., number] if shown is None else rgb[..., number] * shown
        ndimage.gaussian_filter(part, sigma, output=plane, truncate=3.0)
    if shown is not None:
        colour /= np.maximum(ndimage.gaussian_filter(shown, sigma, truncate=3.0), 1e-3)
    return colour


def _glass(rgb: Floats, skip: Mask) -> Floats:
    """Return the colour of bare glass at each pixel, (3, height, width), grey levels.

    Single pixels are looked at: a blur would mix the glass in alveoli with their walls.
    """
    height, width = skip.shape
    rows, columns = _spread(height), _spread(width)
    shown = rgb[np.ix_(rows, columns)]
    bright = shown.mean(axis=2)
    tint = shown.max(axis=2) - shown.min(axis=2)
    plausible = (bright > _GLASS_LIGHT) & (tint < _GLASS_CHROMA) & ~skip[np.ix_(rows, columns)]
    if plausible.mean() < _GLASS_SHARE:
        return np.full((3, 1, 1), _WHITE, dtype=np.float32)
    near = plausible & (abs(bright - _brightest_mode(bright[plausible])) <= 3)
    glass = np.median(shown[near], axis=0).astype(np.float32)
    level = np.log10(glass.mean()) - np.log10(np.maximum(bright, 1))
    terms = _terms(_axis(width)[columns], _axis(height)[rows])
    fit = _fitted_field(terms, np.where(plausible, level, np.inf).ravel())
    everywhere: Floats = glass.reshape(3, 1, 1) * _field(fit, width, height)
    return everywhere


def _spread(count: int) -> NDArray[np.intp]:
    """Return at most so many positions as glass is looked for at, evenly spread."""
    samples = min(count, _SAMPLES)
    return ((2 * np.arange(samples) + 1) * count // (2 * samples)).astype(np.intp)


def _brightest_mode(bright: Floats) -> float:
    """Return the brightest grey level that many pixels share."""
    counts = np.bincount(np.rint(bright).astype(np.intp), minlength=257).astype(np.float64)
    counts = ndimage.gaussian_filter1d(counts, 1.5, mode="constant")
    inner = counts[1:-1]
    peaks = (inner >= counts[:-2]) & (inner >= counts[2:]) & (inner > _GLASS_PEAK * counts.max())
    return float(np.flatnonzero(peaks).max() + 1)


def _fitted_field(terms: Floats, values: Floats) -> NDArray[np.float64]:
    """Return the factors on `terms` that follow the density of glass over the picture.

    Fitted to what is near the colour of glass first, then to what is near the fit: vignetting and
    slow gradients, and nothing as sharp as tissue.

    Args:
        terms: (sample, 6), see `_terms`.
        values: density of each sample against the colour of glass; infinite where it is no glass.
    """
    fit = np.zeros(6)
    # Ridge: a curve is believed where glass is seen on all sides, not where it is a strip.
    ridge = 0.002 * len(values) * np.diag([0.0, 1, 1, 1, 1, 1])
    for _ in range(8):
        inside = abs(values - terms @ fit) < _FIELD_NEAR
        used = terms[inside]
        if len(used) < 30:
            return np.zeros(6)
        fit = np.linalg.solve(used.T @ used + ridge, used.T @ values[inside])
    return fit


def _field(fit: NDArray[np.float64], width: int, height: int) -> Floats:
    """Return the light on each pixel relative to that on glass of its own colour."""
    x, y = _axis(width), _axis(height)[:, None]
    one, by_x, by_y, by_xx, by_xy, by_yy = fit.astype(np.float32)
    surface = (one + by_x * x + by_xx * x * x) + (by_y * y + by_yy * y * y) + by_xy * y * x
    field: Floats = np.exp(-log(10) * np.clip(surface, *_FIELD_RANGE))
    return field


def _terms(columns: Floats, rows: Floats) -> Floats:
    """Return 1, x, y, x^2, xy, y^2 of each place of a grid, (place, 6), row by row."""
    x, y = (axis.ravel() for axis in np.meshgrid(columns, rows))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _axis(count: int) -> Floats:
    """Return the centres of pixels, from -1 to 1 over the picture."""
    return (2 * np.arange(count, dtype=np.float32) + 1) / np.float32(count) - 1


def _differs(light: Floats, density: Floats, aside: Mask) -> Mask:
    """Return where a pixel is denser or more coloured than glass."""
    if aside.all():
        return np.zeros(aside.shape, dtype=bool)
    # Chroma of transmittance, not of density: that one is noise where it is dark.
    chroma = light.max(axis=0) - light.min(axis=0)
    excess = np.maximum(_over_otsu(density, aside), _over_otsu(chroma, aside))
    excess[aside] = 0.0
    return components_at(excess > 1.0, excess > _SEED)


def _explained_by_hed(light: Floats) -> Mask:
    """Return where the colour is a sum of haematoxylin, eosin and DAB, hardly less one of them.

    References:
        Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291-299.
    """
    stains = np.einsum("chw,cs->shw", -np.log10(light), hed_from_rgb)
    positive = np.maximum(stains, 0).sum(axis=0)
    explained: Mask = stains.sum(axis=0) > (1 - _UNEXPLAINED) * positive
    return explained


def _over_otsu(signal: Floats, aside: Mask) -> Floats:
    """Return a signal as a multiple of its threshold."""
    threshold = np.clip(threshold_otsu(signal[~aside]), *_OTSU_RANGE)
    return signal / np.float32(threshold)


def _shaped(mask: Mask, mpp: float, settings: TissueSettings) -> Mask:
    """Return the mask with gaps closed, threads cut off and small holes filled."""
    radius = round(settings.closing_um / mpp)
    if radius:
        grey = closing(mask.view(np.uint8), disk(radius, decomposition="sequence"))
        mask = opening(grey, disk(max(1, radius // 2), decomposition="sequence")).astype(bool)
    holes = ~mask & ~touching_edge(~mask)
    return mask | (holes & ~large_components(holes, settings.hole_um2 / mpp**2))
