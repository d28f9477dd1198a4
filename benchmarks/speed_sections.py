"""What pretrain_speed.py measures: steps, the plain implementation, a whole run, two precisions.

Model, losses, batches and the steps themselves are the package's own; see `acrobat_scale` for the
patches and `step_clock` for how a step is taken apart.
"""

import gc
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.acrobat_scale import MadeUpRegions, MadeUpSource
from benchmarks.plain_madeleine import PlainMadeleine, first_cases, plain_step
from benchmarks.step_clock import (
    Clock,
    Mark,
    Spans,
    end_of_epoch_ms,
    parts_ms,
    places_that_wait,
    profile_steps,
    spread,
    watching,
)
from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.pretrain import run as run_module
from madeleine_bench.pretrain.batches import CaseBatch, draw_batch
from madeleine_bench.pretrain.log import read_log
from madeleine_bench.pretrain.parallel import Group
from madeleine_bench.pretrain.recipe import Recipe, with_changes
from madeleine_bench.pretrain.run import LOG, Run

# The matrix products of a patch, forward and backward: 512 x 512 twice, 512 x 2048 and 4 x 512 x
# 1024, and what pools and projects them, are 21.5 MFLOP; an H200 does 790 TFLOP/s of bf16 on large
# ones. A full batch of ACROBAT, 65 cases x 3.65 slides x 2,048 patches, so takes 13.4 ms at least.
FLOP_A_PATCH, H200_FLOP_A_S = 21.5e6, 790e12
GEMM_FLOOR_MS = 13.4
FLOOR_PATCHES_A_S = 36e6
GOAL_EPOCHS, GOAL_WALL_S = 120, 90.0
DRAWN_WITH = ("altair", "vl_convert")
_BATCHES = 3  # profiled, or given to the plain implementation
_DRAWS = 5


@dataclass(frozen=True)
class Amounts:
    """How much of each thing is done.

    Attributes:
        warm_up: steps before any that are timed.
        steps: steps that are timed.
        profiled_steps: steps whose launches are counted, at most.
        plain_steps: steps of the plain implementation that are timed.
        epochs: of the whole run.
        compare_epochs: of the run in each precision.
    """

    warm_up: int
    steps: int
    profiled_steps: int
    plain_steps: int
    epochs: int
    compare_epochs: int


@dataclass(frozen=True)
class Speed:
    """What is measured, on what, and within what time.

    Attributes:
        store: the slides.
        recipe: as shipped, or the toy's.
        group: this process and its device.
        amounts: how much of each thing is done.
        out: folder for what is kept of the whole run.
        deadline_s: when to stop, on the clock of `time.perf_counter`.
        toy: whether the size is that of a trial, so that no number means anything.
        found: what the sections before have found.
    """

    store: FeatureStore = field(repr=False)
    recipe: Recipe
    group: Group
    amounts: Amounts
    out: Path
    deadline_s: float
    toy: bool
    found: Mapping[str, Any]

    @property
    def left_s(self) -> float:
        """Seconds left of the budget."""
        return self.deadline_s - time.perf_counter()

    @property
    def clock(self) -> Clock:
        """The clock of the device."""
        return Clock(self.group.device)

    @contextmanager
    def run(self, *changes: str) -> Iterator[Run]:
        """Yield a new run with its patches on the device; its folder is gone afterwards.

        `changes` to the recipe are those of `mbench pretrain --set`.
        """
        recipe = with_changes(self.recipe, changes)
        source = MadeUpSource(self.store, self.group.device, recipe.seed)
        with tempfile.TemporaryDirectory() as folder, _drawing_if_possible():
            with patch.object(run_module, "choose_source", lambda *_: source):
                run = Run(recipe, self.store, Path(folder), self.group)
            reset_peak(self.clock)
            yield run


@dataclass(frozen=True)
class Taken:
    """One step, as it was taken.

    Attributes:
        begin: when the step before had ended, and the end of its epoch.
        end: when this one had.
        waited_ms: the host's time until the batch was there.
        host_ms: the host's time in the step.
        loss: of the step.
        slides: of the batch.
        patches: of the batch.
    """

    begin: Mark
    end: Mark
    waited_ms: float
    host_ms: float
    loss: float
    slides: int
    patches: int


def take_steps(run: Run, clock: Clock) -> Iterator[Taken]:
    """Take steps for ever, epoch after epoch, in the order of the loop of `mbench pretrain`."""
    while True:
        before, begin = time.perf_counter(), clock.mark()
        for batch in run.rest_of_epoch():
            there, so_far = time.perf_counter(), run.state.sums.get("loss", 0.0)
            run.step(batch)
            after, end = time.perf_counter(), clock.mark()
            loss = run.state.sums["loss"] - so_far
            if run.state.step == run.steps_per_epoch:
                run.end_epoch()
            waited_ms, host_ms = 1e3 * (there - before), 1e3 * (after - there)
            yield Taken(
                begin, end, waited_ms, host_ms, loss, len(batch.lengths), sum(batch.lengths)
            )
            before, begin = time.perf_counter(), clock.mark()


def measure_steps(speed: Speed) -> dict[str, Any]:
    """Return the time of steps and of their parts, launches, waits, throughput and memory."""
    clock, amounts = speed.clock, speed.amounts
    with speed.run() as run:
        taken = list(islice(take_steps(run, clock), amounts.warm_up + amounts.steps))
        taken = taken[amounts.warm_up :]
        peak, reserved = peak_gb(clock), peak_reserved_gb(clock)
        found = _throughput(taken, clock)
        spans = Spans(clock)
        with watching(run, spans):
            # An epoch more than the steps asked for, so that the end of one is among them.
            for _ in islice(take_steps(run, clock), amounts.steps + run.steps_per_epoch):
                spans.number += 1
        ends, parts = end_of_epoch_ms(spans), parts_ms(spans)
        epoch_s = run.steps_per_epoch * found["ms_per_step"]["median"] + ends["end_of_epoch"]
        batches = list(islice(run.rest_of_epoch(), _BATCHES))
        return {
            **found,
            "floor": None if speed.toy else _beside_the_floor(found),
            "steps_per_epoch": run.steps_per_epoch,
            "epoch_s": round(epoch_s / 1e3, 3),
            "parts_ms": parts,
            "local_share": round(parts["local"] / parts["step"], 4),
            "end_of_epoch_ms": ends,
            "drawing_ms": _drawing_ms(run, clock),
            "per_step": profile_steps(run, batches[: amounts.profiled_steps]),
            "places_that_wait": places_that_wait(run, batches[0]),
            "resident_gb": round(speed.store.nbytes / 1e9, 2),
            "peak_memory_gb": peak,
            "peak_reserved_gb": reserved,
        }


def measure_aligned(speed: Speed) -> dict[str, Any]:
    """Return what `measure_steps` does, of the preset "aligned" with made-up plans."""
    recipe = with_changes(speed.recipe, ["objective.preset=aligned"])
    with patch.object(run_module, "RegionSource", MadeUpRegions):
        return measure_steps(replace(speed, recipe=recipe))


def measure_plain(speed: Speed) -> dict[str, Any]:
    """Return the time of the plain implementation's step, and how many times ours it takes.

    Its batches are drawn beforehand and stay on the device, so drawing them is in our time alone.
    Where a batch does not fit into memory, half of its cases are tried; the ratio is by the case.
    """
    batches, stains, weights = _batches_and_weights(speed)
    cases = batches[0].cases
    while (
        times := _plain_ms(speed, weights, [first_cases(b, cases) for b in batches], stains)
    ) is None:
        cases //= 2
        if cases < 2:
            return {"failed": "two cases do not fit into the memory of the device"}
    ours = speed.found.get("steps", {}).get("ms_per_step")
    of_plain = spread(times)
    by_case = of_plain["median"] / cases
    return {
        "cases": cases,
        "cases_of_ours": batches[0].cases,
        "ms_per_step": of_plain,
        "ms_per_case": round(by_case, 3),
        "times_ours_by_the_case": (
            round(by_case / (ours["median"] / batches[0].cases), 2) if ours else None
        ),
        "peak_memory_gb": peak_gb(speed.clock),
    }


def measure_full(speed: Speed) -> dict[str, Any]:
    """Return the wall time of a whole run; its log is kept beside the report."""
    epochs = speed.amounts.epochs
    warm_up = min(speed.recipe.optimiser.warmup_epochs, epochs - 1)
    with speed.run(f"epochs={epochs}", f"optimiser.warmup_epochs={warm_up}") as run:
        began = time.perf_counter()
        for _ in take_steps(run, speed.clock):
            if run.state.epoch == epochs or speed.left_s <= 0:
                break
        wall, state = time.perf_counter() - began, run.state
        found: dict[str, Any] = {
            "epochs": epochs,
            "epochs_done": state.epoch,
            "stopped_by_the_budget": state.epoch < epochs,
            "wall_s": round(wall, 2),
            "goal": {"epochs": GOAL_EPOCHS, "wall_s": GOAL_WALL_S},
            "goal_met": None if speed.toy or state.epoch < GOAL_EPOCHS else wall <= GOAL_WALL_S,
            "best_epoch": state.best_epoch,
            "peak_memory_gb": peak_gb(speed.clock),
        }
        if state.epoch:
            log = read_log(run.out / LOG)
            speed.out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.out / LOG, speed.out / LOG)
            found["wall_s_per_epoch"] = round(wall / state.epoch, 4)
            found["seconds_in_steps"] = round(float(log["seconds"].sum()), 2)
            found["held_out_retrieval"] = state.best
            found["held_out_chance"] = float(log["held_out_chance"].iloc[-1])
            found["loss"] = [float(log["loss"].iloc[0]), float(log["loss"].iloc[-1])]
        return found


def measure_precision(speed: Speed) -> dict[str, Any]:
    """Return the loss of each of the first steps in bf16 and in fp32, and how far apart they are.

    The schedule is that of the whole run, of which these are the first epochs.
    """
    curves, took = {}, {}
    for precision in ("bf16", "fp32"):
        curves[precision], took[precision] = _losses(speed, precision)
        free_memory()
    common = min(map(len, curves.values()))
    bf16, fp32 = (np.array(curves[name][:common]) for name in ("bf16", "fp32"))
    apart = np.abs(bf16 - fp32)
    return {
        "epochs": speed.amounts.compare_epochs,
        "steps_compared": common,
        "loss": curves,
        "ms_per_step": took,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "largest_difference": float(apart.max()),
        "mean_relative_difference": float((apart / np.abs(fp32)).mean()),
    }


def reset_peak(clock: Clock) -> None:
    """Forget the peak of the device's memory so far."""
    if clock.on_gpu:
        torch.cuda.reset_peak_memory_stats()


def peak_gb(clock: Clock) -> float | None:
    """Return the most memory that tensors took on the device since `reset_peak`; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if clock.on_gpu else None


def peak_reserved_gb(clock: Clock) -> float | None:
    """Return the most memory that PyTorch held on the device since `reset_peak`; None on a CPU."""
    return round(torch.cuda.max_memory_reserved() / 1e9, 2) if clock.on_gpu else None


def free_memory() -> None:
    """Give back the device memory of what nobody refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _throughput(taken: Sequence[Taken], clock: Clock) -> dict[str, Any]:
    """Return the time of some steps on device and host, and the throughput by the median."""
    clock.wait()
    of_device = spread([clock.ms(step.begin, step.end) for step in taken])
    slides = fmean(step.slides for step in taken)
    patches = fmean(step.patches for step in taken)
    per_s = 1e3 / of_device["median"]
    return {
        "ms_per_step": of_device,
        "host_ms_per_step": spread([step.host_ms for step in taken]),
        "host_waits_for_batch_ms": spread([step.waited_ms for step in taken]),
        "slides_per_step": round(slides, 1),
        "patches_per_step": round(patches),
        "slides_per_s": round(slides * per_s, 1),
        "patches_per_s": round(patches * per_s),
    }


def _beside_the_floor(found: Mapping[str, Any]) -> dict[str, float]:
    """Return how a step of the full-size model compares with its matrix products on an H200."""
    middle, patches = found["ms_per_step"]["median"], found["patches_per_step"]
    return {
        "gemm_floor_ms": GEMM_FLOOR_MS,
        "gemm_floor_ms_of_these_patches": round(1e3 * patches * FLOP_A_PATCH / H200_FLOP_A_S, 3),
        "times_the_gemm_floor": round(middle / GEMM_FLOOR_MS, 2),
        "floor_patches_per_s": FLOOR_PATCHES_A_S,
        "share_of_floor_patches_per_s": round(found["patches_per_s"] / FLOOR_PATCHES_A_S, 4),
    }


def _drawing_ms(run: Run, clock: Clock) -> dict[str, float]:
    """Return the median milliseconds of drawing a full batch with nothing else going on.

    "host" is until the host has done its part, "whole" until the patches are there.
    """
    found: dict[str, list[float]] = {"host": [], "whole": []}
    positions = np.arange(min(run.recipe.batch_cases, len(run.cases)))
    draw = partial(draw_batch, patches=run.recipe.patches, seed=run.recipe.seed)
    for epoch in range(_DRAWS):
        began = time.perf_counter()
        draw(run.source, run.cases, positions, epoch=epoch)
        for name in found:
            found[name].append(1e3 * (time.perf_counter() - began))
            clock.wait()
    return {name: round(median(values), 3) for name, values in found.items()}


def _batches_and_weights(speed: Speed) -> tuple[list[CaseBatch], int, dict[str, Tensor]]:
    """Return some batches, the number of stains, and the weights at the start of a run."""
    with speed.run() as run:
        batches = list(islice(run.rest_of_epoch(), _BATCHES))
        weights = {name: value.clone() for name, value in run.model.state_dict().items()}
        return batches, len(run.cases.stains), weights


def _plain_ms(
    speed: Speed, weights: dict[str, Tensor], batches: Sequence[CaseBatch], stains: int
) -> list[float] | None:
    """Return the milliseconds of each plain step; None where memory ran out."""
    free_memory()
    recipe, clock, found = speed.recipe, speed.clock, []
    reset_peak(clock)
    size = recipe.model
    model = PlainMadeleine(speed.store.dim, size.width, size.heads, size.dropout)
    model.load_state_dict(weights)
    model.to(speed.group.device)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.optimiser.learning_rate,
        weight_decay=recipe.optimiser.weight_decay,
    )
    try:
        for number in range(speed.amounts.warm_up + speed.amounts.plain_steps):
            begin = clock.mark()
            plain_step(
                model, optimiser, batches[number % len(batches)], stains, recipe.objective,
                _precision(recipe, speed.group.device), recipe.optimiser.clip_norm,
            )  # fmt: skip
            found.append((begin, clock.mark()))
            if speed.left_s <= 0:
                break
    except torch.OutOfMemoryError:
        return None
    clock.wait()
    timed = found[min(speed.amounts.warm_up, len(found) - 1) :]
    return [clock.ms(*marks) for marks in timed]


def _losses(speed: Speed, precision: str) -> tuple[list[float], dict[str, float]]:
    """Return the loss of each step in a precision, and the spread of the steps' milliseconds."""
    clock, taken = speed.clock, []
    with speed.run(f"precision={precision}") as run:
        for step in take_steps(run, clock):
            taken.append(step)
            if len(taken) == speed.amounts.compare_epochs * run.steps_per_epoch:
                break
            if speed.left_s <= 0:
                break
    clock.wait()
    return [step.loss for step in taken], spread([clock.ms(step.begin, step.end) for step in taken])


def _precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _drawing_if_possible() -> AbstractContextManager[Any]:
    """Return a context in which a run does without curves where the packages are not there."""
    if all(find_spec(name) for name in DRAWN_WITH):
        return nullcontext()
    return patch.object(run_module, "loss_curves_svg", lambda *_: "")
