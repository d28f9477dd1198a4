"""Protocols: how embeddings and labels become predictions."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from madeleine_bench.specs.loader import Spec
from madeleine_bench.specs.task import Identifier

LabelType = Literal["binary", "multiclass", "ordered", "survival", "continuous", "multilabel"]
# What a supervised encoder is scored by where no protocol is asked for, and on the primary board.
SUPERVISED_PROTOCOL = "finetune/v1"
Fusion = Literal["late", "early", "per-stain"]
ShotRule = Literal["distinct-cases", "madeleine"]
VoteTies = Literal["nearest", "hit"]
PrecisionOver = Literal["gallery", "k"]


# How embeddings are scaled, by what the training rows alone say: "z-score" gives each dimension
# mean 0 and deviation 1; "relative" divides that by the root of the number of dimensions that vary;
# "common" centres, and gives the rows a mean squared norm of 1; "none" leaves them as they are.
# Under "relative" and "common" a penalty means the same at any width.
Scale = Literal["z-score", "relative", "common", "none"]


class Grid(Spec):
    """Numbers in equal steps of their logarithm, both ends included.

    Attributes:
        lowest: the first.
        highest: the last.
        count: how many.
    """

    lowest: float = Field(gt=0, allow_inf_nan=False)
    highest: float = Field(gt=0, allow_inf_nan=False)
    count: int = Field(ge=2, le=100)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError("'lowest' must be below 'highest'")
        return self

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers, ascending."""
        step = math.log10(self.highest / self.lowest) / (self.count - 1)
        return tuple(float(f"{self.lowest * 10 ** (step * i):.12g}") for i in range(self.count))


class LogisticRegression(Spec):
    """L2-penalised logistic regression, multinomial when over 2 classes.

    Attributes:
        scale: of the embeddings; see `Scale`.
        C: inverse penalty of the summed log loss, or a grid of which one is chosen.
        choice: how it is chosen: by the log loss of left-out training cases in inner folds
            ("cross-validation", then fitted on the whole training fold), or of validation cases,
            on which the fit is never trained ("validation": the first inner fold, unless the
            split declares validation units). Declared validation units choose either way.
        inner_folds: number of inner folds: whole cases, stratified by class.
        class_weight: None or "balanced".
        tol: stop when the largest component of the gradient is below; above 1e-6 the solver is
            scikit-learn's L-BFGS, as where it stops is then part of the method.
        max_iter: iterations after which the fit counts as not converged.
    """

    scale: Scale
    C: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Grid
    # Where there is no grid these are left out of hashes, so that protocols from before them keep
    # theirs.
    choice: Literal["cross-validation", "validation"] | None = Field(
        default=None, exclude_if=lambda x: x is None
    )
    inner_folds: int | None = Field(default=None, ge=2, exclude_if=lambda x: x is None)
    class_weight: Literal["balanced"] | None = None
    tol: float = Field(gt=0)
    max_iter: int = Field(gt=0)

    @model_validator(mode="after")
    def _grid_is_chosen_from(self) -> Self:
        given = [self.choice is not None, self.inner_folds is not None]
        if given != [isinstance(self.C, Grid)] * 2:
            raise ValueError("'choice' and 'inner_folds' belong to a grid of C, which needs both")
        return self


class LinearProbe(Spec):
    """Logistic regression on each training fold of the task."""

    kind: Literal["linear-probe"]
    model: LogisticRegression


class NearestMean(Spec):
    """The class whose mean is nearest, of embeddings centred on the training rows, of length 1.

    Nothing is penalised, so there is nothing to choose (SimpleShot, arXiv 1911.04623).
    """

    scale: Literal["unit-length"]


class FewShot(Spec):
    """A classifier fitted on k labelled cases a class, tested on all the rest.

    The task's `shots` replaces `shots` where its smallest class is too small. `rule` says how the
    labelled units are drawn: as in `ShotPlan`.
    """

    kind: Literal["few-shot"]
    model: LogisticRegression | NearestMean
    shots: tuple[int, ...] = Field(min_length=1)
    draws: int = Field(ge=1)
    # At its default the field is left out of hashes, so that protocols from before it keep theirs.
    rule: ShotRule = Field(default="distinct-cases", exclude_if=lambda x: x == "distinct-cases")


class Cox(Spec):
    """Proportional hazards on each training fold of the task.

    Attributes:
        model: "ridge" (Newton's method) or "coxnet" (elastic net, by scikit-survival).
        scale: as in LogisticRegression.
        alphas: penalties, tried in order until a fit converges: the fallback ladder. Or a grid,
            of which the one with the largest cross-validated partial likelihood of left-out
            training cases is chosen, or none of them: the model without effect; only for ridge.
        inner_folds: as in LogisticRegression; for a grid.
        l1_ratio: share of L1 in the elastic net; only for coxnet.
        ties: how tied event times enter the partial likelihood.
        tol: ridge: largest component of the gradient, divided by the number of units, below which
            the fit has converged; coxnet: scikit-survival's own.
        max_iter: iterations after which the fit counts as not converged.
    """

    kind: Literal["cox"]
    model: Literal["ridge", "coxnet"]
    scale: Scale
    alphas: (
        Annotated[
            tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(min_length=1)
        ]
        | Grid
    )
    inner_folds: int | None = Field(default=None, ge=2, exclude_if=lambda x: x is None)
    l1_ratio: float | None = None
    ties: Literal["breslow"] = "breslow"
    tol: float = Field(gt=0)
    max_iter: int = Field(gt=0)

    @model_validator(mode="after")
    def _penalty_fits(self) -> Self:
        if (self.model == "coxnet") != (self.l1_ratio is not None):
            raise ValueError("'l1_ratio' belongs to model: coxnet, and coxnet needs it")
        if isinstance(self.alphas, Grid) and self.model == "coxnet":
            raise ValueError("'alphas' of model: coxnet is a list: nothing chooses from a grid")
        if isinstance(self.alphas, Grid) != (self.inner_folds is not None):
            raise ValueError("'inner_folds' belongs to a grid of alphas, which needs it")
        return self


class RidgeRegression(Spec):
    """Least squares with an L2 penalty on each training fold of the task.

    Attributes:
        scale: of the embeddings; see `Scale`.
        alphas: the penalty of the summed squared error; or a grid, of which the one with the least
            squared error on left-out training cases is chosen, or on declared validation units.
        inner_folds: number of inner folds: whole cases, stratified by quintile of the label.
    """

    kind: Literal["ridge-regression"]
    scale: Scale
    alphas: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Grid
    inner_folds: int = Field(ge=2)


class Retrieval(Spec):
    """Search by likeness: each test unit asks for the most similar training units.

    Attributes:
        scale: as in LogisticRegression.
        similarity: "cosine" of the scaled embeddings, or "l2": the smaller their Euclidean
            distance, the more similar.
        top: numbers of neighbours k at which a hit is counted: one of them is of the query's class.
        vote: neighbours whose majority is the predicted class; of equal votes the class of the
            most similar unit wins. Their shares are the predicted probabilities.
        vote_ties: "nearest": the vote accuracy is that of the predicted class. "hit": it is given
            for the k nearest, each k of `top`; a query counts as right where no class has more
            votes than its own.
        precision: "gallery": the average precision ranks the whole gallery and divides by the
            units of the query's class in it. "k": it ranks the k nearest and divides by k, for each
            k of `top`.
    """

    kind: Literal["retrieval"]
    scale: Literal["z-score", "none"]
    similarity: Literal["cosine", "l2"]
    top: tuple[int, ...] = Field(min_length=1)
    vote: int = Field(ge=1)
    # As in FewShot: at their defaults these are left out of hashes.
    vote_ties: VoteTies = Field(default="nearest", exclude_if=lambda x: x == "nearest")
    precision: PrecisionOver = Field(default="gallery", exclude_if=lambda x: x == "gallery")


class FineTune(Spec):
    """The network of an encoder and a head, trained together on the bags of each training fold.

    Attributes:
        start: "weights" goes on from those of the encoder's card, where it has some; "scratch"
            draws all anew.
        seeds: times each fold is trained, each from another seed; every one counts as a repeat.
        epochs: passes over the training units at most.
        min_steps: steps at least where nothing stops training early: few units are passed over
            more often, and warm-up and patience grow with the number of passes.
        batch: units of a step.
        patches: patches of a unit seen in a step, drawn anew each time; all where it has fewer.
        learning_rate: of AdamW, after warm-up; a cosine leads it to zero.
        weight_decay: of AdamW.
        warmup_epochs: epochs over which the rate rises from zero.
        class_weight: None, or "balanced": each class weighs the same in the loss.
        validation: share of the training units (whole cases, stratified) kept to stop early;
            0 trains all epochs on all of them.
        patience: epochs without a lower validation loss after which training stops; the weights
            of the lowest are used.
        precision: of matrix products on a GPU; a CPU always computes in float32.
        ordered: loss of ordered classes: "cross-entropy", or "conditional" (CORN: one probability
            for each level to be exceeded, given that the one below is).
        survival: loss of survival: "cox" (partial likelihood over the units of a step) or
            "discrete-time" (likelihood of the hazards in `bins` intervals).
        bins: intervals between the quantiles of the training events; only for discrete-time.
        shots: labelled cases a class, as in FewShot; None trains on the folds of the task.
        draws: draws for each number of shots.
    """

    kind: Literal["finetune"]
    start: Literal["weights", "scratch"]
    seeds: int = Field(ge=1, le=20)
    epochs: int = Field(ge=1)
    min_steps: int = Field(ge=0)
    batch: int = Field(ge=1)
    patches: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_epochs: int = Field(ge=0)
    class_weight: Literal["balanced"] | None = None
    validation: float = Field(ge=0.0, le=0.5)
    patience: int = Field(ge=1)
    precision: Literal["float32", "bfloat16"]
    ordered: Literal["cross-entropy", "conditional"]
    survival: Literal["cox", "discrete-time"]
    bins: int | None = Field(default=None, ge=2)
    shots: tuple[int, ...] | None = Field(default=None, min_length=1)
    draws: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if (self.survival == "discrete-time") != (self.bins is not None):
            raise ValueError("'bins' belongs to survival: discrete-time, which needs it")
        if (self.shots is None) != (self.draws is None):
            raise ValueError("'shots' and 'draws' belong together")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("'warmup_epochs' must be less than 'epochs'")
        return self


@dataclass(frozen=True)
class ShotPlan:
    """How many labelled cases a class are trained on, each number several times.

    Attributes:
        shots: numbers of labelled units a class.
        draws: draws for each of these numbers.
        rule: "distinct-cases": no two units of a draw are of one case, and each number of shots has
            draws of its own. "madeleine": the draws of MADELEINE's few-shot script. Draw i seeds
            NumPy with i, whatever the number of shots, then pandas samples the units of one class
            after the other, in the order of the task's classes, from units sorted by id.
    """

    shots: tuple[int, ...]
    draws: int
    rule: ShotRule = "distinct-cases"


class ProtocolSpec(Spec):
    """One protocol, found by its versioned name such as linear-probe/v1.

    `fusion` says how the slides of a case become one: "late" averages their embeddings, "early"
    embeds their patches as one bag, "per-stain" averages within each stain, then over stains.
    """

    id: Identifier
    version: int = Field(ge=1)
    title: str
    labels: tuple[LabelType, ...] = Field(min_length=1)
    method: Annotated[
        LinearProbe | FewShot | Cox | RidgeRegression | Retrieval | FineTune,
        Field(discriminator="kind"),
    ]
    fusion: Fusion = "late"
    description: str
    citation: str

    @property
    def name(self) -> str:
        """The versioned name, such as linear-probe/v1."""
        return f"{self.id}/v{self.version}"

    @property
    def shot_plan(self) -> ShotPlan | None:
        """The shots it draws; None where it uses the folds of the task."""
        method = self.method
        if isinstance(method, FewShot):
            return ShotPlan(method.shots, method.draws, method.rule)
        if isinstance(method, FineTune) and method.shots and method.draws:
            return ShotPlan(method.shots, method.draws)
        return None

    @property
    def key_names(self) -> tuple[str, str]:
        """The names of the two parts of a split's key."""
        return ("shots", "draw") if self.shot_plan else ("repeat", "fold")

    @property
    def trains_networks(self) -> bool:
        """Whether it trains an encoder on bags, so that no embedding is made first."""
        return isinstance(self.method, FineTune)

    @property
    def from_slides(self) -> bool:
        """Whether it starts from the embeddings of slides, so that these can be submitted."""
        return not self.trains_networks and self.fusion != "early"

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if isinstance(self.method, FineTune):
            if {"continuous", "multilabel"} & set(self.labels):
                raise ValueError("a finetune protocol cannot score continuous or multilabel labels")
            if self.method.shots and "survival" in self.labels:
                raise ValueError("shots are drawn by class; survival labels have none")
            if self.fusion != "early":
                raise ValueError("a finetune protocol needs fusion: early, as a case is one bag")
            return self
        classes: set[LabelType] = {"binary", "multiclass", "ordered"}
        scored: dict[str, set[LabelType]] = {
            "cox": {"survival"},
            "ridge-regression": {"continuous"},
            "linear-probe": classes | {"multilabel"},
        }
        if not set(self.labels) <= scored.get(self.method.kind, classes):
            raise ValueError(f"a {self.method.kind} protocol cannot score these label types")
        return self
