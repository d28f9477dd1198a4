"""Time and memory of graph transport against a plain unrolled implementation; written as JSON.

Forward and backward on 32 pairs of token sets, on the CPU, float32, thresholds of each pair
(`objective: corrected`). The implementations take turns, so that what else the machine does hits
all of them; peak memory is measured in a process of its own for each. Run from the root of the
repository on a machine with nothing else to do (about two minutes, Linux):

    PYTHONPATH=. python benchmarks/transport.py

`--step` measures a whole training step instead, at toy size (some seconds), against the plain,
padded implementation of plain_madeleine.py, and puts it beside the rows already in the file.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.acrobat_scale import TOY, MadeUpSource, made_up_store
from benchmarks.plain_madeleine import PlainMadeleine, plain_step
from madeleine_bench.files import write_text
from madeleine_bench.losses.transport import graph_transport
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.batches import CaseBatch, draw_batch
from madeleine_bench.pretrain.cases import build_cases
from madeleine_bench.pretrain.objective import cross_stain_loss
from madeleine_bench.pretrain.parallel import Group
from madeleine_bench.pretrain.recipe import ObjectiveRecipe
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "transport.json"
REFERENCE = HERE.parent / "tests" / "losses" / "reference.py"
PAIRS, DIM, BLOBS = 32, 128, 6
SIZES = (48, 64, 128, 256)
STEP_CASES, STEP_PATCHES, STEP_TOKENS, STEP_WIDTH, STEP_HEADS = 12, 48, 32, 64, 4
CHECKED_PAIRS = 4  # compared with float64, where the plain one takes too much memory for all
Terms = tuple[Tensor, Tensor]


def plain_module() -> ModuleType:
    """Return the slow reference of the tests, loaded from its file."""
    spec = importlib.util.spec_from_file_location("slow_reference", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def implementations() -> dict[str, Callable[[Tensor, Tensor], Terms]]:
    """Return what is compared, by name."""
    plain = plain_module()

    def ours(x: Tensor, y: Tensor) -> Terms:
        found = graph_transport(x, y)
        return found.wasserstein, found.gromov

    return {
        "plain": lambda x, y: plain.graph_transport(x, y, per_pair=True, detach=True),
        "unrolled": ours,
    }


def tokens(n: int) -> tuple[Tensor, Tensor]:
    """Return two sides of tokens, pair x n x dim: loose blobs, the same ones on both sides."""
    rng = rng_for("transport-benchmark", n)
    blobs = rng.standard_normal((BLOBS, DIM))
    sides = (
        blobs[rng.integers(BLOBS, size=(PAIRS, n))] + 2.0 * rng.standard_normal((PAIRS, n, DIM))
        for _ in range(2)
    )
    x, y = (torch.from_numpy(side.astype(np.float32)).requires_grad_() for side in sides)
    return x, y


def step(terms: Callable[[Tensor, Tensor], Terms], x: Tensor, y: Tensor) -> list[Tensor]:
    """Return both terms and the gradients of the sum of their means."""
    wasserstein, gromov = terms(x, y)
    gradients = torch.autograd.grad(wasserstein.mean() + gromov.mean(), (x, y))
    return [wasserstein.detach(), gromov.detach(), *gradients]


def times_ms(n: int, repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of every run after a first one, the implementations in turn."""
    x, y = tokens(n)
    found: dict[str, list[float]] = {name: [] for name in implementations()}
    for _ in range(repeats + 1):
        for name, terms in implementations().items():
            start = time.perf_counter()
            step(terms, x, y)
            found[name].append(1000 * (time.perf_counter() - start))
    return {name: values[1:] for name, values in found.items()}


def peak_mb(name: str, n: int) -> float:
    """Return by how many MB one step raises the resident memory of this process at its peak."""
    x, y = tokens(n)
    terms = implementations()[name]
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = resident_peak_mb()
    step(terms, x, y)
    return resident_peak_mb() - before


def resident_peak_mb() -> float:
    """Return the peak of resident memory (of this program, not of what started it; Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def peak_mb_elsewhere(name: str, n: int, threads: int) -> float:
    """Return `peak_mb` measured in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--peak", name, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the largest expected entry."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def differences(n: int) -> dict[str, dict[str, float]]:
    """Return how far values and gradients lie from the plain ones, and both from float64."""
    x, y = (side.detach()[:CHECKED_PAIRS].requires_grad_() for side in tokens(n))
    compared = implementations()
    doubles = (side.detach().double().requires_grad_() for side in (x, y))
    exact = step(compared["plain"], *doubles)
    plain, ours = step(compared["plain"], x, y), step(compared["unrolled"], x, y)
    report = {}
    for name, found, expected in (
        ("unrolled_to_plain", ours, plain),
        ("unrolled_to_float64", ours, exact),
        ("plain_to_float64", plain, exact),
    ):
        apart = [difference(a, b) for a, b in zip(found, expected, strict=True)]
        report[name] = {"values": max(apart[:2]), "gradients": max(apart[2:])}
    return report


def measure(n: int, repeats: int, threads: int) -> dict[str, Any]:
    """Return the table's row for one number of tokens."""
    runs = times_ms(n, repeats)
    median = {name: statistics.median(values) for name, values in runs.items()}
    peak = {name: peak_mb_elsewhere(name, n, threads) for name in runs}
    return {
        "tokens": n,
        "median_ms": {name: round(value, 1) for name, value in median.items()},
        "fastest_ms": {name: round(min(values), 1) for name, values in runs.items()},
        "times_faster": {name: round(median["plain"] / median[name], 2) for name in runs},
        "peak_mb": {name: round(value, 1) for name, value in peak.items()},
        "share_of_memory": {name: round(peak[name] / peak["plain"], 4) for name in runs},
        "differences": differences(n),
    }


def step_row(repeats: int) -> dict[str, Any]:
    """Return the time of a training step of ours and of the plain implementation, in turn.

    Both start from the same weights and see the same batch; without dropout, so that the losses
    of their first steps can be compared.
    """
    store = made_up_store(replace(TOY, mean_patches=64.0, fewest=STEP_PATCHES), 0)
    cases = build_cases(store, min_patches=2, unusable="refuse", encoder="madeleine")
    cpu, stains = torch.device("cpu"), len(cases.stains)
    source = MadeUpSource(store, cpu, 0)
    batch = draw_batch(source, cases, range(STEP_CASES), patches=STEP_PATCHES, seed=0, epoch=0)
    recipe = ObjectiveRecipe(temperature=0.1, tokens=STEP_TOKENS)
    ours = Madeleine(store.dim, STEP_WIDTH, STEP_HEADS, dropout=0.0)
    initialise(ours, 0)
    plain = PlainMadeleine(store.dim, STEP_WIDTH, STEP_HEADS, 0.0)
    plain.load_state_dict(ours.state_dict())
    first, second = (torch.optim.AdamW(model.parameters(), lr=1e-4) for model in (ours, plain))

    def our_step() -> float:
        loss = cross_stain_loss(ours, batch, stains, recipe, Group(0, 1, cpu))
        first.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        first.step()
        return float(loss.terms["loss"])

    def their_step() -> float:
        return plain_step(plain, second, batch, stains, recipe, nullcontext(), 1.0)["loss"]

    taken = {"plain": their_step, "ours": our_step}
    found: dict[str, list[float]] = {name: [] for name in taken}
    losses: dict[str, float] = {}
    for _ in range(repeats + 1):
        for name, step_of in taken.items():
            start = time.perf_counter()
            losses.setdefault(name, step_of())
            found[name].append(1000 * (time.perf_counter() - start))
    median = {name: statistics.median(values[1:]) for name, values in found.items()}
    return {
        **_sizes(batch, store.dim, stains),
        "median_ms": {name: round(value, 1) for name, value in median.items()},
        "times_faster": round(median["plain"] / median["ours"], 2),
        "loss_apart": abs(losses["plain"] - losses["ours"]) / losses["plain"],
    }


def _sizes(batch: CaseBatch, dim: int, stains: int) -> dict[str, int]:
    return {
        "cases": batch.cases, "stains": stains, "slides": len(batch.lengths),
        "patches": STEP_PATCHES, "dim": dim, "width": STEP_WIDTH, "heads": STEP_HEADS,
        "tokens": STEP_TOKENS,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'tokens':>6} {'':>10} {'median ms':>10} {'faster':>8} {'peak MB':>9} {'share':>7}"]
    for row in rows:
        for name in row["median_ms"]:
            lines.append(
                f"{row['tokens']:>6} {name:>10} {row['median_ms'][name]:>10.1f} "
                f"{row['times_faster'][name]:>7.1f}x {row['peak_mb'][name]:>9.1f} "
                f"{row['share_of_memory'][name]:>7.1%}"
            )
        apart = row["differences"]["unrolled_to_plain"]
        lines.append(
            f"{'':>6} unrolled to plain: values {apart['values']:.0e}, "
            f"gradients {apart['gradients']:.0e}"
        )
    return "\n".join(lines)


def kept(path: Path) -> dict[str, Any]:
    """Return what a file of results holds; nothing where there is none."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def add_step(path: Path, repeats: int, threads: int, load: float) -> None:
    """Measure a training step, and put it into the file beside what that holds."""
    row = step_row(repeats)
    about = {**machine_provenance(), "threads": threads, "load_before": round(load, 2)}
    report = {**kept(path), "step": {**about, "repeats": repeats, **row}}
    write_text(path, json.dumps(report, indent=1) + "\n")
    print(json.dumps(row))


def main() -> None:
    """Write the report and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--step", action="store_true", help="a whole step, at toy size")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--peak", nargs=2, metavar=("NAME", "TOKENS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.peak:
        print(peak_mb(chosen.peak[0], int(chosen.peak[1])))
        return
    load = os.getloadavg()[0]
    if chosen.step:
        add_step(chosen.out, chosen.repeats, chosen.threads, load)
        return
    rows = [measure(n, chosen.repeats, chosen.threads) for n in chosen.sizes]
    report = {
        **machine_provenance(),
        "threads": chosen.threads,
        "load_before": round(load, 2),
        "pairs": PAIRS,
        "dim": DIM,
        "repeats": chosen.repeats,
        "rows": rows,
    }
    if "step" in (before := kept(chosen.out)):
        report["step"] = before["step"]
    write_text(chosen.out, json.dumps(report, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
