"""What a submitter makes: the files of a new encoder, and its results as one zip.

The same results give a zip of the same bytes, on every machine.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from madeleine_bench import __version__
from madeleine_bench.embeddings.given import IMPLEMENTATION
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.encoders.registry import (
    EncoderEntry,
    check_weights,
    find_encoder,
    fingerprint,
    shipped_encoders,
)
from madeleine_bench.errors import InputError
from madeleine_bench.files import replacing, reserved_on_windows, write_text
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.report import Report
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import card_text
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.implementation import code_file
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record, RecordFeatures
from madeleine_bench.submissions.bundle import (
    MANIFEST,
    check_files_of_card,
    embeddings_member,
    files_of_card,
    read_bundle,
    record_member,
)
from madeleine_bench.submissions.claims import check_claims

_DATE = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o100644 << 16


def pack(
    encoder: str,
    results: Path,
    out: Path | None,
    board: str | None,
    catalogue: Catalogue,
    *,
    with_code: bool = False,
) -> Report:
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
    newest = _newest_records(entry, encoder, results, board, catalogue)
    usable = {name for name, protocol in catalogue.protocols.items() if protocol.from_slides}
    records = [record for record in newest if record.protocol in usable]
    left_out = sorted({record.protocol for record in newest} - usable)
    if not records:
        raise InputError(
            f"all records of {entry.card.name} are of {', '.join(left_out)}, which score nothing "
            "from the embeddings of slides, or are no longer in the catalogue: there is nothing in "
            "them that others could recompute"
        )
    members = {"card.yaml": card_text(entry.card).encode()}
    cohorts = sorted({record.task.cohort for record in records})
    for cohort in cohorts:
        scored = [record for record in records if record.task.cohort == cohort]
        members[embeddings_member(cohort)] = _embeddings(results, scored)
    for record in records:
        members[record_member(record.task.id, record.protocol)] = _json(
            record.model_dump(mode="json")
        )
    if with_code:
        members |= _code(entry)
    path, chosen = out or Path(f"{entry.card.name}.zip"), records[0].board
    manifest = {
        "schema_version": 1,
        "encoder": {"name": entry.card.name, "revision": entry.card.revision},
        "board": chosen,
        "mbench": __version__,
        "files": [
            {"path": name, "size": len(data), "sha256": hash_bytes(data)}
            for name, data in sorted(members.items())
        ],
    }
    with replacing(path) as temporary:
        temporary.write_bytes(_zip({MANIFEST: _json(manifest), **members}))
        _check(temporary, path, catalogue)
    core = [task.id for task in catalogue.tasks.values() if task.status == "core"]
    missing = sorted(set(core) - {record.task.id for record in records})
    wrote = f"wrote {path}: {len(records)} records of board {chosen}"
    lines = [f"{wrote}, embeddings of {', '.join(cohorts)}"]
    if missing:
        lines.append(
            f"{len(missing)} of {len(core)} core tasks have no record, so it will not be ranked: "
            f"{', '.join(missing)}"
        )
    if left_out:
        lines.append(
            f"left out: records of {', '.join(left_out)}, which nobody can recompute from "
            "embeddings of slides"
        )
    document = {"board": chosen, "records": len(records), "cohorts": cohorts}
    document |= {"missing": missing, "left_out": left_out}
    return Report(document, [*lines, f"try: mbench submit verify {path}"])


def _check(written: Path, path: Path, catalogue: Catalogue) -> None:
    """Read the bundle as a verifier will, so that nothing is refused there for the first time."""
    try:
        findings = check_claims(read_bundle(written), catalogue)
    except InputError as error:
        reason = str(error).replace(str(written), str(path))
        raise InputError(f"this cannot be submitted: {reason}") from error
    if findings:
        lines = ["this cannot be submitted, as it contradicts itself:", *(f.line for f in findings)]
        raise InputError("\n".join(lines))


def _newest_records(
    entry: EncoderEntry, encoder: str, results: Path, board: str | None, catalogue: Catalogue
) -> list[Record]:
    """Return the newest record of each task and protocol of the current versions, in order.

    Of each cohort those of one set of features: the one with the most of them, or else the newest.
    Records of external tasks are left out.
    """
    name = entry.card.name
    again = f"mbench run --encoder {encoder} --task all --results {results}"
    named = [record for _, record in ResultStore(results).located(name)]
    if not named:
        raise InputError(f"no records of encoder {name} in {results}; make them: {again}")
    if entry.card.implementation == IMPLEMENTATION:  # a file each may hold another cohort
        made = [record for record in named if record.encoder.revision == entry.card.revision]
    else:
        print_ = fingerprint(entry)
        made = [record for record in named if record.encoder.fingerprint == print_]
    made = [record for record in made if record.training is None]
    if not made:
        raise InputError(
            f"the records of {name} in {results} were made by another card, code or weights than "
            f"those of {entry.path}; run it again: {again}"
        )
    boards = sorted({record.board for record in made})
    if board is None and len(boards) > 1:
        raise InputError(f"{name} has records on the boards {', '.join(boards)}; choose: --board")
    chosen = board or boards[0]
    if chosen not in boards:
        raise InputError(f"no records on board '{chosen}'{did_you_mean(chosen, boards)}")
    versions = {(task.id, task.version) for task in catalogue.tasks.values()}
    by_features: dict[tuple[str, RecordFeatures | None], dict[tuple[str, str], Record]] = {}
    for record in sorted(made, key=lambda record: record.age):
        if record.board == chosen and (record.task.id, record.task.version) in versions:
            cells = by_features.setdefault((record.task.cohort, record.features), {})
            cells[record.task.id, record.protocol] = record
    if not by_features:
        raise InputError(f"no records of {name} on the tasks of this catalogue; run it: {again}")

    def size(item: tuple[object, dict[Any, Record]]) -> tuple[int, tuple[str, str]]:
        return len(item[1]), max(record.age for record in item[1].values())

    most = {cohort: cells for (cohort, _), cells in sorted(by_features.items(), key=size)}
    packed = {cell: record for cells in most.values() for cell, record in cells.items()}
    return [packed[cell] for cell in sorted(packed)]


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
    code_file(entry.path, entry.card.implementation)
    folder = entry.path.parent
    return {name: (folder / PurePath(name).name).read_bytes() for name in files_of_card(entry.card)}


def _json(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode()


def _zip(members: dict[str, bytes]) -> bytes:
    """Return a zip with fixed dates and order; stored, as zlib's bytes differ between versions."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in (MANIFEST, *sorted(members.keys() - {MANIFEST})):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # else a zip made on Windows differs
            info.external_attr = _PLAIN_FILE
            archive.writestr(info, members[name])
    return out.getvalue()


_TEMPLATES = Path(__file__).parent / "scaffold"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MOST = 64


def new_encoder(name: str, parent: Path) -> Path:
    """Write the files of a new encoder to a folder of its name and return its card.

    Raises:
        InputError: the name cannot be one of an encoder or is taken, or the folder is there.
    """
    if not _NAME.fullmatch(name) or len(name) > _MOST:
        hint = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MOST]
        raise InputError(
            f"{name[:80]!r} cannot name an encoder: lower-case letters and digits, in words joined "
            f"by single hyphens, at most {_MOST}" + (f"; say, {hint}" if hint else "")
        )
    if reserved_on_windows(name):
        raise InputError(f"'{name}' cannot name an encoder: Windows reserves it; choose another")
    if name in shipped_encoders():
        raise InputError(f"'{name}' is an encoder of madeleine-bench; choose another name")
    folder = parent / name
    if folder.exists():
        raise InputError(f"{folder} is there already; choose another name or another --folder")
    for template in sorted(_TEMPLATES.glob("*.template")):
        text = template.read_text(encoding="utf-8")
        filled = text.replace("@NAME@", name).replace("@CLASS@", class_name(name))
        write_text(folder / template.stem, filled)
    return folder / "card.yaml"


def class_name(name: str) -> str:
    """Return the name of the class of an encoder.

    Examples:
        >>> [class_name(n) for n in ("my-net", "2d-net", "none")]
        ['MyNetEncoder', 'Encoder2dNet', 'NoneEncoder']
    """
    words = "".join(word.capitalize() for word in name.split("-"))
    return f"Encoder{words}" if words[0].isdigit() else f"{words}Encoder"
