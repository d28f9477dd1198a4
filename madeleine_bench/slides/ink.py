"""Ink of pens, edges of coverslips, dark glass, labels and dark borders, told from tissue.

Ink is told from stain by colour and by how dense it is:

* red: all of green and blue is taken, hardly any red. Eosin and magenta let blue through, DAB
  takes red; Biebrich scarlet, AEC and red cells have the hue of ink but are less dense.
* blue: most of the red is taken and blue passes. Haematoxylin takes more green than red. Aniline
  blue of a trichrome has the very hue of ink, so only its lower density saves it.
* green: red is taken and green passes, at a density that a light green counterstain stays under.
* black: opaque, neutral and mostly even. Silver is warm (more red than blue passes) or has a
  texture; DAB is warm. Black that touches the edge of the picture is a dark border.

Where that fails: faint ink over tissue is taken for tissue; so is a brown border. Trichrome blue
or Alcian blue of an overstained, thick section can be taken for ink, and so can silver that is
neutral and even at once. Tissue under ink is lost. Tissue dye on a margin counts as ink.

Faint ink is told by how even it is: see `_even_ink`.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label, regionprops
from skimage.morphology import disk, opening

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

_RED_CHROMA = 0.65  # red cells, the densest red that is no ink, reach about .58
_BLUE_CHROMA = 0.60  # collagen in aniline blue reaches about .5, Alcian blue .57
_BLUE_RED_DENSITY = 0.70  # navy ink has a lower chroma, but takes four fifths of the red
_GREEN_RED_DENSITY = 0.50  # light green in a Goldner trichrome reaches about .4
_BLACK_LIGHT = 0.25  # an opaque thing still scatters some light
_INK_LIGHT = 0.35  # all coloured ink takes more of the light of one channel
_NEUTRAL = 0.06  # highest chroma of black and grey
_WARM = 0.03  # silver passes this much more red than blue
_EVEN_STD = 0.012  # three grey levels; tissue at the same place varies more
_MOSTLY = 0.5  # share of an opaque stroke that is neutral and even; of silver sections .2 at most
_HUE_SHARE = 0.08  # by which the shares of the channels in the density of grey ink differ
_WARM_SHARE = 0.03  # silver takes this much more of the blue than of the red
_HUE_SPREAD = 0.02  # of these shares in 60 micrometres; two stains, or stain and pigment, reach .01
_COARSEST_MPP = 10.0  # nuclei cannot be seen in coarser pictures, so nothing looks uneven
_TEXTURE = 0.06  # of density within 10 micrometres, as a share of it; nuclei reach .05 to .4
_PRINT = 0.2  # optical density of print on labels, at the least
_OPEN = 0.15  # share of what lies around ink that is glass; a clot in tissue has less
_STROKE_UM, _LONG = 1200.0, 2.5  # width of the widest stroke, and its least length in widths
_PALE_SHARE = 0.25  # of the median density of a stroke; what is paler and touches it is tissue
_FAINT = 0.02  # optical density below which nothing is told from glass
_GREY_LIGHT = 0.90  # the shadow of a dark border ends where this much light passes


def padding(rgb: NDArray[np.uint8], least_px: float) -> tuple[Mask, Mask]:
    """Return where the scanner filled up the picture with pure black, and with pure white.

    Args:
        rgb: (height, width, 3).
        least_px: smaller patches of pure colour are part of the picture.
    """
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    black = (red | green | blue) <= 3  # JPEG lifts pure black a little
    white = (red & green & blue) == 255
    return large_components(black, least_px), large_components(white, least_px)


def ink_and_borders(
    light: Floats, mpp: float, least_px: float, margin_um: float
) -> tuple[Mask, Mask]:
    """Return where ink of pens lies, and where the dark border of the picture.

    Args:
        light: transmittance, (3, height, width).
        mpp: micrometres per pixel.
        least_px: less of one colour in one place is taken for pigment or red cells.
        margin_um: how far the bleeding edge of a stroke and the shadow of a border reach.
    """
    opaque = light.max(axis=0) < _BLACK_LIGHT
    black = _filled_up(large_components(_black(light, opaque), least_px), opaque)
    border = touching_edge(black)
    ink = black & ~border
    for colour in _coloured(light):  # may run out of the picture; only black is a border there
        ink |= large_components(colour, least_px)
    if mpp <= _COARSEST_MPP:
        ink |= _even_ink(light, mpp, least_px)
    border = _with_shadow(border, light, margin_um / mpp)
    return _grown(ink, margin_um / mpp) & ~border, border


def large_components(mask: Mask, least_px: float) -> Mask:
    """Return the 8-connected components that have at least so many pixels."""
    labels = label(mask, connectivity=2)
    keep = np.bincount(labels.ravel()) >= least_px
    keep[0] = False
    large: Mask = keep[labels]
    return large


def components_at(mask: Mask, seeds: Mask) -> Mask:
    """Return the 8-connected components of a mask that hold a seed."""
    labels = label(mask, connectivity=2)
    kept: Mask = np.isin(labels, labels[mask & seeds])
    return kept


def touching_edge(mask: Mask) -> Mask:
    """Return the 8-connected components that reach the edge of the picture."""
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    return components_at(mask, edge)


def _grown(mask: Mask, by_px: float) -> Mask:
    """Return the mask with all that lies within a distance of it."""
    if not mask.any():
        return mask
    near: Mask = ndimage.distance_transform_edt(~mask) <= by_px
    return near


def _with_shadow(border: Mask, light: Floats, reach_px: float) -> Mask:
    """Return a black border with the grey that it fades through, as far as that may reach."""
    grey = (light.max(axis=0) < _GREY_LIGHT) & _neutral(light)
    shaded: Mask = ndimage.binary_dilation(border, iterations=ceil(reach_px), mask=grey | border)
    return shaded


def _coloured(light: Floats) -> tuple[Mask, Mask, Mask]:
    """Return where the colour is that of red, blue and green ink."""
    masks = np.zeros((3, *light.shape[1:]), dtype=bool)
    dense = light.min(axis=0) < _INK_LIGHT
    shown = light[:, dense]
    red, green, blue = -np.log10(shown)
    chroma = shown.max(axis=0) - shown.min(axis=0)
    is_dense = (chroma > _BLUE_CHROMA) | (red > _BLUE_RED_DENSITY)
    masks[0, dense] = (chroma > _RED_CHROMA) & (blue > 0.55 * green) & (red < 0.25 * green)
    masks[1, dense] = is_dense & (blue < 0.45 * red) & (green <= red)
    masks[2, dense] = (red > _GREEN_RED_DENSITY) & (green < 0.55 * red) & (green <= blue)
    return masks[0], masks[1], masks[2]


def _black(light: Floats, opaque: Mask) -> Mask:
    """Return where it is opaque, neutral and even."""
    grey = light.mean(axis=0)
    mean = ndimage.uniform_filter(grey, 3)
    variance = ndimage.uniform_filter(grey * grey, 3) - mean * mean
    black: Mask = opaque & _neutral(light) & (variance < _EVEN_STD**2)
    return black


def _filled_up(black: Mask, opaque: Mask) -> Mask:
    """Return black ink and the uneven spots in it: opaque components that are mostly black."""
    labels = label(opaque, connectivity=2)
    mostly = np.bincount(labels.ravel(), black.ravel()) > _MOSTLY * np.bincount(labels.ravel())
    mostly[0] = False
    filled: Mask = black | mostly[labels]
    return filled


def _even_ink(light: Floats, mpp: float, least_px: float) -> Mask:
    """Return where one colour of ink or grey lies on glass, however faint it is.

    One dye has one hue, and ink has no nuclei: the hue is even within 60 micrometres, and so is the
    density within 10. Edges of coverslips, dark glass and print on labels are grey, and uneven.
    """
    density = -np.log10(light)
    total = density.sum(axis=0)
    shown = total * (total > 3 * _FAINT)
    shares = density / np.maximum(total, 1e-3)
    red, green, blue = shares
    grey = _grey(shares)
    coloured = (
        ((blue > 0.55 * green) & (red < 0.25 * green))
        | ((blue < 0.45 * red) & (green <= red))
        | ((green < 0.55 * red) & (green <= blue))
    )
    thick = disk(max(1, round(20 / mpp)))
    # What follows only takes away, so it can be left out where nothing large remains already.
    most = large_components((grey | coloured) & (shown > 0), least_px)
    if not (most.any() and large_components(opening(most, thick), least_px).any()):
        return np.zeros(total.shape, dtype=bool)
    weight = np.maximum(_mean_near(shown, 60 / mpp), 1e-3)
    variance = sum(
        _mean_near(share**2 * shown, 60 / mpp) / weight
        - (_mean_near(share * shown, 60 / mpp) / weight) ** 2
        for share in (red, blue)
    )
    # Without the edge of a stroke, which is no texture.
    inside = ndimage.binary_erosion(shown > 0, iterations=ceil(16 / mpp)).astype(np.float32)
    near = _mean_near(inside * shown, 10 / mpp) / np.maximum(_mean_near(inside, 10 / mpp), 1e-3)
    detail = _mean_near(inside * (shown - near) ** 2, 40 / mpp) * _mean_near(inside, 40 / mpp)
    smooth = detail < (_TEXTURE * _mean_near(inside * shown, 40 / mpp)) ** 2
    even = (variance < _HUE_SPREAD**2) & (shown > 0)
    # At the edge of dense tissue a thin line of pixels is half glass, and grey.
    ink = opening(even & (grey | (coloured & smooth)), thick)
    ink = large_components(ink, least_px)
    strokes = _strokes(ink, _STROKE_UM / mpp)
    # One stroke has one density; paler grey that it touches is tissue.
    strokes &= total > _PALE_SHARE * _component_medians(total, strokes)
    strokes |= touching_edge(ink & grey)
    return _on_glass(strokes, total < 3 * _FAINT, 120 / mpp)


def _grey(shares: Floats) -> Mask:
    """Return where all channels have the same share of the density, and the blue no larger one."""
    grey: Mask = (np.ptp(shares, axis=0) < _HUE_SHARE) & (shares[2] - shares[0] < _WARM_SHARE)
    return grey


def printed_labels(mask: Mask, light: Floats) -> Mask:
    """Return the components that are a rectangle at the edge of the picture with grey print on it.

    Args:
        mask: what may be tissue, gaps closed.
        light: transmittance, (3, height, width).
    """
    density = -np.log10(light)
    total = density.sum(axis=0)
    print_on_it = (total > 3 * _PRINT) & _grey(density / np.maximum(total, 1e-3))
    labels = label(mask, connectivity=2)
    found = np.zeros_like(mask)
    for region in regionprops(labels):
        top, left, bottom, right = region.bbox
        at_edge = min(top, left) == 0 or bottom == mask.shape[0] or right == mask.shape[1]
        small = region.area < 0.5 * mask.size
        if at_edge and small and region.extent > 0.85:
            part = found[region.slice]
            part |= region.image & (print_on_it[region.slice][region.image].mean() > 0.2)
    return found


def _mean_near(values: Floats, sigma_px: float) -> Floats:
    near: Floats = ndimage.gaussian_filter(values, sigma_px, truncate=2.5)
    return near


def _strokes(mask: Mask, widest_px: float) -> Mask:
    """Return the components no wider than this, and longer than wide by the factor `_LONG`."""
    if not mask.any():
        return mask
    labels = label(mask, connectivity=2)
    area = np.bincount(labels.ravel())
    half = ndimage.maximum(ndimage.distance_transform_edt(mask), labels, np.arange(len(area)))
    width = 2 * np.asarray(half)
    kept: Mask = ((width <= widest_px) & (area > _LONG * width**2))[labels]
    return kept & mask


def _component_medians(values: Floats, mask: Mask) -> Floats:
    """Return at each pixel of a mask the median of its component, 0 elsewhere."""
    labels = label(mask, connectivity=2)
    medians = ndimage.median(values, labels, np.arange(1, labels.max() + 1))
    by_pixel: Floats = np.append(0, medians).astype(np.float32)[labels]
    return by_pixel


def _on_glass(mask: Mask, glass: Mask, reach_px: float) -> Mask:
    """Return the components with enough glass within reach; a clot, colloid, keratin have none."""
    if mask.all() or not mask.any():
        return np.zeros_like(mask)
    labels = label(mask, connectivity=2)
    away, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
    around = (away > 0) & (away <= reach_px)
    owner = labels[tuple(nearest)][around]
    of_glass = np.bincount(owner, glass[around], labels.max() + 1)
    kept: Mask = (of_glass > _OPEN * np.bincount(owner, minlength=labels.max() + 1))[labels]
    return kept


def _neutral(light: Floats) -> Mask:
    """Return where there is hardly any colour, and none that is warm."""
    pale: Mask = light.max(axis=0) - light.min(axis=0) < _NEUTRAL
    cool: Mask = light[0] - light[2] < _WARM
    return pale & cool
