"""What version 2 of the protocols costs in `make bench`, against version 1 in the same run.

    python benchmarks/probe_speed.py --results /tmp/speed        # about 15 min on 2 cores

runs the encoders of `make bench` on the 21 tasks of the phantom board: with version 1 from an empty
folder, which embeds too; then with each version where the embeddings are there. Whole runs and
peak memory of a job are compared. Answers: benchmarks/results/probe_speed.json; docs/speed.md.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "probe_speed.json"
PROTOCOLS = {version: [f"{name}/{version}" for name in ("linear-probe", "few-shot", "cox")]
             for version in ("v1", "v2")}  # fmt: skip


def encoders() -> list[str]:
    """Return the encoders of `make bench`."""
    found = re.search(r"ENCODERS := ((?:.*\\\n)*.*)\n", (ROOT / "Makefile").read_text())
    assert found is not None
    return found[1].replace("\\\n", " ").split()


def timed(results: Path, version: str) -> float:
    """Return the seconds that a run of the protocols of one version takes."""
    words = ["run", "--task", "all", "--source", "phantom", "--results", str(results)]
    words += [part for name in encoders() for part in ("--encoder", name)]
    words += [part for name in PROTOCOLS[version] for part in ("--protocol", name)]
    command = [sys.executable, "-c", "from madeleine_bench.cli.main import main; main()", *words]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def of_records(results: Path, version: str) -> dict[str, Any]:
    """Return what the records of one version say: seconds by protocol, and peak memory of a job."""
    own = [r for r in ResultStore(results).records() if r.protocol in PROTOCOLS[version]]
    seconds = dict.fromkeys(PROTOCOLS[version], 0.0)
    for record in own:
        seconds[record.protocol] += record.provenance["seconds"]
    return {
        "records": len(own),
        "seconds_of_jobs": {name: round(value, 1) for name, value in seconds.items()},
        "peak_memory_mb": max(record.provenance["peak_memory_mb"] for record in own),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Run, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="an empty folder")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(words)
    if asked.results.exists() and any(asked.results.iterdir()):
        parser.error(f"{asked.results} is not empty")
    whole = timed(asked.results, "v1")
    found: dict[str, Any] = {}
    for version in ("v1", "v2"):
        shutil.rmtree(asked.results / "records")
        seconds = timed(asked.results, version)
        found[version] = {"seconds": round(seconds, 1), **of_records(asked.results, version)}
    first, second = found["v1"]["seconds"], found["v2"]["seconds"]
    document = {
        "encoders": encoders(),
        "embedding_seconds": round(whole - first, 1),
        **found,
        "ratio_of_whole_runs": round((whole - first + second) / whole, 3),
        "ratio_without_embedding": round(second / first, 3),
        "provenance": machine_provenance(),
    }
    write_text(asked.out, json.dumps(document, indent=1) + "\n")
    print(json.dumps({k: v for k, v in document.items() if k != "provenance"}, indent=1))


if __name__ == "__main__":
    main()
