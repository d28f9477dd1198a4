"""Which scores are of the same features: the records of each column of a board, and its label."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.record import Record, RecordFeatures

_SHOWN_DIGITS = 6
RowKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Scored:
    """A record with its features, which an older one may not state itself."""

    record: Record
    features: RecordFeatures | None

    @property
    def age(self) -> tuple[int, str, str]:
        """What the newest of several is last by: a reported one never hides another."""
        return self.record.verification != "V0", *self.record.age

    @property
    def content(self) -> str:
        """Hash of the features; "" where they are not recorded."""
        return self.features.content if self.features else ""

    @property
    def source(self) -> tuple[str, str]:
        """What made the features, and the cohort: contents differ within one of these alone."""
        return made_by(self.features), self.record.task.cohort


def made_by(features: RecordFeatures | None) -> str:
    """Return what made features: a patch encoder, "features" of an unknown one, or unrecorded."""
    if features is None:
        return "features not recorded"
    return features.patch_encoder or "features"


def features_by_record(records: Iterable[Record]) -> dict[str, RecordFeatures | None]:
    """Return by record id the features of records.

    One from before records stated them has those of a later record of the same embeddings, if all
    of these agree.
    """
    stated: dict[tuple[str, ...], set[RecordFeatures]] = {}

    def embeddings(record: Record) -> tuple[str, ...]:
        encoder = record.encoder
        return encoder.name, encoder.revision, record.task.cohort, record.inputs.embeddings

    every = list(records)
    for record in every:
        if record.features is not None:
            stated.setdefault(embeddings(record), set()).add(record.features)
    alone = {key: next(iter(found)) for key, found in stated.items() if len(found) == 1}
    return {r.record_id: r.features or alone.get(embeddings(r)) for r in every}


def usual_features(scored: Iterable[Scored]) -> dict[tuple[str, str], str]:
    """Return by source the content that most encoders were given, ties going to the newest."""
    votes: dict[tuple[str, str], dict[str, set[tuple[str, str]]]] = {}
    recent: list[str] = []
    for one in sorted(scored, key=lambda one: one.age):
        if one.record.verification != "V0":
            who = votes.setdefault(one.source, {}).setdefault(one.content, set())
            who.add((one.record.encoder.name, one.record.encoder.revision))
            recent.append(one.content)
    place = {content: number for number, content in enumerate(recent)}
    return {
        source: max(contents, key=lambda content: (len(contents[content]), place[content]))
        for source, contents in votes.items()
    }


def split_rows(
    scored: Sequence[Scored], usual: Mapping[tuple[str, str], str]
) -> dict[RowKey, list[Scored]]:
    """Return the records of each column, by encoder, revision, what made the features, and "".

    Where the encoder was given several contents of a cohort, one of them stands in that column: the
    usual one, or else the newest. Each other has a column of its own, with its hash as the last.
    """
    main: dict[tuple[str, str, tuple[str, str]], str] = {}
    ordered = sorted(scored, key=lambda one: one.age)
    for one in ordered:
        place = (one.record.encoder.name, one.record.encoder.revision, one.source)
        if place not in main or main[place] != usual.get(one.source):
            main[place] = one.content
    rows: dict[RowKey, list[Scored]] = {}
    for one in ordered:
        name, revision = one.record.encoder.name, one.record.encoder.revision
        aside = "" if one.content == main[name, revision, one.source] else one.content
        rows.setdefault((name, revision, one.source[0], aside), []).append(one)
    return dict(sorted(rows.items()))


def column_labels(rows: Mapping[RowKey, Sequence[Scored]]) -> list[str]:
    """Return the label of each column: as short as tells it from all others of the board."""
    revisions: dict[str, set[str]] = {}
    makers: set[str] = set()
    contents: dict[tuple[str, str], set[str]] = {}
    for (name, revision, maker, _), own in rows.items():
        revisions.setdefault(name, set()).add(revision)
        makers.add(maker)
        for one in own:
            contents.setdefault(one.source, set()).add(one.content)

    def label(key: RowKey, digits: int) -> str:
        name, revision, maker, _ = key
        text = name if len(revisions[name]) == 1 else f"{name}@{revision}"
        several = {one.source: one.content for one in rows[key] if len(contents[one.source]) > 1}
        unnamed = maker == "features" and len(makers) > 1
        if unnamed and not several:
            several = {one.source: one.content for one in rows[key]}
        hashes = sorted(set(several.values()))
        if len(makers) == 1 and not hashes:
            return text
        digest = hashes[0] if len(hashes) == 1 else hash_json(hashes) if hashes else ""
        return f"{text} \u00b7 {maker} {digest[:digits]}".rstrip()

    labels: list[str] = []
    for digits in range(_SHOWN_DIGITS, 65):
        labels = [label(key, digits) for key in rows]
        if len(set(labels)) == len(labels):
            break
    return labels
