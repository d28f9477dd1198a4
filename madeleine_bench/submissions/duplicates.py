"""How a submission's embeddings relate to those of every encoder of the results folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.store import Embeddings, EmbeddingStore, read_embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.similarity import chance_cka, linear_cka, linear_share

# Disguised copies of mean-pool have .9980 or more; the mean with the deviation beside it, the
# closest honest relative, has .9971 at most, a shipped encoder .985 (encoder_relatives.py). A mean
# without outliers or a median may have more: nothing parts them from a copy with noise.
COPY_SHARE = 0.9975
MOST_SLIDES = 1_000
CONTROL_CKA = 0.9
_MIN_SLIDES = 30
# White noise this alike says that slides are too few for the widths; CKA then tells nothing.
_MAX_CHANCE = 0.99
_SAME_COLUMN = 0.9999
_SAME_COLUMNS = 0.95
EQUAL, SAME = "equal", "the same columns, in another order or scale"
PART, LINEAR = "some of its columns, in another order or scale", "a linear function of it"
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Likeness:
    """How a submission's embeddings of a cohort relate to another encoder's.

    Attributes:
        encoder: name of the other encoder.
        cohort: the cohort.
        slides: shared slides.
        explained: share of the submission that is a linear function of the other encoder; None
            where the slides are too few to say.
        explains: share of the other encoder that is a linear function of the submission.
        cka: linear CKA; None where there are too few slides for the widths.
        relation: "equal", "the same columns ...", "some of its columns ...", "a linear function of
            it", or "".
    """

    encoder: str
    cohort: str
    slides: int
    explained: float | None
    explains: float | None
    cka: float | None
    relation: str

    @property
    def duplicate(self) -> bool:
        """Whether this is the same encoder for all a benchmark can see."""
        return self.relation in (EQUAL, SAME)


def likenesses(
    board: str, name: str, embeddings: Mapping[str, Embeddings], results: Path
) -> list[Likeness]:
    """Return the closest file of every other encoder on each cohort, the most alike first."""
    closest: dict[tuple[str, str], Likeness] = {}
    folder = EmbeddingStore(results).folder / "embeddings" / board
    for cohort, submitted in sorted(embeddings.items()):
        for path in sorted(folder.glob(f"*/{cohort}.*.safetensors")):
            encoder = path.parent.name
            if encoder == name:
                continue
            try:
                like = compare(cohort, encoder, submitted, read_embeddings(path))
            except InputError:
                continue  # a damaged file of ours is no reason to stop; mbench run makes it again
            if like is not None:
                earlier = closest.get((cohort, encoder), like)
                closest[cohort, encoder] = max(earlier, like, key=_closeness)
    return sorted(closest.values(), key=_closeness, reverse=True)


def compare(cohort: str, encoder: str, submitted: Embeddings, other: Embeddings) -> Likeness | None:
    """Return how two sets of embeddings relate on their shared slides; None if these are few."""
    _, rows, other_rows = np.intersect1d(submitted.ids, other.ids, return_indices=True)
    if len(rows) < _MIN_SLIDES:
        return None
    first, second = (
        each.astype(np.float64) for each in (submitted.matrix[rows], other.matrix[other_rows])
    )
    likely = chance_cka(len(rows), first.shape[1], second.shape[1])
    cka = linear_cka(first, second) if likely < _MAX_CHANCE else None
    if len(rows) > MOST_SLIDES:
        sample = rng_for("likeness", cohort, len(rows)).permutation(len(rows))[:MOST_SLIDES]
        first, second = first[sample], second[sample]
    explained, explains = linear_share(second, first), linear_share(first, second)
    relation = _relation(first, second, explained)
    return Likeness(encoder, cohort, len(rows), explained, explains, cka, relation)


def _relation(
    first: NDArray[np.float64], second: NDArray[np.float64], explained: float | None
) -> str:
    if np.array_equal(first, second):
        return EQUAL
    if _shared_columns(first, second) >= _SAME_COLUMNS:
        return SAME if _shared_columns(second, first) >= _SAME_COLUMNS else PART
    return LINEAR if explained is not None and explained >= COPY_SHARE else ""


def _closeness(like: Likeness) -> tuple[bool, float, float]:
    explained, cka = (-1.0 if share is None else share for share in (like.explained, like.cka))
    return like.duplicate, explained, cka


def _shared_columns(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the share of the first's columns that are a column of the second, up to scale."""
    one, other = _standard(first), _standard(second)
    if not one.size or not other.size:
        return 0.0
    # In blocks: all pairs of columns at once would fill the memory for a wide submission.
    block = max(1, _BLOCK // other.shape[1])
    closest = [
        np.abs(one[:, start : start + block].T @ other).max(axis=1)
        for start in range(0, one.shape[1], block)
    ]
    return float(np.mean(np.concatenate(closest) > _SAME_COLUMN))


def _standard(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the columns that vary, with mean 0 and length 1."""
    centred = matrix - matrix.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    varying = length > 1e-9 * np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    unit: NDArray[np.float64] = centred[:, varying] / length[varying]
    return unit
