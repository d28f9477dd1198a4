"""A zip from a stranger, read to memory under limits; nothing is ever written or run.

Nothing that the zip says of itself is believed: sizes are counted while the bytes stream, and
names, kinds and the shape of the directory are checked before the first member is opened.
"""

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.submissions.text import shown

KIB, MIB = 1024, 1024 * 1024

_NAME = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}"
# What may lie in a bundle, and how large each may be. A pickle has no place in the list.
MEMBER_KINDS: dict[str, tuple[str, int]] = {
    "manifest": (r"submission\.json", MIB),
    "card": (r"card\.yaml", 64 * KIB),
    "embeddings": (rf"embeddings/{_NAME}\.safetensors", 256 * MIB),
    "record": (rf"records/{_NAME}\.json", MIB),
    "code": (rf"code/{_NAME}\.py", MIB),
    "weights": (rf"weights/{_NAME}\.safetensors", 400 * MIB),
}


@dataclass(frozen=True)
class Limits:
    """The most a bundle may hold.

    Attributes:
        bundle: bytes of the zip.
        unpacked: bytes of all members together.
        members: number of members.
        ratio: unpacked bytes for each packed byte of a member (small members may exceed it).
        kinds: for each kind of member its name as a regular expression, and its largest size.
    """

    bundle: int = 512 * MIB
    unpacked: int = 640 * MIB
    members: int = 256
    ratio: int = 100
    kinds: dict[str, tuple[str, int]] = field(default_factory=lambda: dict(MEMBER_KINDS))


LIMITS = Limits()
_RATIO_FREE = 64 * KIB  # text of this size may shrink a thousandfold and hurts nobody
_CHUNK = MIB
_END = struct.Struct("<4s4H2LH")
_ENCRYPTED, _STRONG, _PATCH = 0x1, 0x40, 0x20


@dataclass(frozen=True)
class Archive:
    """The members of a zip by name, in memory, and the SHA-256 of the zip itself."""

    path: Path
    sha256: str
    members: dict[str, bytes]


def read_archive(path: Path, limits: Limits = LIMITS) -> Archive:
    """Return the members of a zip.

    Raises:
        InputError: the file is absent, no zip, damaged, larger than the limits, or holds anything
            but plain files of the expected names.
    """
    data = _read(path, limits.bundle)
    _check_directory(path, data, limits)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_entries(path, infos, limits)
            members: dict[str, bytes] = {}
            left = limits.unpacked
            for info in infos:
                members[info.filename] = _member(path, archive, info, limits, left)
                left -= len(members[info.filename])
    # A damaged zip makes zipfile raise many things; each is the zip's fault.
    except (
        zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError,
        NotImplementedError, struct.error, OverflowError, IndexError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: a damaged zip ({shown(str(error))}); pack it again") from error
    return Archive(path, hash_bytes(data), members)


def kind_of(name: str, limits: Limits = LIMITS) -> str | None:
    """Return what kind of member a name is of, or None where it has no place in a bundle.

    Examples:
        >>> [kind_of(n) for n in ("card.yaml", "weights/w.pt", "embeddings/../bcnb.safetensors")]
        ['card', None, None]
    """
    for kind, (pattern, _) in limits.kinds.items():
        if re.fullmatch(pattern, name, flags=re.ASCII) and ".." not in name:
            return None if reserved_on_windows(name.rsplit("/", 1)[-1]) else kind
    return None


def _read(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "no such file"
            raise InputError(f"{path}: {what}; name the zip that mbench submit pack made")
        with path.open("rb") as handle:
            data = handle.read(most + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > most:
        raise InputError(f"{path}: larger than {most // MIB} MiB, the most a bundle may have")
    return data


def _check_directory(path: Path, data: bytes, limits: Limits) -> None:
    """Check the directory at the end of a zip before zipfile makes an object of each entry.

    A plain zip ends in its directory and has nothing before its first member. So there is one
    reading of it, and a directory of a million entries never becomes a million objects.
    """
    fault = f"{path}: not a plain zip file; make it with mbench submit pack"
    if len(data) < _END.size or not data.startswith(b"PK\x03\x04"):
        raise InputError(fault)
    end = _END.unpack(data[-_END.size :])
    mark, disk, first_disk, here, entries, size, offset, comment = end
    if mark != b"PK\x05\x06" or comment or disk or first_disk or here != entries:
        raise InputError(f"{fault} (it is cut off, or something follows its end)")
    if entries > limits.members:
        raise InputError(f"{path}: {entries} members; a bundle has at most {limits.members}")
    if offset + size != len(data) - _END.size or size > limits.members * (46 + 3 * 256):
        raise InputError(f"{fault} (its directory is not where it says)")
    if data[-_END.size - 20 : -_END.size].startswith(b"PK\x06\x07"):
        raise InputError(f"{fault} (zip64 is not read)")


def _check_entries(path: Path, infos: Sequence[zipfile.ZipInfo], limits: Limits) -> None:
    seen: dict[str, str] = {}
    for info in infos:
        name = info.filename
        where = f"{path}: member {shown(info.orig_filename)}"
        if name != info.orig_filename or kind_of(name, limits) is None:
            raise InputError(
                f"{where} has no place in a bundle, which holds submission.json, card.yaml, "
                "embeddings/*.safetensors, records/*.json and, with --code, code/*.py and "
                "weights/*.safetensors. Pickles and names that Windows reserves, such as nul, are "
                "never read"
            )
        if name.lower() in seen:
            raise InputError(f"{where} stands twice (also as {seen[name.lower()]})")
        seen[name.lower()] = name
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG) or info.external_attr & 0x10:
            raise InputError(f"{where} is a link, a folder or a device, not a plain file")
        if info.flag_bits & (_ENCRYPTED | _STRONG | _PATCH):
            raise InputError(f"{where} is encrypted; a bundle is open to everybody")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{where} is compressed by method {info.compress_type}, not deflate")
    if len(infos) > limits.members:
        raise InputError(f"{path}: {len(infos)} members; a bundle has at most {limits.members}")
    # Members that share their bytes are how a small zip becomes petabytes.
    if sum(info.compress_size for info in infos) > limits.bundle:
        raise InputError(f"{path}: its members overlap; pack it again")


def _member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits, left: int
) -> bytes:
    """Return the bytes of one member, counted while they stream."""
    kind = kind_of(info.filename, limits)
    assert kind is not None
    most = min(limits.kinds[kind][1], left)
    out = bytearray()
    with archive.open(info) as handle:
        while chunk := handle.read(_CHUNK):
            out += chunk
            where = f"{path}: member {info.filename}"
            if len(out) > most:
                raise InputError(f"{where} unpacks to more than {most:,} bytes, the most allowed")
            if len(out) > max(_RATIO_FREE, limits.ratio * info.compress_size):
                raise InputError(
                    f"{where} unpacks to more than {limits.ratio} times its packed size; it looks "
                    "like a zip bomb"
                )
    return bytes(out)
