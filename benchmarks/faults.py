"""Inject every fault of the tests, and count the cases that survive: docs/faults.md.

    python -m benchmarks.faults                 # all cases, minutes: benchmarks/results/faults.json
    python -m benchmarks.faults --kind killed   # one kind; writes nothing

Needs Linux and a C compiler, because a preloaded library injects the faults (tests/faults).
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults import server
from tests.faults.cases import Verdict, all_cases
from tests.faults.harness import Harness

REPORT = "faults.json"
_OUT = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases, print the table, and return 1 if a case did not survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", help="run only this kind of fault")
    parser.add_argument("--out", type=Path, default=_OUT)
    chosen = parser.parse_args(arguments)
    if reason := server.missing():
        print(reason, file=sys.stderr)
        return 2
    cases = [case for case in all_cases() if chosen.kind in (None, case.kind)]
    verdicts: list[Verdict] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with server.Commands(folder / "scratch") as commands:
            harness = Harness(folder, commands)
            for case in cases:
                verdicts.append(harness.run(case))
                if verdicts[-1].ending != "survived":
                    print(verdicts[-1], file=sys.stderr)
    found = summary(verdicts, round(time.monotonic() - began))
    print("\n".join(markdown_rows(found)))
    if chosen.kind is None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / REPORT).write_text(json.dumps(found, indent=1) + "\n")
    return int(any(verdict.ending != "survived" for verdict in verdicts))


def summary(verdicts: Sequence[Verdict], seconds: int) -> dict[str, Any]:
    """Return the report: one row per kind of fault, with the places of its cases."""
    kinds = list(dict.fromkeys(verdict.case.kind for verdict in verdicts))
    rows = [_row(kind, [v for v in verdicts if v.case.kind == kind]) for kind in kinds]
    return {"cases": len(verdicts), "seconds": seconds, "rows": rows}


def markdown_rows(found: dict[str, Any]) -> list[str]:
    """Return the lines of the table; the last line is the sum."""
    lines = [
        f"| {row['kind']} | {row['cases']} | {row['survived']} | {row['lost']} | "
        f"{row['silently_wrong']} |"
        for row in found["rows"]
    ]
    total = [
        sum(row[key] for row in found["rows"])
        for key in ("cases", "survived", "lost", "silently_wrong")
    ]
    return [*lines, "| **all** | " + " | ".join(f"**{number}**" for number in total) + " |"]


def _row(kind: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    endings = Counter(verdict.ending for verdict in verdicts)
    return {
        "kind": kind,
        "cases": len(verdicts),
        "survived": endings["survived"],
        "lost": endings["lost"],
        "silently_wrong": endings["silently wrong"],
        "how": dict(sorted(Counter(v.seen for v in verdicts if v.ending == "survived").items())),
        "where": dict(sorted(Counter(v.case.where for v in verdicts).items())),
    }


if __name__ == "__main__":
    sys.exit(main())
