"""Which patches of two sections are partners: a fused Gromov-Wasserstein plan, without gradient.

Serial sections share their tissue. A patch and its partner look alike, and they lie alike among the
other patches of their sections. The plan weighs both, so turning, mirroring or shifting a section
changes nothing, and so do the units of its coordinates.
"""

import numpy as np
import ot
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_distances

ALPHA = 0.5
MASS = 0.7  # partners for 70% of the patches: 30% of a section may be cut off or torn
BLUR = 1.0
MOST_CELLS = 600  # 4 s and 30 MB for a pair of sections; time grows with the third power

_STEPS = 100_000  # of the network simplex, too; its default of 1,000 fails from 600 patches on
_CLEARLY = 0.01  # the second minimum is taken if it is this much lower, not for rounding
_TINY = np.finfo(np.float64).tiny

Floats = NDArray[np.floating]


def transport_plan(
    features_a: Floats,
    features_b: Floats,
    positions_a: Floats | None = None,
    positions_b: Floats | None = None,
    *,
    alpha: float = ALPHA,
    mass: float = MASS,
    most: int = MOST_CELLS,
    blur: float = BLUR,
) -> csr_array:
    """Return the weight of each pair of patches, patch of a x patch of b, float64 with sum `mass`.

    The minimum over plans P of (1 - alpha) <M, P> + alpha sum_ijkl (d_ik / mean d - d'_jl / mean
    d')^2 P_ij P_kl, where M is 1 - cosine of features less the mean of their section, and d and d'
    are distances between the patches of each section. Rows of P sum to at most 1 / patches of a,
    columns to at most 1 / patches of b: patches without a counterpart have no partner. The minimum
    is the lower one of two local minima, reached by conditional gradients from the uniform plan and
    from that of features alone; the same inputs give the same plan.

    The solver names one partner a patch, as if its neighbours were other tissue. The weight is
    then spread over neighbours on both sides, by a Gaussian of their distance; the sums of rows and
    columns change a little thereby.

    A section of more than `most` patches is merged into at most `most` square cells; the weight
    between two cells is spread evenly over their patches. Without positions of both sections,
    alpha is 0, and instead of merging every k-th patch is taken. Features alone place partners
    several patches off. Sections of fewer than 200 patches give unreliable plans as well.

    Args:
        features_a: of the patches of one section, patch x dim.
        features_b: of the patches of the other section, patch x dim.
        positions_a: patch x 2, in any unit, or None.
        positions_b: patch x 2, in any unit, or None.
        alpha: weight of the positions, from 0 (features alone) to 1 (positions alone).
        mass: share of the patches that have a partner, above 0 and at most 1.
        most: largest number of patches or cells that the solver is given.
        blur: standard deviation of the Gaussian, in distances of a patch (or cell) from the nearest
            other one (median); 0 leaves one partner a patch.

    References:
        Vayer et al., Optimal Transport for structured data with application on graphs (ICML 2019);
        Chapel et al., Partial Optimal Transport (NeurIPS 2020), section 4; solver: POT, Flamary et
        al. (JMLR 22, 2021).
    """
    if positions_a is None or positions_b is None:
        positions_a = positions_b = None
    cells_a, cells_b = _cells(features_a, positions_a, most), _cells(features_b, positions_b, most)
    share_a, share_b = (cells.sum(axis=1) / cells.sum() for cells in (cells_a, cells_b))
    mean_a, mean_b = (_cell_means(f, c) for f, c in ((features_a, cells_a), (features_b, cells_b)))
    centred_a, centred_b = mean_a - share_a @ mean_a, mean_b - share_b @ mean_b
    costs = cosine_distances(centred_a, centred_b)
    mass = min(mass, share_a.sum(), share_b.sum())  # rounding
    plan = ot.partial.partial_wasserstein(share_a, share_b, costs, m=mass, numItermax=_STEPS)
    if positions_a is not None and positions_b is not None and alpha > 0.0:
        distances_a = _distances(positions_a, cells_a, share_a)
        distances_b = _distances(positions_b, cells_b, share_b)
        best = np.inf
        for start in (None, plan * (1.0 - 1e-9)):  # below its marginals in spite of rounding
            fused, log = ot.gromov.partial_fused_gromov_wasserstein(
                costs,
                distances_a,
                distances_b,
                share_a,
                share_b,
                m=mass,
                alpha=alpha,
                G0=start,
                symmetric=True,
                numItermax=_STEPS,
                log=True,
            )
            if log["partial_fgw_dist"] < best * (1.0 - _CLEARLY):
                plan, best = fused, log["partial_fgw_dist"]
    spread_a, spread_b = (_row_means(cells) for cells in (cells_a, cells_b))
    weights = csr_array(np.maximum(plan, 0.0))
    if blur > 0.0 and positions_a is not None and positions_b is not None:
        near_a = _neighbours(_cell_means(positions_a, cells_a), blur)
        near_b = _neighbours(_cell_means(positions_b, cells_b), blur)
        weights = near_a.T @ weights @ near_b
    return csr_array(spread_a.T @ weights @ spread_b)


def _neighbours(centres: NDArray[np.float64], blur: float) -> csr_array:
    """Return the weight of each neighbour of a cell within two deviations, rows of sum 1."""
    tree = KDTree(centres)
    if len(centres) == 1:
        return csr_array(np.ones((1, 1)))
    nearest, _ = tree.query(centres, k=[2])  # the first is the cell itself
    deviation = blur * float(np.median(nearest))
    near = tree.sparse_distance_matrix(tree, 2.001 * deviation, output_type="coo_matrix").tocsr()
    near.data = np.exp(-np.square(near.data / max(deviation, _TINY)) / 2.0)
    return csr_array(near.multiply(1.0 / near.sum(axis=1)))


def _cells(features: Floats, positions: Floats | None, most: int) -> csr_array:
    """Return which patches a cell is made of: cell x patch, entries 1."""
    patches = len(features)
    if positions is None:
        taken = np.arange(0, patches, -(-patches // most))
        return _indicator(np.arange(len(taken)), taken, patches)
    cell, side = np.arange(patches), 0.0
    corner = positions.min(axis=0)
    if patches > most:
        side = float(np.sqrt(np.ptp(positions, axis=0).prod() / patches))
    while len(np.unique(cell)) > most:
        side *= 1.05
        rows = np.floor((positions - corner) / side)
        _, cell = np.unique(rows, axis=0, return_inverse=True)
    return _indicator(cell.ravel(), np.arange(patches), patches)


def _indicator(cell: NDArray[np.intp], patch: NDArray[np.intp], patches: int) -> csr_array:
    shape = (int(cell.max()) + 1, patches)
    return csr_array(coo_array((np.ones(len(cell)), (cell, patch)), shape=shape))


def _row_means(cells: csr_array) -> csr_array:
    """Return the matrix that takes means over the patches of each cell, cell x patch."""
    return csr_array(cells.multiply(1.0 / cells.sum(axis=1)[:, None]))


def _cell_means(rows: Floats, cells: csr_array) -> NDArray[np.float64]:
    """Return the means over the patches of each cell, cell x dim, from patch x dim."""
    return np.asarray(_row_means(cells) @ np.asarray(rows, np.float64))


def _distances(
    positions: Floats, cells: csr_array, share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distances between cells over their mean, cell x cell."""
    centres = _cell_means(positions, cells)
    distances = cdist(centres, centres)
    mean = float(share @ distances @ share)
    return distances / mean if mean > 0.0 else distances
