"""Proportional hazards on embeddings: scaled, rotated, with a ladder of penalties."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.metrics.cox import CoxFit, fit_coxnet, fit_ridge_cox
from madeleine_bench.metrics.survival import kaplan_meier_at
from madeleine_bench.protocols.fits import FitReport, FoldPrediction
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.specs.protocol import Cox
from madeleine_bench.types import Split, Survival


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
    method: Cox, embeddings: NDArray[np.float64], survival: Survival, splits: list[Split]
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
        splits: positions to train and to test on.
    """
    days = evaluation_days(survival)
    for split in splits:
        train = survival.take(split.train)
        rows = np.concatenate([embeddings[split.train], embeddings[split.test]])
        outcome = _fit(method, rows, train)
        risk, threshold = outcome.risk[len(train) :], np.median(outcome.risk[: len(train)])
        if outcome.model is None:
            alive = np.tile(kaplan_meier_at(train, days), (len(risk), 1))
        else:
            alive = outcome.model.alive(risk, days)
        columns: dict[str, NDArray[np.float64] | NDArray[np.bool_]] = {
            "risk": risk,
            "high_risk": risk > threshold,
        }
        columns |= {f"surv@{day}": alive[:, i] for i, day in enumerate(days)}
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


def _fit(method: Cox, rows: NDArray[np.float64], train: Survival) -> _Outcome:
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
    for rung, alpha in enumerate(method.alphas):
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
        ties=method.ties,
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
