"""Metrics by name: what a blind guess scores, and which values are possible."""

import math
from typing import Any, Literal, Self

from pydantic import model_validator

from madeleine_bench.specs.loader import Spec

MetricName = Literal[
    "auroc", "balanced-accuracy", "average-precision", "quadratic-kappa", "harrell-c",
    "r2", "pearson", "spearman",
]  # fmt: skip
SecondaryName = Literal[
    "auroc",
    "quadratic-kappa",
    "balanced-accuracy",
    "average-precision",
    "macro-f1",
    "log-loss",
    "brier",
    "uno-c",
    "td-auc",
    "integrated-brier",
    "logrank-p",
    "r2",
    "pearson",
    "spearman",
    "mae",
]
# What a blind guess scores; for balanced accuracy and average precision the labels say it.
CHANCE: dict[str, float] = {
    "auroc": 0.5, "quadratic-kappa": 0.0, "harrell-c": 0.5,
    "r2": 0.0, "pearson": 0.0, "spearman": 0.0,
}  # fmt: skip


class Metric(Spec):
    """The main metric of a task.

    Attributes:
        name: of the metric.
        higher_is_better: always.
        chance: what a blind guess scores, where that is the same for all tasks; see
            `TaskSpec.chance`.
    """

    name: MetricName
    higher_is_better: Literal[True] = True
    chance: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _chance_of_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("name") in CHANCE:
            return {"chance": CHANCE[data["name"]], **data}
        return data

    @model_validator(mode="after")
    def _chance_is_known(self) -> Self:
        if self.chance != (chance := CHANCE.get(self.name)):
            told = "what the labels say: leave it out" if chance is None else chance
            raise ValueError(f"chance of {self.name} is {told}")
        return self


# Metrics that may leave [0, 1]. A probability of 0 counts as 2.2e-16, so log-loss is 36.1 at most.
_RANGES = {
    "quadratic-kappa": (-1.0, 1.0),
    "log-loss": (0.0, 40.0),
    "brier": (0.0, 2.0),
    "r2": (-math.inf, 1.0),
    "pearson": (-1.0, 1.0),
    "spearman": (-1.0, 1.0),
    "mae": (0.0, math.inf),
}


def chance_corrected(value: float, chance: float) -> float:
    """Return a score on the scale where chance is 0 and perfect 1.

    Examples:
        >>> chance_corrected(0.75, 0.5), chance_corrected(0.4, 0.0)
        (0.5, 0.4)
    """
    return (value - chance) / (1.0 - chance)


def score_range(metric: str) -> tuple[float, float]:
    """Return the least and the largest possible value of a metric."""
    return _RANGES.get(metric, (0.0, 1.0))
