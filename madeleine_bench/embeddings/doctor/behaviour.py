"""Checks of repetition: twice, patches in another order, after other slides, in a batch, on a GPU.

A difference is given in units of the spread of slides: the largest distance between two embeddings
of one slide, over the root mean square distance of a slide from the mean slide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from madeleine_bench.embeddings.doctor.checks import (
    CHECKS,
    DEVICE_FAIL,
    DEVICE_WARN,
    DIFFERENCE,
    DRAW_WARN,
    Check,
    Finding,
    graded,
)
from madeleine_bench.embeddings.doctor.sample import (
    Floats,
    Output,
    Rows,
    Sample,
    attempt,
    patches_of,
)
from madeleine_bench.encoders.base import BaseEncoder, SlideEncoder, as_array
from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag

OnDevice = Callable[[str], SlideEncoder]
_FOLLOW_UPS = ("order of patches", "order of slides", "batch against single", "CPU against GPU")


@dataclass(frozen=True)
class _Probes:
    """Some slides to ask again: their bags, the first answers (bag x dim), and the unit."""

    bags: tuple[Bag, ...]
    first: Floats
    spread: float

    def answers(self, outputs: Sequence[Output]) -> Floats | None:
        """Return outputs as bag x dim; None where one is unusable or of another width."""
        vectors = [output.vector for output in outputs]
        if any(v is None or v.shape != self.first.shape[1:] for v in vectors):
            return None
        return np.array(vectors)

    def distance(self, again: Sequence[Output], known: Floats | None = None) -> float | None:
        """Return the largest distance to known answers, the first ones if none are given.

        None where an answer is unusable.
        """
        found = self.answers(again)
        if found is None:
            return None
        apart = np.linalg.norm(found - (self.first if known is None else known), axis=1)
        return float(apart.max() / self.spread)


def behaviour_findings(
    encoder: SlideEncoder, sample: Sample, rows: Rows, on_device: OnDevice | None
) -> list[Finding]:
    """Return how the encoder behaves when it is asked again; `rows` has several slides.

    Args:
        encoder: the encoder that made the sample.
        sample: what it made.
        rows: the usable part of that.
        on_device: makes the encoder anew on "cpu" or "cuda"; None where it cannot be told to.
    """
    row_of = {position: row for row, position in enumerate(rows.positions)}
    kept = [(row_of[at], bag) for at, bag in sample.probes if at in row_of]
    if not kept:
        reason = "none of the slides to ask again has a usable embedding"
        return [CHECKS[name].skipped(reason) for name in ("determinism", *_FOLLOW_UPS)]
    first = rows.matrix[[row for row, _ in kept]]
    probes = _Probes(tuple(bag for _, bag in kept), first, rows.spread)
    determinism, settled = _repeated(encoder, probes)
    if settled is None:
        reason = "the same bag gives another embedding each time; mend that first"
        return [determinism, *(CHECKS[name].skipped(reason) for name in _FOLLOW_UPS)]
    return [
        determinism,
        _patch_order(encoder, probes, settled),
        _slide_order(encoder, probes),
        _batch(encoder, probes),
        _device(on_device, probes),
    ]


def _repeated(encoder: SlideEncoder, probes: _Probes) -> tuple[Finding, Floats | None]:
    """Ask thrice and compare the last two, so that both follow the same slide.

    The second answers, bag x dim, come along where others can be compared with them.
    """
    check = CHECKS["determinism"]
    second, third = [], []
    for bag in probes.bags:
        attempt(encoder, bag)
        second.append(attempt(encoder, bag))
        third.append(attempt(encoder, bag))
    settled = probes.answers(second)
    gap = None if settled is None else probes.distance(third, settled)
    if gap is None:
        return check.finding("fail", "raised, or gave another width, when asked again"), None
    seen = "equal" if gap == 0.0 else f"{gap:.1e} of the spread apart"
    kept = settled if gap <= DIFFERENCE else None
    if encoder.card.deterministic:
        return check.finding("pass" if gap == 0.0 else "fail", seen, gap), kept
    seen += "; the card says deterministic: false"
    return check.finding("warn" if gap >= DRAW_WARN else "pass", seen, gap), kept


def _patch_order(encoder: SlideEncoder, probes: _Probes, settled: Floats) -> Finding:
    """Ask for a bag and then for its patches in another order, so that no other slide matters."""
    again = []
    for bag in probes.bags:
        order = rng_for("doctor", "order", bag.slide_id).permutation(len(bag.features))
        attempt(encoder, bag)
        again.append(attempt(encoder, patches_of(bag, order)))
    return _compared(CHECKS["order of patches"], probes.distance(again, settled))


def _slide_order(encoder: SlideEncoder, probes: _Probes) -> Finding:
    """Backwards, so that each slide follows another one than the first time."""
    again = [attempt(encoder, bag) for bag in reversed(probes.bags)]
    return _compared(CHECKS["order of slides"], probes.distance(again[::-1]))


def _batch(encoder: SlideEncoder, probes: _Probes) -> Finding:
    check = CHECKS["batch against single"]
    own = getattr(type(encoder), "encode_batch", None)
    if own is None or own is BaseEncoder.encode_batch:
        return check.skipped("encode_batch is not overridden")
    try:
        made = as_array(own(encoder, list(probes.bags)))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (an encoder may do anything)
        return check.finding("fail", f"raised {type(error).__name__}: {error}")
    if made.shape != probes.first.shape:
        return check.finding("fail", f"shape {made.shape}; expected {probes.first.shape}")
    return _compared(check, probes.distance([Output(row) for row in made]))


def _device(on_device: OnDevice | None, probes: _Probes) -> Finding:
    check = CHECKS["CPU against GPU"]
    if on_device is None:
        return check.skipped("the encoder's class takes no parameter 'device'")
    if not gpu_seen():
        return check.skipped("torch sees no GPU")
    try:
        encoders = [on_device(name) for name in ("cpu", "cuda")]
    except InputError as error:
        return check.finding("fail", str(error))
    made = [[attempt(encoder, bag) for bag in probes.bags] for encoder in encoders]
    on_cpu = probes.answers(made[0])
    if on_cpu is None:
        return check.finding("fail", "raised, or gave another width, on the CPU")
    gap = probes.distance(made[1], on_cpu)
    if gap is None:
        return check.finding("fail", "raised, or gave another width, on the GPU")
    return check.finding(graded(gap, DEVICE_WARN, DEVICE_FAIL), f"{gap:.1e} of the spread", gap)


def gpu_seen() -> bool:
    """Return whether torch can use a GPU."""
    import torch

    return bool(torch.cuda.is_available())


def _compared(check: Check, gap: float | None) -> Finding:
    if gap is None:
        return check.finding("fail", "raised, gave NaN, or gave another width")
    return check.finding("pass" if gap <= DIFFERENCE else "fail", f"{gap:.1e} of the spread", gap)
