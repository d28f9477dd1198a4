"""False claims: what contradicts the bundle itself (V0), or differs from a recomputed record (V1).

V0 looks at nothing of ours but the catalogue.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.submissions.bundle import Bundle, Claim, embeddings_member, record_member
from madeleine_bench.submissions.parsing import plain, shown

Level = Literal["V0", "V1", "V2", "V3"]
LEVELS: tuple[Level, ...] = ("V0", "V1", "V2", "V3")
MEANING: dict[Level, str] = {
    "V0": "reported: well-formed and consistent in itself; the scores are the submitter's claim",
    "V1": "recomputed: the scores are those of the submitted embeddings on our labels and splits",
    "V2": "spot-checked: some slides, encoded again from the weights, gave the submitted rows",
    "V3": "reproduced: every slide, encoded again from the weights, gave the submitted rows",
}
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 400
_IDENTITY = ("name", "revision")
SCORE_TOLERANCE = 1e-6
_SHOWN_FIELDS = 8


@dataclass(frozen=True)
class Finding:
    """One false claim.

    Attributes:
        level: the rung of the ladder that it breaks.
        where: the member of the bundle, or the cohort.
        field: what differs.
        claimed: what the bundle says.
        found: what is so.
        advice: what to do, or why it matters; may be "".
    """

    level: Level
    where: str
    field: str
    claimed: str
    found: str
    advice: str = ""

    @property
    def line(self) -> str:
        """The finding as one line."""
        text = f"{self.where}: {self.field}: claimed {self.claimed}, found {self.found}"
        return f"{text}. {self.advice}" if self.advice else text


def level_reached(asked: Level, findings: Sequence[Finding]) -> Level | None:
    """Return the highest rung below which nothing was found; None where V0 does not hold.

    Examples:
        >>> level_reached("V1", [])
        'V1'
        >>> level_reached("V3", [Finding("V2", "bcnb", "slide 1", "a", "b")])
        'V1'
    """
    rungs = LEVELS[: LEVELS.index(asked) + 1]
    broken = [rungs.index(finding.level) for finding in findings]
    holds = rungs[: min(broken, default=len(rungs))]
    return holds[-1] if holds else None


def check_claims(bundle: Bundle, catalogue: Catalogue) -> list[Finding]:
    """Return every claim that contradicts the bundle itself or the catalogue."""
    findings = [*_check_encoder(bundle), *_check_embeddings(bundle, catalogue)]
    for claim in bundle.claims:
        findings += [*_check_record(bundle, claim), *_check_task(claim, catalogue)]
    return findings


def usable_task(record: Record, catalogue: Catalogue) -> TaskSpec | None:
    """Return the catalogue's task of a claimed record; None where it cannot be scored by it."""
    task = catalogue.tasks.get(record.task.id)
    if task is None or task.cohort != record.task.cohort:
        return None
    return None if _protocol_fault(task, record.protocol, catalogue) else task


def _protocol_fault(task: TaskSpec, name: str, catalogue: Catalogue) -> str:
    protocol = catalogue.protocols.get(name)
    if protocol is None:
        return f"no such protocol{did_you_mean(name, list(catalogue.protocols))}"
    if fault := misfit(task, protocol):
        return fault
    if task.train_on is not None:
        return "external tasks cannot be recomputed from a submission"
    return "" if protocol.from_slides else "such scores cannot be recomputed from a submission"


def _differing(
    where: str, facts: Iterable[tuple[str, object, object]], advice: str = ""
) -> Iterator[Finding]:
    """Yield a finding for each field whose claimed and actual value differ."""
    for field, claimed, actual in facts:
        if claimed != actual:
            texts = plain(str(claimed)), plain(str(actual))
            yield Finding("V0", where, field, *texts, advice)


def _check_encoder(bundle: Bundle) -> Iterator[Finding]:
    card, stated = bundle.card, bundle.manifest.encoder
    facts = [(f"encoder {key}", getattr(stated, key), getattr(card, key)) for key in _IDENTITY]
    yield from _differing("submission.json", facts, "card.yaml says otherwise; pack it again")


def _check_embeddings(bundle: Bundle, catalogue: Catalogue) -> Iterator[Finding]:
    for cohort, embeddings in bundle.embeddings.items():
        where, stated = embeddings_member(cohort), bundle.stated_hashes[cohort]
        facts = [("hash of ids and matrix", stated, embeddings.hash)]
        yield from _differing(where, facts, "An id or a value was altered after the file was made")
        if cohort not in catalogue.cohorts:
            hint = did_you_mean(cohort, list(catalogue.cohorts))
            yield Finding("V0", where, "cohort", cohort, f"no such cohort{hint}")


def _check_record(bundle: Bundle, claim: Claim) -> Iterator[Finding]:
    record, where, cohort = claim.record, claim.member, claim.record.task.cohort
    facts: list[tuple[str, object, object]] = [("record_id", claim.stated_id, record.record_id)]
    yield from _differing(where, facts, "The record was altered after it was made")
    first = next(c.record for c in bundle.claims if c.record.task.cohort == cohort)
    embeddings = bundle.embeddings.get(cohort)
    there = "no embeddings of this cohort" if embeddings is None else embeddings.hash
    # The formula of runner.plan.resume_key, over what the record itself says.
    key = [record.inputs.embeddings, record.task.task_hash, record.protocol, record.scoring_version]
    facts = [
        (f"encoder {name}", getattr(record.encoder, name), getattr(bundle.card, name))
        for name in (*_IDENTITY, "title", "kind", "training_cohorts")
    ]
    facts += [
        ("board", record.board, bundle.manifest.board),
        ("resume_key", record.resume_key, hash_json(key)),
        ("predictions path", record.predictions.path, _predictions_path(record)),
        ("features of the cohort", record.features, first.features),
        ("embeddings it was scored from", record.inputs.embeddings, there),
        ("file name", where, record_member(*claim.cell)),
    ]
    yield from _differing(where, facts)
    if not _HEX.fullmatch(print_ := record.encoder.fingerprint):
        yield Finding("V0", where, "fingerprint", plain(print_), "not 64 hex digits")
    for text in _texts(record.model_dump(mode="json", exclude={"provenance"})):
        if len(text) > _MAX_TEXT or plain(text, _MAX_TEXT) != text:
            fault = f"longer than {_MAX_TEXT} characters, or holds characters that cannot be shown"
            yield Finding("V0", where, "a text", shown(text), fault)
            return


def _check_task(claim: Claim, catalogue: Catalogue) -> Iterator[Finding]:
    record, where, main = claim.record, claim.member, claim.record.scores.main
    task = catalogue.tasks.get(record.task.id)
    if task is None:
        hint = did_you_mean(record.task.id, list(catalogue.tasks))
        yield Finding("V0", where, "task", plain(record.task.id), f"no such task{hint}")
        return
    if fault := _protocol_fault(task, record.protocol, catalogue):
        yield Finding("V0", where, "protocol", plain(record.protocol), fault)
    facts = [
        ("cohort", record.task.cohort, task.cohort),
        ("family", record.task.family, task.family),
        ("metric", main.metric, task.metric.name),
        ("chance", main.chance, task.chance),
    ]
    yield from _differing(where, facts)


def _predictions_path(record: Record) -> str:
    slug = record.protocol.replace("/", "-")
    name = f"{slug}.{record.resume_key[:16]}.{record.predictions.hash[:16]}.parquet"
    task = f"{record.task.id}@{record.task.version}"
    return f"predictions/{record.board}/{record.encoder.name}/{task}/{name}"


def _texts(value: Any) -> Iterator[str]:
    """Yield every text at any depth of a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(inner)


def compare_records(member: str, claimed: Record, ours: Record) -> list[Finding]:
    """Return what of a claimed record differs from the recomputed one; [] where nothing does.

    Scores, intervals, secondary scores and folds may differ by 1e-6: two machines add in another
    order. Other task versions, labels, splits or scoring are named first, as they explain the rest.
    """
    if claimed.record_id == ours.record_id:
        return []
    if other_data := _other_data(member, claimed, ours):
        return [other_data]
    theirs, here = _numbers(claimed), _numbers(ours)
    differing = [
        Finding("V1", member, field, _text(theirs.get(field)), _text(here.get(field)))
        for field in {**here, **theirs}
        if not abs(theirs.get(field, math.inf) - here.get(field, math.inf)) <= SCORE_TOLERANCE
    ]
    if (more := len(differing) - _SHOWN_FIELDS) > 0:
        rest = Finding("V1", member, f"{more} more fields", "other values", "see above")
        return [*differing[:_SHOWN_FIELDS], rest]
    return differing


def _text(value: float | None) -> str:
    return "no value" if value is None else f"{value:.9g}"


def _numbers(record: Record) -> dict[str, float]:
    """Return every number that must agree, by the name that a reader knows it by."""
    main, inputs = record.scores.main, record.inputs
    numbers: dict[str, float | None] = {main.metric: main.value}
    if main.ci95:
        numbers["lower end of the interval"], numbers["upper end of the interval"] = main.ci95
    for name, value in record.scores.secondary.items():
        numbers[f"secondary {plain(name, 60)}"] = value
    for fold in record.folds:
        key = plain(" ".join(f"{name} {number}" for name, number in sorted(fold.key.items())), 60)
        numbers |= {f"fold {key}": fold.value, f"training size of {key}": fold.n_train}
        numbers[f"test size of {key}"] = fold.n_test
    numbers |= {"units": inputs.n, "width": inputs.dim, "number of folds": len(record.folds)}
    numbers["number of predictions"] = record.predictions.rows
    return {name: number for name, number in numbers.items() if number is not None}


def _other_data(member: str, claimed: Record, ours: Record) -> Finding | None:
    """Return the first fact of the data that differs; it explains other scores."""
    cohort, theirs, here = claimed.task.cohort, claimed.inputs, ours.inputs
    again = "Score it again with the current madeleine-bench"
    labels = (
        f"They scored {theirs.n} units, here are {here.n}. The label tables differ, or other "
        f"slides have features: compare them (mbench data status {cohort})"
    )
    splits = "Labels agree; check 'splits' in mbench.toml on both sides"
    changed = "Labels and splits agree, so a YAML was changed without a new version"
    for field, stated, actual, advice in (
        ("task version", claimed.task.version, ours.task.version, again),
        ("scoring version", claimed.scoring_version, ours.scoring_version, again),
        (f"labels of cohort {cohort}", theirs.labels, here.labels, labels),
        ("splits", theirs.splits, here.splits, splits),
        ("task hash", claimed.task.task_hash, ours.task.task_hash, changed),
    ):
        if stated != actual:
            field = f"{claimed.task.id}: {field}"
            advice += (
                f". The claimed score is {claimed.scores.main.value:.6f}, with our data it is "
                f"{ours.scores.main.value:.6f}"
            )
            return Finding("V1", member, field, str(stated)[:16], str(actual)[:16], advice)
    return None
