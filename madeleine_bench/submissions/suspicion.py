"""What a reviewer should look at: rules written down, and computed. None of them is a verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.specs.card import contamination
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import score_range
from madeleine_bench.submissions.duplicates import CONTROL_CKA, COPY_SHARE, Likeness
from madeleine_bench.submissions.readable import (
    best_column,
    nearest_mean_accuracy,
    time_correlation,
)
from madeleine_bench.submissions.recompute import Cell
from madeleine_bench.submissions.standing import KnownEncoder, best_known, comparable, corrected
from madeleine_bench.types import CohortData, Units

PERFECT = 0.995
LONE_GAIN = 0.10
USUAL_GAIN = 0.02
READABLE = 0.99
DISTINCT_ROWS = 0.9

RULES: dict[str, str] = {
    "above the ceiling": "phantom boards: a score above the 95% interval of the oracle, which "
    "reads the hidden causes themselves",
    "lone gain": f"a gain over the best known encoder of more than {LONE_GAIN} (chance-corrected) "
    f"on one task, while the next largest gain is below {USUAL_GAIN}",
    "perfect": f"a score of {PERFECT} or more",
    "few distinct rows": f"fewer than {DISTINCT_ROWS:.0%} of the slides have a row of their own, "
    "as when a row stands for a site, a case or a class",
    "like a control": f"linear CKA of {CONTROL_CKA} or more with site-only, case-id, patch-count "
    "or oracle",
    "readable labels": f"one column separates two classes with an AUROC of {READABLE} or more (or "
    "orders survival times so), or the nearest class mean is right as often, unfitted",
    "duplicate": "the embeddings are those of a known encoder: equal, or the same columns in "
    "another order or scale",
    "linear function": "the embeddings are some columns of a known encoder, or a linear function "
    f"of it for {COPY_SHARE:.2%} or more: a copy that was rotated, scaled, whitened, reduced or "
    "made noisy. An honest projection of a known encoder is one too, and nearly so are a median "
    "or a mean without outliers beside the mean",
    "taken name": "the name is that of an encoder that ships, or name and revision are known with "
    "another card or other embeddings; such a submission cannot be added",
    "trained on the cohort": "the card says that the encoder has seen the cohort it is scored on",
}  # fmt: skip
_TELLING_CONTROLS = ("site-only", "case-id", "patch-count", "oracle")


@dataclass(frozen=True)
class Suspicion:
    """One hit of a rule: which rule, where, and what was seen."""

    rule: str
    where: str
    seen: str


def suspicious_scores(own: Mapping[Cell, Record], known: Sequence[KnownEncoder]) -> list[Suspicion]:
    """Return the hits of the rules that look at scores alone."""
    return [*_perfect(own), *_above_ceiling(own, known), *_lone_gain(own, known)]


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
    for cohort, found in embeddings.items():
        if cohort in data:
            hits += _few_rows(cohort, found, data[cohort])
    for task_id, task_units in units.items():
        try:
            matrix = unit_embeddings(embeddings[cohort_of[task_id]], task_units)
        except InputError:
            continue  # a slide is missing, which is said as a false claim
        hits += _readable(task_id, matrix, task_units)
    return hits


def suspicious_likeness(found: Sequence[Likeness]) -> list[Suspicion]:
    """Return the hits of the rules that compare with known encoders."""
    hits = []
    for like in found:
        cka = "" if like.cka is None else f", CKA {like.cka:.5f}"
        if like.relation:
            share = "" if like.explained is None else f", {like.explained:.2%} explained"
            seen = f"{like.relation}: {like.encoder} on {like.slides} slides{cka}{share}"
            rule = "duplicate" if like.duplicate else "linear function"
            hits.append(Suspicion(rule, like.cohort, seen))
        elif like.encoder in _TELLING_CONTROLS and (like.cka or 0.0) >= CONTROL_CKA:
            hits.append(Suspicion("like a control", like.cohort, f"{like.encoder}{cka}"))
    return hits


def contaminated(training_cohorts: Sequence[str] | None, cohorts: Sequence[str]) -> list[Suspicion]:
    """Return a hit for each cohort that the card says the encoder has seen."""
    return [
        Suspicion("trained on the cohort", cohort, "by its own card")
        for cohort in cohorts
        if contamination(training_cohorts, cohort) == "contaminated"
    ]


def _perfect(own: Mapping[Cell, Record]) -> Iterator[Suspicion]:
    for (task, _), record in own.items():
        if record.scores.main.value >= PERFECT:
            yield Suspicion("perfect", task, f"{record.scores.main.value:.4f}")


def _above_ceiling(
    own: Mapping[Cell, Record], known: Sequence[KnownEncoder]
) -> Iterator[Suspicion]:
    for cell, record in own.items():
        for other in known:
            ceiling = other.records.get(cell)
            if ceiling is None or ceiling.encoder.name != "oracle":
                continue
            _, high = ceiling.scores.main.ci95 or score_range(ceiling.scores.main.metric)
            value = record.scores.main.value
            if record.source == "phantom" and comparable(record, ceiling) and value > high:
                yield Suspicion(
                    "above the ceiling", cell[0], f"{value:.4f}, the oracle has "
                    f"{ceiling.scores.main.value:.4f} (up to {high:.4f})",
                )  # fmt: skip


def _lone_gain(own: Mapping[Cell, Record], known: Sequence[KnownEncoder]) -> Iterator[Suspicion]:
    gains: dict[Cell, tuple[float, str]] = {}
    for cell, record in own.items():
        best = best_known(cell, record, known)
        if best is not None:
            gains[cell] = (corrected(record) - corrected(best[1]), best[0])
    if len(gains) < 2:
        return
    first, second = sorted(gains.items(), key=lambda item: -item[1][0])[:2]
    if first[1][0] > LONE_GAIN and second[1][0] < USUAL_GAIN:
        yield Suspicion(
            "lone gain", first[0][0], f"+{first[1][0]:.3f} over {first[1][1]}; the next largest "
            f"gain of {len(gains)} is {second[1][0]:+.3f}",
        )  # fmt: skip


def _few_rows(cohort: str, found: Embeddings, data: CohortData) -> Iterator[Suspicion]:
    distinct = len(np.unique(found.matrix, axis=0))
    if distinct >= DISTINCT_ROWS * len(found.ids):
        return
    table = data.slides[data.slides["slide_id"].isin(found.ids)]
    same = [
        f"as many as {what}"
        for what, column in (("sites", "site"), ("cases", "case_id"), ("stains", "stain"))
        if table[column].nunique() == distinct
    ]
    seen = ", ".join([f"{distinct} distinct rows of {len(found.ids)}", *same])
    yield Suspicion("few distinct rows", cohort, seen)


def _readable(task_id: str, matrix: np.ndarray, units: Units) -> Iterator[Suspicion]:
    rule = "readable labels"
    if "label" not in units.table:
        column, value = time_correlation(matrix, units.table["time_days"].to_numpy())
        if value >= READABLE:
            yield Suspicion(rule, task_id, f"column {column} orders the times: {value:.4f}")
        return
    labels = units.table["label"].to_numpy(dtype=str)
    for name in sorted(set(labels.tolist())):
        column, value = best_column(matrix, labels == name)
        if value >= READABLE:
            yield Suspicion(rule, task_id, f"column {column} alone tells '{name}': {value:.4f}")
            return
    accuracy = nearest_mean_accuracy(matrix, labels)
    if accuracy >= READABLE:
        yield Suspicion(rule, task_id, f"nearest class mean: balanced accuracy {accuracy:.4f}")
