"""A made-up board document, and the definitions its derived numbers follow, in plain Python.

Every number comes from a generator seeded by what it is for, so two calls give equal documents.
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from string import ascii_lowercase
from typing import Any

from madeleine_bench.seeds import rng_for

NOTICE = "PHANTOM: synthetic data. It shows that code works, not that a method helps patients."
METRICS = {
    "binary": ("auroc", 0.5),
    "ordered": ("quadratic-kappa", 0.0),
    "survival": ("harrell-c", 0.5),
}
TASKS = (
    ("bcnb-er", "molecular-status", "bcnb", "breast", "binary"),
    ("bcnb-her2", "molecular-status", "bcnb", "breast", "binary"),
    ("tcga-er", "molecular-status", "tcga-breast", "breast", "binary"),
    ("tcga-subtype", "subtyping", "tcga-breast", "breast", "binary"),
    ("mgh-er-quant", "ihc-quantification", "mgh-breast", "breast", "ordered"),
    ("kidney-amr", "kidney-rejection", "bwh-kidney", "kidney", "binary"),
    ("kidney-ifta", "kidney-rejection", "bwh-kidney", "kidney", "ordered"),
    ("tcga-os", "prognosis", "tcga-breast", "breast", "survival"),
)
# name, kind, skill, training cohorts, parameters, verification
ENCODERS = (
    ("madeleine", "encoder", 0.62, ["acrobat"], 4_996_740, "none"),
    ("intra-ssl", "encoder", 0.58, ["acrobat", "bcnb"], 4_996_740, "V1"),
    ("max-pool", "baseline", 0.42, [], 0, "none"),
    ("mean-pool", "baseline", 0.50, [], 0, "none"),
    ("stranger", "encoder", 0.55, None, None, "V2"),
    ("half-done", "encoder", 0.60, None, 86_000_000, "none"),
    ("said-so", "encoder", 0.90, ["tcga-breast"], 1_100_000_000, "V0"),
    ("random-projection", "control", 0.35, [], 0, "none"),
    ("case-id", "control", -0.03, [], None, "none"),
)  # fmt: skip


def board_document(**parts: Any) -> dict[str, Any]:
    """A real board and a phantom one, three published numbers and one decision."""
    document: dict[str, Any] = {
        "schema_version": 1,
        "package": "madeleine-bench 0.7.0",
        "links": {"Repository": "https://example.org/repository"},
        "boards": [make_board("local"), make_board("phantom", protocol="few-shot/v2", folds=6)],
        "published": [
            published("Madeleine", 1, 0.664), published("Madeleine", 10, 0.818),
            published("mean of patches", 10, 0.759),
        ],
        "adjudications": [
            {"date": "2026-11-25", "encoder": "said-so", "task": None, "decision": "Not accepted.",
             "reason": "No embeddings were sent.", "by": "a curator"}
        ],
    }  # fmt: skip
    return {**document, **parts}


def published(encoder: str, shots: int, value: float) -> dict[str, Any]:
    return {"encoder": encoder, "source": "README", "citation": "See https://example.org/paper.",
            "task": "bcnb-er", "shots": shots, "metric": "auroc", "value": value}  # fmt: skip


def make_board(
    name: str,
    protocol: str = "primary",
    folds: int = 3,
    tasks: Sequence[tuple[str, str, str, str, str]] = TASKS,
    encoders: Sequence[tuple[str, str, float, list[str] | None, int | None, str]] = ENCODERS,
) -> dict[str, Any]:
    phantom = name.startswith("phantom")
    specs = [make_task(*task, core=task[0] != "tcga-er") for task in tasks]
    rows = [make_encoder(name, *encoder, specs, folds) for encoder in encoders]
    board: dict[str, Any] = {
        "name": name, "phantom": phantom, "notice": NOTICE if phantom else "",
        "protocol": protocol, "core": sum(task["core"] for task in specs),
        "ranked_tasks": sum(task["core"] for task in specs), "baseline": "mean-pool",
        "families": sorted({task["family"] for task in specs}), "tasks": specs, "encoders": rows,
        "pairs": [], "pairs_note": "", "critical_difference": None, "survival": {},
        "comparisons": [], "subsets": {}, "external": [],
    }  # fmt: skip
    derive(board)
    return board


def make_task(
    task_id: str, family: str, cohort: str, organ: str, labels: str, core: bool = True
) -> dict[str, Any]:
    metric, chance = METRICS[labels]
    return {
        "id": task_id, "version": 1, "title": f"The title of {task_id}", "family": family,
        "cohort": cohort, "organ": organ, "unit": "slide", "stains": ["H&E"], "labels": labels,
        "classes": ["negative", "positive"] if labels == "binary" else None, "metric": metric,
        "chance": chance, "core": core, "ranked": core, "protocol": "linear-probe/v2", "n": 1058,
        "citation": "Someone et al. (2020), https://example.org/data", "licence": "CC-BY-NC-4.0",
        "controls_ahead": [], "train_on": None, "access": "on-request", "how": "ask the owner",
        "url": "https://example.org/data", "patients": 1020,
        "counts": {"negative": 258, "positive": 800} if labels == "binary" else None,
        "attested": {"labels": "attested", "splits": "reconstructed"},
    }  # fmt: skip


def make_encoder(
    board: str, name: str, kind: str, skill: float, cohorts: list[str] | None,
    parameters: int | None, verification: str, tasks: list[dict[str, Any]], folds: int,
) -> dict[str, Any]:  # fmt: skip
    lacking = {tasks[-1]["id"]} if name == "half-done" else set()
    cells = {
        task["id"]: make_cell(board, name, task, skill, cohorts, verification, folds)
        for task in tasks if task["id"] not in lacking
    }  # fmt: skip
    seconds = None if parameters is None else 0.002 + parameters / 1e9
    return {
        "label": name, "slug": name, "name": name, "revision": "1",
        "features": {task["cohort"]: {"patch_encoder": "conch", "content": digest(task["cohort"])}
                     for task in tasks},
        "title": f"{name}, a slide encoder", "kind": kind, "description": "", "citation": None,
        "licence": "Apache-2.0",
        "training_cohorts": cohorts, "parameters": parameters, "dim": 512,
        "seconds_per_slide": seconds, "device": None if seconds is None else "A made-up CPU",
        "made": f"2026-11-{20 + len(name) % 9}T10:00:00+00:00", "version": "0.5.0",
        "verification": verification, "cells": cells,
    }  # fmt: skip


def make_cell(
    board: str, name: str, task: dict[str, Any], skill: float, cohorts: list[str] | None,
    verification: str, folds: int,
) -> dict[str, Any]:  # fmt: skip
    rng = rng_for("board document", board, name, task["id"])
    corrected = float(skill + 0.08 * rng.standard_normal())
    value = task["chance"] + corrected * (1 - task["chance"])
    half = 0.02 + 0.03 * float(rng.random())
    known = (
        "unknown" if cohorts is None else "contaminated" if task["cohort"] in cohorts else "clean"
    )
    return {
        "value": value, "ci95": [value - half, value + half], "method": "percentile bootstrap",
        "corrected": corrected, "status": "ok", "comparable": True, "n": task["n"], "dim": 512,
        "missing": {"no features": 3, "no label: empty": 40} if name == "stranger" else {},
        "contamination": known,
        "verification": verification, "record_id": digest(board, name, task["id"]),
        "protocol": task["protocol"], "chance": task["chance"],
        "secondary": {"balanced-accuracy": value - 0.05, "brier": None, "logrank-p": 1e-9},
        "folds": [
            {"key": {"repeat": 0, "fold": fold},
             "value": value + 0.01 * float(rng.standard_normal()), "n_train": 800,
             "n_test": 200, "converged": True, "reason": None, "flag": None}
            for fold in range(folds)
        ],
        "hashes": {what: digest(what, name, task["id"])
                   for what in ("embeddings", "labels", "splits", "task", "predictions")},
        "provenance": {"created": "2026-11-25T10:00:00Z", "seconds": 1.2, "cpu": "made up"},
    }  # fmt: skip


def digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def derive(board: dict[str, Any]) -> None:
    """Fill in what follows from the cells: means, ranks, intervals, groups, pairs, curves."""
    core = [task["id"] for task in board["tasks"] if task["core"]]
    numbers = summarise(board, core)
    for encoder in board["encoders"]:
        describe(board, encoder, core, numbers)
    board["encoders"].sort(
        key=lambda e: (e["rank"] is None, e["rank"] or 0, e["kind"] == "control", e["label"])
    )
    ranked = [e for e in board["encoders"] if e["rank"] is not None]
    board["pairs"] = [
        make_pair(first, second, core)
        for place, first in enumerate(ranked) for second in ranked[place + 1 :]
    ]  # fmt: skip
    checked = [e for e in board["encoders"] if e["verification"] != "V0"]
    board["comparisons"] = [make_comparison(*two) for two in combinations(checked, 2)]
    for family in board["families"]:
        ids = [t["id"] for t in board["tasks"] if t["family"] == family and t["ranked"]]
        if ids:
            board["subsets"][family] = make_subset(board, ids)
    if len(ranked) > 1:
        board["critical_difference"] = {
            "friedman_p": 1e-5, "critical_difference": 1.2,
            "mean_ranks": {e["label"]: e["mean_rank"] for e in ranked},
        }  # fmt: skip
    board["survival"] = {
        task["id"]: {e["label"]: make_curves(e["label"]) for e in ranked}
        for task in board["tasks"] if task["labels"] == "survival"
    }  # fmt: skip


def describe(
    board: dict[str, Any], encoder: dict[str, Any], core: list[str], numbers: dict[str, Any]
) -> None:
    cells = encoder["cells"]
    have = [task_id for task_id in core if task_id in cells]
    complete = len(have) == len(core)
    families = {
        family: fmean(cells[t["id"]]["corrected"] for t in members)
        for family in board["families"]
        if (members := [t for t in board["tasks"] if t["family"] == family and t["core"]])
        and all(t["id"] in cells for t in members)
    }
    mean = fmean(families.values()) if complete else None
    own = numbers.get(encoder["label"], {"rank": None, "mean_rank": None, "win_rate": None})
    reason = "" if own["rank"] else "V0: not recomputed"
    if encoder["kind"] == "control":
        reason = "control"
    elif not complete:
        reason = f"incomplete: {len(have)} of {len(core)} tasks"
    gain = None
    if own["rank"] and encoder["label"] != board["baseline"] and board["baseline"] in numbers:
        over = mean - numbers[board["baseline"]]["mean"]
        wide, narrow = [over - 0.06, over + 0.06], [over - 0.02, over + 0.02]
        gain = {"value": over, "ci95": wide, "ci95_cases": narrow}
    rank = own["rank"]
    encoder.update(
        **{key: own[key] for key in ("rank", "mean_rank", "win_rate")},
        unranked=reason, complete=complete, coverage=len(have), mean=mean, families=families,
        mean_ci95=None if mean is None else [mean - 0.09, mean + 0.09],
        mean_ci95_cases=None if mean is None else [mean - 0.03, mean + 0.03],
        rank_ci95=None if rank is None else [max(1, rank - 1), rank + 1],
        gain=gain, baseline=board["baseline"] if gain else None,
        letters="" if rank is None else ascii_lowercase[(rank + 1) // 2 - 1],
    )  # fmt: skip


def summarise(board: dict[str, Any], task_ids: list[str]) -> dict[str, dict[str, Any]]:
    """What the candidates have on a set of tasks: mean, mean rank, win rate and rank."""
    tasks = [task for task in board["tasks"] if task["id"] in task_ids]
    candidates = [
        e for e in board["encoders"]
        if e["kind"] != "control" and e["verification"] != "V0"
        and all(t["id"] in e["cells"] and e["cells"][t["id"]]["comparable"] for t in tasks)
    ]  # fmt: skip
    families = sorted({task["family"] for task in tasks})
    result: dict[str, dict[str, Any]] = {}
    for encoder in candidates:
        cells = encoder["cells"]
        mean = fmean(
            fmean(cells[t["id"]]["corrected"] for t in tasks if t["family"] == family)
            for family in families
        )
        places, wins = [], []
        for task in tasks:
            values = [e["cells"][task["id"]]["value"] for e in candidates]
            value = cells[task["id"]]["value"]
            equal = values.count(value)
            above = sum(v > value for v in values)
            places.append(above + (equal + 1) / 2)
            wins.append(sum(v < value for v in values) + (equal - 1) / 2)
        result[encoder["label"]] = {
            "mean": mean, "mean_rank": fmean(places),
            "win_rate": fmean(wins) / (len(candidates) - 1) if len(candidates) > 1 else None,
        }  # fmt: skip
    for own in result.values():
        own["rank"] = 1 + sum(other["mean"] > own["mean"] for other in result.values())
    return result


def make_pair(first: dict[str, Any], second: dict[str, Any], core: list[str]) -> dict[str, Any]:
    gaps = [first["cells"][t]["value"] - second["cells"][t]["value"] for t in core]
    return {
        "first": first["label"], "second": second["label"], "mean": first["mean"] - second["mean"],
        "wins": sum(gap > 0 for gap in gaps), "ties": sum(gap == 0 for gap in gaps),
        "losses": sum(gap < 0 for gap in gaps), "p_signed_rank": 0.001, "p_cases": 0.0005,
        "p_holm": 0.006,
        "better": first["mean"] - second["mean"] > 0.08,
    }  # fmt: skip


def make_comparison(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    tasks = {}
    for task_id in [name for name in first["cells"] if name in second["cells"]]:
        gap = first["cells"][task_id]["value"] - second["cells"][task_id]["value"]
        higher = "" if abs(gap) < 0.05 else (first if gap > 0 else second)["label"]
        tasks[task_id] = {
            "difference": gap, "ci95": [gap - 0.03, gap + 0.03], "p_value": 0.002,
            "p_holm": 0.004 if higher else 0.4, "higher": higher,
        }  # fmt: skip
    said = f"Conclusion about {first['label']} and {second['label']}."
    return {
        "first": first["label"], "second": second["label"], "tasks": tasks,
        "conclusions": [said], "left_out": [],
    }  # fmt: skip


def make_subset(board: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """The standings on some tasks: intervals about the means, one letter."""
    numbers = summarise(board, ids)
    standings = {}
    for label, own in numbers.items():
        mean = {"value": own["mean"], "ci95": None}
        mean["ci95_cases"] = [own["mean"] - 0.04, own["mean"] + 0.04]
        rank = [own["rank"], own["rank"] + 1]
        standings[label] = {"mean": mean, "gain": None, "rank_ci95": rank, "letters": "a"}
    return {"standings": standings, "pairs_note": "fewer than 6 tasks"}


def make_curves(label: str) -> dict[str, Any]:
    return {
        "low": make_curve(label, "low", 0.9), "high": make_curve(label, "high", 0.7),
        "logrank_p": 0.0123, "hazard_ratio": 2.1, "hazard_ratio_ci95": [1.5, 3.0],
        "at_risk": {"years": [0, 5, 10], "low": [500, 230, 11], "high": [500, 201, 7]},
    }  # fmt: skip


def make_curve(label: str, risk: str, end: float, steps: int = 40) -> dict[str, Any]:
    rng = rng_for("curve", label, risk)
    times = sorted(float(t) for t in rng.uniform(60, 4000, steps))
    shares = [1 - (1 - end) * (i + 1) / steps for i in range(steps)]
    return {
        "time_days": times, "survival": shares, "lower": [max(0.0, s - 0.04) for s in shares],
        "upper": [min(1.0, s + 0.04) for s in shares], "n": 500, "events": steps,
    }  # fmt: skip
