"""Stain and texture statistics: nothing learned, every dimension has a name."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import hed_from_rgb

from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders import BasePatchEncoder

Plane = NDArray[np.float32]

_COLOURS = ("red", "green", "blue")
_STAINS = ("haematoxylin", "eosin", "dab")
_QUANTILES = (5, 25, 50, 75, 95)
_SCALES_PX = (2, 4, 8, 16, 32)
_EDGES = (0.02, 0.05, 0.1)
_NUCLEUS, _DARK_NUCLEUS = 0.12, 0.25
_BROWN, _DARK_BROWN = 0.12, 0.25
_GLASS, _INK = 0.05, 1.5
_LEAST_BLOB = 6

_MOMENTS = ("mean", "deviation", "asymmetry")
# The features, in their order. Stains are in units of optical density (decimal logarithm), colours
# in 0-1, shares in 0-1, and what is counted is counted on 2 x 2 means.
NAMES = (
    *(f"{plane} {moment}" for plane in (*_COLOURS, *_STAINS) for moment in _MOMENTS),
    *(f"{stain} {percent}%" for stain in _STAINS for percent in _QUANTILES),
    *("-".join(pair) for planes in (_COLOURS, _STAINS) for pair in combinations(planes, 2)),
    # The contrast that is lost from one scale to the next.
    *(f"{plane} below {side} px" for plane in (*_STAINS, "density") for side in _SCALES_PX),
    "gradient mean", "gradient deviation",
    *(f"share steeper than {steep}" for steep in _EDGES),
    "haematoxylin share", "dark haematoxylin share", "blobs per 10,000 px",
    "blob area mean (log px)", "blob area deviation (log px)", "share of blobs in all nuclear",
    "dab", "dark dab", "glass", "ink",
    # Local binary patterns of the density.
    *(f"{count} denser in a row" for count in range(9)), "no one row",
)  # fmt: skip


class StainTexture(BasePatchEncoder):
    """Colour, stain and texture statistics of each patch, 84-d, at its own size.

    A patch of 256 px takes about 4 ms on one thread. Each is taken on its own, so a feature is
    the same bit for bit in any batch.

    References:
        Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291-299: stains by colour
        deconvolution. Ojala et al., IEEE TPAMI 24 (2002) 971-987: rotation-invariant uniform
        local binary patterns.
    """

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the statistics of each patch, batch x dim, in the order of `NAMES`.

        Raises:
            InputError: the patches are under 32 px, less than the coarsest scale.
        """
        if patches.shape[1] < max(_SCALES_PX):
            raise InputError(
                f"{self.card.name}: patches have {patches.shape[1]} px; expected at least "
                f"{max(_SCALES_PX)}"
            )
        return np.stack([describe(patch) for patch in patches])


def describe(patch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the statistics of one patch (px x px x 3, RGB), in the order of `NAMES`."""
    colours = [patch[..., i].astype(np.float32) / np.float32(255) for i in range(3)]
    density, stains = unmix(patch)
    small = [_halve(stain) for stain in stains]
    small_density, dab = _halve(density), small[2]
    shares = (dab > _BROWN, dab > _DARK_BROWN, small_density < _GLASS, small_density > _INK)
    groups = (
        [value for colour in colours for value in _moments(colour)],
        [value for stain in stains for value in _moments(stain)],
        [value for stain in small for value in _quantiles(stain)],
        [*_correlations([_halve(colour) for colour in colours]), *_correlations(small)],
        [value for plane in (*stains, density) for value in _contrasts(plane)],
        _edges(small_density),
        _blobs(small[0]),
        [float(plane.mean()) for plane in shares],
        _binary_patterns(small_density),
    )
    return np.concatenate([np.asarray(group, dtype=np.float32) for group in groups])


def unmix(patch: NDArray[np.uint8]) -> tuple[Plane, list[Plane]]:
    """Return the optical density (mean of the colours) and that of H, E and DAB, px x px each.

    Black counts as 1/255, so a density is at most 2.4; a stain below none is set to none.
    """
    planes = np.ascontiguousarray(patch.transpose(2, 0, 1))
    densities = _DENSITY[planes].reshape(3, -1)
    stains = (_UNMIX.T @ densities).reshape(planes.shape)
    np.maximum(stains, 0, out=stains)
    density: Plane = densities.mean(axis=0).reshape(planes.shape[1:])
    return density, list(stains)


_DENSITY: Plane = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
_UNMIX: Plane = np.asarray(hed_from_rgb, dtype=np.float32)


def _halve(plane: Plane) -> Plane:
    """Return the means of 2 x 2 pixels; an odd last row or column is left out."""
    rows, columns = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    even = plane[:rows, :columns]
    pairs = even[0::2] + even[1::2]
    means: Plane = (pairs[:, 0::2] + pairs[:, 1::2]) * np.float32(0.25)
    return means


def _moments(plane: Plane) -> tuple[float, float, float]:
    """Return mean, deviation and asymmetry (cube root of the third moment), all in one unit.

    Not skewness: where a stain is all but absent it divides by next to nothing.
    """
    mean = float(plane.mean())
    off = plane - mean
    square = off * off
    return mean, float(square.mean()) ** 0.5, float(np.cbrt(np.vdot(square, off) / off.size))


def _quantiles(plane: Plane) -> Plane:
    """Return the quantiles of a plane, each a value it holds (the nearest rank)."""
    ranks = np.rint(np.array(_QUANTILES) / 100 * (plane.size - 1)).astype(np.intp)
    return np.sort(plane, axis=None)[ranks]


def _correlations(planes: list[Plane]) -> list[float]:
    """Return the correlation of each two of three planes; 0 where one has one value."""
    off = np.stack([plane.ravel() - plane.mean() for plane in planes])
    covariance = off @ off.T / off.shape[1]
    spread = np.sqrt(np.diag(covariance))
    return [
        float(covariance[i, j] / (spread[i] * spread[j]))
        if min(spread[i], spread[j]) > 1e-5
        else 0.0
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]


def _contrasts(plane: Plane) -> list[float]:
    """Return the deviation that is lost with each halving: the contrast of one octave of sizes."""
    contrasts = []
    for _ in _SCALES_PX:
        coarse = _halve(plane)
        fine = plane[: coarse.shape[0] * 2, : coarse.shape[1] * 2]
        drop = np.vdot(fine, fine) / fine.size - np.vdot(coarse, coarse) / coarse.size
        contrasts.append(max(float(drop), 0.0) ** 0.5)
        plane = coarse
    return contrasts


def _edges(density: Plane) -> list[float]:
    """Return mean and deviation of the gradient, and the shares steeper than each threshold."""
    down = (density[2:, 1:-1] - density[:-2, 1:-1]) / 2
    right = (density[1:-1, 2:] - density[1:-1, :-2]) / 2
    steepness = np.sqrt(down * down + right * right)
    shares = [float(np.mean(steepness > steep)) for steep in _EDGES]
    return [float(steepness.mean()), float(steepness.std()), *shares]


def _blobs(haematoxylin: Plane) -> list[float]:
    """Return shares of haematoxylin, and number and size of what is dense enough for a nucleus."""
    dense = haematoxylin > _NUCLEUS
    labels, count = ndimage.label(dense)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    areas = areas[areas >= _LEAST_BLOB]
    logs = np.log(areas) if areas.size else np.zeros(1)
    return [
        float(dense.mean()),
        float(np.mean(haematoxylin > _DARK_NUCLEUS)),
        areas.size / dense.size * 1e4,
        float(logs.mean()),
        float(logs.std()),
        float(areas.sum() / max(int(dense.sum()), 1)),
    ]


def _binary_patterns(density: Plane) -> NDArray[np.float64]:
    """Return the histogram of rotation-invariant uniform patterns of the 8 neighbours, sum 1."""
    centre = density[1:-1, 1:-1]
    code = np.zeros(centre.shape, dtype=np.uint8)
    for bit, (down, right) in enumerate(_RING):
        rows, columns = centre.shape
        code |= (density[down : down + rows, right : right + columns] > centre) << np.uint8(bit)
    return np.bincount(_PATTERN[code.ravel()], minlength=10) / code.size


_RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))


def _pattern_of(code: int) -> int:
    """Return how many neighbours are set if they stand in one row around the ring, else 9."""
    bits = [code >> i & 1 for i in range(8)]
    changes = sum(bits[i] != bits[i - 1] for i in range(8))
    return sum(bits) if changes <= 2 else 9


_PATTERN = np.array([_pattern_of(code) for code in range(256)])
