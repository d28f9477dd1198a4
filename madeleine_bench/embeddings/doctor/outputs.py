"""Checks of single outputs: does the encoder answer, with finite floats of the right width."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from madeleine_bench.embeddings.doctor.checks import CHECKS, Finding
from madeleine_bench.embeddings.doctor.sample import Sample
from madeleine_bench.specs.card import EncoderCard

_NAMED = 3


def output_findings(card: EncoderCard, sample: Sample) -> list[Finding]:
    """Return what is wrong with single outputs, over all sampled slides."""
    return [_encodes(sample), _width(card, sample), _dtype(sample), _finite(sample)]


def named(ids: Sequence[str]) -> str:
    """Return the first few ids and how many more there are.

    Examples:
        >>> named(["a", "b"]), named(["a", "b", "c", "d", "e"])
        ('a, b', 'a, b, c and 2 more')
    """
    more = len(ids) - _NAMED
    return ", ".join(ids[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _encodes(sample: Sample) -> Finding:
    check = CHECKS["encodes every slide"]
    pairs = zip(sample.slides, sample.whole, strict=True)
    raised = [(slide.slide_id, out.error) for slide, out in pairs if out.error]
    if not raised:
        return check.finding("pass", f"{len(sample.slides)} slides", 0.0)
    seen = (
        f"raised on {len(raised)} of {len(sample.slides)} slides ({named([i for i, _ in raised])})"
    )
    return check.finding("fail", f"{seen}: {raised[0][1]}", float(len(raised)))


def _width(card: EncoderCard, sample: Sample) -> Finding:
    check = CHECKS["width"]
    made = [
        (slide, out.value)
        for slide, out in zip(sample.slides, sample.whole, strict=True)
        if out.value is not None
    ]
    if not made:
        return check.skipped("no slide was encoded")
    shapes = Counter(value.shape for _, value in made)
    usual = shapes.most_common(1)[0][0]
    if len(usual) != 1 or not usual[0]:
        return check.finding("fail", f"shape {usual}; expected a vector, (dim,)")
    odd = [slide.slide_id for slide, value in made if value.shape != usual]
    if odd:
        other = next(value.shape for _, value in made if value.shape != usual)
        seen = f"{usual[0]}, but {len(odd)} slides differ ({named(odd)}): shape {other}"
        return check.finding("fail", seen, float(usual[0]))
    declared = made[0][0].patch_width if card.dim is None else card.dim
    if usual[0] == declared:
        return check.finding("pass", str(usual[0]), float(usual[0]))
    if card.dim is None:
        seen = f"{usual[0]}; the card has no 'dim', which means {declared}, as wide as a patch"
        return check.finding("warn", seen, float(usual[0]))
    return check.finding("fail", f"{usual[0]}; the card says {card.dim}", float(usual[0]))


def _dtype(sample: Sample) -> Finding:
    check = CHECKS["dtype"]
    values = [out.value for out in sample.whole if out.value is not None]
    if not values:
        return check.skipped("no slide was encoded")
    returned = {out.dtype for out in sample.whole if out.value is not None}
    seen = ", ".join(sorted(returned))
    if any(not np.issubdtype(value.dtype, np.floating) for value in values):
        return check.finding("fail", seen)
    return check.finding("warn" if returned & {"float16", "bfloat16"} else "pass", seen)


def _finite(sample: Sample) -> Finding:
    check = CHECKS["finite"]
    bad, asked = [], 0
    for slide, out in zip(sample.slides, sample.whole, strict=True):
        if out.value is None or not np.issubdtype(out.value.dtype, np.floating):
            continue
        asked += 1
        with np.errstate(over="ignore"):  # what overflows float32 is infinite on disk
            if not np.isfinite(out.value.astype(np.float32)).all():
                bad.append(slide.slide_id)
    if not asked:
        return check.skipped("no slide was encoded as floats")
    if not bad:
        return check.finding("pass", "no NaN, no infinity", 0.0)
    seen = f"NaN or infinity on {len(bad)} of {asked} slides ({named(bad)})"
    return check.finding("fail", seen, float(len(bad)))
