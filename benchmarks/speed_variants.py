"""The same step computed in other ways: transport with and without kernels, layers compiled."""

import os
import time
from itertools import islice
from typing import Any
from unittest.mock import patch

from benchmarks.speed_sections import Speed, take_steps, transport_by, transport_share
from benchmarks.step_clock import Spans, parts_ms, profile_steps, spread, watching
from madeleine_bench.errors import CheckFailed
from madeleine_bench.losses import fused


def measure_transport(speed: Speed) -> dict[str, Any]:
    """Return the time of steps, of the transport in them, and launches, without and with kernels.

    `times_faster` is of the transport alone. Where the kernels do not work, the reason is given.
    """
    found: dict[str, Any] = {}
    for choice in ("torch", "triton"):
        if choice == "triton" and not speed.clock.on_gpu:
            found[choice] = {"left_out": "the kernels are for a GPU"}
            continue
        with patch.dict(os.environ, {fused.SETTING: choice}):
            try:
                found[choice] = _steps(speed)
            except CheckFailed as error:
                found[choice] = {"left_out": str(error)}
    if "parts_ms" in found["triton"]:
        torch_ms, triton_ms = (found[name]["parts_ms"]["transport"] for name in fused.CHOICES[1:])
        found["times_faster"] = round(torch_ms / triton_ms, 2)
    return found


def measure_compile(speed: Speed) -> dict[str, Any]:
    """Return the time of steps with compiled layers, and how many times faster than without.

    `first_step_s` holds the compilation; the run pays for it once.
    """
    found = _steps(speed, "compile=true")
    plain = speed.found.get("steps", {}).get("ms_per_step")
    faster = plain["median"] / found["ms_per_step"]["median"] if plain else None
    return {**found, "times_faster": faster and round(faster, 3)}


def _steps(speed: Speed, *changes: str) -> dict[str, Any]:
    """Return what some steps take of a run with changes to its recipe."""
    clock, amounts = speed.clock, speed.amounts
    with speed.run(*changes) as run:
        began = time.perf_counter()
        next(take_steps(run, clock))
        clock.wait()
        first = time.perf_counter() - began
        list(islice(take_steps(run, clock), amounts.warm_up))
        taken = list(islice(take_steps(run, clock), amounts.variant_steps))
        clock.wait()
        of_device = spread([clock.ms(step.begin, step.end) for step in taken])
        spans = Spans(clock)
        with watching(run, spans):
            for _ in islice(take_steps(run, clock), amounts.variant_steps):
                spans.number += 1
        parts = parts_ms(spans)
        return {
            "first_step_s": round(first, 2),
            "ms_per_step": of_device,
            "parts_ms": parts,
            "transport_share": transport_share(parts),
            "transport_by": transport_by(run),
            "per_step": profile_steps(run, list(islice(run.rest_of_epoch(), 1))),
        }
