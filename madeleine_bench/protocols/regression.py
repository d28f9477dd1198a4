"""Ridge regression on embeddings: scaled, the penalty chosen, and what judges its predictions.

References:
    Hoerl and Kennard, Ridge regression, Technometrics 12 (1970) 55-67.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.audit import fifths
from madeleine_bench.metrics import regression as metrics
from madeleine_bench.protocols.probe import InnerFolds
from madeleine_bench.protocols.results import FitReport, FoldPrediction
from madeleine_bench.protocols.ridge import principal_axes
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.protocols.scorers import Fold, mean_of_defined, require_columns
from madeleine_bench.specs.protocol import Grid, RidgeRegression
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.bootstrap import weighted_pearson, weighted_r2, weighted_spearman
from madeleine_bench.types import Split

Array = NDArray[np.float64]


def ridge_regression(
    method: RidgeRegression,
    embeddings: Array,
    value: Array,
    splits: list[Split],
    inner: InnerFolds,
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each split: columns prediction and baseline.

    With rows x centred on the training mean and y its mean label, a fit minimises
    sum (y_i - y - w x_i)^2 + alpha |w|^2, in closed form. The baseline is y.

    Args:
        method: the declared protocol.
        embeddings: unit x dim.
        value: (unit,) labels.
        splits: positions to train, to validate and to test on.
        inner: divides the training units, by strata of all units and their number.
    """
    values = method.alphas.values if isinstance(method.alphas, Grid) else (method.alphas,)
    ends = {0: "weakest", len(values) - 1: "strongest"} if len(values) > 1 else {}
    for split in splits:
        label = value[split.train]
        with np.errstate(over="ignore", invalid="ignore"):  # a fit that overflows says so
            scaler = fit_scaler(embeddings[split.train], method.scale)
            rows, val, test = (
                scaler.apply(embeddings[part]) for part in (split.train, split.val, split.test)
            )
            judged = []  # labels, and their predictions, alpha x unit
            if len(val):
                judged = [(value[split.val], _predict(rows, label, val, values))]
            elif ends:
                strata = np.zeros(len(value), dtype=np.intp)
                strata[split.train] = fifths(label, method.inner_folds)
                fold = inner(split, strata, method.inner_folds)
                for k in range(fold.max() + 1):
                    left, kept = fold == k, fold != k
                    predicted = _predict(rows[kept], label[kept], rows[left], values)
                    judged.append((label[left], predicted))
            errors = [np.square(of - predicted).sum(axis=1) for of, predicted in judged]
            error = np.sum(errors, axis=0) / sum(len(of) for of, _ in judged) if ends else [0.0]
            # Of equal errors the largest penalty.
            chosen = int(np.flatnonzero(error <= np.min(error) * (1.0 + 1e-9)).max(initial=0))
            predicted = _predict(rows, label, test, values[chosen : chosen + 1])[0]
        reason = f"chose the {ends[chosen]} penalty of its grid" if chosen in ends else None
        if scaler.constant:
            reason = "the embeddings are constant on the training rows"
        if not (finite := bool(np.isfinite(predicted).all())):
            reason, predicted = "the embeddings are too large", np.full(len(test), label.mean())
        diagnostics = {"alpha": values[chosen]}
        if ends:
            diagnostics |= {"at_edge": float(chosen in ends), "left_out_mse": float(error[chosen])}
        report = FitReport(
            key=split.key,
            n_train=len(split.train),
            n_test=len(split.test),
            converged=finite,
            reason=reason,
            diagnostics={name: each for name, each in diagnostics.items() if np.isfinite(each)},
        )
        baseline = np.full(len(test), label.mean())
        yield FoldPrediction(report, {"prediction": predicted, "baseline": baseline})


def _predict(rows: Array, label: Array, test: Array, alphas: Sequence[float]) -> Array:
    """Return the predictions of fits with each penalty, alpha x unit."""
    centre, mean = rows.mean(axis=0), label.mean()
    axes = principal_axes(rows - centre, intercept=False)
    along = (label - mean) @ axes.rows
    coefficients = (along / (axes.square + np.array(alphas)[:, None])) @ axes.back.T
    # A matrix product may round a row by where it stands; equal rows must tie.
    predicted: Array = mean + np.einsum("ad,ud->au", coefficients, test - centre)
    return predicted


class NumberScorer:
    """Judges predictions of a number, beside which stands the mean of the training units."""

    strata = "halves of the label"

    def __init__(self, task: TaskSpec, predictions: pd.DataFrame, where: str) -> None:
        columns = ["value", "baseline", "prediction"]
        require_columns(predictions, ["unit_id", "case_id", *columns], where)
        self._value, self._baseline, self._predicted = (
            predictions[name].to_numpy(dtype=np.float64) for name in columns
        )
        middle = predictions.drop_duplicates("unit_id")["value"].median()
        self.strata_of_rows: NDArray[Any] = np.where(self._value > middle, "high", "low")
        self.chance = task.chance or 0.0
        self._metric = task.metric.name

    def value(self, fold: Fold) -> float | None:
        """Return the main metric of a fold, None where undefined."""
        return self._score(self._metric, fold)

    def resampled(self, fold: Fold, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the main metric of each resample (weights: row x resample), NaN if undefined."""
        value, predicted = self._value[fold.rows], self._predicted[fold.rows]
        if self._metric == "r2":
            return weighted_r2(value, predicted, self._baseline[fold.rows], weights)
        weighted = weighted_pearson if self._metric == "pearson" else weighted_spearman
        return weighted(value, predicted, weights)

    def flag(self, fold: Fold, undefined: bool) -> str | None:
        """Return why a fold is at chance, or None; `undefined` if its metric is."""
        if np.ptp(self._predicted[fold.rows]) == 0.0:
            return "constant predictions"
        return "constant labels in test" if undefined else None

    def secondary(self, name: str, folds: list[Fold], groups: list[int]) -> float | None:
        """Return a secondary metric over all folds, None where no fold defines it."""
        return mean_of_defined([self._score(name, fold) for fold in folds], groups)

    def _score(self, name: str, fold: Fold) -> float | None:
        value, predicted = self._value[fold.rows], self._predicted[fold.rows]
        if name == "r2":
            return metrics.r2(value, predicted, self._baseline[fold.rows])
        metric = NUMBER_METRICS.get(name)
        return metric(value, predicted) if metric else None


NUMBER_METRICS: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], float | None]] = {
    "pearson": metrics.pearson,
    "spearman": metrics.spearman,
    "mae": metrics.mean_absolute_error,
}
