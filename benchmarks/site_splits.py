"""Folds that keep sites whole, on the real labels of TCGA-BRCA: ours against scikit-learn's.

Of each task's folds: the largest |n_fc - N_c / K| over folds and classes and the sum, in cases;
0 is proportional. Ours are `site-preserved-optimal` (docs/audit.md); the others know sites too:
`GroupKFold` deals the largest site to the emptiest fold, `StratifiedGroupKFold` the most uneven
site to where classes stay most alike, as it is or in 100 shuffled orders. And the time that the
checks of an audit take on 100,000 slides.

    python -m benchmarks.site_splits --labels ../shared/data/tcga_brca/tcga_brca.csv

Writes benchmarks/results/site_splits.json. Nothing is tuned here.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from madeleine_bench.data.audit import audit_splits, outcome_of
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.site_folds import balanced_folds, fold_deviation, linked_groups
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import CohortData, Split, Splits, Units

RESULTS = Path(__file__).resolve().parent / "results" / "site_splits.json"
FOLDS = 5
SHUFFLES = 100
MANY = 100_000


class LabelsAlone:
    """A cohort of a label table; implements what labels need of `CohortData`."""

    def __init__(self, slides: pd.DataFrame) -> None:
        self.slides = slides
        self.no_bag: frozenset[str] = frozenset()


def compare(units: Units) -> dict[str, Any]:
    """Return the deviations of a task's folds: ours with their bounds, and scikit-learn's."""
    outcome = outcome_of(units)
    ids, cases, sites = (units.table[name].to_numpy() for name in ("unit_id", "case_id", "site"))
    start = time.perf_counter()
    _, report = balanced_folds(outcome, linked_groups(cases, sites), ids, FOLDS)
    seconds = time.perf_counter() - start
    shuffled = [
        deviation(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed), outcome, sites)
        for seed in range(SHUFFLES)
    ]
    largest = [each["largest"] for each in shuffled]
    return {
        "units": len(ids),
        "sites": len(set(sites)),
        "classes": {name: int((outcome == name).sum()) for name in report.labels},
        "optimal": {"largest": report.deviation, "sum": report.total},
        "bound": {"largest": report.bound, "sum": report.total_bound},
        "large_sites": list(report.large),
        "seconds": round(seconds, 2),
        "stratified": deviation(StratifiedGroupKFold(FOLDS), outcome, sites),
        "group": deviation(GroupKFold(FOLDS), outcome, sites),
        "shuffled": {
            "median_largest": statistics.median(largest),
            "least_largest": min(largest),
        },
    }


def deviation(splitter: Any, outcome: NDArray[Any], sites: NDArray[Any]) -> dict[str, float]:
    """Return the deviations of the folds of one of scikit-learn's splitters."""
    fold = np.zeros(len(outcome), dtype=np.intp)
    for number, (_, test) in enumerate(splitter.split(outcome, outcome, sites)):
        fold[test] = number
    largest, total = fold_deviation(outcome, fold, FOLDS)
    return {"largest": largest, "sum": total}


def time_audit() -> dict[str, float]:
    """Return the seconds of the checks on 100,000 made-up slides of 50,000 cases, by check."""
    ids = np.array([f"s{number:06d}" for number in range(MANY)])
    case = np.arange(MANY) // 2
    table = pd.DataFrame(
        {
            "unit_id": ids,
            "case_id": [f"c{number:05d}" for number in case],
            "site": [f"t{number % 200:03d}" for number in case],
            "label": np.where(case % 3 == 0, "positive", "negative"),
        }
    )
    units = Units(table, {unit: (unit,) for unit in ids}, {}, "made up")
    fold = case % 200 % FOLDS
    splits = [
        Split((0, f), np.flatnonzero(fold != f).astype(np.intp), np.flatnonzero(fold == f))
        for f in range(FOLDS)
    ]
    divided = Splits(("repeat", "fold"), splits, "made up")
    checks = {
        "leaks": lambda: audit_splits(divided, units, "site-preserved"),
        "optimum": lambda: balanced_folds(
            outcome_of(units),
            linked_groups(table["case_id"].to_numpy(), table["site"].to_numpy()),
            ids,
            FOLDS,
        ),
    }
    seconds = {}
    for name, check in checks.items():
        start = time.perf_counter()
        check()
        seconds[name] = round(time.perf_counter() - start, 2)
    return seconds


def rows(found: Mapping[str, Any]) -> list[str]:
    """Return the table of docs/audit.md: largest deviation and sum, in cases."""
    lines = [
        "| task | cases, sites | ours | proved bound | `StratifiedGroupKFold` | shuffled: median, "
        "best of 100 | `GroupKFold` |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, each in found["tasks"].items():
        cells = [f"{each[k]['largest']:.1f} / {each[k]['sum']:.1f}" for k in ("optimal", "bound")]
        shuffled = each["shuffled"]
        lines.append(
            f"| {task} | {each['units']}, {each['sites']} | {cells[0]} | {cells[1]} | "
            f"{each['stratified']['largest']:.1f} / {each['stratified']['sum']:.1f} | "
            f"{shuffled['median_largest']:.1f}, {shuffled['least_largest']:.1f} | "
            f"{each['group']['largest']:.1f} / {each['group']['sum']:.1f} |"
        )
    return lines


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what docs/audit.md says beside the table."""
    seconds = [each["seconds"] for each in found["tasks"].values()]
    checks = found["audit"]["seconds"]
    large = "; ".join(line for each in found["tasks"].values() for line in each["large_sites"])
    return [
        f"Our folds take {min(seconds):.1f} to {max(seconds):.1f} s per task on one core, with "
        f"the proofs. On {found['audit']['slides']:,} synthetic slides of 200 sites, the check "
        f"for leaks takes {checks['leaks']:.2f} s and the folds take {checks['optimum']:.2f} s.",
        f"For survival, one site explains this: {large}.",
    ]


def main() -> None:
    """Compare, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, required=True)
    labels = parser.parse_args().labels
    catalogue = load_catalogue()
    data: CohortData = LabelsAlone(  # type: ignore[assignment]
        read_label_table(labels, catalogue.cohorts["tcga-breast"].columns)
    )
    tasks = {}
    for task in catalogue.tasks_of("tcga-breast"):
        tasks[task.id] = compare(build_units(task, data, str(labels)))
        print(task.id, tasks[task.id])
    found = {
        "folds": FOLDS,
        "tasks": tasks,
        "audit": {"slides": MANY, "seconds": time_audit()},
        "machine": machine_provenance(),
    }
    write_text(RESULTS, json.dumps(found, indent=1, sort_keys=True) + "\n")
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
