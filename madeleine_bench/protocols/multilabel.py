"""Several labels of one unit: a classifier for each column, and what judges them together."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.metrics import classification
from madeleine_bench.protocols.results import FoldPrediction
from madeleine_bench.protocols.scorers import (
    Fold,
    mean_of_defined,
    mean_of_groups,
    require_columns,
)
from madeleine_bench.specs.task import MultiLabels, TaskSpec
from madeleine_bench.stats.bootstrap import weighted_auroc
from madeleine_bench.types import Split

CLASSES = ("negative", "positive")


def fit_columns(
    words: Mapping[str, NDArray[Any]],
    splits: list[Split],
    fit: Callable[[NDArray[np.intp], list[Split]], Iterator[FoldPrediction]],
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each split: columns prob_<column>, the probability of positive.

    A unit without a label in a column is tested and not trained on there.

    Args:
        words: by column the label of each unit: positive, negative or "".
        splits: positions to train, to validate and to test on.
        fit: yields the predictions of each split, prob_negative and prob_positive, from labels as
            indices of `CLASSES`.
    """
    fits = []
    for word in words.values():
        known = word != ""
        parts = [replace(s, train=s.train[known[s.train]], val=s.val[known[s.val]]) for s in splits]
        fits.append(fit((word == "positive").astype(np.intp), parts))
    for split, *each in zip(splits, *fits, strict=True):
        named = dict(zip(words, each, strict=True))
        reasons = [f"{name}: {f.report.reason}" for name, f in named.items() if f.report.reason]
        steps = [f.report.n_iter for f in each if f.report.n_iter is not None]
        report = replace(
            each[0].report,
            n_train=len(split.train),
            converged=all(fold.report.converged for fold in each),
            reason="; ".join(reasons) or None,
            n_iter=max(steps, default=None),
            diagnostics={
                f"{name}: {key}": value
                for name, fold in named.items()
                for key, value in fold.report.diagnostics.items()
            },
        )
        columns = {f"prob_{name}": fold.columns["prob_positive"] for name, fold in named.items()}
        yield FoldPrediction(report, columns)


class ColumnsScorer:
    """Judges the probabilities of several labels: the mean over columns of the area under each.

    A unit without a label in a column is left out of its area; a column that holds one class among
    the test units is left out of the mean of that fold.
    """

    strata = "the rarest label and the others"

    def __init__(
        self, task: TaskSpec, labels: MultiLabels, predictions: pd.DataFrame, where: str
    ) -> None:
        columns = [f"{kind}_{name}" for name in labels.columns for kind in ("label", "prob")]
        require_columns(predictions, ["unit_id", "case_id", *columns], where)
        self._columns = {
            name: (
                predictions[f"label_{name}"].to_numpy(dtype=object),
                predictions[f"prob_{name}"].to_numpy(dtype=np.float64),
            )
            for name in labels.columns
        }
        units = predictions.drop_duplicates("unit_id")
        counts = {
            (name, word): int((units[f"label_{name}"] == word).sum())
            for name in labels.columns
            for word in ("positive", "negative")
        }
        name, word = min(counts, key=lambda each: counts[each])
        self.strata_of_rows: NDArray[Any] = np.where(
            self._columns[name][0] == word, f"{word} {name}", "other"
        )
        self.chance = task.chance or 0.0

    def value(self, fold: Fold) -> float | None:
        """Return the mean area of a fold, None where no column has both classes."""
        return mean_of_defined([*self._areas(fold).values()], [0] * len(self._columns))

    def resampled(self, fold: Fold, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean area of each resample (weights: row x resample), NaN if undefined."""
        areas = []
        for label, probability in self._columns.values():
            rows = np.flatnonzero(label[fold.rows] != "")
            positive = label[fold.rows][rows] == "positive"
            areas.append(weighted_auroc(positive, probability[fold.rows][rows], weights[rows]))
        return mean_of_groups(np.stack(areas), [0] * len(areas), np.nan)

    def flag(self, fold: Fold, undefined: bool) -> str | None:
        """Return which columns a fold cannot judge, or None; `undefined` if that is all."""
        absent = [name for name, area in self._areas(fold).items() if area is None]
        if absent:
            return f"one class in test of {', '.join(absent)}"
        same = [np.ptp(p[fold.rows]) == 0.0 for _, p in self._columns.values()]
        return "constant predictions" if all(same) else None

    def secondary(self, name: str, folds: list[Fold], groups: list[int]) -> float | None:
        """Return the area of one column, "auroc@<column>", over the folds that define it."""
        column = name.removeprefix("auroc@")
        if column not in self._columns:
            return None
        return mean_of_defined([self._areas(fold)[column] for fold in folds], groups)

    def _areas(self, fold: Fold) -> dict[str, float | None]:
        areas: dict[str, float | None] = {}
        for name, (label, probability) in self._columns.items():
            rows = fold.rows[label[fold.rows] != ""]
            positive = (label[rows] == "positive").astype(np.intp)
            two = np.stack([1.0 - probability[rows], probability[rows]], axis=1)
            areas[name] = classification.auroc(positive, two)
        return areas
