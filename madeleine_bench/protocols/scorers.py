"""The rows of one fit in a table of predictions, and what judges them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.metrics import classification
from madeleine_bench.metrics import survival as metrics
from madeleine_bench.protocols.cox import survival_days
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.stats.bootstrap import (
    weighted_auroc,
    weighted_average_precision,
    weighted_balanced_accuracy,
    weighted_harrell_c,
    weighted_quadratic_kappa,
)
from madeleine_bench.types import Survival


@dataclass(frozen=True)
class Fold:
    """Key of a split and the positions of its rows in the table of predictions."""

    key: tuple[int, int]
    rows: NDArray[np.int32]


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


def class_index(table: pd.DataFrame, classes: Sequence[str], where: str) -> NDArray[np.intp]:
    """Return the index of each row's label among the classes, (row,).

    Raises:
        InputError: a label is no class; the message begins with `where`.
    """
    words = table["label"].to_numpy(dtype=object)
    index = pd.Index(classes).get_indexer(pd.Index(words))
    if len(unknown := np.flatnonzero(index < 0)):
        word, unit = words[unknown[0]], table["unit_id"].iloc[unknown[0]]
        hint = did_you_mean(str(word), list(classes))
        raise InputError(f"{where}: unit '{unit}' has the label '{word}'{hint}")
    return index


def survival_of(table: pd.DataFrame, where: str) -> Survival:
    """Return the follow-up of the rows of a table.

    Raises:
        InputError: a time is negative or not finite; the message begins with `where`.
    """
    try:
        return Survival(
            table["time_days"].to_numpy(dtype=np.float64), table["event"].to_numpy(dtype=np.bool_)
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


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


_Metric = Callable[[NDArray[np.intp], NDArray[np.float64]], float | None]


def _kappa(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    return classification.quadratic_kappa(label, probability.argmax(axis=1), probability.shape[1])


METRICS: dict[str, _Metric] = {
    "auroc": classification.auroc,
    "quadratic-kappa": _kappa,
    "balanced-accuracy": classification.balanced_accuracy,
    "average-precision": classification.average_precision,
    "macro-f1": classification.macro_f1,
    "log-loss": classification.log_loss,
    "brier": classification.brier,
}


class ClassScorer:
    """Judges predictions that have a label and a probability for each class."""

    strata = "classes"

    def __init__(
        self, task: TaskSpec, labels: ClassLabels, predictions: pd.DataFrame, where: str
    ) -> None:
        columns = [f"prob_{name}" for name in labels.classes]
        require_columns(predictions, ["unit_id", "case_id", "label", *columns], where)
        self.strata_of_rows: NDArray[Any] = predictions["label"].to_numpy(dtype=object)
        # A table of all folds is large; its columns are taken as they lie, a fold at a time.
        self._label = class_index(predictions, labels.classes, where).astype(np.int16)
        self._columns = [predictions[name].to_numpy(dtype=np.float64) for name in columns]
        self._metric = task.metric.name
        units = predictions.drop_duplicates("unit_id")["label"]
        positive = float((units == labels.classes[-1]).mean())
        self.chance = positive if task.chance is None else task.chance  # of average precision

    def value(self, fold: Fold) -> float | None:
        """Return the main metric of a fold, None where undefined."""
        return self._score(self._metric, fold)

    def resampled(self, fold: Fold, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the main metric of each resample (weights: row x resample), NaN if undefined."""
        label, probability = self._labels(fold), self._probability(fold)
        n_classes = probability.shape[1]
        if self._metric == "average-precision":
            return weighted_average_precision(label == 1, probability[:, 1], weights)
        if self._metric in ("quadratic-kappa", "balanced-accuracy"):
            kappa = self._metric == "quadratic-kappa"
            weighted = weighted_quadratic_kappa if kappa else weighted_balanced_accuracy
            return weighted(label, probability.argmax(axis=1), n_classes, weights)
        classes = (1,) if n_classes == 2 else range(n_classes)
        each = [weighted_auroc(label == c, probability[:, c], weights) for c in classes]
        mean: NDArray[np.float64] = np.mean(each, axis=0)
        return mean

    def flag(self, fold: Fold, undefined: bool) -> str | None:
        """Return why a fold is at chance, or None; `undefined` if its metric is."""
        if undefined:
            held = len(np.unique(self._label[fold.rows]))
            return f"{held} of {len(self._columns)} classes in test"
        probability = self._probability(fold)
        return "constant predictions" if (probability == probability[0]).all() else None

    def secondary(self, name: str, folds: list[Fold], groups: list[int]) -> float | None:
        """Return a secondary metric over all folds, None where no fold defines it."""
        if name not in METRICS:
            return None
        return mean_of_defined([self._score(name, fold) for fold in folds], groups)

    def _score(self, name: str, fold: Fold) -> float | None:
        return METRICS[name](self._labels(fold), self._probability(fold))

    def _labels(self, fold: Fold) -> NDArray[np.intp]:
        return self._label[fold.rows].astype(np.intp)

    def _probability(self, fold: Fold) -> NDArray[np.float64]:
        return np.stack([column[fold.rows] for column in self._columns], axis=1)


_COLUMNS = ["unit_id", "case_id", "time_days", "event", "risk", "high_risk"]


class SurvivalScorer:
    """Judges predictions that have follow-up, a risk, and survival at some days.

    The training units of a fold, whom the censoring weights need, are the units of the other folds
    of the same repeat: predictions alone say who they are.
    """

    strata = "event and no event"

    def __init__(self, task: TaskSpec, predictions: pd.DataFrame, where: str) -> None:
        self._days = survival_days(list(predictions.columns))
        alive = [f"surv@{day}" for day in self._days]
        require_columns(predictions, [*_COLUMNS, *alive], where)
        self.chance = task.chance or 0.0
        self._survival = survival_of(predictions, where)
        self.strata_of_rows: NDArray[Any] = np.where(self._survival.event, "event", "censored")
        self._risk = predictions["risk"].to_numpy(dtype=np.float64)
        self._high = predictions["high_risk"].to_numpy(dtype=np.bool_)
        self._alive = predictions[alive].to_numpy(dtype=np.float64)

    def value(self, fold: Fold) -> float | None:
        """Return Harrell's c of a fold, None where undefined."""
        return metrics.harrell_c(self._survival.take(fold.rows), self._risk[fold.rows])

    def resampled(self, fold: Fold, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return Harrell's c of each resample (weights: row x resample), NaN if undefined."""
        return weighted_harrell_c(self._survival.take(fold.rows), self._risk[fold.rows], weights)

    def flag(self, fold: Fold, undefined: bool) -> str | None:
        """Return why a fold is at chance, or None; `undefined` if its metric is."""
        if undefined:
            held = self._survival.event[fold.rows].any()
            return "no comparable pairs in test" if held else "no events in test"
        risk = self._risk[fold.rows]
        return "constant predictions" if (risk == risk[0]).all() else None

    def secondary(self, name: str, folds: list[Fold], groups: list[int]) -> float | None:
        """Return a secondary metric over all folds, None where no fold defines it."""
        if name == "logrank-p":
            return self._logrank(folds)
        if name not in ("uno-c", "td-auc", "integrated-brier") or not self._days:
            return None
        return mean_of_defined([self._weighted(name, fold, folds) for fold in folds], groups)

    def _weighted(self, name: str, fold: Fold, folds: list[Fold]) -> float | None:
        others = [o.rows for o in folds if o.key[0] == fold.key[0] and o.key != fold.key]
        if not others:
            return None
        train = self._survival.take(np.concatenate(others))
        test, risk = self._survival.take(fold.rows), self._risk[fold.rows]
        if name == "uno-c":
            return metrics.uno_c(train, test, risk, float(self._days[-1]))
        if name == "td-auc":
            return metrics.time_dependent_auc(train, test, risk, self._days)
        return metrics.integrated_brier(train, test, self._alive[fold.rows], self._days)

    def _logrank(self, folds: list[Fold]) -> float | None:
        """Return the median over repeats of the p-value over all test units of a repeat."""
        found = []
        for repeat in sorted({fold.key[0] for fold in folds}):
            rows = np.concatenate([fold.rows for fold in folds if fold.key[0] == repeat])
            found.append(metrics.logrank_p(self._survival.take(rows), self._high[rows]))
        defined = [p for p in found if p is not None]
        return float(np.median(defined)) if defined else None
