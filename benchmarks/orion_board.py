"""A board of real bags: Orion, 41 slides of 9,000 to 36,000 patches, six tasks, time and memory.

    python benchmarks/orion_board.py --data ../shared/data/orion_crc --work /tmp/orion

`examples/orion` declares cohort and tasks. Each encoder runs in a process of its own on one thread
with all settings as they ship, so that no score can choose a setting: `abmil` under finetune/v1 (15
fits of up to 300 steps; classes and survival), the others under the probe of the type of labels.
Processor time counts, as other programs may run. An encoder that has run in --work is not run
again. Answers: benchmarks/results/orion_board.json; docs/data.md shows the tables.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from madeleine_bench.api import load_results
from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "orion_board.json"
CONTROLS = ("random-projection", "untrained", "patch-count", "case-id")
ENCODERS = ("mean-pool", "max-pool", *CONTROLS, "abmil")


def prepare(data: Path, work: Path) -> None:
    """Write the label table and mbench.toml to the working folder, and link the bags."""
    example, bags = ROOT / "examples" / "orion", (data / "bags").absolute()
    shutil.copy(example / "mbench.toml", work)
    (work / "bags").unlink(missing_ok=True)
    (work / "bags").symlink_to(bags)
    command = [sys.executable, example / "labels.py", data / "samples.csv", bags]
    subprocess.run([*command, work / "labels.csv"], check=True)


def run(encoder: str, work: Path) -> dict[str, Any]:
    """Return wall time, processor time (seconds) and peak memory (GB) of one encoder's run."""
    command = [str(Path(sys.executable).with_name("mbench")), "run", "--encoder", encoder]
    command += ["--task", "orion-*", "--jobs", "1", "--device", "cpu"]
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=work, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{encoder}: mbench run failed")
    return {
        "encoder": encoder,
        "wall_s": round(time.perf_counter() - started, 1),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss / 1024**2, 2),
    }


def markdown_rows(content: Mapping[str, Any]) -> list[str]:
    """Return the board and the costs as tables of Markdown, a line each."""
    cells = {(row["task"], row["encoder"]): row for row in content["scores"]}
    lines = [_line(["task", "metric", "patients", *ENCODERS]), _line(["---"] * (3 + len(ENCODERS)))]
    for task in sorted({row["task"] for row in content["scores"]}):
        first = cells[task, "mean-pool"]
        shown = [_cell(cells.get((task, encoder))) for encoder in ENCODERS]
        lines.append(_line([task, first["metric"], str(first["n"]), *shown]))
    lines += ["", _line(["encoder", "processor time, s", "peak memory, GB"]), _line(["---"] * 3)]
    for cost in content["costs"]:
        lines.append(_line([cost["encoder"], f"{cost['processor_s']:.0f}", f"{cost['peak_gb']:g}"]))
    return lines


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    low, high = row["ci95_low"], row["ci95_high"]
    return f"{row['value']:.3f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run every encoder, print the board, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of samples.csv and bags")
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    wanted = parser.parse_args()
    wanted.work.mkdir(parents=True, exist_ok=True)
    prepare(wanted.data, wanted.work)
    costs = wanted.work / "costs.json"
    measured = json.loads(costs.read_text()) if costs.exists() else []
    for encoder in ENCODERS:
        if encoder not in [cost["encoder"] for cost in measured]:
            measured.append(run(encoder, wanted.work))
            write_text(costs, json.dumps(measured))
    columns = ["task", "protocol", "encoder", "metric", "value", "ci95_low", "ci95_high", "n"]
    table = load_results(wanted.work / "results").to_dataframe()[columns]
    content = {
        **machine_provenance(),
        "cohort": "github.com/labsyspharm/orion-crc 19f4113b, MIT: 41 slides of 40 patients",
        "total_processor_s": round(sum(cost["processor_s"] for cost in measured), 1),
        "peak_gb": max(cost["peak_gb"] for cost in measured),
        "costs": measured,
        "scores": json.loads(table.to_json(orient="records", double_precision=15)),
    }
    write_text(OUT, json.dumps(content, indent=1) + "\n")
    print("\n".join(markdown_rows(content)))


if __name__ == "__main__":
    main()
