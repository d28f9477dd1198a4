"""What the doctor finds of the shipped encoders: the values that its thresholds were set on.

    python benchmarks/doctor_phantom.py
    mbench data fetch ucsb-breast --into data
    python benchmarks/doctor_phantom.py --ucsb data/ucsb-breast/mbench.toml

The first writes benchmarks/results/doctor_phantom.json (PHANTOM cohorts), the second
benchmarks/results/doctor_ucsb.json (58 real H&E images). No label is read.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from madeleine_bench.embeddings.cloud import Rows, read_word
from madeleine_bench.encoders.registry import find_encoder, shipped_encoders
from madeleine_bench.files import write_text
from madeleine_bench.runner.doctor import examine
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence

OUT = Path(__file__).resolve().parent / "results"
COHORTS = ("tcga-breast", "bwh-kidney")
SLIDES, MANY_SLIDES = 64, 512
# The rest is trained on labels, and has no embedding.
ENCODERS = tuple(n for n, e in shipped_encoders().items() if e.card.kind != "supervised")
POOLING = ("mean-pool", "max-pool")
SHOWN = (
    "mean cosine",
    "effective rank",
    "half of the patches",
    "norm at half the patches",
    "patch count",
)
READ_OUT = ("site", "stain")


Request = tuple[str, str, int]


def row(workspace: Workspace, request: Request) -> dict[str, Any]:
    """Return what is found of one encoder on one cohort: verdict, number and words by check."""
    encoder, cohort, slides = request
    (found,) = examine(workspace, encoder, (cohort,), slides, Silence())
    card = find_encoder(encoder).card
    rows = found.rows
    assert rows is not None
    checks = {
        f.check: {
            "verdict": f.verdict,
            "number": None if f.number is None else float(f"{f.number:.4g}"),
            "found": f.found,
        }
        for f in found.findings
    }
    return {
        "cohort": cohort,
        "slides": len(rows.slides),
        "encoder": card.name,
        "kind": card.kind,
        "revision": card.revision,
        "dim": rows.matrix.shape[1],
        "checks": checks,
        "readout": {word: _readout(rows, word) for word in ("site", "stain")},
    }


def markdown_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line of a table for each row; a bold number warned, a bold one with ! failed."""
    for each in rows:
        checks = each["checks"]
        cells = [_cell(checks[name]) for name in SHOWN]
        cells += [_read(each["readout"][name], checks[name]["verdict"]) for name in READ_OUT]
        other = [
            f"**{name}{'!' if found['verdict'] == 'fail' else ''}**"
            for name, found in checks.items()
            if name not in (*SHOWN, *READ_OUT) and found["verdict"] in ("warn", "fail")
        ]
        start = [each["cohort"], str(each["slides"]), f"`{each['encoder']}`"]
        yield "| " + " | ".join([*start, *cells, ", ".join(other)]) + " |"


def _readout(rows: Rows, word: str) -> dict[str, float] | None:
    """Return balanced accuracy, chance and p of a word; None where it was not tried."""
    found = read_word(rows.matrix, list(rows.slides[word]), list(rows.slides["case_id"]))
    if isinstance(found, str):
        return None
    numbers = {"accuracy": found.accuracy, "chance": 1 / found.words, "p": found.p_value}
    return {name: round(value, 4) for name, value in numbers.items()}


def _read(found: Mapping[str, float] | None, verdict: str) -> str:
    if found is None:
        return "-"
    text = f"{found['accuracy']:.2f} of {found['chance']:.2f}"
    return f"**{text}**" if verdict == "warn" else text


def _cell(found: Mapping[str, Any]) -> str:
    if found["verdict"] == "skipped" or found["number"] is None:
        return "-"
    text = f"{found['number']:.3g}"
    return {"warn": f"**{text}**", "fail": f"**{text}!**"}.get(found["verdict"], text)


def document(workspace: Workspace, requests: Sequence[Request], about: str) -> dict[str, Any]:
    """Return the rows of some requests, each printed as it is made."""
    rows = []
    for request in requests:
        rows.append(row(workspace, request))
        print(next(markdown_rows(rows[-1:])), flush=True)
    return {"about": about, "rows": rows}


def main() -> None:
    """Compute, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ucsb", type=Path, help="mbench.toml of the fetched ucsb-breast")
    config = parser.parse_args().ucsb
    with TemporaryDirectory() as scratch:
        results = Path(scratch)
        if config is not None:
            workspace = Workspace(results, "local", config)
            requests = [(name, "ucsb-breast", SLIDES) for name in POOLING]
            about, path = "58 real H&E images, hand-made patch features", OUT / "doctor_ucsb.json"
        else:
            workspace = Workspace(results, "phantom")
            requests = [(name, cohort, SLIDES) for cohort in COHORTS for name in ENCODERS]
            requests += [(name, "tcga-breast", MANY_SLIDES) for name in POOLING]
            about, path = "PHANTOM. mbench doctor", OUT / "doctor_phantom.json"
        found = document(workspace, requests, about)
    write_text(path, json.dumps(found, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
