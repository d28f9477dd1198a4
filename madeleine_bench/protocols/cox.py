"""Proportional hazards on embeddings: scaled, rotated, and the penalty: a ladder, or chosen.

References:
    Verweij and van Houwelingen, Cross-validation in survival analysis, Statistics in Medicine 12
    (1993) 2305-2314: the cross-validated partial likelihood.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.metrics.cox import CoxFit, RiskSets, fit_coxnet, fit_ridge_cox
from madeleine_bench.metrics.survival import kaplan_meier_at
from madeleine_bench.protocols.results import Columns, FitReport, FoldPrediction
from madeleine_bench.protocols.ridge import Choice, Expansion, choose_penalty, principal_axes
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.specs.protocol import Cox, Grid
from madeleine_bench.types import Split, Survival

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Outcome:
    """Risk of all units (0 where the fit failed), the model if any, and how the fit went."""

    risk: NDArray[np.float64]
    model: CoxFit | None
    reason: str | None
    diagnostics: dict[str, float]


def evaluation_days(survival: Survival) -> tuple[int, ...]:
    """Return the days at which survival is predicted: the deciles of the event times.

    They depend on the labels of the task alone, so all encoders are judged at the same days.
    Whole days, ascending; empty where nobody has an event.
    """
    times = survival.time_days[survival.event]
    if not len(times):
        return ()
    deciles = np.quantile(times, np.arange(1, 10) / 10, method="inverted_cdf")
    return tuple(int(day) for day in np.unique(np.maximum(np.ceil(deciles), 1.0)))


def cox(
    method: Cox,
    embeddings: NDArray[np.float64],
    survival: Survival,
    splits: list[Split],
    inner: Callable[[Split, NDArray[np.intp], int], NDArray[np.intp]],
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each split: risk, high_risk and surv@<days>.

    `risk` is the log hazard ratio against a unit at the training mean; `high_risk` is whether it
    exceeds the median risk of the training units; surv@<days> is the predicted probability to
    live beyond that day (Breslow baseline). A failed fit predicts risk 0 and the Kaplan-Meier
    curve of the training units for everyone.

    Args:
        method: the declared protocol.
        embeddings: unit x dim.
        survival: follow-up of the units.
        splits: positions to train, to validate and to test on.
        inner: the inner folds of a split, by strata of all units and their number; they choose the
            penalty from a grid.
    """
    days = evaluation_days(survival)
    for split in splits:
        train = survival.take(split.train)
        rows = np.concatenate([embeddings[split.train], embeddings[split.test]])
        if isinstance(method.alphas, Grid):
            fold, judged = np.full(len(train), -1), split.val
            if not len(judged):
                assert method.inner_folds is not None
                fold = inner(split, survival.event.astype(np.intp), method.inner_folds)
            choosing = np.concatenate([split.train, judged])
            fold = np.concatenate([fold, np.zeros(len(judged), dtype=np.intp)])
            outcome = _chosen(
                method, rows, train, embeddings[choosing], survival.take(choosing), fold
            )
        else:
            outcome = _fit(method, rows, train, method.alphas)
        risk = outcome.risk[len(train) :]
        if outcome.model is None:
            alive = np.tile(kaplan_meier_at(train, days), (len(risk), 1))
        else:
            alive = outcome.model.alive(risk, days)
        columns = survival_columns(risk, outcome.risk[: len(train)], alive, days)
        report = FitReport(
            key=split.key,
            n_train=len(split.train),
            n_test=len(split.test),
            converged=outcome.model is not None,
            reason=outcome.reason,
            n_iter=outcome.model.n_iter if outcome.model else None,
            diagnostics=outcome.diagnostics,
        )
        yield FoldPrediction(report, columns)


def survival_columns(risk: Array, train_risk: Array, alive: Array, days: Sequence[int]) -> Columns:
    """Return the columns of units, of whose days `alive` is unit x day."""
    columns = {f"surv@{day}": alive[:, i] for i, day in enumerate(days)}
    return {"risk": risk, "high_risk": risk > np.median(train_risk), **columns}


def _chosen(
    method: Cox,
    rows: Array,
    train: Survival,
    choosing: Array,
    survival: Survival,
    fold: NDArray[np.intp],
) -> _Outcome:
    """Return the outcome for `rows` at the penalty that the inner folds choose.

    Args:
        method: the declared protocol.
        rows: unit x dim, the first of which are the training rows.
        train: their follow-up.
        choosing: unit x dim, training rows, then those of validation units.
        survival: follow-up of all of them.
        fold: (unit,) the inner fold in which a unit is judged; -1 is none.
    """
    assert isinstance(method.alphas, Grid)
    scaler = fit_scaler(rows[: len(train)], method.scale)
    if scaler.constant or not train.event.any():
        return _fit(method, rows, train, method.alphas.values[-1:])
    choice = _choice(method.alphas, scaler.apply(choosing), survival, fold)
    if not choice.value:
        outcome = _fit(method, np.zeros_like(rows), train, method.alphas.values[-1:])
        words = "chose the model without effect"
        return replace(outcome, reason=words, diagnostics=choice.diagnostics)
    outcome = _fit(method, rows, train, (1.0 / choice.value,))
    reason = "; ".join(filter(None, (outcome.reason, *choice.notes))) or None
    return replace(
        outcome, reason=reason, diagnostics={**choice.diagnostics, **outcome.diagnostics}
    )


def _choice(grid: Grid, rows: Array, survival: Survival, fold: NDArray[np.intp]) -> Choice:
    """Return the inverse penalty of the largest cross-validated partial likelihood.

    What a fold adds is the log partial likelihood of all units less that of those it is trained
    on, both at the coefficients of the latter.
    """
    sets = RiskSets.of(survival)
    fold, ordered = fold[sets.order], rows[sets.order]
    weights = [(fold != k).astype(np.float64) for k in range(fold.max() + 1)]
    weights = [w for w in weights if (w * sets.event).any()]
    final = (fold < 0) | (fold.min() >= 0)
    trained = PartialLikelihood.of(sets, np.stack([*weights, final.astype(np.float64)]))
    whole = PartialLikelihood.of(sets, np.ones((len(weights), len(fold))))
    inner = trained.take(np.arange(len(weights)))
    judged = sum(float(((1.0 - w) * sets.event).sum()) for w in weights)
    return choose_penalty(
        principal_axes(ordered, intercept=False),
        trained,
        lambda margin: whole.value(margin) - inner.value(margin),
        max(judged, 1.0),
        [1.0 / alpha for alpha in reversed(grid.values)],
        1,
        no_effect=True,
    )


@dataclass(frozen=True)
class PartialLikelihood:
    """The negative log partial likelihood (Breslow) of several fits; see `ridge.Loss`.

    Attributes:
        sets: the risk sets of all units; margins are in their order.
        weight: fit x unit, 1 where a fit is trained on a unit, else 0.
        count: fit x time, the events of each time.
    """

    sets: RiskSets
    weight: Array
    count: Array

    @staticmethod
    def of(sets: RiskSets, weight: Array) -> "PartialLikelihood":
        """Return the loss of fits that are trained on some of the units each."""
        events = np.add.reduceat(weight[:, sets.event], sets.tied, axis=1)
        return PartialLikelihood(sets, weight, events)

    def take(self, chosen: NDArray[np.intp]) -> "PartialLikelihood":
        """Return some of the fits."""
        return PartialLikelihood(self.sets, self.weight[chosen], self.count[chosen])

    @property
    def total(self) -> Array:
        """The units that each fit is trained on, (fit,)."""
        total: Array = self.weight.sum(axis=1)
        return total

    def value(self, margin: Array) -> Array:
        """Return the loss of each fit, (fit,)."""
        _, at_risk, top = self._at_risk(margin)
        log_sums = (self.count * (np.log(at_risk) + top)).sum(axis=1)
        events = (self.weight * margin[:, 0])[:, self.sets.event].sum(axis=1)
        value: Array = log_sums - events
        return value

    def expand(self, margin: Array) -> Expansion:
        """Return the loss to second order; its curvature from above."""
        ratio, at_risk, _ = self._at_risk(margin)
        share = self.count / at_risk
        expected = ratio * self.sets.spread(share)

        def bend(change: Array) -> Array:
            mean = self.sets.sums(ratio * change[:, 0], axis=1) / at_risk
            bent: Array = expected * change[:, 0] - ratio * self.sets.spread(share * mean)
            return bent[:, None]

        slope = expected - self.weight * self.sets.event
        return Expansion(slope[:, None], expected.sum(axis=1)[:, None, None], bend)

    def _at_risk(self, margin: Array) -> tuple[Array, Array, Array]:
        """Return exp(margin - top), its sum over each risk set (1 where it is empty), and top."""
        top = margin[:, 0].max(axis=1, keepdims=True)
        ratio = self.weight * np.exp(margin[:, 0] - top)
        at_risk = self.sets.sums(ratio, axis=1)
        return ratio, np.where(self.count > 0, at_risk, 1.0), top


def _fit(
    method: Cox, rows: NDArray[np.float64], train: Survival, alphas: Sequence[float]
) -> _Outcome:
    """Return the outcome for `rows`, the first of which are the training rows."""
    n_train = len(train)
    diagnostics = {"train_events": float(train.event.sum())}
    if not train.event.any():
        return _Outcome(np.zeros(len(rows)), None, "no events in train", diagnostics)
    scaler = fit_scaler(rows[:n_train], method.scale)
    scaled = scaler.apply(rows)[:, scaler.factor > 0]
    if scaler.constant:  # nothing to fit: the baseline hazard alone is the model
        scaled = np.zeros((len(rows), 1))
    failures: list[str] = []
    for rung, alpha in enumerate(alphas):
        fit = fit_at_penalty(method, scaled[:n_train], train, alpha)
        if fit.reason is None:
            risk = fit.risk(scaled)
            diagnostics |= {"alpha": alpha, "rung": float(rung)}
            if fit.residual is not None:
                diagnostics["residual"] = fit.residual
            reason = f"at weaker penalties: {'; '.join(failures)}" if failures else None
            if not fit.coefficients.any():
                reason = "all coefficients are zero: the risk is constant"
            if scaler.constant:
                reason = "the embeddings are constant on the training rows"
            return _Outcome(risk, fit, reason, diagnostics)
        failures.append(f"alpha {alpha:g}: {fit.reason}")
    return _Outcome(np.zeros(len(rows)), None, "; ".join(failures), diagnostics)


def fit_at_penalty(
    method: Cox, train: NDArray[np.float64], survival: Survival, alpha: float
) -> CoxFit:
    """Return the declared model at one penalty; `train` is unit x dim, centred."""
    if method.model == "coxnet":
        assert method.l1_ratio is not None  # the spec demands it
        return fit_coxnet(
            train,
            survival,
            alpha=alpha,
            l1_ratio=method.l1_ratio,
            tol=method.tol,
            max_iter=method.max_iter,
        )
    basis = row_space(train) if len(train) < train.shape[1] else None
    fit = fit_ridge_cox(
        train if basis is None else train @ basis,
        survival,
        alpha=alpha,
        tol=method.tol,
        max_iter=method.max_iter,
    )
    return fit if basis is None else replace(fit, coefficients=basis @ fit.coefficients)


def row_space(train: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return orthonormal columns that span the training rows, dim x unit.

    The ridge penalty is the same in every orthonormal basis and its solution lies in the row
    space, so fitting in `train @ row_space(train)` changes no risk; it is cheaper where there are
    fewer rows than dimensions.
    """
    return np.linalg.qr(train.T).Q


def survival_days(columns: Sequence[str]) -> tuple[int, ...]:
    """Return the days of the surv@<days> columns, in their order."""
    return tuple(int(name.removeprefix("surv@")) for name in columns if name.startswith("surv@"))
