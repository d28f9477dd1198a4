"""Scores of predicted risk and survival."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.metrics import survival as metrics
from madeleine_bench.protocols.cox import survival_days
from madeleine_bench.protocols.folds import Fold, mean_of_defined, require_columns
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.bootstrap import weighted_harrell_c
from madeleine_bench.types import Survival

_COLUMNS = ["unit_id", "case_id", "time_days", "event", "risk", "high_risk"]


class SurvivalJudge:
    """Judges predictions that have follow-up, a risk, and survival at some days.

    The training units of a fold, whom the censoring weights need, are the units of the other folds
    of the same repeat: predictions alone say who they are.
    """

    strata = "event and no event"

    def __init__(self, task: TaskSpec, predictions: pd.DataFrame, where: str) -> None:
        self._days = survival_days(list(predictions.columns))
        alive = [f"surv@{day}" for day in self._days]
        require_columns(predictions, [*_COLUMNS, *alive], where)
        event = predictions["event"].to_numpy(dtype=np.bool_)
        self.strata_of_rows: NDArray[Any] = np.where(event, "event", "censored")
        try:
            time = predictions["time_days"].to_numpy(dtype=np.float64)
            self._survival = Survival(time, event)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
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
