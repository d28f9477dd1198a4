"""What a network is trained to say of a unit, and how its outputs become predictions.

There is an objective for classes, for ordered levels by conditional probabilities, and two for
survival. Each knows the labels of all units of a task; a loss is asked of some of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madeleine_bench.losses.classes import (
    balanced_weights,
    class_loss,
    level_probabilities,
    ordered_levels_loss,
)
from madeleine_bench.losses.survival import (
    alive_beyond,
    discrete_time_loss,
    interval_edges,
    interval_of,
    partial_likelihood_loss,
    survival_risk,
)
from madeleine_bench.metrics.cox import CoxFit, breslow_hazard
from madeleine_bench.protocols.cox import survival_columns
from madeleine_bench.protocols.results import Columns
from madeleine_bench.types import Survival


class ClassObjective:
    """Cross-entropy over the classes; columns prob_<class>."""

    def __init__(
        self,
        label: NDArray[np.intp],
        classes: Sequence[str],
        balance: NDArray[np.intp] | None = None,
    ) -> None:
        """Take the labels; the classes of the units of `balance` weigh the same in the loss."""
        self.outputs = len(classes)
        self.class_index: NDArray[np.intp] | None = label
        self._label = torch.from_numpy(label.astype(np.int64))
        self._classes = classes
        self._weights = None
        if balance is not None:
            # A class that no training unit has weighs nothing, as it never enters the loss.
            present, index = np.unique(label[balance], return_inverse=True)
            self._weights = torch.zeros(len(classes), dtype=torch.float64)
            self._weights[present] = balanced_weights(torch.from_numpy(index), len(present))

    def loss(self, logits: Tensor, units: Sequence[int]) -> Tensor:
        """Return the cross-entropy of logits (unit, classes) of the named units."""
        label = self._label[list(units)].to(logits.device)
        weights = None if self._weights is None else self._weights.to(logits.device)
        return class_loss(logits, label, weights)

    def probability(self, logits: Tensor) -> Tensor:
        """Return the probability of each class (unit, class)."""
        return logits.softmax(dim=1)

    def columns(self, train: Tensor, test: Tensor, train_units: NDArray[np.intp]) -> Columns:
        """Return prob_<class> of the test units."""
        probability = self.probability(test.double()).numpy()
        return {f"prob_{name}": probability[:, c] for c, name in enumerate(self._classes)}


class LevelObjective(ClassObjective):
    """Ordered levels by the probability to exceed each, given the one below (CORN)."""

    def __init__(self, label: NDArray[np.intp], classes: Sequence[str]) -> None:
        super().__init__(label, classes)
        self.outputs, self.class_index = len(classes) - 1, None

    def loss(self, logits: Tensor, units: Sequence[int]) -> Tensor:
        """Return the loss of logits (unit, levels - 1) of the named units."""
        return ordered_levels_loss(logits, self._label[list(units)].to(logits.device))

    def probability(self, logits: Tensor) -> Tensor:
        """Return the probability of each level (unit, level)."""
        return level_probabilities(logits)


class CoxObjective:
    """Partial likelihood of log risks; survival by Breslow's baseline of the training units."""

    outputs = 1

    def __init__(self, survival: Survival, days: Sequence[int]) -> None:
        self.class_index: NDArray[np.intp] | None = None
        self._survival = survival
        self._days = days
        self._time = torch.from_numpy(survival.time_days)
        self._event = torch.from_numpy(survival.event)

    def loss(self, logits: Tensor, units: Sequence[int]) -> Tensor:
        """Return the loss of log risks (unit, 1) over the risk sets of the named units."""
        rows, device = list(units), logits.device
        return partial_likelihood_loss(
            logits[:, 0], self._time[rows].to(device), self._event[rows].to(device)
        )

    def columns(self, train: Tensor, test: Tensor, train_units: NDArray[np.intp]) -> Columns:
        """Return risk, high_risk and surv@<days> of the test units."""
        known, risk = train[:, 0].double().numpy(), test[:, 0].double().numpy()
        centre = known.mean()
        known, risk = known - centre, risk - centre
        days, hazard = breslow_hazard(self._survival.take(train_units), known)
        fit = CoxFit(np.zeros(0), days, hazard)
        return survival_columns(risk, known, fit.alive(risk, self._days), self._days)


class DiscreteTimeObjective:
    """Likelihood of the hazards in intervals between quantiles of the training events."""

    def __init__(
        self, survival: Survival, days: Sequence[int], train_units: NDArray[np.intp], bins: int
    ) -> None:
        train = survival.take(train_units)
        self._edges = interval_edges(train.time_days, train.event, bins)
        self.outputs = len(self._edges) - 1
        self.class_index: NDArray[np.intp] | None = None
        self._interval = torch.from_numpy(
            interval_of(survival.time_days, self._edges).astype(np.int64)
        )
        self._event = torch.from_numpy(survival.event)
        self._days = days

    def loss(self, logits: Tensor, units: Sequence[int]) -> Tensor:
        """Return the loss of the hazards' logits (unit, intervals) of the named units."""
        rows, device = list(units), logits.device
        return discrete_time_loss(
            logits, self._interval[rows].to(device), self._event[rows].to(device)
        )

    def columns(self, train: Tensor, test: Tensor, train_units: NDArray[np.intp]) -> Columns:
        """Return risk, high_risk and surv@<days> of the test units."""
        known = survival_risk(train.double()).numpy()
        risk = survival_risk(test.double()).numpy()
        alive = alive_beyond(test.double(), self._edges, self._days)
        return survival_columns(risk, known, alive, self._days)


# The loss of a task and the predictions it leads to. `outputs` is how many the network has, and
# `class_index` the class of each unit, None where an output is not one of a class.
Objective = ClassObjective | CoxObjective | DiscreteTimeObjective
