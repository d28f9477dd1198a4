"""How time and memory of `mbench run` grow with slides, patches, tasks and encoders.

    slides     the phantom of bcnb at 1 to 16 times its size; mean-pool, one task
    patches    25 bags of 256 to 16,384 patches in h5 files; mean-pool, and Madeleine untrained
    tasks      1 to 16 copies of one task; mean-pool
    encoders   1 to 8 copies of mean-pool's card; one task

Each run is `mbench run --jobs 1` on a cold folder in a process of its own: wall time from its start
to its end (the best of two), and the peak of its resident memory (the larger of the two). A curve's
slope is that of a line through log time over log size: 1 is proportional, 0 does not grow. What is
done once (imports, the board) pulls it down, so the slope between the two largest sizes is given
too. The scores are of phantoms and of made-up bags, and nobody looks at them. Run from the root of
the repository on a Linux machine with nothing else to do (ten minutes, 1 GB of disk); it writes
benchmarks/results/growth.json and docs/growth.svg:

    python -m benchmarks.growth
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.growth_figure import growth_chart
from benchmarks.scaled_catalogue import scaled_catalogue
from madeleine_bench.figures import styled_svg
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.resources import resource_folder

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "results", HERE.parent / "docs"
COHORT, SLIDES, TASK = "bcnb", 1058, "bcnb-er"
BAGS, DIM = 25, 512
BAG_TASK, BAG_LEVELS = "aidpath-her2", ("0-1+", "2+", "3+")
_MBENCH = (sys.executable, "-c", "from madeleine_bench.cli.main import main; main()", "run")
Json = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """The sizes of each curve."""

    slides: tuple[float, ...] = (1, 2, 4, 8, 16)
    patches: tuple[int, ...] = (256, 1024, 4096, 16_384)
    tasks: tuple[int, ...] = (1, 2, 4, 8, 16)
    encoders: tuple[int, ...] = (1, 2, 4, 8)
    base: float = 1.0  # slides of the last two curves, in times those of the cohort
    repeats: int = 2


QUICK = Sizes((0.4, 1), (64, 256), (1, 2), (1, 2), 0.4, 1)


@dataclass(frozen=True)
class Run:
    """One run: the curve and size it belongs to, and what `mbench run` is told."""

    axis: str
    series: str
    size: int
    arguments: tuple[str, ...]


def runs(work: Path, sizes: Sizes) -> Iterator[Run]:
    """Yield every run; what it reads lies in `work` until the next one is asked for."""
    yield from _slide_runs(work, sizes)
    yield from _patch_runs(work, sizes)
    yield from _task_runs(work, sizes)
    yield from _encoder_runs(work, sizes)


def _slide_runs(work: Path, sizes: Sizes) -> Iterator[Run]:
    for factor in sizes.slides:
        catalogue = scaled_catalogue(_fresh(work / "catalogue"), COHORT, factor)
        yield Run("slides", "mean-pool", round(SLIDES * factor), _phantom(catalogue, [TASK]))


def _task_runs(work: Path, sizes: Sizes) -> Iterator[Run]:
    catalogue = scaled_catalogue(_fresh(work / "catalogue"), COHORT, sizes.base)
    text = (catalogue / f"{TASK}.yaml").read_text()
    names = [f"{TASK}-{number:02}" for number in range(1, max(sizes.tasks) + 1)]
    for name in names:
        (catalogue / f"{name}.yaml").write_text(_renamed(text, f"id: {TASK}", f"id: {name}"))
    for count in sizes.tasks:
        yield Run("tasks", "mean-pool", count, _phantom(catalogue, names[:count]))


def _encoder_runs(work: Path, sizes: Sizes) -> Iterator[Run]:
    catalogue = scaled_catalogue(_fresh(work / "catalogue"), COHORT, sizes.base)
    text = (resource_folder("baselines") / "mean-pool.yaml").read_text()
    cards = [str(work / f"mean-pool-{n}.yaml") for n in range(1, max(sizes.encoders) + 1)]
    for card in cards:
        name = f"name: {Path(card).stem}"
        Path(card).write_text(_renamed(text, "name: mean-pool", name))
    for count in sizes.encoders:
        yield Run("encoders", "mean-pool", count, _phantom(catalogue, [TASK], cards[:count]))


def _patch_runs(work: Path, sizes: Sizes) -> Iterator[Run]:
    for patches in sizes.patches:
        config = write_bags(_fresh(work / "bags"), patches)
        for series in ("mean-pool", "untrained"):
            told = ("--encoder", series, "--task", BAG_TASK, "--protocol", "linear-probe/v1")
            local = ("--source", "local", "--config", str(config))
            yield Run("patches", series, patches, (*told, *local))
    _fresh(work / "bags")


def write_bags(folder: Path, patches: int) -> Path:
    """Write a cohort of bags of so many patches and return its mbench.toml.

    The patches are 64 made-up ones again and again, so that writing takes little memory.
    """
    import numpy as np

    from madeleine_bench.data.bags import write_bag_file

    rng = np.random.default_rng(0)
    lines = ["slide_id,case_id,stain,her2_level"]
    for number in range(BAGS):
        features = np.resize(rng.standard_normal((64, DIM)).astype(np.float16), (patches, DIM))
        name = f"slide{number:02}"
        write_bag_file(folder / "features" / f"{name}.h5", features)
        lines.append(f"{name},{name},HER2,{BAG_LEVELS[number % len(BAG_LEVELS)]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    config = folder / "mbench.toml"
    config.write_text('[cohorts.aidpath]\nfeatures = "features"\nlabels = "labels.csv"\n')
    return config


def measure(run: Run, work: Path, repeats: int) -> Json:
    """Return the point of a run: its size, seconds and peak memory in MB.

    Raises:
        RuntimeError: the run failed, or this process is too large to measure it.
    """
    spent, peaks = [], []
    log = work / "log.txt"
    for _ in range(repeats):
        results = _fresh(work / "results")
        command = [*_MBENCH, *run.arguments, "--jobs", "1", "--results", str(results)]
        began = time.perf_counter()
        with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        spent.append(time.perf_counter() - began)
        peaks.append(usage.ru_maxrss / 1024)
        if process.returncode:
            raise RuntimeError(f"{run}: exit {process.returncode}\n{log.read_text()[-2000:]}")
    # A process begins with the peak of the one that starts it.
    if min(peaks) <= (own := own_peak_mb()):
        raise RuntimeError(f"{run}: a peak of {min(peaks):.0f} MB is hidden by our own {own:.0f}")
    return {"size": run.size, "seconds": round(min(spent), 3), "peak_mb": round(max(peaks), 1)}


def own_peak_mb() -> float:
    """Return the peak of this program's resident memory (not of what started it; Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def curve(axis: str, series: str, points: Sequence[Json]) -> Json:
    """Return a curve: its points, the slopes of time and memory, and how much memory grew."""
    size, seconds, memory = ([p[key] for p in points] for key in ("size", "seconds", "peak_mb"))
    return {
        "axis": axis,
        "series": series,
        "points": list(points),
        "time": {**slopes(size, seconds), "means": meaning(slopes(size, seconds)["last_slope"])},
        "memory": {**slopes(size, memory), "ratio": round(memory[-1] / memory[0], 3)},
        "size_ratio": round(size[-1] / size[0], 3),
    }


def slopes(size: Sequence[float], value: Sequence[float]) -> dict[str, float]:
    """Return the slope of log value over log size with its standard error, and the last one."""
    import numpy as np
    from scipy.stats import linregress

    x, y = np.log(size), np.log(value)
    line = linregress(x, y)
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return {
        "slope": round(float(line.slope), 3),
        "stderr": round(float(line.stderr), 3) if len(x) > 2 else 0.0,
        "last_slope": round(float(last), 3),
    }


def meaning(slope: float) -> str:
    """Return in words what a slope says.

    Examples:
        >>> meaning(0.3)
        'slower than the size: what is done once still weighs'
    """
    if slope < 0.9:
        return "slower than the size: what is done once still weighs"
    return "with the size" if slope <= 1.1 else "faster than the size"


def markdown_rows(curves: Sequence[Json]) -> list[str]:
    """Return a table's rows: curve, sizes, seconds, slopes of time, memory at either end."""
    found = []
    for one in curves:
        first, last = one["points"][0], one["points"][-1]
        found.append(
            f"| {one['axis']}, {one['series']} | {first['size']:,} to {last['size']:,} "
            f"| {first['seconds']:.1f} to {last['seconds']:.1f} s | {one['time']['slope']:.2f} "
            f"| {one['time']['last_slope']:.2f} | {first['peak_mb']:.0f} to "
            f"{last['peak_mb']:.0f} MB | {one['memory']['ratio']:.2f} |"
        )
    return found


def main() -> None:
    """Measure, print the table, write it and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small sizes of each, once")
    parser.add_argument("--out", type=Path, help="folder of growth.json and growth.svg")
    asked = parser.parse_args()
    load_before = os.getloadavg()[0]
    sizes = QUICK if asked.quick else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        curves = measure_all(Path(folder), sizes)
    report = {
        **machine_provenance(),
        "load_before": round(load_before, 2),
        "repeats": sizes.repeats,
        "curves": curves,
    }
    write_text((asked.out or RESULTS) / "growth.json", json.dumps(report, indent=1) + "\n")
    write_bytes((asked.out or DOCS) / "growth.svg", styled_svg(growth_chart(curves)).encode())
    print("\n".join(markdown_rows(curves)))


def measure_all(work: Path, sizes: Sizes) -> list[Json]:
    """Return all curves; what the runs make is left in `work`."""
    points: dict[tuple[str, str], list[Json]] = {}
    for run in runs(work, sizes):
        point = measure(run, work, sizes.repeats)
        points.setdefault((run.axis, run.series), []).append(point)
        print(run.axis, run.series, json.dumps(point), flush=True)
    return [curve(*key, found) for key, found in points.items()]


def _phantom(
    catalogue: Path, tasks: Sequence[str], encoders: Sequence[str] = ("mean-pool",)
) -> tuple[str, ...]:
    named = [word for task in tasks for word in ("--task", task)]
    named += [word for encoder in encoders for word in ("--encoder", encoder)]
    return (*named, "--source", "phantom", "--catalogue", str(catalogue))


def _renamed(text: str, old: str, new: str) -> str:
    assert text.count(old + "\n") == 1, old
    return text.replace(old + "\n", new + "\n")


def _fresh(folder: Path) -> Path:
    """Return a path where nothing lies any more."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    main()
