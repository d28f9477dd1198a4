"""Scores of predicted class probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.metrics import classification, ordinal
from madeleine_bench.protocols.folds import Fold, mean_of_defined, require_columns
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.stats.bootstrap import weighted_auroc, weighted_quadratic_kappa

_Metric = Callable[[NDArray[np.intp], NDArray[np.float64]], float | None]


def _kappa(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    return ordinal.quadratic_kappa(label, probability.argmax(axis=1), probability.shape[1])


METRICS: dict[str, _Metric] = {
    "auroc": classification.auroc,
    "quadratic-kappa": _kappa,
    "balanced-accuracy": classification.balanced_accuracy,
    "average-precision": classification.average_precision,
    "macro-f1": classification.macro_f1,
    "log-loss": classification.log_loss,
    "brier": classification.brier,
}


class ClassJudge:
    """Judges predictions that have a label and a probability for each class."""

    strata = "classes"

    def __init__(
        self, task: TaskSpec, labels: ClassLabels, predictions: pd.DataFrame, where: str
    ) -> None:
        columns = [f"prob_{name}" for name in labels.classes]
        require_columns(predictions, ["unit_id", "case_id", "label", *columns], where)
        words = predictions["label"].to_numpy(dtype=object)
        self.strata_of_rows: NDArray[Any] = words
        # A table of all folds is large; its columns are taken as they lie, a fold at a time.
        self._label = pd.Index(labels.classes).get_indexer(pd.Index(words)).astype(np.int16)
        if (unknown := self._label < 0).any():
            word = str(words[unknown][0])
            raise InputError(
                f"{where}: the label '{word}' is no class of the task"
                f"{did_you_mean(word, list(labels.classes))}"
            )
        self._columns = [predictions[name].to_numpy(dtype=np.float64) for name in columns]
        self._metric = task.metric.name

    def value(self, fold: Fold) -> float | None:
        """Return the main metric of a fold, None where undefined."""
        return self._score(self._metric, fold)

    def resampled(self, fold: Fold, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the main metric of each resample (weights: row x resample), NaN if undefined."""
        label, probability = self._labels(fold), self._probability(fold)
        n_classes = probability.shape[1]
        if self._metric == "quadratic-kappa":
            predicted = probability.argmax(axis=1)
            return weighted_quadratic_kappa(label, predicted, n_classes, weights)
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
