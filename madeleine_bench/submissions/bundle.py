"""What a submitted zip claims: read as data, well-formed or refused; nothing is written or run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.specs.card import EncoderCard, Revision
from madeleine_bench.specs.loader import Spec, SpecT, did_you_mean, portable_name, valid_keys
from madeleine_bench.specs.record import Record, record_id
from madeleine_bench.specs.task import Identifier
from madeleine_bench.submissions.parsing import (
    kind_of,
    parse_embeddings,
    parse_json,
    parse_safetensors,
    parse_yaml,
    plain,
    read_zip,
    shown,
    unpack,
)

MANIFEST = "submission.json"
# Longest texts of a card; they are printed in tables and reports.
CARD_TEXTS = {
    "title": 120,
    "licence": 200,
    "description": 4000,
    "citation": 1000,
    "patch_encoder": 100,
    "implementation": 200,
}
MAX_COHORTS = 100


class PackedFile(Spec):
    """One member: its name, its size in bytes and its SHA-256."""

    path: Annotated[str, Field(max_length=200)]
    size: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PackedEncoder(Spec):
    """Whose submission it is."""

    name: Identifier
    revision: Revision


class Manifest(Spec):
    """The content of submission.json. It names no date, so equal submissions are equal bytes."""

    schema_version: Literal[1] = 1
    encoder: PackedEncoder
    board: Annotated[
        str,
        Field(pattern=r"^(phantom|local)(-[a-z0-9.-]+)?$", max_length=64),
        AfterValidator(portable_name),
    ]
    mbench: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")]
    files: tuple[PackedFile, ...] = Field(min_length=1, max_length=256)


@dataclass(frozen=True)
class Claim:
    """A claimed record: where it lies in the bundle, the id it came with, and its content.

    `record.record_id` is the hash of the content; `stated_id` is what the file says it is.
    """

    member: str
    stated_id: str
    record: Record

    @property
    def cell(self) -> tuple[str, str]:
        """Its task and protocol."""
        return self.record.task.id, self.record.protocol


@dataclass(frozen=True)
class Bundle:
    """A well-formed submission. Its claims may still be false: `verify` says.

    Attributes:
        path: the zip.
        sha256: hash of the zip.
        manifest: submission.json.
        card: the encoder's card.
        embeddings: by cohort id.
        stated_hashes: by cohort id, the content hash that the file of its embeddings states.
        claims: the claimed records, in the order of their names.
        files: implementation and weights, by member; only with --code. Never run unless asked.
    """

    path: Path
    sha256: str
    manifest: Manifest
    card: EncoderCard
    embeddings: Mapping[str, Embeddings]
    stated_hashes: Mapping[str, str]
    claims: tuple[Claim, ...]
    files: Mapping[str, bytes]


def embeddings_member(cohort: str) -> str:
    """Return the name of a cohort's embeddings in a bundle."""
    return f"embeddings/{cohort}.safetensors"


def record_member(task_id: str, protocol: str) -> str:
    """Return the name of a claimed record in a bundle."""
    return f"records/{task_id}.{protocol.replace('/', '-')}.json"


def read_bundle(path: Path) -> Bundle:
    """Return what a zip claims.

    Raises:
        InputError: the zip is refused (see `unpack`), a member is not listed in submission.json or
            differs from it, or a file is not what its name says.
    """
    data = read_zip(path)
    members = unpack(path, data)
    manifest = _manifest(path, members)
    _check_listed(path, members, manifest)
    card = _card(path, members)
    embeddings, stated_hashes, files = {}, {}, {}
    claims: list[Claim] = []
    for name, content in sorted(members.items()):
        kind, where, file = kind_of(name), f"{path}/{name}", PurePath(name)
        if kind == "embeddings":
            embeddings[file.stem], stated_hashes[file.stem] = parse_embeddings(content, where)
        elif kind == "record":
            claims.append(_claim(name, content, where))
        elif kind == "weights":
            parse_safetensors(content, where)
        if kind in ("code", "weights"):
            files[name] = content
    if not claims or not embeddings:
        raise InputError(f"{path}: no records or no embeddings in it; nothing can be verified")
    return Bundle(
        path, hash_bytes(data), manifest, card, embeddings, stated_hashes, tuple(claims), files
    )


def _manifest(path: Path, members: Mapping[str, bytes]) -> Manifest:
    where = f"{path}/{MANIFEST}"
    return _validated(Manifest, parse_json(_member(path, members, MANIFEST), where), where)


def _member(path: Path, members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise InputError(f"{path}: no {name} in it; make it with mbench submit pack")
    return members[name]


def _check_listed(path: Path, members: Mapping[str, bytes], manifest: Manifest) -> None:
    there = {name: (len(data), hash_bytes(data)) for name, data in members.items()}
    del there[MANIFEST]
    listed = {file.path: (file.size, file.sha256) for file in manifest.files}
    if len(listed) < len(manifest.files):
        raise InputError(f"{path}/{MANIFEST}: it lists a file twice")
    for name in sorted(there.keys() | listed.keys()):
        if there.get(name) != listed.get(name):
            fault = f"is not the file that {MANIFEST} lists"
            if name not in listed:
                fault = f"is not listed in {MANIFEST}"
            elif name not in there:
                fault = f"is listed in {MANIFEST} and absent"
            raise InputError(f"{path}: {plain(name)} {fault}; pack it again")


def _card(path: Path, members: Mapping[str, bytes]) -> EncoderCard:
    where = f"{path}/card.yaml"
    card = _validated(EncoderCard, parse_yaml(_member(path, members, "card.yaml"), where), where)
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


def files_of_card(card: EncoderCard) -> list[str]:
    """Return the names that an encoder's code, where it is a file, and weights have in a bundle."""
    module = card.implementation.rsplit(":", 1)[0]
    code = [f"code/{module}"] if module.endswith(".py") else []
    return [*code, f"weights/{card.weights.path}"] if card.weights else code


def check_files_of_card(card: EncoderCard, where: str) -> None:
    """Check that a card names its code and its weights as plain files beside it.

    Raises:
        InputError: it names a file in another folder, or weights that are not safetensors.
    """
    for name in files_of_card(card):
        if kind_of(name) is None:
            raise InputError(
                f"{where}: {shown(name)} has no place in a bundle: 'implementation' must name a "
                "plain .py file beside the card, 'weights' a .safetensors file beside it; other "
                "kinds can hold code, and are not read"
            )


def _claim(member: str, data: bytes, where: str) -> Claim:
    content = parse_json(data, where)
    stated = content.get("record_id") if isinstance(content, dict) else None
    if not isinstance(stated, str):
        raise InputError(f"{where}: not a record: expected an object, missing key 'record_id'")
    # The id is checked by `verify`, which then also says what of the content is false.
    record = _validated(Record, {**content, "record_id": record_id(content)}, where)
    return Claim(member, stated, record)


def _validated(model: type[SpecT], content: Any, where: str) -> SpecT:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        lines = [f"{where}: {_fault(model, fault)}" for fault in faults[:8]]
        raise InputError("\n".join(lines)) from error


def _fault(model: type[SpecT], fault: ErrorDetails) -> str:
    place = fault["loc"]
    key = plain(".".join(map(str, place)), 80) or "(top level)"
    if fault["type"] == "extra_forbidden":
        hint = did_you_mean(str(place[-1])[:80], valid_keys(model, place[:-1]))
        return f"unknown key '{key}'{hint}"
    return f"{key}: {plain(fault['msg'].removeprefix('Value error, '))}"
