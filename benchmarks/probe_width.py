"""Does the probe judge the encoder, or the width of its vector? On the phantom board.

    python benchmarks/probe_width.py --results /tmp/boards        # about 15 min on 2 cores

scores mean-pool, and copies of it that hold less or nothing more, under version 1 and version 2 of
the linear probe, on the 20 tasks with classes: random projections to 256, 128, 64 and 32 dimensions
(they can only lose information), every column doubled, 512 columns of pure noise added; beside
max-pool, madeleine and the oracle. Each also turned by a random rotation. Answers, with the counts
that say whether the probe rewards narrow vectors: benchmarks/results/probe_width.json, and
docs/probe_width.svg.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.phantom_problems import Problem, phantom_problems
from madeleine_bench.figures import COLOURS, GREY, INK, styled_svg
from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for

ROOT = Path(__file__).resolve().parents[1]
OUT, FIGURE = (
    ROOT / "benchmarks" / "results" / "probe_width.json",
    ROOT / "docs" / "probe_width.svg",
)
ENCODERS = ("mean-pool", "max-pool", "madeleine", "oracle")
VERSIONS = ("linear-probe/v1", "linear-probe/v2")
WIDTHS = (256, 128, 64, 32)
NOISE = 512
TURNED = "mean-pool, turned"
ABOUT = (
    "PHANTOM: synthetic data. It shows what the probe measures, not that a method helps patients."
)
Rows = NDArray[np.floating]
Scores = dict[str, dict[str, float]]


def copies(mean: Rows, task: str) -> dict[str, Rows]:
    """Return mean-pool's embeddings with information lost, repeated, drowned, or turned."""
    rows = mean.astype(np.float64)
    units, dim = rows.shape
    made = {
        f"{width} random dimensions": rows
        @ rng_for("projection", width).standard_normal((dim, width))
        for width in WIDTHS
    }
    noise = rng_for("noise", task).standard_normal((units, NOISE)) * rows.std(axis=0).mean()
    made["columns doubled"] = np.hstack([rows, rows])
    made[f"{NOISE} noise columns"] = np.hstack([rows, noise])
    made[TURNED] = rows @ np.linalg.qr(rng_for("turn", dim).standard_normal((dim, dim)))[0]
    return made


def scored(problem: Problem) -> tuple[str, str, dict[str, float]]:
    """Return task, protocol, and the score of each encoder and copy."""
    rows = {**problem.rows, **copies(problem.rows["mean-pool"], problem.task)}
    return problem.task, problem.protocol, {name: problem.score(own) for name, own in rows.items()}


def summary(scores: Mapping[str, Scores], own: str) -> dict[str, Any]:
    """Return what the scores of one protocol (task, row) say of the probe."""
    gains = {task: row[own] - row["mean-pool"] for task, row in scores.items()}
    return {
        "mean_difference_from_mean_pool": float(np.mean(list(gains.values()))),
        "better_than_mean_pool_on": sum(gain > 0.0 for gain in gains.values()),
        "tasks": len(gains),
    }


def counts(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Return the counts of one protocol: by row against mean-pool, and rows above the oracle."""
    rows = list(next(iter(scores.values())))
    above = [
        f"{name} on {task}"
        for task, row in scores.items()
        for name, value in row.items()
        if name != "oracle" and value >= row["oracle"]
    ]
    turned = [abs(row[TURNED] - row["mean-pool"]) for row in scores.values()]
    return {
        "mean": {name: float(np.mean([row[name] for row in scores.values()])) for name in rows},
        "against_mean_pool": {name: summary(scores, name) for name in rows if name != "mean-pool"},
        "not_below_the_oracle": above,
        "largest_move_by_rotation": max(turned),
        "mean_move_by_rotation": float(np.mean(turned)),
    }


def table(document: Mapping[str, Any]) -> str:
    """Return the mean score and the tasks won against mean-pool as Markdown, a row an embedding."""
    first, second = (document["counts"][version] for version in VERSIONS)
    lines = [
        "| embedding | mean score, v1 | v2 | better than mean-pool on, v1 | v2 |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, value in first["mean"].items():
        row = [f"{value:.3f}", f"{second['mean'][name]:.3f}"]
        for version in (first, second):
            won = version["against_mean_pool"].get(name)
            row.append(f"{won['better_than_mean_pool_on']} of {won['tasks']}" if won else "-")
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)


def figure(document: Mapping[str, Any]) -> str:
    """Return the mean score against the width of random projections, a line a version, as SVG."""
    import altair as alt

    points = []
    for version in VERSIONS:
        mean = document["counts"][version]["mean"]
        shown = {512: mean["mean-pool"], **{w: mean[f"{w} random dimensions"] for w in WIDTHS}}
        points += [
            {"version": version, "dimensions": width, "score": value}
            for width, value in shown.items()
        ]
    x = alt.X(
        "dimensions:Q",
        scale=alt.Scale(type="log", base=2, domain=[28, 1100]),
        axis=alt.Axis(values=[*reversed(WIDTHS), 512], grid=False),
        title="dimensions kept of mean-pool's 512, by a random projection",
    )
    y = alt.Y("score:Q", scale=alt.Scale(zero=False, padding=12), title="mean score of 20 tasks")
    colour = alt.Color(
        "version:N", legend=None, scale=alt.Scale(domain=list(VERSIONS), range=list(COLOURS[:2]))
    )
    base = alt.Chart(alt.Data(values=points)).encode(x=x, y=y, color=colour)
    names = [point for point in points if point["dimensions"] == 512]
    words = (
        alt.Chart(alt.Data(values=names))
        .mark_text(align="left", dx=10, fontSize=12)
        .encode(x=x, y=y, color=colour, text="version:N")
    )
    title = alt.Title(
        "Random projections lose information, but version 1 scores them higher",
        subtitle="Phantom (synthetic) board, 20 tasks with classes. AUROC, or kappa where classes "
        "are ordered.",
        fontSize=15, fontWeight=600, color=INK, subtitleColor=GREY, subtitleFontSize=11,
        subtitlePadding=5, anchor="start", offset=14,
    )  # fmt: skip
    chart = base.mark_line(strokeWidth=2) + base.mark_point(size=60, filled=True, opacity=1) + words
    return styled_svg(chart.properties(width=560, height=260, title=title, padding=16))


def main(words: Sequence[str] | None = None) -> None:
    """Score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder for embeddings"
    )
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument(
        "--redraw", action="store_true", help="draw the figure again, score nothing"
    )
    asked = parser.parse_args(words)
    if asked.redraw:
        document = json.loads(asked.out.read_text())
        write_text(asked.figure, figure(document))
        print(table(document))
        return
    scores: dict[str, dict[str, dict[str, float]]] = {version: {} for version in VERSIONS}
    problems = phantom_problems(asked.results, ENCODERS, VERSIONS)
    with ProcessPoolExecutor(asked.jobs) as pool:
        for task, protocol, row in pool.map(scored, problems):
            print(
                task, protocol, {name: round(value, 3) for name, value in row.items()}, flush=True
            )
            scores[protocol][task] = row
    document = {
        "about": ABOUT,
        "scores": {v: dict(sorted(own.items())) for v, own in scores.items()},
        "counts": {version: counts(own) for version, own in scores.items()},
        "provenance": machine_provenance(),
    }
    write_text(asked.out, json.dumps(document, indent=1) + "\n")
    write_text(asked.figure, figure(document))
    print(table(document))


if __name__ == "__main__":
    main()
