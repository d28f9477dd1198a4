"""Writes that leave no half: to a temporary file, then renamed; and one writer a folder."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from madeleine_bench.errors import InputError

_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.I)


def reserved_on_windows(name: str) -> bool:
    """Return whether Windows can have no file or folder of a name: a device, or a dot at the end.

    Examples:
        >>> [reserved_on_windows(name) for name in ("nul", "Com1.tar.gz", "a.", "console", "com")]
        [True, True, True, False, False]
    """
    return name.endswith((".", " ")) or bool(_DEVICE.fullmatch(name.split(".")[0].rstrip(" ")))


@contextlib.contextmanager
def replacing(path: Path, named: Callable[[Path], str] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it takes the place of `path`.

    Args:
        path: the file to write.
        named: gives the name the file ends with, instead of that of `path`, from what was written:
            for a file whose name holds the hash of its content.

    Raises:
        InputError: the folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:80]}.", suffix=".tmp", dir=path.parent
        )
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. "
            "Choose a folder you may write to, with room on the disk."
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path.with_name(named(temporary)) if named else path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a file atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write text (UTF-8) to a file atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    write_bytes(path, text.encode())


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes of this machine until the block ends, or dies.

    Where the system has no file locks (Windows), nothing is held.

    Raises:
        InputError: another process holds the folder, or it cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".writer").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is writing to {folder}; wait for it, or choose another folder"
                ) from error
            yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
