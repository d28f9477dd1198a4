"""`mbench run` on this machine's process pool and on a local cluster of dask, with equal workers.

The named baseline is the pool (joblib's loky, `--executor local`). A ratio below 1 is what a
cluster costs where none is needed: starting workers, sending jobs. Records must be the same.

    python -m benchmarks.executors
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore

RESULTS = Path(__file__).resolve().parent / "results"
MBENCH = "from madeleine_bench.cli.main import main; main()"
WORKERS = 2


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    wanted = parser.parse_args()
    tasks, repeats = ("aidpath-*", 1) if wanted.quick else ("bcnb-*", 3)
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = {"local": [], "dask": []}
    ids: set[tuple[str, ...]] = set()
    for _ in range(repeats):
        for executor, times in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                times.append(run_s(executor, tasks, Path(folder)))
                ids.add(tuple(sorted(r.record_id for r in ResultStore(Path(folder)).records())))
    middle = {name: median(times) for name, times in seconds.items()}
    found: dict[str, Any] = {
        **machine_provenance(),
        "load_before": round(load, 2),
        "workers": WORKERS,
        "what": f"mean-pool and max-pool on phantom {tasks}, from nothing",
        "seconds": {name: round(value, 2) for name, value in middle.items()},
        "times_faster": round(middle["local"] / middle["dask"], 3),
        "records": len(next(iter(ids))),
        "records_equal": len(ids) == 1,
    }
    write_text(wanted.out / "executors.json", json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: found[k] for k in ("seconds", "times_faster", "records_equal")}))
    if len(ids) != 1:
        sys.exit("the executors made different records")


def run_s(executor: str, tasks: str, results: Path) -> float:
    """Return the seconds of one run, start of Python and of the workers with it."""
    command = [
        sys.executable,
        "-c",
        MBENCH,
        "run",
        "--encoder",
        "mean-pool",
        "--encoder",
        "max-pool",
    ]
    command += ["--task", tasks, "--source", "phantom", "--jobs", str(WORKERS)]
    command += ["--executor", executor, "--results", str(results)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
