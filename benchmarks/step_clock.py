"""Where the time of a training step goes: parts, kernel launches, and waits for the device.

The steps are the trainer's own. Functions it calls are wrapped while they are watched, so nothing
is timed but what runs.
"""

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from madeleine_bench.pretrain import objective as objective_module
from madeleine_bench.pretrain import run as run_module
from madeleine_bench.pretrain.batches import CaseBatch
from madeleine_bench.pretrain.objective import cross_stain_loss
from madeleine_bench.pretrain.parallel import sum_gradients
from madeleine_bench.pretrain.run import Run

Mark = Any  # a time in seconds on the CPU, else an event of the device's stream
PARTS = (
    "model_forward", "contrast", "local", "rest_of_losses", "backward", "clip", "optimiser",
    "rest",
)  # fmt: skip
END_OF_EPOCH = ("held_out", "checkpoint", "curves", "end_of_epoch")
# How the calls begin; releases of CUDA put different letters behind.
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")
COPIES = ("cudaMemcpyAsync", "cudaMemsetAsync")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_KERNELS_NAMED, _NAME = 12, 100


class Clock:
    """Marks on the time line of a device; they are read once it has caught up."""

    def __init__(self, device: torch.device) -> None:
        """Read the device's own time on a GPU, and this process's elsewhere."""
        self.on_gpu = device.type == "cuda"

    def mark(self) -> Mark:
        """Return the moment at which the device has done all it was given so far."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ms(self, begin: Mark, end: Mark) -> float:
        """Return the milliseconds between two marks, after `wait`."""
        return float(begin.elapsed_time(end)) if self.on_gpu else 1e3 * float(end - begin)

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()


class Spans:
    """Named stretches of time, added up for each step."""

    def __init__(self, clock: Clock) -> None:
        """Measure with a clock."""
        self.clock = clock
        self.number = 0
        self._begun: dict[str, Mark] = {}
        self._found: list[tuple[int, str, Mark, Mark]] = []

    def begin(self, name: str) -> None:
        """Begin a stretch."""
        self._begun[name] = self.clock.mark()

    def end(self, name: str) -> None:
        """End a stretch; one that has not begun is no stretch."""
        if name in self._begun:
            self._found.append((self.number, name, self._begun.pop(name), self.clock.mark()))

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a stretch around each call."""

        def timed(*given: Any, **named: Any) -> Any:
            self.begin(name)
            try:
                return function(*given, **named)
            finally:
                self.end(name)

        return timed

    def ms(self) -> list[dict[str, float]]:
        """Return for each step the milliseconds of each name, 0 for a name it does not have."""
        self.clock.wait()
        sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for number, name, begin, end in self._found:
            sums[number][name] += self.clock.ms(begin, end)
        return [sums[number] for number in sorted(sums)]


@contextmanager
def watching(run: Run, spans: Spans) -> Iterator[None]:
    """Mark the parts of every step, and of every end of an epoch, that is taken in the block."""
    losses = spans.around("losses", cross_stain_loss)

    def losses_then_backward(*given: Any) -> Any:
        found = losses(*given)
        spans.begin("backward")
        return found

    def backward_ends(*given: Any) -> None:
        spans.end("backward")
        spans.begin("clip")
        sum_gradients(*given)

    def clip_ends(*_: Any) -> None:
        spans.end("clip")
        spans.begin("optimiser")

    replaced = [
        (run_module, "cross_stain_loss", losses_then_backward),
        (run_module, "sum_gradients", backward_ends),
        (run, "step", spans.around("step", run.step)),
        (run, "end_epoch", spans.around("end_of_epoch", run.end_epoch)),
        (run, "save", spans.around("checkpoint", run.save)),
        *(
            (module, name, spans.around(part, getattr(module, name)))
            for module, name, part in (
                (objective_module, "embed", "model_forward"),
                (objective_module, "info_nce", "contrast"),
                (run.preset, "local", "local"),
                (run_module, "evaluate_held_out", "held_out"),
                (run_module, "loss_curves_svg", "curves"),
            )
        ),
    ]
    hooks = (
        run.optimiser.register_step_pre_hook(clip_ends),
        run.optimiser.register_step_post_hook(lambda *_: spans.end("optimiser")),
    )
    with ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(patch.object(owner, name, function))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def parts_ms(spans: Spans) -> dict[str, float]:
    """Return the median milliseconds of each part of a step, and of what is beside them."""
    steps = [of_step for of_step in spans.ms() if of_step["step"]]
    for of_step in steps:
        inside = of_step["model_forward"] + of_step["contrast"] + of_step["local"]
        of_step["rest_of_losses"] = of_step["losses"] - inside
        after = sum(of_step[name] for name in ("losses", "backward", "clip", "optimiser"))
        of_step["rest"] = of_step["step"] - after
    return {name: round(median(s[name] for s in steps), 3) for name in (*PARTS, "step")}


def end_of_epoch_ms(spans: Spans) -> dict[str, float]:
    """Return the median milliseconds of the end of an epoch and of its parts; {} if none ended.

    Curves are drawn now and then only, so theirs is the median over the times they were drawn.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for of_step in spans.ms():
        for name in END_OF_EPOCH:
            if of_step[name]:
                found[name].append(of_step[name])
    return {name: round(median(values), 3) for name, values in found.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return number, median, quartiles and range of some milliseconds."""
    low, middle, high = quantiles(values, n=4) if len(values) > 1 else 3 * [values[0]]
    numbers = {"median": middle, "quartile_1": low, "quartile_3": high}
    numbers |= {"fastest": min(values), "slowest": max(values)}
    return {"steps": len(values), **{name: round(value, 3) for name, value in numbers.items()}}


def profile_steps(run: Run, batches: Sequence[CaseBatch]) -> dict[str, Any]:
    """Return, for one step on average, launches, copies, waits and the longest kernels.

    Device numbers are None without a GPU. `device_busy_ms` is what the kernels take, one after
    the other: what is left of a step is the device waiting to be told what to do.
    """
    on_gpu = run.group.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + on_gpu * [ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler:
        for batch in batches:
            run.step(batch)
    averages = profiler.key_averages()
    steps = len(batches)

    def count(names: str | tuple[str, ...]) -> float:
        return float(sum(a.count for a in averages if a.key.startswith(names))) / steps

    kernels = [
        a for a in averages
        if a.device_type.name == "CUDA" and not getattr(a, "is_user_annotation", False)
    ]  # fmt: skip
    kernels.sort(key=lambda kernel: -kernel.self_device_time_total)
    busy = sum(kernel.self_device_time_total for kernel in kernels) / 1e3 / steps
    return {
        "launches": count(LAUNCHES) if on_gpu else None,
        "copies": count(COPIES) if on_gpu else None,
        "waits": count(WAITS) if on_gpu else None,
        "kernels": sum(kernel.count for kernel in kernels) / steps if on_gpu else None,
        "operators": count("aten::"),
        "device_busy_ms": round(busy, 3) if on_gpu else None,
        "longest_kernels": [
            {
                "name": kernel.key[:_NAME],
                "launches": kernel.count / steps,
                "ms": round(kernel.self_device_time_total / 1e3 / steps, 3),
            }
            for kernel in kernels[:_KERNELS_NAMED]
        ],
    }


def places_that_wait(run: Run, batch: CaseBatch) -> dict[str, int]:
    """Return each line of code at which a step waits for the device, with how often; {} on a CPU.

    What PyTorch does not report (such as memory that has to be found anew) is not among them.
    """
    if run.group.device.type != "cuda":
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = (f"{Path(w.filename).parent.name}/{Path(w.filename).name}:{w.lineno}" for w in caught)
    return dict(Counter(places).most_common())
