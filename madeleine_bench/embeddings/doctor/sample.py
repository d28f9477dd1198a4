"""A sample of slides and what an encoder makes of each: all of its patches, and half of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.compute import bag_misfit
from madeleine_bench.encoders.base import SlideEncoder, as_array, as_embedding, dtype_of
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.hashing import hash_array
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag, CohortData, Progress

PROBES = 8
LEAST_SLIDES = 8
LEAST_PATCHES = 4
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Output:
    """What the encoder gave for one bag.

    Attributes:
        value: the array; None where it raised.
        error: what it raised; empty where it did not.
        dtype: type of the numbers as they were returned, such as bfloat16.
    """

    value: NDArray[np.generic] | None
    error: str = ""
    dtype: str = ""

    @property
    def vector(self) -> Floats | None:
        """The embedding as it would be stored, float32; None where that is no finite vector."""
        try:
            return as_embedding(self.value).astype(np.float64)
        except CheckFailed:
            return None


@dataclass(frozen=True)
class SlideFacts:
    """What is known of a sampled slide; `content` tells whether two bags are equal."""

    slide_id: str
    case_id: str
    site: str
    stain: str
    patches: int
    patch_width: int
    content: str


@dataclass(frozen=True)
class Sample:
    """Sampled slides in the order they were encoded, with what came out.

    Attributes:
        slides: facts of each.
        whole: the output for each.
        half: the output for a random half of each slide's patches; None for tiny bags.
        probes: position and bag of some slides, kept for more questions.
    """

    slides: tuple[SlideFacts, ...]
    whole: tuple[Output, ...]
    half: tuple[Output | None, ...]
    probes: tuple[tuple[int, Bag], ...]


@dataclass(frozen=True)
class Rows:
    """The slides whose embedding is usable: a finite vector, as wide as most are.

    Attributes:
        slides: facts of each.
        matrix: slide x dim.
        half: slide x dim, NaN in the rows of slides without a usable half.
        positions: of each, in the sample.
    """

    slides: tuple[SlideFacts, ...]
    matrix: Floats
    half: Floats
    positions: tuple[int, ...]

    @property
    def has_half(self) -> NDArray[np.bool_]:
        """Which slides have a usable half, (slide,)."""
        return np.array(np.isfinite(self.half).all(axis=1))

    @property
    def spread(self) -> float:
        """The root mean square distance of a slide from the mean slide: the unit of differences.

        The norm of the mean slide where all slides are equal.
        """
        centred = self.matrix - self.matrix.mean(axis=0)
        spread = float(np.sqrt(np.mean(np.sum(centred**2, axis=1))))
        return spread or float(np.linalg.norm(self.matrix.mean(axis=0))) or 1.0


def take_sample(
    encoder: SlideEncoder, data: CohortData, slide_ids: Sequence[str], progress: Progress
) -> Sample:
    """Return what an encoder makes of some slides; what it does wrong is kept, not raised.

    Raises:
        InputError: a bag is broken, empty, or not what the card expects.
    """
    at = set(np.linspace(0, len(slide_ids) - 1, PROBES).astype(int).tolist())
    progress.phase("encode", len(slide_ids))
    slides, whole, half, probes = [], [], [], []
    for position, slide_id in enumerate(slide_ids):
        bag = data.read_bag(slide_id)
        _require_fit(encoder.card, bag)
        bag = replace(bag, features=np.ascontiguousarray(bag.features, dtype=np.float32))
        slides.append(_facts(bag))
        whole.append(attempt(encoder, bag))
        enough = len(bag.features) >= LEAST_PATCHES
        half.append(attempt(encoder, half_of(bag)) if enough else None)
        if position in at:
            probes.append((position, bag))
        progress.advance(slide_id)
    return Sample(tuple(slides), tuple(whole), tuple(half), tuple(probes))


def attempt(encoder: SlideEncoder, bag: Bag) -> Output:
    """Return what the encoder gives for a copy of the bag, whatever it is, or what it raised."""
    try:
        with np.errstate(all="ignore"):
            made = encoder.encode(replace(bag, features=bag.features.copy()))
            return Output(as_array(made).copy(), dtype=dtype_of(made))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (an encoder may do anything)
        return Output(None, f"{type(error).__name__}: {error}")


def half_of(bag: Bag) -> Bag:
    """Return a random half of the patches of a bag, in their order; the same half each time."""
    count = len(bag.features)
    drawn = rng_for("doctor", "half", bag.slide_id).permutation(count)
    return patches_of(bag, np.sort(drawn[: count // 2]))


def patches_of(bag: Bag, rows: NDArray[np.intp]) -> Bag:
    """Return the patches of a bag at some positions, with their coordinates."""
    coords = None if bag.coords is None else bag.coords[rows]
    return replace(bag, features=bag.features[rows], coords=coords)


def usable_rows(sample: Sample) -> Rows:
    """Return the slides whose embedding can be compared with others; there may be none."""
    vectors = [output.vector for output in sample.whole]
    widths = [len(vector) for vector in vectors if vector is not None]
    width = max(set(widths), key=lambda w: (widths.count(w), w)) if widths else 0
    kept = [i for i, v in enumerate(vectors) if v is not None and len(v) == width]
    matrix = np.array([vectors[i] for i in kept], dtype=np.float64).reshape(len(kept), width)
    half = np.full_like(matrix, np.nan)
    for row, made in enumerate(_vectors([sample.half[i] for i in kept])):
        if made is not None and len(made) == width:
            half[row] = made
    return Rows(tuple(sample.slides[i] for i in kept), matrix, half, tuple(kept))


def _vectors(outputs: Sequence[Output | None]) -> Iterator[Floats | None]:
    return (None if output is None else output.vector for output in outputs)


def _facts(bag: Bag) -> SlideFacts:
    patches, width = bag.features.shape
    content = hash_array([], bag.features)
    site = bag.site or ""
    return SlideFacts(bag.slide_id, bag.case_id, site, bag.stain, patches, width, content)


def _require_fit(card: EncoderCard, bag: Bag) -> None:
    who = f"encoder {card.name}, slide {bag.slide_id}"
    if not len(bag.features):
        raise InputError(f"{who}: the bag is empty; leave the slide out of the cohort")
    reason = bag_misfit(card, bag)
    if reason is not None:
        raise InputError(f"{who}: {reason}")
