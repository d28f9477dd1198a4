"""What a reviewer should look at: the rules of docs/submissions.md. None of them is a verdict.

Whether labels can be read off embeddings is a look, not a proof: a careful cheat hides a label
better than this looks. Copies of known encoders are sought among the embeddings of the results
folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu
from sklearn.metrics import balanced_accuracy_score

from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import Embeddings, EmbeddingStore, read_embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.metric import score_range
from madeleine_bench.specs.record import Record
from madeleine_bench.stats.similarity import chance_cka, linear_cka, linear_share
from madeleine_bench.types import CohortData, Units

Floats = NDArray[np.float64]

# Disguised copies of mean-pool have .9980 or more; the mean with the deviation beside it, the
# closest honest relative, has .9971 at most, a shipped encoder .986 (encoder_relatives.py). A mean
# without outliers or a median may have more: nothing parts them from a copy with noise.
COPY_SHARE = 0.9975
MOST_SLIDES = 1_000
CONTROL_CKA = 0.9
_MIN_SLIDES = 30
# White noise this alike says that slides are too few for the widths; CKA then tells nothing.
_MAX_CHANCE = 0.99


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
        equal: whether the embeddings are the same numbers.
    """

    encoder: str
    cohort: str
    slides: int
    explained: float | None
    explains: float | None
    cka: float | None
    equal: bool


def likenesses(
    board: str, name: str, embeddings: Mapping[str, Embeddings], results: Path
) -> list[Likeness]:
    """Return the closest file of every other encoder on each cohort, the most alike first."""
    closest: dict[tuple[str, str], Likeness] = {}
    folder = EmbeddingStore(results).folder / "embeddings" / board
    for cohort, submitted in sorted(embeddings.items()):
        for path in sorted(folder.glob(f"*/{cohort}.*.safetensors")):
            if (encoder := path.parent.name) == name:
                continue
            # A damaged file of ours is no reason to stop; mbench run makes it again.
            with suppress(InputError):
                if like := compare(cohort, encoder, submitted, read_embeddings(path)):
                    earlier = closest.get((cohort, encoder), like)
                    closest[cohort, encoder] = max(earlier, like, key=_closeness)
    return sorted(closest.values(), key=_closeness, reverse=True)


def _closeness(like: Likeness) -> tuple[bool, float, float]:
    explained, cka = (-1.0 if share is None else share for share in (like.explained, like.cka))
    return like.equal, explained, cka


def compare(cohort: str, encoder: str, submitted: Embeddings, other: Embeddings) -> Likeness | None:
    """Return how two sets of embeddings relate on their shared slides; None if these are few."""
    _, rows, other_rows = np.intersect1d(submitted.ids, other.ids, return_indices=True)
    if len(rows) < _MIN_SLIDES:
        return None
    first = submitted.matrix[rows].astype(np.float64)
    second = other.matrix[other_rows].astype(np.float64)
    likely = chance_cka(len(rows), first.shape[1], second.shape[1])
    cka = linear_cka(first, second) if likely < _MAX_CHANCE else None
    equal = np.array_equal(first, second)
    if len(rows) > MOST_SLIDES:
        sample = rng_for("likeness", cohort, len(rows)).permutation(len(rows))[:MOST_SLIDES]
        first, second = first[sample], second[sample]
    explained, explains = linear_share(second, first), linear_share(first, second)
    return Likeness(encoder, cohort, len(rows), explained, explains, cka, equal)


PERFECT = 0.995
READABLE = 0.99
DISTINCT_ROWS = 0.9

_TELLING_CONTROLS = ("site-only", "case-id", "patch-count", "oracle")


@dataclass(frozen=True)
class Suspicion:
    """One hit of a rule: which rule, where, and what was seen."""

    rule: str
    where: str
    seen: str


@dataclass(frozen=True)
class Scored:
    """A record of the submission, and those of other encoders on the same task and data."""

    record: Record
    others: Sequence[Record]

    @property
    def best(self) -> Record | None:
        """The other one with the best score that is of no control; None without one."""
        encoders = [other for other in self.others if other.encoder.kind != "control"]
        return max(encoders, key=lambda other: other.scores.main.value, default=None)

    def label_of(self, other: Record) -> str:
        """Return what a report calls another encoder: name, revision, whether features differ."""
        features = "" if other.features == self.record.features else " (other features)"
        return f"{other.encoder.name} {other.encoder.revision}{features}"


def suspicious_scores(scored: Sequence[Scored]) -> list[Suspicion]:
    """Return the hits of the rules that look at scores alone."""
    hits = []
    for each in scored:
        task, main = each.record.task.id, each.record.scores.main
        if main.value >= PERFECT:
            hits.append(Suspicion("perfect", task, f"{main.value:.4f}"))
        ceilings = [r.scores.main for r in each.others if r.encoder.name == "oracle"]
        for ceiling in ceilings if each.record.source == "phantom" else ():
            _, high = ceiling.ci95 or score_range(ceiling.metric)
            if main.value > high:
                seen = f"{main.value:.4f}, the oracle has {ceiling.value:.4f} (up to {high:.4f})"
                hits.append(Suspicion("above the ceiling", task, seen))
    return hits


def suspicious_embeddings(
    embeddings: Mapping[str, Embeddings],
    units: Mapping[str, Units],
    cohort_of: Mapping[str, str],
    data: Mapping[str, CohortData],
) -> list[Suspicion]:
    """Return the hits of the rules that look at embeddings, labels and sites.

    Args:
        embeddings: by cohort.
        units: by task id.
        cohort_of: the cohort of each task id.
        data: the verifier's cohorts.
    """
    hits: list[Suspicion] = []
    for cohort, submitted in embeddings.items():
        if cohort in data:
            hits += _few_rows(cohort, submitted, data[cohort])
    for task_id, task_units in units.items():
        with suppress(InputError):  # a slide is missing, which is a finding
            matrix = unit_embeddings(embeddings[cohort_of[task_id]], task_units)
            if seen := _readable(matrix, task_units):
                hits.append(Suspicion("readable labels", task_id, seen))
    return hits


def suspicious_likeness(likenesses: Sequence[Likeness]) -> list[Suspicion]:
    """Return the hits of the rules that compare with other encoders."""
    hits = []
    for like in likenesses:
        cka = "" if like.cka is None else f", CKA {like.cka:.5f}"
        seen = f"{like.encoder} on {like.slides} slides{cka}"
        if like.equal:
            hits.append(Suspicion("duplicate", like.cohort, f"equal: {seen}"))
        elif (share := like.explained) is not None and share >= COPY_SHARE:
            hits.append(Suspicion("linear function", like.cohort, f"{seen}, {share:.2%} explained"))
        elif like.encoder in _TELLING_CONTROLS and (like.cka or 0.0) >= CONTROL_CKA:
            hits.append(Suspicion("like a control", like.cohort, seen))
    return hits


def _few_rows(cohort: str, submitted: Embeddings, data: CohortData) -> Iterator[Suspicion]:
    distinct = len(np.unique(submitted.matrix, axis=0))
    if distinct < DISTINCT_ROWS * len(submitted.ids):
        table = data.slides[data.slides["slide_id"].isin(submitted.ids)]
        columns = (("sites", "site"), ("cases", "case_id"), ("stains", "stain"))
        same = [f", as many as {what}" for what, of in columns if table[of].nunique() == distinct]
        seen = f"{distinct} distinct rows of {len(submitted.ids)}{''.join(same)}"
        yield Suspicion("few distinct rows", cohort, seen)


def _readable(matrix: np.ndarray, units: Units) -> str:
    """Return how the labels of a task can be read off its embeddings; "" where they cannot."""
    for name, what in (("time_days", "times"), ("value", "numbers")):
        if name in units.table:
            column, value = time_correlation(matrix, units.table[name].to_numpy())
            return f"column {column} orders the {what}: {value:.4f}" if value >= READABLE else ""
    if "label" not in units.table:  # several labels of one unit
        return ""
    labels = units.table["label"].to_numpy(dtype=str)
    names = sorted(set(labels.tolist()))
    for name in names if len(names) > 1 else ():
        column, value = best_column(matrix, labels == name)
        if value >= READABLE:
            return f"column {column} alone tells '{name}': {value:.4f}"
    accuracy = nearest_mean_accuracy(matrix, labels)
    return f"nearest class mean: balanced accuracy {accuracy:.4f}" if accuracy >= READABLE else ""


def best_column(matrix: Floats, positive: NDArray[np.bool_]) -> tuple[int, float]:
    """Return the column that separates two groups best, and its AUROC in either direction.

    Examples:
        >>> best_column(np.array([[0.0, 5.0], [0.0, 6.0], [1.0, 1.0]]), np.array([1, 1, 0]) > 0)
        (0, 1.0)
    """
    pairs = positive.sum() * (~positive).sum()
    wins = mannwhitneyu(matrix[positive], matrix[~positive], method="asymptotic").statistic
    either = np.maximum(wins, pairs - wins) / pairs
    column = int(np.argmax(either))
    return column, float(either[column])


def nearest_mean_accuracy(matrix: Floats, labels: NDArray[np.str_]) -> float:
    """Return the balanced accuracy of the nearest class mean, each row left out of its own mean.

    Columns are put on one scale first. No weights are fitted, so what it reads lies open.
    """
    scaled = matrix - matrix.mean(axis=0)
    deviation = scaled.std(axis=0)
    scaled = scaled[:, deviation > 0] / deviation[deviation > 0]
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = classes[:, None] == np.arange(len(counts))
    distance = cdist(scaled, (members.T @ scaled) / counts[:, None])
    # Without row i the mean moves away from it by count / (count - 1).
    distance[members] *= (counts / np.maximum(counts - 1, 1e-9))[classes]
    return float(balanced_accuracy_score(classes, distance.argmin(axis=1)))


def time_correlation(matrix: Floats, time_days: Floats) -> tuple[int, float]:
    """Return the column that orders times best, and its absolute rank correlation with them."""
    ranks, times = pd.DataFrame(matrix).rank(), pd.Series(time_days).rank()
    value = ranks.corrwith(times).abs().fillna(0.0)
    return int(value.argmax()), float(value.max())
