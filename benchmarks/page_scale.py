"""How the leaderboard's page grows with encoders: bytes, nodes, seconds to write, load and re-rank.

Boards of 11, 40 and 200 simulated encoders on the tasks of the catalogue, with every pair of them,
their folds and their provenance. Scores are drawn, nobody looks at them. The page is written by
`write_site` and opened from disk in headless Chromium:

    bytes     of index.html, and compressed by gzip; and of the whole site
    nodes     elements of the index
    write     seconds of `write_site`
    load      seconds until the page is drawn
    re-rank   seconds from the choice of a family of tasks until the page is drawn again
    compare   seconds from the second tick of an encoder until the paired differences are shown

Seconds are of the processor (of the process that writes; of the main thread of the page), so that
other work on the machine does not count; `wall` beside them is by the clock, with the load of the
machine. Each number is the best of three. Run from the root of the repository; it writes
benchmarks/results/page_scale.json and the table of docs/leaderboard.md:

    python -m benchmarks.page_scale
"""

import argparse
import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from madeleine_bench.files import write_text
from madeleine_bench.hashing import hash_json
from madeleine_bench.leaderboard.page import write_site
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.task import TaskSpec

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parents[1] / "docs" / "leaderboard.md"
BEGIN, END = (
    "<!-- page_scale: written by benchmarks/page_scale.py -->",
    "<!-- end of page_scale -->",
)
SIZES = (11, 40, 200)
GOALS = {"index_gzip_bytes": 1_000_000, "load_s": 1.5, "rerank_s": 0.2, "write_s": 5.0}
FOLDS, REPEATS, CHANCE = 5, 3, 0.5
MACHINE = machine_provenance()
Json = dict[str, Any]
CHOOSE = """(family) => {
  const select = document.getElementById('filter-family');
  select.value = family;
  select.dispatchEvent(new Event('change'));
}"""
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def simulated_document(n_encoders: int) -> Json:
    """Return a board document of simulated encoders on all core tasks of the catalogue."""
    catalogue = load_catalogue()
    tasks = catalogue.select(["all"])
    rng = rng_for("page scale", n_encoders)
    skill = np.sort(0.3 + 0.4 * rng.random(n_encoders))[::-1]
    scores = np.clip(skill[:, None] + 0.05 * rng.standard_normal((n_encoders, len(tasks))), 0, 1)
    families = sorted({task.family for task in tasks})
    means = {
        name: scores[:, [i for i, t in enumerate(tasks) if t.family == name]].mean(axis=1)
        for name in families
    }
    mean = np.mean(list(means.values()), axis=0)
    order = np.argsort(-mean)
    encoders = [
        _encoder(place, i, tasks, scores[i], float(mean[i]), {k: v[i] for k, v in means.items()})
        for place, i in enumerate(order.tolist())
    ]
    labels = [encoder["label"] for encoder in encoders]
    standing = {e["label"]: _standing(e["mean"], e["rank"]) for e in encoders}
    board = {
        "name": "local", "phantom": False, "notice": "", "protocol": "primary", "track": "core",
        "core": len(tasks), "ranked_tasks": len(tasks), "baseline": None, "families": families,
        "tasks": [_task(task, catalogue) for task in tasks], "encoders": encoders,
        "pairs": [_pair(first, second, rng) for first, second in combinations(encoders, 2)],
        "pairs_note": "", "external": [], "survival": {},
        "comparisons": [_compared(first, second) for first, second in combinations(encoders, 2)],
        "subsets": {name: {"standings": standing, "pairs_note": ""} for name in families},
        "critical_difference": {
            "friedman_p": 0.001, "critical_difference": 9.0,
            "mean_ranks": {label: place + 1.0 for place, label in enumerate(labels)},
        },
    }  # fmt: skip
    return {
        "schema_version": 1, "package": "madeleine-bench", "links": {}, "boards": [board],
        "published": [], "adjudications": [],
    }  # fmt: skip


def _encoder(
    place: int, number: int, tasks: list[TaskSpec], scores: Any, mean: float, families: Json
) -> Json:
    name = f"encoder-{number:03}"
    return {
        **_standing(mean, place + 1),
        "label": name, "slug": name, "name": name, "revision": "1", "title": f"Encoder {number}",
        "kind": "encoder", "rank": place + 1, "unranked": "", "complete": True,
        "coverage": len(tasks), "verification": "V1", "mean": mean, "mean_rank": place + 1.0,
        "win_rate": 0.5, "families": {k: float(v) for k, v in families.items()}, "features": {},
        "description": "A simulated slide encoder.", "citation": None, "licence": "Apache-2.0",
        "training_cohorts": [], "parameters": 10**6 * (number + 1), "dim": 512,
        "seconds_per_slide": 0.001 * (number + 1), "device": "a CPU", "baseline": None,
        "made": f"2026-{1 + number % 12:02}-15", "version": "0.5.0",
        "cells": {t.id: _cell(name, t, float(v)) for t, v in zip(tasks, scores, strict=True)},
    }  # fmt: skip


def _standing(mean: float, rank: int) -> Json:
    return {
        "mean_ci95": [mean - 0.11, mean + 0.11], "mean_ci95_cases": [mean - 0.03, mean + 0.03],
        "mean": {"value": mean, "ci95": None, "ci95_cases": [mean - 0.03, mean + 0.03]},
        "rank_ci95": [max(1, rank - 3), rank + 3], "gain": None, "letters": "abc",
    }  # fmt: skip


def _cell(name: str, task: TaskSpec, corrected: float) -> Json:
    value = CHANCE + (1 - CHANCE) * corrected
    hashes = {what: hash_json([what, name, task.id]) for what in ("labels", "splits", "task")}
    return {
        "value": value, "corrected": corrected, "comparable": True, "contamination": "clean",
        "ci95": [value - 0.031, value + 0.029], "method": "t interval", "chance": CHANCE,
        "n": 1058, "dim": 512, "status": "ok", "verification": "V1", "missing": {},
        "record_id": hash_json([name, task.id]), "protocol": "linear-probe/v2",
        "secondary": {"balanced-accuracy": value - 0.05}, "hashes": hashes,
        "provenance": MACHINE,
        "folds": [
            {"key": {"repeat": repeat, "fold": fold}, "value": value, "n_train": 846,
             "n_test": 212, "converged": True, "reason": None, "flag": None}
            for repeat in range(REPEATS) for fold in range(FOLDS)
        ],
    }  # fmt: skip


def _task(task: TaskSpec, catalogue: Catalogue) -> Json:
    cohort = catalogue.cohorts[task.cohort]
    return {
        **{key: getattr(task, key) for key in ("id", "version", "title", "family", "cohort")},
        **{key: getattr(task, key) for key in ("unit", "citation", "licence", "train_on")},
        "stains": list(task.stains), "organ": cohort.organ, "access": cohort.access.status,
        "url": cohort.access.url, "how": cohort.access.how, "labels": task.labels.type,
        "classes": None, "metric": task.metric.name, "chance": CHANCE, "core": True,
        "ranked": True, "protocol": "linear-probe/v2", "n": 1058, "patients": 1058,
        "counts": None, "controls_ahead": [], "attested": {},
    }  # fmt: skip


def _pair(first: Json, second: Json, rng: np.random.Generator) -> Json:
    return {
        "first": first["label"], "second": second["label"], "mean": first["mean"] - second["mean"],
        "wins": 12, "ties": 0, "losses": 9, "p_signed_rank": float(rng.random()),
        "p_cases": float(rng.random()), "p_holm": 1.0, "better": False,
    }  # fmt: skip


def _compared(first: Json, second: Json) -> Json:
    tasks = {}
    for name, cell in first["cells"].items():
        gap = cell["value"] - second["cells"][name]["value"]
        ends = [gap - 0.0312345678901234, gap + 0.0298765432109876]
        tasks[name] = {"difference": gap, "ci95": ends, "p_value": 0.1234567890123456,
                       "p_holm": 1.0, "higher": ""}  # fmt: skip
    said = (
        "On 21 of 21 tasks the difference is not significant: the cases cannot tell the two apart."
    )
    return {"first": first["label"], "second": second["label"], "tasks": tasks,
            "conclusions": [said, said, said], "left_out": []}  # fmt: skip


def measure(n_encoders: int, repeats: int = 3) -> Json:
    """Return bytes, nodes and the best seconds of a board of so many encoders."""
    document = simulated_document(n_encoders)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        write, wall = [], []
        for _ in range(repeats):
            start, clock = time.process_time(), time.perf_counter()
            files = write_site(document, site)
            write.append(time.process_time() - start)
            wall.append(time.perf_counter() - clock)
        index = (site / "index.html").read_bytes()
        seen = [look(site / "index.html", document) for _ in range(repeats)]
        return {
            "encoders": n_encoders, "tasks": len(document["boards"][0]["tasks"]),
            "files": len(files), "index_bytes": len(index),
            "index_gzip_bytes": len(gzip.compress(index, mtime=0)),
            "site_bytes": sum(path.stat().st_size for path in files),
            "nodes": seen[0]["nodes"], "write_s": round(min(write), 3),
            "write_wall_s": round(min(wall), 3),
            **{key: round(min(one[key] for one in seen), 3) for key in seen[0] if key != "nodes"},
        }  # fmt: skip


def look(index: Path, document: Json) -> Json:
    """Return the nodes of a page and the seconds it takes in a browser."""
    from playwright.sync_api import sync_playwright

    board = document["boards"][0]
    labels = [encoder["label"] for encoder in board["encoders"]]
    found: Json = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def timed(name: str, act: Callable[[], object]) -> None:
            # A page from disk has a renderer of its own, which starts at 0.
            before = 0.0 if name == "load" else _thread_seconds(session)
            clock = time.perf_counter()
            act()
            page.evaluate(DRAWN)
            found[f"{name}_wall_s"] = time.perf_counter() - clock
            found[f"{name}_s"] = _thread_seconds(session) - before

        timed("load", lambda: page.goto(index.resolve().as_uri()))
        timed("rerank", lambda: page.evaluate(CHOOSE, board["families"][0]))
        page.get_by_label(f"Compare {labels[0]}", exact=True).check()
        last = page.get_by_label(f"Compare {labels[1]}", exact=True)
        table = page.locator("[data-compare] table").first
        timed("compare", lambda: (last.check(), table.wait_for()))
        found["nodes"] = page.evaluate("document.querySelectorAll('*').length")
        browser.close()
    return found


def _thread_seconds(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def table(rows: list[Json]) -> str:
    """Return the rows as a table in Markdown."""
    head = (
        "| encoders | index | compressed | whole site | nodes | write | load | re-rank | compare |"
    )
    lines = [head, "|" + "---:|" * 9]
    for row in rows:
        sizes = [row["index_bytes"], row["index_gzip_bytes"], row["site_bytes"]]
        seconds = [f"{row[f'{key}_s']:.2f} s" for key in ("write", "load", "rerank", "compare")]
        cells = [row["encoders"], *(f"{size / 1e6:.2f} MB" for size in sizes), f"{row['nodes']:,}"]
        lines.append("| " + " | ".join(map(str, [*cells, *seconds])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the sizes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one board of 11 encoders")
    arguments = parser.parse_args()
    rows = [measure(size) for size in (SIZES[:1] if arguments.quick else SIZES)]
    content = {"what": "the leaderboard's page by number of encoders", "goals": GOALS,
               "load_average": os.getloadavg()[0], "machine": MACHINE, "rows": rows}  # fmt: skip
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_text(arguments.out / "page_scale.json", text)
    if not arguments.quick:
        before, _, after = PAGE.read_text("utf-8").partition(BEGIN)
        write_text(PAGE, f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after.partition(END)[2]}")


if __name__ == "__main__":
    main()
