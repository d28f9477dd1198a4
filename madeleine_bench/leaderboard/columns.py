"""Which records share a column of a board, and what the column is called.

A column is an encoder, its revision and the features it was given.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.record import Record, RecordFeatures

ColumnKey = tuple[str, str, str, str]
Source = tuple[str, str]
_SHOWN_DIGITS = 6


def made_by(features: RecordFeatures | None) -> str:
    """Return what made features: a patch encoder, "features" of an unknown one, or unrecorded."""
    if features is None:
        return "features not recorded"
    return features.patch_encoder or "features"


def content_of(record: Record) -> str:
    """Return the hash of a record's features; "" where they are not recorded."""
    return record.features.content if record.features else ""


def source_of(record: Record) -> Source:
    """Return what made the features, and the cohort: contents differ within one of these alone."""
    return made_by(record.features), record.task.cohort


def usual_features(records: Iterable[Record]) -> dict[Source, str]:
    """Return by source the content that most encoders were given, ties going to the newest."""
    recomputed = [record for record in records if record.verification != "V0"]
    latest = {content_of(record): place for place, record in enumerate(recomputed)}
    given = {(source_of(r), content_of(r), r.encoder.name, r.encoder.revision) for r in recomputed}
    votes = Counter((source, content) for source, content, *_ in given)
    return dict(sorted(votes, key=lambda vote: (votes[vote], latest[vote[1]])))


def split_columns(
    records: Sequence[Record], usual: Mapping[Source, str]
) -> dict[ColumnKey, list[Record]]:
    """Return the records of each column, by encoder, revision, what made the features, and "".

    Where the encoder was given several contents of a cohort, one of them stands in that column: the
    usual one, or else the newest. Each other has a column of its own, with its hash as the last.
    """

    def place(record: Record) -> tuple[str, str, Source]:
        return record.encoder.name, record.encoder.revision, source_of(record)

    by_use = sorted(records, key=lambda record: usual.get(source_of(record)) == content_of(record))
    main = {place(record): content_of(record) for record in by_use}
    rows: dict[ColumnKey, list[Record]] = {}
    for record in records:
        name, revision, (maker, _) = place(record)
        aside = "" if content_of(record) == main[place(record)] else content_of(record)
        rows.setdefault((name, revision, maker, aside), []).append(record)
    return dict(sorted(rows.items()))


def column_labels(rows: Mapping[ColumnKey, Sequence[Record]]) -> list[str]:
    """Return the label of each column: as short as tells it from all others of the board."""
    revisions = Counter(name for name, _ in {key[:2] for key in rows})
    makers = {maker for _, _, maker, _ in rows}
    every = [record for row in rows.values() for record in row]
    contents = Counter(source for source, _ in {(source_of(r), content_of(r)) for r in every})

    def label(key: ColumnKey, digits: int) -> str:
        name, revision, maker, _ = key
        text = name if revisions[name] == 1 else f"{name}@{revision}"
        several = {content_of(r) for r in rows[key] if contents[source_of(r)] > 1}
        if maker == "features" and len(makers) > 1 and not several:
            several = {content_of(record) for record in rows[key]}
        if len(makers) == 1 and not several:
            return text
        digest = min(several, default="") if len(several) < 2 else hash_json(sorted(several))
        return f"{text} \u00b7 {maker} {digest[:digits]}".rstrip()

    labels: list[str] = []
    for digits in range(_SHOWN_DIGITS, 65):
        labels = [label(key, digits) for key in rows]
        if len(set(labels)) == len(labels):
            break
    return labels
