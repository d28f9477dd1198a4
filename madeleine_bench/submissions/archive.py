"""A third party's zip, read to memory under limits; nothing is ever written or run.

zipfile reads it. Before that its directory, and before each member its name and kind, are checked:
nothing that the zip says of itself is believed, and sizes are counted while the bytes stream.
"""

import io
import re
import stat
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows
from madeleine_bench.submissions.parsing import shown

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
    """

    bundle: int = 512 * MIB
    unpacked: int = 640 * MIB
    members: int = 256
    ratio: int = 100


LIMITS = Limits()
_RATIO_FREE = 64 * KIB  # text of this size may shrink a thousandfold and hurts nobody
_END = struct.Struct("<4s4H2LH")


def kind_of(name: str) -> str | None:
    """Return what kind of member a name is of, or None where it has no place in a bundle.

    Examples:
        >>> [kind_of(n) for n in ("card.yaml", "weights/w.pt", "embeddings/../bcnb.safetensors")]
        ['card', None, None]
    """
    if ".." in name or reserved_on_windows(name.rsplit("/", 1)[-1]):
        return None
    kinds = (kind for kind, (pattern, _) in MEMBER_KINDS.items() if re.fullmatch(pattern, name))
    return next(kinds, None)


def read_zip(path: Path, limits: Limits = LIMITS) -> bytes:
    """Return the bytes of a zip.

    Raises:
        InputError: the file is absent or larger than the limit.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(limits.bundle + 1)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: {reason}; name the zip that mbench submit pack made") from error
    if len(data) > limits.bundle:
        raise InputError(f"{path}: larger than {limits.bundle // MIB} MiB, the most allowed")
    return data


def unpack(path: Path, data: bytes, limits: Limits = LIMITS) -> dict[str, bytes]:
    """Return the members of a zip by name.

    Raises:
        InputError: it is no zip, damaged, larger than the limits, or holds anything but plain files
            of the expected names.
    """
    _check_directory(path, data, limits)
    members: dict[str, bytes] = {}
    left = limits.unpacked
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            # Members that share their bytes are how a small zip becomes petabytes.
            if sum(info.compress_size for info in infos) > len(data):
                raise InputError(f"{path}: its members overlap; pack it again")
            for number, info in enumerate(infos):
                _check_entry(path, info, {other.filename.lower() for other in infos[:number]})
            for info in infos:
                members[info.filename] = _member(path, archive, info, limits, left)
                left -= len(members[info.filename])
    except InputError:
        raise
    except Exception as error:  # a damaged zip makes zipfile raise many things
        reason = shown(str(error), 160)
        raise InputError(f"{path}: a damaged zip ({reason}); pack it again") from error
    return members


def _check_directory(path: Path, data: bytes, limits: Limits) -> None:
    """Check the directory at the end of a zip before zipfile makes an object of each entry.

    A plain zip ends in its directory and has nothing before its first member. So there is one
    reading of it, and a directory of a million entries never becomes a million objects.
    """
    start = len(data) - _END.size
    if start < 0 or not data.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: not a plain zip file; make it with mbench submit pack")
    mark, *disks, entries, size, offset, comment = _END.unpack(data[start:])
    whole = mark == b"PK\x05\x06" and disks == [0, 0, entries] and not comment
    if not whole or offset + size != start or data[start - 20 :].startswith(b"PK\x06\x07"):
        raise InputError(
            f"{path}: not a plain zip file; make it with mbench submit pack (it is cut off, "
            "something follows its end, its directory is not where it says, or it is zip64)"
        )
    if entries > limits.members or size > limits.members * (46 + 3 * 256):
        raise InputError(
            f"{path}: {entries} members, a directory of {size:,} bytes; a bundle has at most "
            f"{limits.members} members"
        )


def _check_entry(path: Path, info: zipfile.ZipInfo, earlier: set[str]) -> None:
    """Check what the directory says of a member; zipfile itself refuses what is encrypted."""
    name = info.filename
    where = f"{path}: member {shown(info.orig_filename)}"
    if name != info.orig_filename or kind_of(name) is None:
        raise InputError(
            f"{where} has no place in a bundle, which holds submission.json, card.yaml, "
            "embeddings/*.safetensors, records/*.json and, with --code, code/*.py and "
            "weights/*.safetensors. Pickles and names that Windows reserves, such as nul, are "
            "never read"
        )
    if name.lower() in earlier:
        raise InputError(f"{where} stands twice, perhaps in another case")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG) or info.external_attr & 0x10:
        raise InputError(f"{where} is a link, a folder or a device, not a plain file")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{where} is compressed by method {info.compress_type}, not deflate")


def _member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits, left: int
) -> bytes:
    """Return the bytes of one member, counted while they stream."""
    most = min(MEMBER_KINDS[str(kind_of(info.filename))][1], left)
    packed = max(_RATIO_FREE, limits.ratio * info.compress_size)
    with archive.open(info) as handle:
        data = handle.read(min(most, packed) + 1)
    where = f"{path}: member {info.filename}"
    if len(data) > most:
        raise InputError(f"{where} unpacks to more than {most:,} bytes, the most allowed")
    if len(data) > packed:
        raise InputError(
            f"{where} unpacks to more than {limits.ratio} times its packed size; it looks like a "
            "zip bomb"
        )
    return data
