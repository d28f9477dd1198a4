"""What lies on a slide and is no tissue: the scanner's padding, ink of pens, dark borders.

All functions look at transmittance, the light that passes relative to bare glass (0-1), averaged
over about a cell, and at its optical density per channel, -log10 of it.

Ink is told from stain by colour and by how dense it is:

* red: all of green and blue is taken, hardly any red. Eosin and magenta let blue through, DAB
  takes red; Biebrich scarlet, AEC and red cells have the hue of ink but are less dense.
* blue: most of the red is taken and blue passes. Haematoxylin takes more green than red. Aniline
  blue of a trichrome has the very hue of ink, so only its lower density saves it.
* green: red is taken and green passes, at a density that a light green counterstain stays under.
* black: opaque, neutral and even. Silver is warm (more red than blue passes) or has a texture; DAB
  is warm. Black that touches the edge of the picture is a dark border.

Where it fails: faint or translucent ink is taken for tissue; so is a brown border. Trichrome blue
or Alcian blue of an overstained, thick section can be taken for ink, and so can silver that is
neutral and even at once. Tissue under ink is lost. Tissue dye on a margin counts as ink.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

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
    black = large_components(_black(light), least_px)
    border = touching_edge(black)
    ink = black & ~border
    for colour in _coloured(light):  # may run out of the picture; only black is a border there
        ink |= large_components(colour, least_px)
    border = _with_shadow(border, light, margin_um / mpp)
    return _grown(ink, margin_um / mpp) & ~border, border


def large_components(mask: Mask, least_px: float) -> Mask:
    """Return the 8-connected components that have at least so many pixels."""
    if not mask.any():
        return mask
    labels = label(mask, connectivity=2)
    keep = np.bincount(labels.ravel()) >= least_px
    keep[0] = False
    found: Mask = keep[labels]
    return found


def components_at(mask: Mask, seeds: Mask) -> Mask:
    """Return the 8-connected components of a mask that hold a seed."""
    if not (mask & seeds).any():
        return np.zeros_like(mask)
    labels = label(mask, connectivity=2)
    keep = np.zeros(labels.max() + 1, dtype=bool)
    keep[labels[seeds]] = True
    keep[0] = False
    found: Mask = keep[labels]
    return found


def touching_edge(mask: Mask) -> Mask:
    """Return the 8-connected components that reach the edge of the picture."""
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    return components_at(mask, edge)


def _grown(mask: Mask, by_px: float) -> Mask:
    """Return the mask with all that lies within a distance of it."""
    if not mask.any():
        return mask
    found: Mask = ndimage.distance_transform_edt(~mask) <= by_px
    return found


def _with_shadow(border: Mask, light: Floats, reach_px: float) -> Mask:
    """Return a black border with the grey that it fades through, as far as that may reach."""
    if not border.any():
        return border
    grey = (light.max(axis=0) < _GREY_LIGHT) & _neutral(light)
    found: Mask = ndimage.binary_dilation(border, iterations=ceil(reach_px), mask=grey | border)
    return found


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


def _black(light: Floats) -> Mask:
    """Return where it is opaque, neutral and even."""
    opaque: Mask = light.max(axis=0) < _BLACK_LIGHT
    if not opaque.any():
        return opaque
    grey = light.mean(axis=0)
    mean = ndimage.uniform_filter(grey, 3)
    variance = ndimage.uniform_filter(grey * grey, 3) - mean * mean
    found: Mask = opaque & _neutral(light) & (variance < _EVEN_STD**2)
    return found


def _neutral(light: Floats) -> Mask:
    """Return where there is hardly any colour, and none that is warm."""
    pale: Mask = light.max(axis=0) - light.min(axis=0) < _NEUTRAL
    cool: Mask = light[0] - light[2] < _WARM
    return pale & cool
