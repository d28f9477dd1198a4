"""submission.json: what a bundle says it holds."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from madeleine_bench.specs.card import Revision
from madeleine_bench.specs.loader import Spec, portable_name
from madeleine_bench.specs.task import Identifier

MANIFEST = "submission.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PackedFile(Spec):
    """One member: its name, its size in bytes and its SHA-256."""

    path: Annotated[str, Field(max_length=200)]
    size: int = Field(ge=0)
    sha256: Sha256


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
