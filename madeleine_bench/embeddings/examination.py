"""An encoder examined on a sample of slides: what it gives for each, and when asked again.

No label of a task is read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from madeleine_bench.embeddings.cloud import LEAST_SLIDES, Rows, Slide, cloud_findings, named
from madeleine_bench.embeddings.compute import bag_misfit
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.contract import (
    CHECKS,
    UNSETTLED,
    Answer,
    Finding,
    Probes,
    Verdict,
    ask,
    check_contract,
    largest_gap,
    patches_of,
    repetition_findings,
    spread_of,
)
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_array
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag, CohortData, Progress

PROBES = 8
LEAST_PATCHES = 4
OnDevice = Callable[[str], SlideEncoder]


class Sampled(NamedTuple):
    """A slide, what the encoder gave for it and for half of its patches, and its bag if kept."""

    slide: Slide
    whole: Answer
    half: Answer | None
    bag: Bag | None


@dataclass(frozen=True)
class Examination:
    """What was found of an encoder on one cohort, and the embeddings it was found on.

    `rows` is None where the encoder has no embedding (it is supervised).
    """

    data: CohortData
    findings: Sequence[Finding]
    rows: Rows | None

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [finding.check for finding in self.findings if finding.verdict == "fail"]


def examine_encoder(
    encoder: SlideEncoder,
    data: CohortData,
    slide_ids: Sequence[str],
    progress: Progress,
    on_device: OnDevice | None = None,
) -> Examination:
    """Return one finding for each check, in the order of `CHECKS`.

    Args:
        encoder: the encoder, made from its card.
        data: a cohort.
        slide_ids: the slides to encode, each twice and some more often; 8 at least.
        progress: told of each slide.
        on_device: makes the encoder again on "cpu" or "cuda"; None where it cannot be told to.

    Raises:
        InputError: too few slides; a bag is broken, empty, or not what the card expects.
    """
    findings, rows = [_contract(encoder)], None
    reason = "supervised: no embedding before the labels of a task have trained it"
    if encoder.card.kind != "supervised":
        if len(slide_ids) < LEAST_SLIDES:
            raise InputError(
                f"cohort {data.cohort_id}: {len(slide_ids)} slides with features; the doctor "
                f"compares slides with each other and needs {LEAST_SLIDES} at least (--slides, or "
                "another --cohort)"
            )
        sample = list(_sample(encoder, data, slide_ids, progress))
        findings += _answer_findings(encoder.card, sample)
        rows, probes = _usable(sample)
        reason = f"{len(rows.slides)} slides have a usable embedding; {LEAST_SLIDES} are needed"
        if len(rows.slides) >= LEAST_SLIDES:
            findings += [*cloud_findings(rows), *_again(encoder, probes, on_device)]
    made = {finding.check: finding for finding in findings}
    in_order = [made.get(name) or check.skipped(reason) for name, check in CHECKS.items()]
    return Examination(data, in_order, rows)


def _contract(encoder: SlideEncoder) -> Finding:
    parts = check_contract(encoder)
    broken = [f"{part.check} ({part.found})" for part in parts if part.verdict == "fail"]
    seen = "broken: " + "; ".join(broken) if broken else f"{len(parts)} of {len(parts)} kept"
    return CHECKS["contract"].finding("fail" if broken else "pass", seen, float(len(broken)))


def _sample(
    encoder: SlideEncoder, data: CohortData, slide_ids: Sequence[str], progress: Progress
) -> Iterator[Sampled]:
    """Yield what an encoder makes of some slides; what it does wrong is kept, not raised."""
    kept = set(np.linspace(0, len(slide_ids) - 1, PROBES).astype(int).tolist())
    progress.phase("encode", len(slide_ids))
    for position, slide_id in enumerate(slide_ids):
        bag = data.read_bag(slide_id)
        _require_fit(encoder.card, bag)
        bag = replace(bag, features=np.ascontiguousarray(bag.features, dtype=np.float32))
        patches, width = bag.features.shape
        content = hash_array([], bag.features)
        slide = Slide(slide_id, bag.case_id, bag.site or "", bag.stain, patches, width, content)
        whole = ask(encoder, bag)
        half = ask(encoder, half_of(bag)) if patches >= LEAST_PATCHES else None
        yield Sampled(slide, whole, half, bag if position in kept else None)
        progress.advance(slide_id)


def half_of(bag: Bag) -> Bag:
    """Return a random half of the patches of a bag, in their order; the same half each time."""
    count = len(bag.features)
    drawn = rng_for("doctor", "half", bag.slide_id).permutation(count)
    return patches_of(bag, np.sort(drawn[: count // 2]))


def _require_fit(card: EncoderCard, bag: Bag) -> None:
    reason = bag_misfit(card, bag)
    if not len(bag.features):
        reason = "the bag is empty; leave the slide out of the cohort"
    if reason is not None:
        raise InputError(f"encoder {card.name}, slide {bag.slide_id}: {reason}")


def _usable(sample: Sequence[Sampled]) -> tuple[Rows, Probes]:
    """Return the slides whose embedding is a vector as wide as most are, and those kept to ask."""
    vectors = [each.whole.vector for each in sample]
    widths = Counter(len(vector) for vector in vectors if vector is not None)
    width = max(widths, key=lambda w: (widths[w], w), default=0)
    usable = [
        (each, vector)
        for each, vector in zip(sample, vectors, strict=True)
        if vector is not None and len(vector) == width
    ]
    matrix = np.array([vector for _, vector in usable]).reshape(len(usable), width)
    half = np.full_like(matrix, np.nan)
    bags, first = [], []
    for row, (each, vector) in enumerate(usable):
        made = None if each.half is None else each.half.vector
        if made is not None and len(made) == width:
            half[row] = made
        if each.bag is not None:
            bags.append(each.bag)
            first.append(vector)
    rows = Rows([each.slide for each, _ in usable], matrix, half)
    spread = spread_of(matrix) if usable else 1.0
    return rows, Probes(bags, np.array(first), spread, sample[0].whole.dtype)


def _answer_findings(card: EncoderCard, sample: Sequence[Sampled]) -> Iterator[Finding]:
    """Yield what is wrong with single answers: does the encoder give vectors of floats."""
    made = [each for each in sample if not each.whole.raised]
    raised = [each for each in sample if each.whole.raised]
    yield _over("encodes every slide", raised, sample, f"{len(sample)} slides")
    if not made:
        return
    usual = Counter(each.whole.value.shape for each in made).most_common(1)[0][0]
    odd = [s for s in made if s.whole.value.shape != usual or len(usual) != 1 or not usual[0]]
    dim = sample[0].slide.patch_width if card.dim is None else card.dim
    if odd:
        yield _over("width", odd, made, "")
    else:
        says = f"says {dim}" if card.dim else f"has no 'dim', which means {dim}, as wide as a patch"
        verdict: Verdict = "pass" if usual[0] == dim else "fail" if card.dim else "warn"
        seen = f"{usual[0]}" + f"; the card {says}" * (verdict != "pass")
        yield CHECKS["width"].finding(verdict, seen, float(usual[0]))
    dtypes = {each.whole.dtype for each in made}
    floats = [each for each in made if each.whole.value.dtype.kind == "f"]
    verdict = "warn" if dtypes & {"float16", "bfloat16"} else "pass"
    verdict = verdict if len(floats) == len(made) else "fail"
    yield CHECKS["dtype"].finding(verdict, ", ".join(sorted(dtypes)))
    vectors = [each for each in floats if each.whole.value.ndim == 1]
    if vectors:
        bad = [each for each in vectors if each.whole.fault]
        yield _over("finite", bad, vectors, "no NaN, no infinity")


def _over(check: str, bad: Sequence[Sampled], every: Sequence[Sampled], good: str) -> Finding:
    """Return a finding over slides: how many are bad, which, and what the first one gave."""
    if not bad:
        return CHECKS[check].finding("pass", good, 0.0)
    which, first = named([each.slide.slide_id for each in bad]), bad[0].whole
    seen = f"{len(bad)} of {len(every)} slides ({which}): "
    seen += first.fault or f"shape {first.value.shape}"
    return CHECKS[check].finding("fail", seen, float(len(bad)))


def _again(encoder: SlideEncoder, probes: Probes, on_device: OnDevice | None) -> Iterator[Finding]:
    """Yield what is found when some slides are asked again: twice, reordered, on another device."""
    if not probes.bags:
        for name in ("determinism", "order of patches", "order of slides", "CPU against GPU"):
            yield CHECKS[name].skipped("none of the slides to ask again has a usable embedding")
        return
    same, patch_order, settled = repetition_findings(encoder, probes)
    yield from (same, patch_order)
    if settled is None:
        yield from (CHECKS[n].skipped(UNSETTLED) for n in ("order of slides", "CPU against GPU"))
        return
    # Backwards, so that each slide follows another one than the first time.
    backwards = probes.again(encoder, probes.bags[::-1])
    made = None if backwards is None else backwards[::-1]
    yield probes.compare(CHECKS["order of slides"], made, probes.first)
    yield _device(on_device, probes)


def _device(on_device: OnDevice | None, probes: Probes) -> Finding:
    check = CHECKS["CPU against GPU"]
    if on_device is None:
        return check.skipped("the encoder's class takes no parameter 'device'")
    if not gpu_seen():
        return check.skipped("torch sees no GPU")
    made = []
    for device in ("cpu", "cuda"):
        try:
            answers = probes.again(on_device(device), probes.bags)
        except InputError as error:
            return check.finding("fail", str(error))
        if answers is None:
            return check.finding("fail", f"raised, or gave another width, on {device}")
        made.append(answers)
    gap = largest_gap(made[1], made[0]) / probes.spread
    return check.graded(gap, f"{gap:.1e} of the spread")


def gpu_seen() -> bool:
    """Return whether torch can use a GPU."""
    import torch

    return bool(torch.cuda.is_available())
