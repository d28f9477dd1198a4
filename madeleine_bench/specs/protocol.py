"""Protocols: how embeddings and labels become predictions."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from madeleine_bench.specs.loader import Spec
from madeleine_bench.specs.task import Identifier

LabelType = Literal["binary", "multiclass", "ordered", "survival"]


class LogisticRegression(Spec):
    """L2-penalised logistic regression by L-BFGS (scikit-learn), multinomial when over 2 classes.

    Attributes:
        scale: z-score each dimension with mean and deviation of the training rows, or not.
        C: inverse penalty.
        class_weight: None or "balanced".
        tol: stop when the largest component of the gradient is below.
        max_iter: iterations after which the fit counts as not converged.
    """

    scale: Literal["z-score", "none"]
    C: float = Field(gt=0)
    class_weight: Literal["balanced"] | None = None
    tol: float = Field(gt=0)
    max_iter: int = Field(gt=0)


class LinearProbe(Spec):
    """Logistic regression on each training fold of the task."""

    kind: Literal["linear-probe"]
    model: LogisticRegression


class FewShot(Spec):
    """Logistic regression on k labelled cases a class, tested on all the rest.

    The task's `shots` replaces `shots` where its smallest class is too small.
    """

    kind: Literal["few-shot"]
    model: LogisticRegression
    shots: tuple[int, ...] = Field(min_length=1)
    draws: int = Field(ge=1)


class Cox(Spec):
    """Proportional hazards on each training fold of the task.

    Attributes:
        model: "ridge" (scikit-survival CoxPHSurvivalAnalysis) or "coxnet" (elastic net).
        scale: as in LogisticRegression.
        alphas: penalties, tried in order until a fit converges: the fallback ladder.
        l1_ratio: share of L1 in the elastic net; only for coxnet.
        ties: how tied event times enter the partial likelihood.
        tol: relative change of the objective below which the fit has converged.
        max_iter: iterations after which the fit counts as not converged.
    """

    kind: Literal["cox"]
    model: Literal["ridge", "coxnet"]
    scale: Literal["z-score", "none"]
    alphas: tuple[float, ...] = Field(min_length=1)
    l1_ratio: float | None = None
    ties: Literal["breslow", "efron"] = "breslow"
    tol: float = Field(gt=0)
    max_iter: int = Field(gt=0)

    @model_validator(mode="after")
    def _penalty_fits(self) -> Self:
        if (self.model == "coxnet") != (self.l1_ratio is not None):
            raise ValueError("'l1_ratio' belongs to model: coxnet, and coxnet needs it")
        return self


class ProtocolSpec(Spec):
    """One protocol, found by its versioned name such as linear-probe/v1."""

    id: Identifier
    version: int = Field(ge=1)
    title: str
    labels: tuple[LabelType, ...] = Field(min_length=1)
    method: Annotated[LinearProbe | FewShot | Cox, Field(discriminator="kind")]
    description: str
    citation: str

    @property
    def name(self) -> str:
        """The versioned name, such as linear-probe/v1."""
        return f"{self.id}/v{self.version}"

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        survival = self.method.kind == "cox"
        if any((label == "survival") != survival for label in self.labels):
            raise ValueError(f"a {self.method.kind} protocol cannot score these label types")
        return self
