"""V0: is a submission consistent in itself? And what a false claim is, at any rung of the ladder.

Nothing of ours but the catalogue is looked at.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from madeleine_bench.encoders.registry import shipped_encoders
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
    "V0": "reported: well-formed and consistent in itself; the scores are the submitter's word",
    "V1": "recomputed: the scores are those of the submitted embeddings on our labels and splits",
    "V2": "spot-checked: some slides, encoded again from the weights, gave the submitted rows",
    "V3": "reproduced: every slide was encoded again and every score computed from that",
}
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 400


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
    protocol = catalogue.protocols.get(record.protocol)
    if task is None or protocol is None or task.cohort != record.task.cohort:
        return None
    return None if misfit(task, protocol) or not protocol.from_slides else task


def _differs(where: str, field: str, claimed: object, actual: object, advice: str = "") -> Finding:
    return Finding("V0", where, field, plain(str(claimed)), plain(str(actual)), advice)


def _check_encoder(bundle: Bundle) -> Iterator[Finding]:
    card, stated = bundle.card, bundle.manifest.encoder
    for field, claimed, actual in (
        ("encoder name", stated.name, card.name),
        ("encoder revision", stated.revision, card.revision),
    ):
        if claimed != actual:
            advice = "card.yaml says otherwise; pack it again"
            yield _differs("submission.json", field, claimed, actual, advice)
    shipped = shipped_encoders().get(card.name)
    if shipped is not None and shipped.card != card:
        actual, advice = "an encoder that ships with madeleine-bench", "The name is taken"
        yield _differs("card.yaml", "name", card.name, actual, f"{advice}; choose another")


def _check_embeddings(bundle: Bundle, catalogue: Catalogue) -> Iterator[Finding]:
    for cohort, embeddings in bundle.embeddings.items():
        where, stated = embeddings_member(cohort), bundle.stated_hashes[cohort]
        if stated != embeddings.hash:
            advice = "An id or a value was altered after the file was made"
            yield _differs(where, "hash of ids and matrix", shown(stated), embeddings.hash, advice)
        if cohort not in catalogue.cohorts:
            hint = did_you_mean(cohort, list(catalogue.cohorts))
            yield _differs(where, "cohort", cohort, f"no such cohort{hint}")


def _check_record(bundle: Bundle, claim: Claim) -> Iterator[Finding]:
    record, where, cohort = claim.record, claim.member, claim.record.task.cohort
    if claim.stated_id != record.record_id:
        advice = "The record was altered after it was made"
        yield _differs(where, "record_id", shown(claim.stated_id), record.record_id, advice)
    first = next(c.record for c in bundle.claims if c.record.task.cohort == cohort)
    embeddings = bundle.embeddings.get(cohort)
    there = "no embeddings of this cohort" if embeddings is None else embeddings.hash
    # The formula of runner.plan.resume_key, over what the record itself says.
    key = [record.inputs.embeddings, record.task.task_hash, record.protocol, record.scoring_version]
    for field, claimed, actual in (
        *(
            (f"encoder {name}", getattr(record.encoder, name), getattr(bundle.card, name))
            for name in ("name", "revision", "title", "kind", "training_cohorts")
        ),
        ("board", record.board, bundle.board),
        ("resume_key", record.resume_key, hash_json(key)),
        ("predictions path", record.predictions.path, _predictions_path(record)),
        ("features of the cohort", record.features, first.features),
        ("embeddings it was scored from", record.inputs.embeddings, there),
        ("file name", where, record_member(*claim.cell)),
    ):
        if claimed != actual:
            yield _differs(where, field, claimed, actual)
    if not _HEX.fullmatch(record.encoder.fingerprint):
        yield _differs(where, "fingerprint", record.encoder.fingerprint, "not 64 hex digits")
    for text in _texts(record.model_dump(mode="json", exclude={"provenance"})):
        if len(text) > _MAX_TEXT or plain(text, _MAX_TEXT) != text:
            fault = f"longer than {_MAX_TEXT} characters, or holds characters that cannot be shown"
            yield _differs(where, "a text", shown(text), fault)
            return


def _check_task(claim: Claim, catalogue: Catalogue) -> Iterator[Finding]:
    record, where = claim.record, claim.member
    task = catalogue.tasks.get(record.task.id)
    if task is None:
        hint = did_you_mean(record.task.id, list(catalogue.tasks))
        yield _differs(where, "task", record.task.id, f"no such task{hint}")
        return
    protocol = catalogue.protocols.get(record.protocol)
    if protocol is None:
        hint = did_you_mean(record.protocol, list(catalogue.protocols))
        yield _differs(where, "protocol", record.protocol, f"no such protocol{hint}")
    elif fault := misfit(task, protocol):
        yield _differs(where, "protocol", record.protocol, fault)
    elif not protocol.from_slides:
        fault = "scores nothing from the embeddings of slides"
        advice = "such records cannot be recomputed from a submission"
        yield _differs(where, "protocol", record.protocol, fault, advice)
    main = record.scores.main
    for field, claimed, actual in (
        ("cohort", record.task.cohort, task.cohort),
        ("family", record.task.family, task.family),
        ("metric", main.metric, task.metric.name),
        ("chance", main.chance, task.metric.chance),
    ):
        if claimed != actual:
            yield _differs(where, field, claimed, actual)


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
