"""The same step with compiled layers."""

import time
from itertools import islice
from typing import Any

from benchmarks.speed_sections import Speed, take_steps, transport_share
from benchmarks.step_clock import Spans, parts_ms, profile_steps, spread, watching


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
            "per_step": profile_steps(run, list(islice(run.rest_of_epoch(), 1))),
        }
