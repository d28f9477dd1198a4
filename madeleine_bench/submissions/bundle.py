"""What a submitted zip claims: read as data, well-formed or refused; nothing is written or run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.loader import SpecT, did_you_mean, valid_keys
from madeleine_bench.specs.record import Record, record_id
from madeleine_bench.submissions.archive import LIMITS, Archive, Limits, kind_of, read_archive
from madeleine_bench.submissions.manifest import MANIFEST, Manifest
from madeleine_bench.submissions.parsing import (
    parse_embeddings,
    parse_json,
    parse_yaml,
    safetensors_header,
)
from madeleine_bench.submissions.text import plain, shown

# Longest texts of a card; they are printed in tables and reports.
CARD_TEXTS = {
    "title": 120, "licence": 200, "description": 4000, "citation": 1000, "patch_encoder": 100,
    "implementation": 200,
}  # fmt: skip
MAX_COHORTS = 100


@dataclass(frozen=True)
class Claim:
    """A claimed record: where it lies in the bundle, the id it came with, and its content.

    `record.record_id` is the hash of the content; `stated_id` is what the file says it is.
    """

    member: str
    stated_id: str
    record: Record


@dataclass(frozen=True)
class ClaimedEmbeddings:
    """The embeddings of a cohort as they are, and the content hash that the file states."""

    member: str
    stated_hash: str
    embeddings: Embeddings


@dataclass(frozen=True)
class Bundle:
    """A well-formed submission. Its claims may still be false: `verify` says.

    Attributes:
        path: the zip.
        sha256: hash of the zip.
        manifest: submission.json.
        card: the encoder's card.
        embeddings: by cohort id.
        claims: the claimed records, in the order of their names.
        code: the implementation, by file name; only with --code. Never run unless asked.
        weights: weights files, by file name; only with --code.
    """

    path: Path
    sha256: str
    manifest: Manifest
    card: EncoderCard
    embeddings: Mapping[str, ClaimedEmbeddings]
    claims: tuple[Claim, ...]
    code: Mapping[str, bytes]
    weights: Mapping[str, bytes]


def read_bundle(path: Path, limits: Limits = LIMITS) -> Bundle:
    """Return what a zip claims.

    Raises:
        InputError: the zip is refused (see `read_archive`), a member is not listed in
            submission.json or differs from it, or a file is not what its name says.
    """
    archive = read_archive(path, limits)
    manifest = _manifest(archive)
    _check_listed(archive, manifest)
    card = _card(archive)
    found: dict[str, dict[str, bytes]] = {}
    for name, data in sorted(archive.members.items()):
        found.setdefault(str(kind_of(name, limits)), {})[name] = data
    for name, data in found.get("weights", {}).items():
        safetensors_header(data, f"{path}/{name}")
    embeddings = {
        Path(name).stem: _embeddings(path, name, data)
        for name, data in found.get("embeddings", {}).items()
    }
    claims = tuple(_claim(path, name, data) for name, data in found.get("record", {}).items())
    if not claims or not embeddings:
        raise InputError(f"{path}: no records or no embeddings in it; nothing can be verified")
    code, weights = (
        {Path(name).name: data for name, data in found.get(kind, {}).items()}
        for kind in ("code", "weights")
    )
    return Bundle(
        path, archive.sha256, manifest, card, embeddings, claims, code, weights
    )  # fmt: skip


def _manifest(archive: Archive) -> Manifest:
    where = f"{archive.path}/{MANIFEST}"
    if MANIFEST not in archive.members:
        raise InputError(f"{archive.path}: no {MANIFEST} in it; make it with mbench submit pack")
    content = parse_json(archive.members[MANIFEST], where)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is int and version > 1:
        raise InputError(f"{where}: schema version {version}; a newer madeleine-bench packed it")
    return _validated(Manifest, content, where)


def _check_listed(archive: Archive, manifest: Manifest) -> None:
    listed = {file.path: file for file in manifest.files}
    if len(listed) < len(manifest.files):
        raise InputError(f"{archive.path}/{MANIFEST}: it lists a file twice")
    there = set(archive.members) - {MANIFEST}
    if extra := sorted(there - set(listed)):
        raise InputError(f"{archive.path}: {extra[0]} is not listed in {MANIFEST}; pack it again")
    if absent := sorted(set(listed) - there):
        raise InputError(f"{archive.path}: {shown(absent[0])} is listed in {MANIFEST} and absent")
    for name, file in sorted(listed.items()):
        data = archive.members[name]
        if len(data) != file.size or hash_bytes(data) != file.sha256:
            raise InputError(
                f"{archive.path}: {name} is not the file that {MANIFEST} lists (sha256 "
                f"{hash_bytes(data)[:16]}..., listed {file.sha256[:16]}...); pack it again"
            )


def _card(archive: Archive) -> EncoderCard:
    where = f"{archive.path}/card.yaml"
    if "card.yaml" not in archive.members:
        raise InputError(f"{archive.path}: no card.yaml in it; make it with mbench submit pack")
    card = _validated(EncoderCard, parse_yaml(archive.members["card.yaml"], where), where)
    for key, most in CARD_TEXTS.items():
        text = getattr(card, key) or ""
        if len(text) > most or plain(text, most).strip() != text.replace("\n", " ").strip():
            raise InputError(
                f"{where}: '{key}' is longer than {most} characters or holds characters that "
                "cannot be shown"
            )
    cohorts = card.training_cohorts or ()
    if len(cohorts) > MAX_COHORTS or not all(len(c) <= 64 and c.isprintable() for c in cohorts):
        raise InputError(f"{where}: 'training_cohorts' lists ids of cohorts, of 64 characters each")
    check_files_of_card(card, where)
    return card


def check_files_of_card(card: EncoderCard, where: str) -> None:
    """Check that a card names its code and its weights as plain files beside it.

    Raises:
        InputError: it names a file in another folder, or weights that are not safetensors.
    """
    module = card.implementation.rsplit(":", 1)[0]
    if module.endswith(".py") and kind_of(f"code/{module}") != "code":
        raise InputError(f"{where}: 'implementation' must name a plain .py file beside the card")
    if card.weights is not None and kind_of(f"weights/{card.weights.path}") != "weights":
        raise InputError(
            f"{where}: 'weights' must be a .safetensors file beside the card; other kinds can hold "
            "code, and are not read"
        )


def _embeddings(path: Path, member: str, data: bytes) -> ClaimedEmbeddings:
    embeddings, stated = parse_embeddings(data, f"{path}/{member}")
    return ClaimedEmbeddings(member, stated, embeddings)


def _claim(path: Path, member: str, data: bytes) -> Claim:
    where = f"{path}/{member}"
    content = parse_json(data, where)
    if not isinstance(content, dict):
        raise InputError(f"{where}: not a record: expected an object")
    stated = content.get("record_id")
    if not isinstance(stated, str):
        raise InputError(f"{where}: missing key 'record_id'")
    # The id is checked by `verify`, which then also says what of the content is false.
    record = _validated(Record, {**content, "record_id": record_id(content)}, where)
    return Claim(member, stated, record)


def _validated(model: type[SpecT], content: Any, where: str) -> SpecT:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        lines = [_fault(model, fault["loc"], fault["type"], fault["msg"]) for fault in faults[:8]]
        raise InputError("\n".join(f"{where}: {line}" for line in lines)) from error


def _fault(model: type[SpecT], place: Sequence[Any], kind: str, message: str) -> str:
    key = plain(".".join(str(part) for part in place), 80) or "(top level)"
    if kind == "extra_forbidden":
        hint = did_you_mean(str(place[-1])[:80], valid_keys(model, tuple(place[:-1])))
        return f"unknown key '{key}'{hint}"
    return f"{key}: {plain(message.removeprefix('Value error, '))}"
