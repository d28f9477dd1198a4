"""What a record says of the machine and the code that made it."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = (
    "madeleine-bench",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-survival",
    "lifelines",
    "pandas",
    "pyarrow",
    "torch",
)


def machine_provenance() -> dict[str, Any]:
    """Return versions of the packages and of Python, the CPU, and the git commit if there is one.

    `commit` is None outside a checkout; `dirty` says whether the checkout has uncommitted changes.
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(terse=True),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": 1,
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain")),
    }


def blas_libraries() -> list[dict[str, str]]:
    """Return name, version and threading of each BLAS and OpenMP library loaded by now."""
    from threadpoolctl import threadpool_info

    keys = ("internal_api", "version", "threading_layer", "architecture")
    libraries = [
        {key: str(info[key]) for key in keys if info.get(key) is not None}
        for info in threadpool_info()
    ]
    return sorted(libraries, key=lambda library: sorted(library.items()))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*words: str) -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def peak_memory_mb() -> float | None:
    """Return the largest resident memory of this process so far in MB; None where unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if platform.system() == "Darwin" else 1024), 1)


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library keeps it.

    glibc keeps freed pieces of up to 32 MB for the next of their size, and one of another size then
    comes on top: a process that does large jobs one after the other grows with what the largest
    ones left behind. It takes milliseconds; nothing is done on other systems.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
