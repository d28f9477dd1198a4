"""What a slide shows: the ground plan of its section, its signs, and noise to texture it with."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi, sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq
from scipy.ndimage import distance_transform_edt, zoom
from scipy.special import ndtr

from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.phantoms.layout import (
    HETEROGENEITY_STD,
    PATCH_PX0,
    Section,
    cut_section,
    deform,
    field_values,
)
from madeleine_bench.phantoms.world import COUNTERSTAIN, LOOK_CASE_SHARE, SITE_SHARE, Draws

Plane = NDArray[np.float32]

SIDE = 1024  # of a tile; a power of two, so that a coordinate wraps by a bit mask


def tileable_noise(rng: np.random.Generator, along: float, across: float) -> Plane:
    """Return Gaussian noise (SIDE, SIDE) of mean 0 and variance 1 that repeats without a seam.

    Args:
        rng: source of the noise.
        along: correlation length in x, in pixels.
        across: correlation length in y, in pixels.
    """
    x = rfftfreq(SIDE).astype(np.float32)[None, :] * np.float32(along)
    y = fftfreq(SIDE).astype(np.float32)[:, None] * np.float32(across)
    smooth = np.exp(np.float32(-2.0 * np.pi**2) * (x**2 + y**2))
    white = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    noise = irfft2(rfft2(white) * smooth, (SIDE, SIDE))
    noise -= noise.mean()
    tile: Plane = (noise / noise.std()).astype(np.float32)
    return tile


def evenly(tile: Plane) -> Plane:
    """Return a normal tile spread evenly over 0 to 1, so that about a share f of it is below f."""
    even: Plane = ndtr(tile)
    return even


def wrapped(tile: Plane, top: int, left: int, height: int, width: int) -> Plane:
    """Return a window (height, width) of the endless pattern that the tile repeats."""
    rows = tile[np.arange(top, top + height) % SIDE]
    start = left % SIDE
    found: Plane = np.empty((height, width), np.float32)
    for column in range(-start, width, SIDE):
        first, last = max(column, 0), min(column + SIDE, width)
        found[:, first:last] = rows[:, first - column : last - column]
    return found


Floats = NDArray[np.float64]
Value = TypeVar("Value", bound=np.generic)

PATCH_UM = PATCH_PX0 * 0.25  # level 0 of a phantom is 0.25 micrometres per pixel
MARGIN_UM = 256.0  # around the outermost patches; a multiple of both grids: centres are nodes
COARSE_UM = 16.0  # the fields of a case bend over 320 micrometres
GRID_UM = 4.0
RIM_PATCHES = 0.3  # the outline runs this far outside the outermost centre ...
BOX_PATCHES = 0.25  # and no further than this outside the outermost patches ...
RIM_WOBBLE = 0.07  # ... and wavers this much (standard deviation)
BORDER_NOISE = 0.22  # tissues interlock; in units of the fields, whose variance is 1
CALM_UM = 14.0  # about the centre of a patch they do not
FIBRE_WAVES = 7


@dataclass(frozen=True)
class Ground:
    """A section seen from above; every plane is node row x node column, nodes GRID_UM apart.

    Attributes:
        tissue: index of the tissue, -1 on bare glass.
        inside_um: distance to the outline, positive in the tissue.
        depth_um: distance to the nearest other tissue.
        showing: factor on what the latents show here, as in the patch features.
        fibre: potential in micrometres; fibres run along its contours.
    """

    tissue: NDArray[np.int8]
    inside_um: Plane
    depth_um: Plane
    showing: Plane
    fibre: Plane

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height of the picture."""
        rows, columns = self.tissue.shape
        return (columns - 1) * GRID_UM, (rows - 1) * GRID_UM

    def at(self, plane: NDArray[Value], x_um: Floats, y_um: Floats) -> NDArray[Value]:
        """Return a plane at the nodes nearest to places, which must lie in the picture."""
        row, column = np.rint(y_um / GRID_UM), np.rint(x_um / GRID_UM)
        found: NDArray[Value] = plane[row.astype(np.intp), column.astype(np.intp)]
        return found


def section(cohort: PhantomCohort, slide_id: str) -> Section:
    """Return where which tissue lies in a slide.

    Raises:
        InputError: the cohort has no such slide.
    """
    block = cohort.tissue(cohort.row(slide_id)[0])
    return cut_section(block, cohort.rng("section", slide_id), cohort.spec.patches)


def places_in_block(cohort: PhantomCohort, slide_id: str, places: Floats) -> Floats:
    """Return where in its block places of a section lie, place x 2.

    `places` are counted in patches (x, y) from the centre of the patch at coordinate (0, 0);
    they may lie between patches. `layout.field_values` there gives what `section` has cut.

    Raises:
        InputError: the cohort has no such slide.
    """
    centre = (section(cohort, slide_id).coords / PATCH_PX0).mean(axis=0)
    rng = cohort.rng("section", slide_id)
    rng.standard_normal()  # the size of the section is drawn before its deformation
    return deform(places - centre, rng)


def draws(cohort: PhantomCohort, slide_id: str) -> tuple[Draws, Draws, Draws]:
    """Return the draws of the site, the case and the section behind the look of a slide.

    Raises:
        InputError: the cohort has no such slide.
    """
    case_id, _, site = cohort.row(slide_id)
    rng = cohort.rng("section", slide_id)
    cut_section(cohort.tissue(case_id), rng, cohort.spec.patches)
    draw = cohort.appearance.draw
    case, own = draw(cohort.rng("look", case_id)), draw(rng)
    return draw(cohort.rng("site", site)), case, own


def lay_ground(cohort: PhantomCohort, slide_id: str, rng: np.random.Generator) -> Ground:
    """Return the ground plan of a slide: at patch centres the tissue is that of its `section`."""
    cells = section(cohort, slide_id).coords / PATCH_PX0
    x, y = _coarse_nodes(cells)
    places = np.column_stack([part.ravel() for part in np.meshgrid(x, y)])
    block = cohort.tissue(cohort.row(slide_id)[0])
    values = field_values(block.waves, places_in_block(cohort, slide_id, places))
    values[:, :-1] += block.bias
    fine = [_refined(value.reshape(len(y), len(x))) for value in values.T]
    fibre, ripple = _fibre_and_ripple(rng, fine[0].shape)
    tissue = _interlocked(fine[:-1], ripple)
    inside = _inside(cells, block.aspect, fine[0].shape, ripple[-1])
    tissue[inside < 0.0] = -1
    showing = np.maximum(1.0 + HETEROGENEITY_STD * fine[-1], 0.0).astype(np.float32)
    return Ground(tissue, inside, _depth(tissue), showing, fibre)


def _coarse_nodes(cells: Floats) -> tuple[Floats, Floats]:
    """Places of the coarse nodes along x and y, in patches from the centre of the first patch."""
    first = -(MARGIN_UM / PATCH_UM + 0.5)
    width, height = ((cells.max(axis=0) + 1.0) * PATCH_UM + 2.0 * MARGIN_UM).tolist()

    def nodes(side: float) -> Floats:
        count = int(side / COARSE_UM) + 1
        return first + np.arange(count, dtype=np.float64) * (COARSE_UM / PATCH_UM)

    return nodes(width), nodes(height)


def _refined(coarse: Floats) -> Plane:
    factor = int(COARSE_UM / GRID_UM)
    shape = tuple((size - 1) * factor + 1 for size in coarse.shape)
    scale = [new / old for new, old in zip(shape, coarse.shape, strict=True)]
    fine: Plane = zoom(coarse.astype(np.float32), scale, order=1)
    return fine


def _waves(
    rng: np.random.Generator, x: Plane, y: Plane, count: int, shortest_um: float, longest_um: float
) -> Plane:
    """A sum of plane waves of variance 1."""
    total: Plane = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for _ in range(count):
        length = np.exp(rng.uniform(np.log(shortest_um), np.log(longest_um)))
        angle, phase = rng.uniform(0.0, 2.0 * pi, 2)
        wave = 2.0 * pi / length * np.array([np.cos(angle), np.sin(angle)])
        total += np.cos(np.float32(wave[0]) * x + (np.float32(wave[1]) * y + np.float32(phase)))
    return total * np.float32(sqrt(2.0 / count))


def _fibre_and_ripple(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> tuple[Plane, list[Plane]]:
    """Potential of the fibres, and ripples that make borders irregular."""
    x = (np.arange(shape[1], dtype=np.float32) * np.float32(GRID_UM))[None, :]
    y = (np.arange(shape[0], dtype=np.float32) * np.float32(GRID_UM))[:, None]
    angle = rng.uniform(0.0, pi)
    straight = np.float32(np.cos(angle)) * y - np.float32(np.sin(angle)) * x
    bend = _waves(rng, x, y, FIBRE_WAVES, 280.0, 800.0)
    crimp = _waves(rng, x, y, FIBRE_WAVES, 45.0, 90.0)
    ripples = [_waves(rng, x, y, 5, 60.0, 220.0) for _ in range(3)]
    ripples.append(np.clip(_waves(rng, x, y, 6, 150.0, 900.0), -2.0, 2.0))
    return straight + 42.0 * bend + 1.6 * crimp, ripples


def _interlocked(scores: list[Plane], ripples: list[Plane]) -> NDArray[np.int8]:
    """The tissue with the largest score; ripples move the borders but not at patch centres."""
    calm = BORDER_NOISE * _away_from_centres(scores[0].shape)
    best: Plane = np.full(scores[0].shape, -np.inf, np.float32)
    tissue = np.zeros(best.shape, np.int8)
    for index, score in enumerate(scores):
        rippled = score + calm * ripples[index % 3] * (1.0 if index < 3 else -1.0)
        tissue[rippled > best] = index
        np.maximum(best, rippled, out=best)
    return tissue


def _away_from_centres(shape: tuple[int, ...]) -> Plane:
    """0 at the centre of each patch, 1 far from it."""
    centre = MARGIN_UM + PATCH_UM / 2.0
    off = [np.arange(size, dtype=np.float32) * GRID_UM - centre for size in shape]
    y, x = (part - PATCH_UM * np.rint(part / PATCH_UM) for part in off)
    away: Plane = 1.0 - np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) / CALM_UM**2)
    return away.astype(np.float32)


def _inside(cells: Floats, aspect: float, shape: tuple[int, ...], ripple: Plane) -> Plane:
    """Distance in micrometres to a smooth line about the centres of all patches, roughly."""
    middle = np.rint(cells.mean(axis=0))  # the patch that `layout.outline` has begun with
    off = cells - middle
    stretch = np.array([sqrt(aspect), 1.0 / sqrt(aspect)])
    radius = np.sqrt(((off / stretch) ** 2).sum(axis=1)).max() + RIM_PATCHES
    x, y = (
        (np.arange(size) * GRID_UM - MARGIN_UM) / PATCH_UM - 0.5 - centre
        for size, centre in zip(shape[::-1], middle, strict=True)
    )
    ellipse = radius - np.sqrt((x / stretch[0])[None, :] ** 2 + (y / stretch[1])[:, None] ** 2)
    # The patches of a small section fill an ellipse badly: its tips would reach into the margin.
    sides = np.abs(off).max(axis=0) + 0.5 + BOX_PATCHES
    box = 1.0 - ((x / sides[0])[None, :] ** 4 + (y / sides[1])[:, None] ** 4) ** 0.25
    inside = np.minimum(ellipse, sides.min() * box) + RIM_WOBBLE * ripple
    distance: Plane = (inside * PATCH_UM).astype(np.float32)
    return distance


def _depth(tissue: NDArray[np.int8]) -> Plane:
    border = np.zeros(tissue.shape, bool)
    border[:, 1:] |= tissue[:, 1:] != tissue[:, :-1]
    border[1:] |= tissue[1:] != tissue[:-1]
    depth: Plane = distance_transform_edt(~border).astype(np.float32) * np.float32(GRID_UM)
    return depth


@dataclass(frozen=True)
class ShownSigns:
    """What one slide shows, each about standard normal over slides.

    Attributes:
        morphology: `m_l` of docs/phantom.md of each latent in the form of cells.
        marker: `m_l` of the latent that the stain is made for; 0 in H&E.
        strength: how strongly form shows, 1 in H&E and less under immunohistochemistry.
        nuisance: `n_j` of docs/phantom.md, (axis,): cutting, staining, scanning.
    """

    morphology: Mapping[str, float]
    marker: float
    strength: float
    nuisance: Floats

    def form(self, latent: str) -> float:
        """Return what the form of cells shows of a latent, in units of H&E."""
        return self.strength * self.morphology[latent]


def shown_signs(cohort: PhantomCohort, slide_id: str) -> ShownSigns:
    """Return what a slide shows; with `signal` 0 it does not depend on the latents.

    Raises:
        InputError: the cohort has no such slide.
    """
    case_id, stain, _ = cohort.row(slide_id)
    world = cohort.world
    site, case, own = draws(cohort, slide_id)
    latents = cohort.latents(case_id)
    looks = sqrt(LOOK_CASE_SHARE) * case.looks + sqrt(1.0 - LOOK_CASE_SHARE) * own.looks
    signs = [*world.morphology.items(), *world.markers.get(stain, {}).items()]
    shown = [
        cohort.signal * sign.fidelity * latents[latent] + sqrt(1.0 - sign.fidelity**2) * look
        for (latent, sign), look in zip(signs, looks.tolist(), strict=False)
    ]
    form = dict(zip(world.morphology, shown, strict=False))
    share = cohort.spec.nuisance_case_share
    within = sqrt(share) * case.nuisance + sqrt(1.0 - share) * own.nuisance
    nuisance = sqrt(SITE_SHARE) * site.nuisance + sqrt(1.0 - SITE_SHARE) * within
    special = stain in world.markers
    return ShownSigns(
        form, shown[-1] if special else 0.0, COUNTERSTAIN if special else 1.0, nuisance
    )
