"""Seconds of a ridge Cox fit, ours and scikit-survival's, and how far their coefficients lie apart.

Made-up embeddings of 512 dimensions, z-scored: ten directions that many dimensions share, and
noise. Of 1,000 units 49% have an event and 38% share their day with another; the first of them are
fitted. Both solvers get the same rows and penalty, one after the other in the same run, on one BLAS
thread, with the tolerance of cox/v1; processor time counts. `rotated` is scikit-survival on the
rows in an orthonormal basis of their row space (what cox/v1 did before it had a solver of its own).
Run from the root of the repository on a machine with nothing else to do (under a minute):

    python -m benchmarks.cox_speed
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.files import write_text
from madeleine_bench.protocols.cox import fit_at_penalty, row_space
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.protocol import Cox
from madeleine_bench.types import Survival

RESULTS = Path(__file__).resolve().parent / "results"
UNITS, DIM, FACTORS = 1000, 512, 10
TRAIN, QUICK_TRAIN, QUICK_DIM = (100, 200, 800), (30,), 40
WEAK_PENALTY = 0.07  # of Patho-Bench; that of cox/v1 is far stronger
TIGHT = 1e-13  # tolerance at which coefficients are compared
Floats = NDArray[np.float64]


def cohort(dim: int) -> tuple[Floats, Survival]:
    """Return embeddings, unit x dim, and the follow-up of the units in whole days."""
    rng = rng_for("cox-speed", "follow-up")
    factors = rng.standard_normal((UNITS, FACTORS))
    death = rng.exponential(2000.0 * np.exp(-0.5 * factors[:, 0]))
    leave = rng.exponential(1850.0, UNITS)
    rng = rng_for("cox-speed", "embeddings", dim)
    rows = factors @ rng.standard_normal((FACTORS, dim)) + 2.0 * rng.standard_normal((UNITS, dim))
    return rows, Survival(np.ceil(np.minimum(death, leave)), death < leave)


def share_of_tied(survival: Survival) -> float:
    """Return the share of units that share their day with another."""
    _, day, count = np.unique(survival.time_days, return_inverse=True, return_counts=True)
    return float((count[day] > 1).mean())


def sksurv_fit(rows: Floats, survival: Survival, method: Cox, alpha: float) -> Floats:
    """Return scikit-survival's coefficients."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    model = CoxPHSurvivalAnalysis(alpha, ties=method.ties, tol=method.tol, n_iter=method.max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # steps that overflow, and are halved
        model.fit(rows, Surv.from_arrays(survival.event, survival.time_days))
    found: Floats = model.coef_
    return found


def sksurv_rotated(rows: Floats, survival: Survival, method: Cox, alpha: float) -> Floats:
    """Return scikit-survival's coefficients, fitted in the row space of the rows."""
    basis = row_space(rows)
    return basis @ sksurv_fit(rows @ basis, survival, method, alpha)


def seconds(fit: Callable[[], Any], repeats: int) -> float:
    """Return the median processor time of some runs: one thread, so wall time when undisturbed."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        fit()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def measure(n_train: int, dim: int, method: Cox, alpha: float, repeats: int) -> dict[str, Any]:
    """Return one row of the table."""
    rows, survival = cohort(dim)
    rows, survival = rows[:n_train], survival.take(np.arange(n_train))
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    given = (rows, survival, method, alpha)
    ours = fit_at_penalty(method, rows, survival, alpha)
    found: dict[str, Floats] = {}

    def keep(name: str, fit: Callable[..., Floats]) -> None:
        found[name] = fit(*given)

    spent = {"sksurv": seconds(lambda: keep("sksurv", sksurv_fit), 1)}
    if n_train < dim:
        spent["rotated"] = seconds(lambda: keep("rotated", sksurv_rotated), 1)
    spent["ours"] = seconds(lambda: fit_at_penalty(method, rows, survival, alpha), repeats)
    tight = method.model_copy(update={"tol": TIGHT})
    exact = fit_at_penalty(tight, rows, survival, alpha).coefficients
    theirs = sksurv_fit(rows, survival, tight, alpha)
    return {
        "n_train": n_train,
        "dim": dim,
        "events": int(survival.event.sum()),
        "share_of_tied": round(share_of_tied(survival), 3),
        "alpha": alpha,
        "iterations": ours.n_iter,
        "residual": ours.residual,
        "seconds": {name: float(f"{value:.3g}") for name, value in spent.items()},
        "times_faster": {
            name: round(value / spent["ours"], 1) for name, value in spent.items() if name != "ours"
        },
        "largest_coefficient": float(np.abs(theirs).max()),
        "largest_difference": {
            "as_timed": float(np.abs(ours.coefficients - found["sksurv"]).max()),
            "tight": float(np.abs(exact - theirs).max()),
        },
    }


def markdown_rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of the table in docs/protocols.md."""
    found = []
    for row in rows:
        spent, faster = row["seconds"], row["times_faster"]
        rotated = (
            f"{spent['rotated']:.3g} s ({faster['rotated']:.0f})" if "rotated" in spent else ""
        )
        found.append(
            f"| {row['n_train']} | {row['alpha']:g} | {row['iterations']} "
            f"| {1000 * spent['ours']:.3g} ms | {spent['sksurv']:.3g} s ({faster['sksurv']:.0f}) "
            f"| {rotated} | {row['largest_difference']['tight']:.0e} |"
        )
    return found


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a toy size, to see that it works")
    parser.add_argument("--repeats", type=int, default=7, help="runs of ours; the median counts")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of cox_speed.json")
    asked = parser.parse_args()
    method = load_catalogue().protocols["cox/v1"].method
    assert isinstance(method, Cox)
    dim = QUICK_DIM if asked.quick else DIM
    load_before = os.getloadavg()[0]
    with threadpool_limits(1):
        measure(QUICK_TRAIN[0], QUICK_DIM, method, 1.0, 1)  # so that imports are not counted
        rows = [
            measure(n_train, dim, method, alpha, asked.repeats)
            for alpha in (method.alphas[0], WEAK_PENALTY)
            for n_train in (QUICK_TRAIN if asked.quick else TRAIN)
        ]
    report = {
        **machine_provenance(),
        "load_before": round(load_before, 2),
        "repeats": asked.repeats,
        "data": "made-up embeddings, phantom follow-up",
        "rows": rows,
    }
    write_text(asked.out / "cox_speed.json", json.dumps(report, indent=1) + "\n")
    print("\n".join(markdown_rows(rows)))


if __name__ == "__main__":
    main()
