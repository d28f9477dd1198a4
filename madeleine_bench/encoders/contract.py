"""What an encoder must keep to, checked in one way by `mbench encoders check` and by the doctor.

The thresholds were set on the shipped encoders and on sabotaged ones (docs/doctor.md), never on
the labels of a task. A difference between two embeddings of one slide is given in units of the
spread of slides: the root mean square distance of a slide from the mean slide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import (
    SlideEncoder,
    TrainableEncoder,
    as_array,
    as_embedding,
    dtype_of,
)
from madeleine_bench.errors import CheckFailed
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag

Verdict = Literal["pass", "warn", "fail", "skipped"]
Floats = NDArray[np.float64]

DIFFERENCE = 1e-3
DRAW_WARN = 1e-2
NORM_RATIO = 10.0
# Four times the rounding of types that hold few digits.
_ROUNDING = {"float16": 4 * 2.0**-10, "bfloat16": 4 * 2.0**-7}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: name of the check.
        verdict: "pass", "warn", "fail" or "skipped"; `found` then has the reason.
        found: what was seen, in words.
        threshold: what was asked, in words; empty where there is no number.
        advice: where to look, or what to do, where the verdict is not "pass".
        number: the value that was held against the threshold; None where there is none.
    """

    check: str
    verdict: Verdict
    found: str
    threshold: str = ""
    advice: str = ""
    number: float | None = None


@dataclass(frozen=True)
class Check:
    """One question to an encoder; of a graded value, more is worse."""

    name: str
    threshold: str
    advice: str
    warn: float = np.inf
    fail: float = np.inf

    def finding(self, verdict: Verdict, found: str, number: float | None = None) -> Finding:
        """Return what this check found."""
        return Finding(self.name, verdict, found, self.threshold, self.advice, number)

    def graded(self, badness: float, found: str, number: float | None = None) -> Finding:
        """Return the finding of a value; `number` is reported in its place where it is given.

        Examples:
            >>> check = Check("cosine", "warn from 0.7, fail from 0.9", "look", 0.7, 0.9)
            >>> [check.graded(value, "").verdict for value in (0.5, 0.7, 1.0)]
            ['pass', 'warn', 'fail']
        """
        verdict: Verdict = "warn" if badness >= self.warn else "pass"
        verdict = "fail" if badness >= self.fail else verdict
        return self.finding(verdict, found, badness if number is None else number)

    def skipped(self, reason: str) -> Finding:
        """Return that this check could not be made, and why."""
        return self.finding("skipped", reason)


CHECKS = {check.name: check for check in (
    Check("contract", "all of them", "run mbench encoders check on the card"),
    Check("encodes every slide", "0 slides",
          "read the error, then call encode on that slide's bag alone"),
    Check("width", "one width, that of the card",
          "look for a shape that depends on the bag (a squeeze), or correct 'dim' in the card"),
    Check("dtype", "float32 or float64",
          "return a float32 vector; mbench run refuses whole numbers and objects"),
    Check("finite", "0 slides",
          "look for a division by zero, a logarithm, or half-precision overflow"),
    Check("constant dimensions", "warn from 5%, fail from 25%",
          "look for dead units, padding, or a part that is never filled", 0.05, 0.25),
    Check("scale", f"no zero vector; norms within {NORM_RATIO:g}x of their median",
          "look at the slides named: an empty attention, an unnormalised sum, a damaged bag"),
    Check("mean cosine", "warn from 0.98, fail from 0.999",
          "look at the training loss (collapse), or subtract a common offset", 0.98, 0.999),
    Check("effective rank", "warn below 10% of what is possible, fail below 2",
          "look for collapse in training, or for one feature of a far larger scale"),
    Check("duplicates", "0 slides",
          "look for a cache with a wrong key, or an output that stands for a case or a site"),
    Check("determinism", "equal, where the card says deterministic",
          "look for dropout or batch norm in training mode, or say deterministic: false"),
    Check("order of patches", f"at most {DIFFERENCE:g} of the spread",
          "look for positions, windows, a cut to the first patches, or a recurrent layer"),
    Check("order of slides", f"at most {DIFFERENCE:g} of the spread",
          "look for state kept on self, running statistics, or a cache"),
    Check("uses the patches", "changes when half of the patches are taken away",
          "see whether it reads the slide id, the case, the site or the latents"),
    Check("half of the patches", "warn below 90%, fail below 50%",
          "look for attention on single patches, or embeddings that carry little"),
    Check("norm at half the patches", "warn from 1.25x either way, fail from 1.5x",
          "look for a sum in place of a mean", 1.25, 1.5),
    Check("patch count", "warn from 0.7, fail from 0.95",
          "the embedding says how much tissue was cut: look for sums, maxima or counts", 0.7, 0.95),
    Check("site", "warn where p is at most 0.01; never a failure",
          "H&E features carry the site (Howard et al. 2021): use site-preserved folds"),
    Check("stain", "a note, never a failure", "it matters where a task mixes stains"),
)}  # fmt: skip
DETERMINISM, PATCH_ORDER = CHECKS["determinism"], CHECKS["order of patches"]
UNSETTLED = "the same bag gives another embedding each time; repair that first"


@dataclass(frozen=True)
class Answer:
    """What an encoder gave for one bag.

    Attributes:
        value: the array; of objects where it raised.
        raised: whether it raised.
        fault: what it raised, or why the value is no embedding; empty where it is one.
        dtype: type of the numbers as they were returned, such as bfloat16.
        wrote: whether it changed the features it was given.
    """

    value: NDArray[np.generic]
    fault: str
    dtype: str = ""
    wrote: bool = False
    raised: bool = False

    @property
    def vector(self) -> Floats | None:
        """The embedding as it would be stored, float32; None where that is no finite vector."""
        return None if self.fault else as_embedding(self.value).astype(np.float64)


def ask(encoder: SlideEncoder, bag: Bag, dim: int | None = None) -> Answer:
    """Return what the encoder gives for a copy of the bag, whatever it is, or what it raised.

    Args:
        encoder: any encoder.
        bag: what to encode.
        dim: width that the embedding must have; None for any.
    """
    given = replace(bag, features=bag.features.copy())
    try:
        with np.errstate(all="ignore"):
            returned = encoder.encode(given)
            value, dtype = as_array(returned).copy(), dtype_of(returned)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (an encoder may do anything)
        fault = f"raised {type(error).__name__}: {error}"
        return Answer(np.empty((), dtype=np.object_), fault, raised=True)
    fault, wrote = "", not np.array_equal(given.features, bag.features)
    try:
        as_embedding(returned, dim)
    except CheckFailed as error:
        fault = str(error)
    return Answer(value, fault, dtype, wrote)


@dataclass(frozen=True)
class Probes:
    """Some slides to ask again.

    Attributes:
        bags: their bags.
        first: the first answers, bag x dim.
        spread: the unit of differences.
        dtype: type of the first answers.
    """

    bags: Sequence[Bag]
    first: Floats
    spread: float
    dtype: str = "float32"

    def again(
        self, encoder: SlideEncoder, bags: Sequence[Bag], before: Sequence[Bag] = ()
    ) -> Floats | None:
        """Return answers, bag x dim, each after the bag of `before`; None where one is unusable."""
        vectors = []
        for position, bag in enumerate(bags):
            if before:
                ask(encoder, before[position])
            vectors.append(ask(encoder, bag).vector)
        if any(vector is None or vector.shape != self.first.shape[1:] for vector in vectors):
            return None
        return np.array(vectors)

    def compare(self, check: Check, made: Floats | None, reference: Floats) -> Finding:
        """Return whether answers are those of the reference, up to the rounding of their type."""
        if made is None:
            return check.finding("fail", "raised, gave NaN, or gave another width")
        gap = largest_gap(made, reference) / self.spread
        length = np.linalg.norm(reference, axis=1).max()
        rounding = _ROUNDING.get(self.dtype, 0.0) * length / self.spread
        verdict: Verdict = "pass" if gap <= DIFFERENCE + rounding else "fail"
        return check.finding(verdict, f"{gap:.1e} of the spread", gap)


def largest_gap(first: Floats, second: Floats) -> float:
    """Return the largest distance between rows, of two matrices row x dim."""
    return float(np.linalg.norm(first - second, axis=1).max())


def spread_of(matrix: Floats) -> float:
    """Return the root mean square distance of a row from the mean row: the unit of differences.

    The norm of the mean row where all rows are equal; 1 where they are zeros.
    """
    centre = matrix.mean(axis=0)
    spread = float(np.sqrt(np.mean(np.sum((matrix - centre) ** 2, axis=1))))
    return spread or float(np.linalg.norm(centre)) or 1.0


def repetition_findings(
    encoder: SlideEncoder, probes: Probes
) -> tuple[Finding, Finding, Floats | None]:
    """Return whether the same bags, and the same patches in another order, give the same.

    Each answer follows one to the same slide, so that no other slide matters. The third value is
    what the encoder settled on, bag x dim; None where other answers cannot be compared with it.
    """
    settled, third = (probes.again(encoder, probes.bags, probes.bags) for _ in range(2))
    if settled is None or third is None:
        seen = "raised, or gave another width, when asked again"
        return DETERMINISM.finding("fail", seen), PATCH_ORDER.skipped(UNSETTLED), None
    gap = largest_gap(third, settled) / probes.spread
    seen = "equal" if gap == 0.0 else f"{gap:.1e} of the spread apart"
    verdict: Verdict = "pass" if gap == 0.0 else "fail"
    if not encoder.card.deterministic:
        verdict = "warn" if gap >= DRAW_WARN else "pass"
        seen += "; the card says deterministic: false"
    same = DETERMINISM.finding(verdict, seen, gap)
    if gap > DIFFERENCE:
        return same, PATCH_ORDER.skipped(UNSETTLED), None
    shuffled = []
    for bag in probes.bags:
        order = rng_for("doctor", "order", bag.slide_id).permutation(len(bag.features))
        shuffled.append(patches_of(bag, order))
    made = probes.again(encoder, shuffled, probes.bags)
    return same, probes.compare(PATCH_ORDER, made, settled), settled


def patches_of(bag: Bag, rows: NDArray[np.intp]) -> Bag:
    """Return the patches of a bag at some positions, with their coordinates."""
    coords = None if bag.coords is None else bag.coords[rows]
    return replace(bag, features=bag.features[rows], coords=coords)


def check_contract(encoder: SlideEncoder) -> list[Finding]:
    """Return a finding for each part of the contract, tried on made-up bags of 37 and 1 patches.

    Of a supervised encoder the network is tried. What is returned is read as a run reads it
    (`as_embedding`).
    """
    if encoder.card.kind == "supervised":
        return _network_findings(encoder)
    bags = [example_bag(encoder.card.input_dim or 512, patches) for patches in (37, 1)]
    many, one = answers = [ask(encoder, bag, encoder.card.dim) for bag in bags]
    same, order = (check.finding("fail", many.fault) for check in (DETERMINISM, PATCH_ORDER))
    one_fault, shapes = one.fault, [answer.value.shape for answer in answers]
    if many.vector is not None:
        if not one_fault and shapes[0] != shapes[1]:
            one_fault = f"shape {shapes[1]}, and {shapes[0]} of 37 patches"
        usable = 1 if one_fault else 2
        first = np.array([answer.vector for answer in answers[:usable]])
        probes = Probes(bags[:usable], first, spread_of(first), many.dtype)
        same, order, _ = repetition_findings(encoder, probes)
    wrote = "the encoder wrote into bag.features" if many.wrote else many.fault
    return [
        _kept("returns a finite float vector of the card's width", many.fault,
              f"shape {shapes[0]}, {many.dtype}"),
        replace(same, check="returns the same embedding twice"),
        replace(order, check="does not depend on the order of patches"),
        _kept("takes a bag of one patch", one_fault, f"shape {shapes[1]}"),
        _kept("leaves the bag as it was", wrote, "unchanged"),
    ]  # fmt: skip


def _kept(check: str, fault: str, seen: str) -> Finding:
    return Finding(check, "fail" if fault else "pass", fault or seen)


def _network_findings(encoder: SlideEncoder) -> list[Finding]:
    """Return what is found of a network that labels are to train, tried on bags of 37 and 1."""
    import torch

    width = encoder.card.input_dim or 512
    bags = [torch.from_numpy(example_bag(width, patches).features) for patches in (37, 1)]
    packed, lengths = torch.cat(bags), [len(bag) for bag in bags]

    def logits(patches: Any, counts: list[int], seed: int = 1) -> Any:
        assert isinstance(encoder, TrainableEncoder), "no method network(...)"
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = encoder.network(
                input_dim=width, outputs=3, organ="breast", seed=seed, from_weights=False
            )
            return network.eval()(patches, counts).logits

    try:
        first, again, other = (logits(packed, lengths, seed) for seed in (1, 1, 2))
        gap = float((first[1] - logits(bags[1], lengths[1:])[0]).abs().max())
    except (Exception, SystemExit) as error:  # noqa: BLE001  (an encoder may do anything)
        raised = f"raised {type(error).__name__}: {error}"
        return [_kept("runs on bags of 37 patches and of 1", raised, "")]
    same = torch.equal(first, again)
    answers = {
        "returns finite outputs, as many as asked for, also of one patch": (
            tuple(first.shape) == (2, 3) and bool(first.isfinite().all()), f"{first.shape}"),
        "is the same from the same seed, another from another": (
            same and not torch.equal(first, other), f"same seed {'equal' if same else 'differs'}"),
        "no bag changes what is said of another": (gap < 1e-5, f"largest difference {gap:.1e}"),
    }  # fmt: skip
    return [_kept(check, "" if kept else seen, seen) for check, (kept, seen) in answers.items()]


def example_bag(width: int, patches: int) -> Bag:
    """Return a made-up bag of the given size."""
    features = rng_for("contract", width).standard_normal((patches, width), dtype=np.float32)
    return Bag(
        slide_id="example",
        case_id="example",
        features=features,
        coords=np.stack([np.arange(patches), np.arange(patches)], axis=1) * 256,
        site="example",
        organ="breast",
        patch_size_level0=256,
        latents={"example": 0.5},
    )
