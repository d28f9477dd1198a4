"""Logistic regressions of a task's splits, each at its optimum, and whether it got there.

The objective is  sum of weight x log loss + |w|^2 / (2 C)  with an intercept free of penalty, as in
scikit-learn. `ridge` finds its minimum; of a grid of C, the one that predicts left-out training
cases best. A protocol with a loose tolerance asks for what scikit-learn's L-BFGS returns when it
stops early, as published numbers were made with it.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

# Here and not where it is called: a BLAS loaded inside threadpool_limits would not be limited.
from scipy.special import expit

from madeleine_bench.protocols.ridge import (
    Expansion,
    Minima,
    choose_penalty,
    minimise,
    principal_axes,
)
from madeleine_bench.protocols.scaling import Scaler, fit_scaler
from madeleine_bench.specs.protocol import Grid, LogisticRegression
from madeleine_bench.types import Split

Array = NDArray[np.float64]
Positions = NDArray[np.intp]
FoldsOf = Callable[[Split], Positions]

# Tolerances up to here ask for the optimum.
_EXACT_TOL = 1e-6
# Rounding may hold a search up; a gradient this small is an optimum all the same.
_SMALL_GRADIENT = 1e-6
# What the rows of fits that run together take at most, and how many these are.
_BYTES_TOGETHER = 10_000_000
_MOST_TOGETHER = 32


@dataclass(frozen=True)
class ClassFit:
    """Predicted probabilities (unit x class) and how the fit went; uniform where it failed."""

    probability: Array
    converged: bool
    reason: str | None = None
    n_iter: int | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Multinomial:
    """The log loss of several fits; see `ridge.Loss`. Two classes have the second one's vector.

    Attributes:
        target: fit x vector x unit, or 1 x vector x unit: whether a unit is of the class.
        weight: fit x 1 x unit, what the loss of a unit counts.
    """

    target: Array
    weight: Array

    @property
    def total(self) -> Array:
        """The sum of the weights, (fit,)."""
        total: Array = self.weight.sum(axis=(1, 2))
        return total

    def take(self, chosen: Positions) -> "Multinomial":
        """Return some of the fits."""
        target = self.target if len(self.target) == 1 else self.target[chosen]
        return Multinomial(target, self.weight[chosen])

    def value(self, margin: Array) -> Array:
        """Return the weighted loss of each fit, (fit,)."""
        if margin.shape[1] == 1:
            loss = np.logaddexp(0.0, (1.0 - 2.0 * self.target) * margin)
        else:
            top = margin.max(axis=1, keepdims=True)
            loss = np.log(np.exp(margin - top).sum(axis=1, keepdims=True)) + top
            loss -= (margin * self.target).sum(axis=1, keepdims=True)
        value: Array = (self.weight * loss).sum(axis=(1, 2))
        return value

    def expand(self, margin: Array) -> Expansion:
        """Return the loss to second order."""
        share = _shares(margin)
        weighted = self.weight * share

        def bend(change: Array) -> Array:
            mean = (share * change).sum(axis=1, keepdims=True)
            bent: Array = weighted * (change - mean)
            return bent

        curvature = -weighted @ share.mT
        diagonal = np.arange(share.shape[1])
        curvature[:, diagonal, diagonal] += weighted.sum(axis=2)
        return Expansion(weighted - self.weight * self.target, curvature, bend)


def _shares(margin: Array) -> Array:
    """Return the probability of each vector's class, ... x vector x unit."""
    if margin.shape[-2] == 1:
        second: Array = expit(margin)
        return second
    relative: Array = np.exp(margin - margin.max(axis=-2, keepdims=True))
    relative /= relative.sum(axis=-2, keepdims=True)
    return relative


@dataclass(frozen=True)
class LinearFit:
    """A fit on embeddings as they are: margin = coefficients (x - training centre) + intercepts.

    Attributes:
        coefficients: vector x dim.
        intercepts: (vector,).
        residual: of the gradient of the mean objective.
        n_iter: steps.
        notes: what is odd about the fit.
        diagnostics: what is known of the choice of C.
    """

    coefficients: Array
    intercepts: Array
    residual: float
    n_iter: int
    notes: tuple[str, ...] = ()
    diagnostics: Mapping[str, float] = field(default_factory=dict)


def fit_and_predict(
    model: LogisticRegression,
    embeddings: NDArray[np.floating],
    label: Positions,
    classes: tuple[str, ...],
    splits: Sequence[Split],
    folds: FoldsOf | None = None,
) -> Iterator[ClassFit]:
    """Yield the class probabilities of each split's test units, fitted on its training units.

    The fit has failed where the training units hold one class, where a number overflows, or where
    the optimiser stops early with a gradient above 1e-6 (`max_iter` reached counts as that). A
    class that is absent from the training units, others being there, has probability 0. Constant
    embeddings are no failure: the probabilities are then the class shares, and the reason says so.

    Args:
        model: the declared regression.
        embeddings: unit x dim.
        label: (unit,) class indices.
        classes: all class names in order.
        splits: positions to train, to validate and to test on.
        folds: the inner folds of a split (`ridge.inner_folds`), which choose C from a grid.
    """

    def shape(split: Split) -> tuple[int, tuple[int, ...]]:
        """Return what fits share that run together: the number of units, and the classes."""
        return len(split.train), tuple(np.unique(label[split.train]).tolist())

    for (n_train, present), alike in groupby(splits, key=shape):
        together = 1
        if not isinstance(model.C, Grid) and model.tol <= _EXACT_TOL:
            room = _BYTES_TOGETHER // (8 * n_train * (n_train + embeddings.shape[1]))
            together = min(_MOST_TOGETHER, max(1, room))
        while batch := list(islice(alike, together)):
            if len(present) < 2:
                reason = f"one class in train: '{classes[present[0]]}'"
                yield from (failed_fit(len(split.test), len(classes), reason) for split in batch)
                continue
            with np.errstate(all="ignore"):  # what overflows is not finite, and is seen below
                trainings = [_training(model, embeddings, label, present, s, folds) for s in batch]
                fits = _linear_fits(model, trainings)
                for split, training, fit in zip(batch, trainings, fits, strict=True):
                    yield _predicted(model, training, fit, embeddings[split.test], classes, present)


@dataclass(frozen=True)
class _Training:
    """A training set, and the validation units that choose C.

    Attributes:
        scaler: learned on the training rows.
        constant: whether these are all the same.
        rows: unit x dim, scaled.
        target: vector x unit, whether a unit is of the class of a vector.
        label: (unit,) index among the classes that are present.
        weight: (unit,) what the loss of a unit counts.
        fold: (unit,) the inner fold that a unit is judged in; -1 is none. Empty at one C.
        fitted: (unit,) whether the final fit is trained on a unit.
    """

    scaler: Scaler
    constant: bool
    rows: Array
    target: Array
    label: Positions
    weight: Array
    fold: Positions
    fitted: NDArray[np.bool_]


def _training(
    model: LogisticRegression,
    embeddings: NDArray[np.floating],
    label: Positions,
    present: tuple[int, ...],
    split: Split,
    folds: FoldsOf | None,
) -> _Training:
    positions, n_train, fold = split.train, len(split.train), np.empty(0, np.intp)
    fitted = np.ones(n_train, dtype=np.bool_)
    if isinstance(model.C, Grid):
        validation = split.val[np.isin(label[split.val], present)]
        positions = np.concatenate([positions, validation])
        if len(validation):
            fold = np.where(np.arange(len(positions)) < n_train, -1, 0)
        else:
            assert folds is not None
            fold = folds(split)
            if model.choice == "validation":  # but for a unit that is the last of its class
                judged = fold == 0
                judged &= np.isin(label[positions], label[positions[~judged]])
                fold = np.where(judged, 0, -1)
        fitted = (fold < 0) | ~(fold < 0).any()
    rows = embeddings[positions].astype(np.float64)
    scaler = fit_scaler(rows[:n_train], model.scale)
    constant = scaler.constant
    if model.scale == "none" and model.tol > _EXACT_TOL:  # where it stops depends on the centre
        scaler = Scaler(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
    own = np.searchsorted(present, label[positions])
    weight = np.ones(len(own))
    if model.class_weight == "balanced":
        counts = np.bincount(own[:n_train])
        weight = (n_train / (len(counts) * counts))[own]
    hot = np.eye(len(present))[own].T
    target = hot[1:] if len(present) == 2 else hot
    rows = scaler.apply(rows, out=rows)
    return _Training(scaler, constant, rows, target, own, weight, fold, fitted)


def _linear_fits(model: LogisticRegression, trainings: Sequence[_Training]) -> list[LinearFit]:
    """Return the fits of training sets; those that run together are of equal size and classes."""
    if model.tol > _EXACT_TOL:
        return [_fit_by_library(model, training) for training in trainings]
    if isinstance(model.C, Grid):
        return [_fit_chosen(model, model.C.values, training) for training in trainings]
    axes = principal_axes(np.stack([t.rows for t in trainings]), intercept=True)
    weight = np.stack([t.weight for t in trainings])[:, None]
    loss = Multinomial(np.stack([t.target for t in trainings]), weight)
    start = np.zeros((len(trainings), loss.target.shape[1], axes.rows.shape[2]))
    penalty = np.full(len(trainings), 1.0 / model.C)
    fits = minimise(axes, loss, penalty, start, tol=model.tol, max_iter=model.max_iter)
    return [
        _linear_fit(training, fits, each, back)
        for each, (training, back) in enumerate(zip(trainings, axes.back, strict=True))
    ]


def _fit_chosen(
    model: LogisticRegression, grid: tuple[float, ...], training: _Training
) -> LinearFit:
    """Return the fit at the C that the inner folds, or the validation units, choose."""
    trained, judged = [], []
    for fold in range(training.fold.max() + 1):
        inside = training.fold != fold
        # A unit whose class no other fold holds is judged nowhere: no penalty could foresee it.
        outside = ~inside & np.isin(training.label, training.label[inside])
        if outside.any() and len(np.unique(training.label[inside])) > 1:
            trained.append(training.weight * inside)
            judged.append(training.weight * outside)
    axes = principal_axes(training.rows, intercept=True)
    target, final = training.target[None], training.weight * training.fitted
    start = np.zeros((1, target.shape[1], axes.rows.shape[1]))
    notes: tuple[str, ...] = ()
    if trained:
        folds = Multinomial(target, np.stack([*trained, final])[:, None])
        left_out = Multinomial(target, np.stack(judged)[:, None])
        choice = choose_penalty(axes, folds, left_out.value, np.sum(judged), grid, target.shape[1])
        start, notes = choice.start[None], choice.notes
        value, diagnostics = choice.value, choice.diagnostics
    else:
        value = min(grid, key=lambda each: abs(np.log(each)))
        notes, diagnostics = ("too few cases of each class to choose C",), {"C": value}
    fits = minimise(
        axes,
        Multinomial(target, final[None, None]),
        np.array([1.0 / value]),
        start,
        tol=model.tol,
        max_iter=model.max_iter,
    )
    return _linear_fit(training, fits, 0, axes.back, notes, diagnostics)


def _linear_fit(
    training: _Training,
    fits: Minima,
    each: int,
    back: Array,
    notes: tuple[str, ...] = (),
    diagnostics: Mapping[str, float] | None = None,
) -> LinearFit:
    """Return one of the minima, turned back from the axes to the embeddings."""
    w, residual, n_iter = fits.coefficients[each], fits.residual[each], fits.n_iter[each]
    slope = (w[:, :-1] @ back.T) * training.scaler.factor
    return LinearFit(slope, w[:, -1], float(residual), int(n_iter), notes, diagnostics or {})


def _fit_by_library(model: LogisticRegression, training: _Training) -> LinearFit:
    """Return where scikit-learn's L-BFGS stops; of a grid of C, where it predicts validation best.

    Validation units are then left out of the fit.
    """
    grid = model.C.values if isinstance(model.C, Grid) else (model.C,)
    if len(grid) == 1:
        return _library_fit(model, grid[0], training)
    judged = ~training.fitted
    left_out = Multinomial(training.target[None], (training.weight * judged)[None, None])
    least, best = np.inf, None
    for value in grid:
        fit = _library_fit(model, value, training)
        w = fit.coefficients / np.where(training.scaler.factor, training.scaler.factor, 1.0)
        margin = w @ training.rows.T + fit.intercepts[:, None]
        loss = float(left_out.value(margin[None])[0]) / max(1, int(judged.sum()))
        if best is None or loss < least:
            least, best = loss, replace(fit, diagnostics={"C": value, f"loss@C={value:g}": loss})
    assert best is not None
    return best


def _library_fit(model: LogisticRegression, value: float, training: _Training) -> LinearFit:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression as Estimator

    rows, fitted = training.rows, training.fitted
    estimator = Estimator(
        C=value, class_weight=model.class_weight, tol=model.tol, max_iter=model.max_iter
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(rows[fitted], training.label[fitted])
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            notes: tuple[str, ...] = (f"{type(error).__name__}: {str(error).splitlines()[0]}",)
            lost = np.full((len(training.target), rows.shape[1]), np.nan)
            return LinearFit(lost, lost[:, 0], np.inf, 0, notes)
    w, intercepts = estimator.coef_, estimator.intercept_
    loss = Multinomial(training.target[None], (training.weight * fitted)[None, None])
    slope = loss.expand((w @ rows.T + intercepts[:, None])[None]).slope[0]
    gradient = np.column_stack([slope @ rows + w / value, slope.sum(axis=1)]) / loss.total
    notes = tuple(
        str(warning.message).splitlines()[0].rstrip(":")
        for warning in caught
        if issubclass(warning.category, ConvergenceWarning)
    )[:1]
    residual, n_iter = float(np.abs(gradient).max()), int(np.max(estimator.n_iter_))
    return LinearFit(w * training.scaler.factor, intercepts, residual, n_iter, notes)


def _margins(fit: LinearFit, centre: Array, rows: NDArray[np.floating]) -> Array:
    """Return the margins of embeddings, vector x unit.

    A matrix product may round a row by where it stands; equal rows must tie on any machine.
    """
    margin: Array = np.einsum("vd,ud->vu", fit.coefficients, rows - centre)
    margin += fit.intercepts[:, None]
    return margin


def _predicted(
    model: LogisticRegression,
    training: _Training,
    fit: LinearFit,
    rows: NDArray[np.floating],
    classes: tuple[str, ...],
    present: tuple[int, ...],
) -> ClassFit:
    """Return the predictions of a fit: with the absent classes, or uniform where it failed."""
    margin = _margins(fit, training.scaler.centre, rows)
    share = _shares(margin)
    if len(share) == 1:
        share = np.concatenate([expit(-margin), share])
    notes, known = fit.notes, {**fit.diagnostics, "residual": fit.residual}
    if not (np.isfinite(share).all() and np.isfinite(fit.residual)):
        reason = (*notes, "the probabilities are not finite")[0]
        return failed_fit(len(rows), len(classes), reason, fit.n_iter)
    exact = model.tol <= _EXACT_TOL
    early = fit.residual > max(model.tol, _SMALL_GRADIENT)
    # Of a published search the validation units have judged each fit as it is.
    if early and (exact or (notes and not isinstance(model.C, Grid))):
        stopped = f"no convergence in {fit.n_iter} iterations: the gradient is {fit.residual:.1e}"
        reason = stopped if exact else notes[0]
        return failed_fit(len(rows), len(classes), reason, fit.n_iter, known)
    if not (exact or early):  # L-BFGS complains where rounding stops it too
        notes = ()
    predictions = class_fit(share.T, present, classes, constant=training.constant, notes=notes)
    return replace(predictions, n_iter=fit.n_iter, diagnostics=known)


def class_fit(
    share: Array,
    present: Sequence[int],
    classes: tuple[str, ...],
    *,
    constant: bool,
    notes: tuple[str, ...] = (),
) -> ClassFit:
    """Return a fit from its class shares: a class that is absent from train has probability 0.

    Args:
        share: unit x class that is present.
        present: indices of the classes in the training units.
        classes: all class names in order.
        constant: whether the training rows are all the same; every unit then has the same shares.
        notes: what is odd about the fit.
    """
    probability = np.zeros((len(share), len(classes)))
    probability[:, present] = share
    if absent := sorted({*classes} - {classes[c] for c in present}):
        notes = (*notes, f"absent from train: {', '.join(absent)}")
    if constant:
        probability = np.tile(probability[:1], (len(share), 1))
        notes = ("the embeddings are constant on the training rows",)
    return ClassFit(probability, True, "; ".join(notes) or None)


def failed_fit(
    n_test: int,
    n_classes: int,
    reason: str,
    n_iter: int | None = None,
    known: Mapping[str, float] | None = None,
) -> ClassFit:
    """Return a fit that failed, and why: uniform probabilities."""
    uniform = np.full((n_test, n_classes), 1.0 / n_classes)
    return ClassFit(uniform, False, reason, n_iter, known or {})
