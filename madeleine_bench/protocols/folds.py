"""The rows of one fit in a table of predictions, and what judges them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.errors import InputError


@dataclass(frozen=True)
class Fold:
    """Key of a split and the positions of its rows in the table of predictions."""

    key: tuple[int, int]
    rows: NDArray[np.int32]


class Judge(Protocol):
    """Scores the folds of one task. There is one for classes and one for survival.

    Attributes:
        strata: what resampling stays within, in words.
        strata_of_rows: the stratum of each row of the predictions.
    """

    strata: str
    strata_of_rows: NDArray[Any]

    def value(self, fold: Fold) -> float | None:
        """Return the main metric of a fold, None where undefined."""
        ...

    def resampled(self, fold: Fold, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the main metric of each resample (weights: row x resample), NaN if undefined."""
        ...

    def flag(self, fold: Fold, undefined: bool) -> str | None:
        """Return why a fold is at chance, or None; `undefined` if its metric is."""
        ...

    def secondary(self, name: str, folds: list[Fold], groups: list[int]) -> float | None:
        """Return a secondary metric over all folds, None where no fold defines it."""
        ...


def require_columns(predictions: pd.DataFrame, names: Sequence[str], where: str) -> None:
    """Check that a table of predictions has rows and the named columns without gaps.

    Raises:
        InputError: it has not.
    """
    absent = [name for name in names if name not in predictions.columns]
    if absent or not len(predictions):
        raise InputError(
            f"{where}: {'no rows' if not absent else f'no column {absent}'}; found the columns "
            f"{list(predictions.columns)}; run the task again with --resume never"
        )
    for name in names:
        if predictions[name].isna().any():
            row = int(np.flatnonzero(predictions[name].isna().to_numpy())[0])
            raise InputError(
                f"{where}: column '{name}' is empty or NaN in row {row}; "
                "run the task again with --resume never"
            )


def mean_of_groups(
    values: NDArray[np.float64], groups: Sequence[int], empty: float
) -> NDArray[np.float64]:
    """Return for each column the mean over groups of the mean over a group's rows.

    NaN is left out of the mean of its group; a group that is all NaN counts as `empty`. With one
    group it is the plain mean over folds.

    Args:
        values: fit x resample.
        groups: the group of each fit.
        empty: stands in for a group without a value.
    """
    label = np.asarray(groups)
    means = []
    for group in sorted(set(groups)):
        rows = values[label == group]
        defined = ~np.isnan(rows)
        count = defined.sum(axis=0)
        total = np.where(defined, rows, 0.0).sum(axis=0)
        means.append(np.where(count > 0, total / np.maximum(count, 1), empty))
    mean: NDArray[np.float64] = np.mean(means, axis=0)
    return mean


def mean_of_defined(values: Sequence[float | None], groups: Sequence[int]) -> float | None:
    """Return the mean over groups of the mean over their defined values; None if there is none."""
    kept = [(v, g) for v, g in zip(values, groups, strict=True) if v is not None]
    if not kept:
        return None
    column = np.array([value for value, _ in kept])[:, None]
    return float(mean_of_groups(column, [group for _, group in kept], 0.0)[0])
