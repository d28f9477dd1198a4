"""What a protocol hands back: predictions, and how each fit went."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64] | NDArray[np.bool_]]


@dataclass(frozen=True)
class FitReport:
    """How one fit went.

    Attributes:
        key: key of the split: (repeat, fold) or (shots, draw).
        n_train: units fitted on.
        n_test: units predicted.
        converged: False where the fit failed; its predictions are then constant.
        reason: why the fit failed, or what is odd about it; None where nothing is.
        n_iter: iterations of the optimiser, None where unknown.
        diagnostics: finite numbers such as the residual gradient and the penalty used.
    """

    key: tuple[int, int]
    n_train: int
    n_test: int
    converged: bool
    reason: str | None = None
    n_iter: int | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Predictions of every fit of one task under one protocol.

    Attributes:
        predictions: one row for each split and test unit, sorted by key and unit_id. Columns: the
            two of `Splits.key_names`, unit_id, case_id; then `label` and prob_<class> for each
            class in order; or time_days, event, risk, high_risk and surv@<days>.
        fits: one report for each split, sorted by key.
    """

    predictions: pd.DataFrame
    fits: tuple[FitReport, ...]


@dataclass(frozen=True)
class FoldPrediction:
    """The report of one fit and its predictions: columns of numbers by name, a row a test unit."""

    report: FitReport
    columns: Columns
