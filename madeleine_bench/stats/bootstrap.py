"""The case bootstrap as multiplicities, and metrics that take them, all resamples at once.

A resample is a column of weights: how often each unit was drawn. A metric under weights equals
the metric on the units repeated so often. Weights are whole numbers, and are summed as
float64; every sum below 2^53 is exact, so the order of additions, and with it the machine, does
not move a result.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Survival

Floats = NDArray[np.float64]
Weights = NDArray[np.floating[Any]] | NDArray[np.uint8]
_BLOCK_NUMBERS = 2**18  # looked at together: what is made of them takes some 12 MB


def concordance_sums(
    survival: Survival, risk: NDArray[np.float64], weights: Floats
) -> tuple[Floats, Floats]:
    """Return for each resample twice the weight of concordant pairs, and that of all pairs.

    A pair weighs the product of its units' weights; of equal risks it counts half as concordant. It
    is comparable where the earlier time is an event, or both are equal and exactly one is an event.
    Twice, so that all sums of whole weights are whole: exact, in any order, where they fit.

    Args:
        survival: follow-up of the units.
        risk: (unit,) higher means an earlier event.
        weights: unit x resample.
    """
    _, day = np.unique(survival.time_days, return_inverse=True)
    place = 2 * day + ~survival.event  # an event comes before those censored on its day
    twice, pairs = np.zeros((2, weights.shape[1]))
    events = np.flatnonzero(survival.event)
    for part in blocks(len(place), len(events)):
        early = events[part]
        later = (place[early, None] < place).astype(np.float64)
        won = later * (1.0 + np.sign(risk[early, None] - risk))
        twice += np.einsum("ur,ur->r", weights[early], won @ weights)
        pairs += np.einsum("ur,ur->r", weights[early], later @ weights)
    return twice, pairs


def case_weights(
    case: Sequence[str], stratum: Sequence[str], n_resamples: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the multiplicities of units under resampling of cases, unit x resample.

    Cases are drawn with replacement, each with all its units. They are drawn within strata: the
    stratum of a case is the set of the strata of its units (its classes, or event and no event),
    so every resample holds as many cases of each kind as the data and lacks no class.
    """
    kinds: dict[str, set[str]] = {}
    for name, kind in zip(case, stratum, strict=True):
        kinds.setdefault(name, set()).add(kind)
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, name in enumerate(sorted(kinds)):
        rows.setdefault(tuple(sorted(kinds[name])), []).append(row)
    counts = np.empty((len(kinds), n_resamples), dtype=np.uint8)
    for _, group in sorted(rows.items()):
        for part in blocks(len(group), n_resamples):
            size = part.stop - part.start
            drawn = rng.integers(len(group), size=(size, len(group)))
            flat = np.bincount(
                (drawn * size + np.arange(size)[:, None]).ravel(), minlength=drawn.size
            )
            assert flat.max() < 256  # one case 256 times in a resample: no chance in 10^500
            counts[group, part] = flat.reshape(len(group), size)
    return counts[np.unique(np.array(case), return_inverse=True)[1]]


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Yield ranges of columns to look at one after the other, so that memory stays bounded."""
    size = max(1, _BLOCK_NUMBERS // max(1, n_rows))
    for start in range(0, n_columns, size):
        yield slice(start, min(start + size, n_columns))


def bayesian_case_weights(
    cohort: str, case: Sequence[str], n_resamples: int
) -> NDArray[np.float32]:
    """Return weights of units under the Bayesian bootstrap of cases, unit x resample.

    Each case weighs an exponential number in each resample, the same in every task of the cohort
    and for every encoder: whatever is scored on a case moves together, and no resample lacks a
    class. The numbers hang on cohort and case alone, so a task or an encoder more moves nothing.
    They are whole 64ths, given as whole numbers, so that sums of them are exact.

    References:
        Rubin, The Bayesian bootstrap, Annals of Statistics 9 (1981) 130-134.
    """
    drawn = {
        name: rng_for("bayesian bootstrap", cohort, name).exponential(size=n_resamples)
        for name in sorted(set(case))
    }
    return np.stack([np.ceil(64.0 * drawn[name]).astype(np.float32) for name in case])


def weighted_auroc(
    positive: NDArray[np.bool_], score: NDArray[np.float64], weights: Weights
) -> NDArray[np.float64]:
    """Return the area under the ROC curve of each resample, NaN where it lacks a class.

    Args:
        positive: (unit,) whether the unit is of the positive class.
        score: (unit,) higher means more likely positive.
        weights: unit x resample.
    """
    inside, outside = (positive, ~positive)
    swapped = bool(inside.sum() > outside.sum())
    # The smaller class looks up, for each of its units, the weight of the other class below it.
    few, many = (outside, inside) if swapped else (inside, outside)
    order = np.flatnonzero(many)[np.argsort(score[many], kind="stable")]
    few_weights = weights[few].astype(np.float64)
    below = np.zeros((len(order) + 1, weights.shape[1]))
    np.cumsum(weights[order], axis=0, dtype=np.float64, out=below[1:])
    left = np.searchsorted(score[order], score[few], side="left")
    right = np.searchsorted(score[order], score[few], side="right")
    beaten = below[left]
    beaten += below[right]  # twice the weight below, ties counting half
    total = few_weights.sum(axis=0) * below[-1]
    share = _ratio(np.einsum("ur,ur->r", few_weights, beaten), 2.0 * total)
    return 1.0 - share if swapped else share


def weighted_quadratic_kappa(
    label: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int, weights: Weights
) -> NDArray[np.float64]:
    """Return the quadratic weighted kappa of each resample, NaN where it holds one label only.

    Args:
        label: (unit,) class index.
        predicted: (unit,) class index.
        n_classes: number of classes.
        weights: unit x resample.
    """
    cell = np.eye(n_classes * n_classes)[label * n_classes + predicted]
    confusion = (weights.T @ cell).reshape(-1, n_classes, n_classes)
    rows, columns = confusion.sum(axis=2), confusion.sum(axis=1)
    place = np.arange(n_classes)
    distance = np.square(place[:, None] - place[None, :]).astype(np.float64)
    observed = np.einsum("rij,ij->r", confusion, distance) * rows.sum(axis=1)
    expected = np.einsum("ri,rj,ij->r", rows, columns, distance)
    one_label = (rows > 0).sum(axis=1) < 2
    return np.where(one_label, np.nan, 1.0 - _ratio(observed, expected))


def weighted_balanced_accuracy(
    label: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int, weights: Weights
) -> NDArray[np.float64]:
    """Return the mean recall over classes of each resample, NaN without a unit of a class.

    Args:
        label: (unit,) class index.
        predicted: (unit,) class index.
        n_classes: number of classes.
        weights: unit x resample.
    """
    exact = weights.astype(np.float64)
    of_class = np.eye(n_classes)[label]
    right = of_class * (predicted == label)[:, None]
    recall: NDArray[np.float64] = _ratio(exact.T @ right, exact.T @ of_class).mean(axis=1)
    return recall


def weighted_average_precision(
    positive: NDArray[np.bool_], score: NDArray[np.float64], weights: Weights
) -> NDArray[np.float64]:
    """Return the average precision of each resample, NaN where it has no positive unit.

    Args:
        positive: (unit,) whether the unit is of the positive class.
        score: (unit,) higher means more likely positive.
        weights: unit x resample.
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of each equal score
    exact = weights[order].astype(np.float64)
    taken = np.cumsum(exact, axis=0)[last]
    hits = np.cumsum(exact * positive[order, None], axis=0)[last]
    gained = np.diff(hits, axis=0, prepend=0.0)
    return _ratio((gained * np.nan_to_num(_ratio(hits, taken))).sum(axis=0), hits[-1])


def weighted_r2(
    value: NDArray[np.float64],
    predicted: NDArray[np.float64],
    baseline: NDArray[np.float64],
    weights: Weights,
) -> NDArray[np.float64]:
    """Return R2 of each resample, NaN where no unit of it is off the baseline.

    Args:
        value: (unit,) label.
        predicted: (unit,) prediction.
        baseline: (unit,) mean label of the training units.
        weights: unit x resample.
    """
    squares = np.square([value - predicted, value - baseline])
    left, whole = squares @ weights.astype(np.float64)
    return 1.0 - _ratio(left, whole)


def weighted_pearson(value: Floats, predicted: Floats, weights: Weights) -> NDArray[np.float64]:
    """Return Pearson's correlation of each resample, NaN where one side is constant in it.

    Args:
        value: (unit,) or unit x resample.
        predicted: the same.
        weights: unit x resample.
    """
    total = weights.sum(axis=0, dtype=np.float64)
    sides, squares = [], []
    for side in (value, predicted):
        column = side if side.ndim == 2 else side[:, None]
        centred = column - _ratio((weights * column).sum(axis=0), total)
        square = (weights * np.square(centred)).sum(axis=0)
        # A deviation that is rounding alone is none.
        none = square <= total * np.square(1e-12 * np.abs(column).max(initial=0.0))
        sides.append(centred)
        squares.append(np.where(none, 0.0, square))
    product = (weights * sides[0] * sides[1]).sum(axis=0)
    return np.clip(_ratio(product, np.sqrt(squares[0] * squares[1])), -1.0, 1.0)


def weighted_spearman(
    value: NDArray[np.float64], predicted: NDArray[np.float64], weights: Weights
) -> NDArray[np.float64]:
    """Return Spearman's correlation of each resample, as `weighted_pearson` of its ranks."""
    out = np.empty(weights.shape[1])
    for part in blocks(*weights.shape):
        block = weights[:, part].astype(np.float64)
        out[part] = weighted_pearson(_ranks(value, block), _ranks(predicted, block), block)
    return out


def _ranks(values: NDArray[np.float64], weights: Floats) -> Floats:
    """Return the rank of each unit in each resample, unit x resample; equal values share theirs."""
    unique, place = np.unique(values, return_inverse=True)
    many = np.zeros((len(unique), weights.shape[1]))
    np.add.at(many, place, weights)
    ranks: Floats = (np.cumsum(many, axis=0) - 0.5 * many)[place]
    return ranks


def weighted_harrell_c(
    survival: Survival, risk: NDArray[np.float64], weights: Weights
) -> NDArray[np.float64]:
    """Return Harrell's concordance index of each resample, NaN where no pair is comparable.

    Args:
        survival: follow-up of the units.
        risk: (unit,) higher means an earlier event.
        weights: unit x resample.
    """
    twice, pairs = np.empty((2, weights.shape[1]))
    for part in blocks(*weights.shape):
        block = weights[:, part].astype(np.float64)
        twice[part], pairs[part] = concordance_sums(survival, risk, block)
    return _ratio(twice, 2.0 * pairs)


def percentile_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap values, lower and upper end."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out
