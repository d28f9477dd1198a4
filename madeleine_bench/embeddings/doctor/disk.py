"""Can results be written: is there room, can files be made, renamed and held, is its clock ours."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from madeleine_bench.embeddings.doctor.checks import Finding, Verdict
from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer, write_text

FREE_WARN_GB, FREE_FAIL_GB = 10.0, 1.0
_CLOCK_SKEW_S = 10.0


def disk_findings(results: Path) -> Iterator[Finding]:
    """Yield whether a results folder has room and can be written; nothing stays behind.

    Where it does not exist yet, the nearest folder above it that does is tried.
    """
    folder = nearest_folder(results)
    free = shutil.disk_usage(folder).free / 1e9
    yield free_finding(folder, free)
    yield write_finding(folder)


def nearest_folder(path: Path) -> Path:
    """Return the path itself where it is a folder, else the nearest folder above it."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def free_finding(folder: Path, free_gb: float) -> Finding:
    """Return whether a folder's disk has room for embeddings, predictions and packed features."""
    verdict: Verdict = "pass"
    if free_gb < FREE_WARN_GB:
        verdict = "fail" if free_gb < FREE_FAIL_GB else "warn"
    return Finding(
        "disk", verdict, f"{free_gb:.1f} GB free in {folder}",
        f"warn below {FREE_WARN_GB:g} GB, fail below {FREE_FAIL_GB:g} GB",
        "make room, or choose another folder with --results", round(free_gb, 1),
    )  # fmt: skip


def write_finding(folder: Path) -> Finding:
    """Return whether files in a folder can be written, renamed over another, and locked."""
    advice = "choose a folder that you may write to with --results, on a local disk if you can"

    def found(verdict: Verdict, seen: str) -> Finding:
        return Finding("results folder", verdict, seen, "", advice)

    try:
        with tempfile.TemporaryDirectory(prefix=".mbench-doctor-", dir=folder) as scratch:
            probe = Path(scratch) / "probe.txt"
            write_text(probe, "first")
            write_text(probe, "second")  # a rename onto a file that is there
            if probe.read_text(encoding="utf-8") != "second":
                return found("fail", f"{folder}: a file that was replaced kept its old content")
            # The disk of another machine stamps files with the time of that machine.
            skew = abs(probe.stat().st_mtime - time.time())
            try:
                with sole_writer(Path(scratch)):
                    pass
            except InputError as error:
                seen = f"{folder}: files cannot be locked, so two runs may write at once ({error})"
                return found("warn", seen)
    except (InputError, OSError) as error:
        return found("fail", f"{folder}: {error}")
    if skew > _CLOCK_SKEW_S:
        return found("warn", f"{folder}: the clock of its disk is {skew:.0f} s off")
    return found("pass", f"{folder} can be written, replaced and locked")
