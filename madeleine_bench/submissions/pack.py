"""A submission as one zip: the same bytes for the same results, on every machine."""

import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from madeleine_bench import __version__
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.encoders.registry import EncoderEntry, check_weights, find_encoder, fingerprint
from madeleine_bench.errors import InputError
from madeleine_bench.files import replacing
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import card_text
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.implementation import code_file
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record, RecordFeatures
from madeleine_bench.submissions.bundle import check_files_of_card, read_bundle
from madeleine_bench.submissions.claims import check_claims, record_member
from madeleine_bench.submissions.manifest import MANIFEST, Manifest, PackedEncoder, PackedFile

_DATE = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o100644 << 16


@dataclass(frozen=True)
class Packed:
    """What was packed: where, for which board, and which core tasks have no record.

    `left_out` names protocols whose records cannot be recomputed from embeddings of slides, as they
    need more than these or are no longer in the catalogue.
    """

    path: Path
    board: str
    records: int
    cohorts: tuple[str, ...]
    missing: tuple[str, ...]
    core: int
    left_out: tuple[str, ...] = ()


def pack(
    encoder: str,
    results: Path,
    out: Path | None,
    board: str | None,
    catalogue: Catalogue,
    *,
    with_code: bool = False,
) -> Packed:
    """Write the bundle of an encoder's newest records and return what is in it.

    Args:
        encoder: name, or path of a card.
        results: the results folder of mbench run.
        out: the zip; None makes <name>.zip.
        board: which board's records; None where there is one.
        catalogue: says which tasks there are.
        with_code: add the implementation and the weights, which V2 and V3 need.

    Raises:
        InputError: there are no records of this card, they are of other embeddings than those in
            the folder, or a file cannot be read or written.
    """
    entry = find_encoder(encoder)
    again = f"mbench run --encoder {encoder} --task all --results {results}"
    newest = _records(entry, ResultStore(results), results, board, catalogue, again)
    recomputed = {name for name, one in catalogue.protocols.items() if one.from_slides}
    records = [record for record in newest if record.protocol in recomputed]
    left_out = tuple(sorted({r.protocol for r in newest} - {r.protocol for r in records}))
    if not records:
        raise InputError(
            f"all records of {entry.card.name} are of {', '.join(left_out)}, which score nothing "
            "from the embeddings of slides, or are no longer in the catalogue: there is nothing in "
            "them that others could recompute"
        )
    chosen = records[0].board
    members = {"card.yaml": card_text(entry.card).encode()}
    cohorts = sorted({record.task.cohort for record in records})
    for cohort in cohorts:
        own = [record for record in records if record.task.cohort == cohort]
        members[f"embeddings/{cohort}.safetensors"] = _embeddings(results, own)
    for record in records:
        text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True)
        members[record_member(record.task.id, record.protocol)] = f"{text}\n".encode()
    if with_code:
        members |= _code(entry)
    path = out or Path(f"{entry.card.name}.zip")
    with replacing(path) as temporary:
        temporary.write_bytes(_zip(members, _manifest(entry, chosen, members)))
        _check(temporary, path, catalogue)
    core = [task.id for task in catalogue.tasks.values() if task.status == "core"]
    missing = tuple(sorted(set(core) - {record.task.id for record in records}))
    return Packed(path, chosen, len(records), tuple(cohorts), missing, len(core), left_out)


def _check(written: Path, path: Path, catalogue: Catalogue) -> None:
    """Read the bundle as a verifier will, so that nothing is refused there for the first time."""
    try:
        findings = check_claims(read_bundle(written), catalogue)
    except InputError as error:
        reason = str(error).replace(str(written), str(path))
        raise InputError(f"this cannot be submitted: {reason}") from error
    if findings:
        lines = "\n".join(finding.line for finding in findings)
        raise InputError(f"this cannot be submitted, as it contradicts itself:\n{lines}")


def _records(
    entry: EncoderEntry,
    store: ResultStore,
    results: Path,
    board: str | None,
    catalogue: Catalogue,
    again: str,
) -> list[Record]:
    """Return the newest record of each task and protocol of the current versions, in order.

    Of each cohort those of one set of features: the one with the most of them, or else the newest.
    """
    name = entry.card.name
    named = [record for record in store.records() if record.encoder.name == name]
    if not named:
        raise InputError(f"no records of encoder {name} in {results}; make them: {again}")
    print_ = fingerprint(entry)
    own = [record for record in named if record.encoder.fingerprint == print_]
    if not own:
        raise InputError(
            f"the records of {name} in {results} were made by another card, code or weights than "
            f"those of {entry.path}; run it again: {again}"
        )
    boards = sorted({record.board for record in own})
    if board is None and len(boards) > 1:
        raise InputError(f"{name} has records on the boards {', '.join(boards)}; choose: --board")
    chosen = board or boards[0]
    if chosen not in boards:
        raise InputError(f"no records on board '{chosen}'{did_you_mean(chosen, boards)}")
    newest: dict[str, dict[RecordFeatures | None, dict[tuple[str, str], Record]]] = {}
    for record in sorted(own, key=lambda record: record.age):
        task = catalogue.tasks.get(record.task.id)
        if record.board == chosen and task is not None and task.version == record.task.version:
            cells = newest.setdefault(record.task.cohort, {}).setdefault(record.features, {})
            cells[record.task.id, record.protocol] = record
    if not newest:
        raise InputError(f"no records of {name} on the tasks of this catalogue; run it: {again}")
    packed: dict[tuple[str, str], Record] = {}
    for by_features in newest.values():
        most = max(by_features.values(), key=_size)
        packed |= most
    return [record for _, record in sorted(packed.items())]


def _size(cells: dict[tuple[str, str], Record]) -> tuple[int, tuple[str, str]]:
    """Return how many records there are, and the age of the newest."""
    return len(cells), max(record.age for record in cells.values())


def _embeddings(results: Path, records: Iterable[Record]) -> bytes:
    """Return the embeddings file that all these records of one cohort were scored from."""
    by_hash = {record.inputs.embeddings: record for record in records}
    first = next(iter(by_hash.values()))
    name, cohort = first.encoder.name, first.task.cohort
    again = f"mbench run --encoder {name} --task '{cohort}-*' --results {results}"
    if len(by_hash) > 1:
        tasks = " and ".join(sorted(record.task.id for record in by_hash.values()))
        raise InputError(
            f"the newest records of {name} on {cohort} were scored from different embeddings "
            f"({tasks}); score them all from the same: {again}"
        )
    store = EmbeddingStore(results)
    path = store.find(first.board, name, cohort, first.inputs.embeddings)
    if path is not None:
        read_embeddings(path)  # whole, and what its hash says
        return path.read_bytes()
    folder = store.path(first.board, name, cohort, "").parent
    raise InputError(
        f"{folder}: no embeddings of {cohort} that the record {first.record_id[:12]} of "
        f"{first.task.id} was scored from; make both again: {again} --resume never"
    )


def _code(entry: EncoderEntry) -> dict[str, bytes]:
    """Return the implementation, where it is a file beside the card, and the weights."""
    check_files_of_card(entry.card, str(entry.path))
    check_weights(entry)
    members = {}
    module = entry.card.implementation.rsplit(":", 1)[0]
    if module.endswith(".py"):
        source = code_file(entry.path, entry.card.implementation)
        members[f"code/{module}"] = source.read_bytes()
    if entry.card.weights is not None and entry.weights_path is not None:
        members[f"weights/{entry.card.weights.path}"] = entry.weights_path.read_bytes()
    return members


def _manifest(entry: EncoderEntry, board: str, members: dict[str, bytes]) -> bytes:
    manifest = Manifest(
        encoder=PackedEncoder(name=entry.card.name, revision=entry.card.revision),
        board=board,
        mbench=__version__,
        files=tuple(
            PackedFile(path=name, size=len(data), sha256=hash_bytes(data))
            for name, data in sorted(members.items())
        ),
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    return f"{text}\n".encode()


def _zip(members: dict[str, bytes], manifest: bytes) -> bytes:
    """Return a zip with fixed dates and order; stored, as zlib's bytes differ between versions."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [(MANIFEST, manifest), *sorted(members.items())]:
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # else a zip made on Windows differs
            info.external_attr = _PLAIN_FILE
            archive.writestr(info, data)
    return out.getvalue()
