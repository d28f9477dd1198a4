"""Files and folders: written whole or not at all, listed whole, and refused in plain words."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from madeleine_bench.errors import InputError, UnreadableFile

# What a damaged file does not cause: the disk, the network or the limits of the process do.
_NOT_CONTENT = {
    errno.EACCES, errno.EAGAIN, errno.EBUSY, errno.EPERM, errno.EISDIR, errno.EIO, errno.ELOOP,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
# How a file system says that it has no locks: NFS without its lock service, Lustre without flock.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def check_readable(path: Path, error: BaseException | None = None) -> None:
    """Check that the system lets a file be read, before a library's error is put down to damage.

    Args:
        path: the file.
        error: what a library raised when it read the file.

    Raises:
        UnreadableFile: the system refuses; the message says why and what to do.
    """
    if isinstance(error, OSError) and error.errno in _NOT_CONTENT:
        raise unreadable(path, error) from error
    with looking_at(path), path.open("rb") as handle:
        handle.read(1)


@contextlib.contextmanager
def looking_at(path: Path) -> Iterator[None]:
    """Say in plain words that the system refuses to look at a path, such as in a closed folder.

    Raises:
        UnreadableFile: it does.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UnreadableFile:
    """Return what the user is told when the system refuses to read a file or folder."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return UnreadableFile(
        f"{path} cannot be read: {reason}. Look whether you may read it, its disk is "
        "mounted and sound, and no link leads nowhere"
    )


def files_under(folder: Path, dead_links: list[Path] | None = None) -> list[Path]:
    """Return every file under a folder, sorted: nested ones too, and those behind links.

    A folder that several links lead to is entered once, so that links in a circle end.

    Args:
        folder: the folder.
        dead_links: receives the links that lead nowhere; None makes such a link an error.

    Raises:
        UnreadableFile: a folder cannot be listed, or a link leads nowhere.
    """
    files: list[Path] = []
    entered: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders.sort(reverse=True)
        state = os.stat(here)
        if (state.st_dev, state.st_ino) in entered:
            folders.clear()
            continue
        entered.add((state.st_dev, state.st_ino))
        for path in (Path(here, name) for name in names):
            with looking_at(path):
                if path.is_file():
                    files.append(path)
                elif path.is_symlink() and not path.name.startswith("."):
                    if dead_links is None:
                        path.stat()  # raises where the link leads nowhere
                    else:
                        dead_links.append(path)
    return sorted(files)


def _refuse(error: OSError) -> NoReturn:
    raise unreadable(Path(error.filename), error) from error


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

    Where the system or the file system has no file locks, nothing is held.

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
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
