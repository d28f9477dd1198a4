"""Is this environment sound: packages, torch, threads, BLAS, disk, OpenSlide, encoding, clock.

Each check takes the facts it judges, so that it can be tried on other machines' facts.
"""

import importlib.metadata
import locale
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from madeleine_bench.encoders.contract import Finding, Verdict
from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer, write_text

FREE_WARN_GB, FREE_FAIL_GB = 10.0, 1.0
_DISTRIBUTION = "madeleine-bench"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
_CLOCK_SKEW_S = 10.0
# mbench was written in this year, so a clock before it is wrong.
_FIRST_YEAR = 2025


def examine_environment(results: Path) -> list[Finding]:
    """Return one finding for each check; nothing is changed, and no file stays behind.

    Args:
        results: the results folder; it need not exist.

    Raises:
        InputError: there is a file where results are to go.
    """
    import joblib
    import scipy.linalg  # noqa: F401  (loads its BLAS, as sklearn does)
    import sklearn  # noqa: F401
    import torch
    from threadpoolctl import threadpool_info

    if results.exists() and not results.is_dir():
        raise InputError(f"--results {results} is a file; name a folder, which need not be there")
    folder = nearest_folder(results)
    try:
        installed = importlib.metadata.metadata(_DISTRIBUTION)
        demands = installed.get_all("Requires-Dist") or []
        python, extras = installed["Requires-Python"], installed.get_all("Provides-Extra") or []
        packages = [*package_findings(python or "", demands, extras)]
    except importlib.metadata.PackageNotFoundError:
        seen = f"{_DISTRIBUTION} is not installed as a package, so nothing says what it needs"
        packages = [Finding("packages", "warn", seen, "", "install it: pip install -e .")]
    screen = sys.stdout.encoding
    return [
        *packages,
        torch_finding(torch.__version__, torch.version.cuda, _gpus(), shutil.which("nvidia-smi")),
        thread_finding(os.environ, joblib.cpu_count(), torch.get_num_threads()),
        blas_finding(threadpool_info()),
        free_finding(folder, shutil.disk_usage(folder).free / 1e9),
        write_finding(folder),
        openslide_finding(),
        encoding_finding(sys.getfilesystemencoding(), locale.getpreferredencoding(False), screen),
        clock_finding(time.time(), Path(__file__).stat().st_mtime),
    ]


def package_findings(
    python: str, demands: Sequence[str], extras: Sequence[str]
) -> Iterator[Finding]:
    """Yield whether Python, the needed packages and those of each extra are as asked for.

    Args:
        python: which versions of Python, such as ">=3.11".
        demands: requirement lines, such as "numpy>=1.26", with the marker of their extra.
        extras: names of the extras.
    """
    version = platform.python_version()
    fits = SpecifierSet(python).contains(version, prereleases=True)
    advice = "make a virtual environment with a Python that fits"
    yield Finding("Python", "pass" if fits else "fail", version, python or "any", advice)
    requirements = [Requirement(line) for line in demands]
    needed = [r for r in requirements if _applies(r, "")]
    faults = _faults(needed)
    seen = "; ".join(faults) or f"{len(needed)} packages as asked for"
    advice = f"pip install -c constraints.txt {_DISTRIBUTION}, or -e . in a checkout"
    yield Finding("packages", "fail" if faults else "pass", seen, "its metadata", advice)
    for extra in sorted(set(extras) - {"dev"}):  # users have no need of what changes the code
        optional = [r for r in requirements if r not in needed and _applies(r, extra)]
        advice = f"pip install '{_DISTRIBUTION}[{extra}]'"
        faults = _faults(optional)
        verdict: Verdict = "warn" if faults else "pass"
        seen = "; ".join(faults) or ", ".join(f"{r.name} {_version(r.name)}" for r in optional)
        if absent := [r.name for r in optional if _version(r.name) is None]:
            verdict = "skipped"
            seen = f"not installed: {', '.join(absent)}; where you need it: {advice}"
        yield Finding(f"extra {extra}", verdict, seen, "optional", advice)


def torch_finding(
    version: str, cuda: str | None, gpus: Sequence[str], driver: str | None
) -> Finding:
    """Return which build of torch there is, and whether it sees the GPU it was built for.

    Args:
        version: of torch.
        cuda: the CUDA it was built for; None for a CPU build.
        gpus: names of the GPUs it sees.
        driver: path of NVIDIA's tool; None where no driver is there.
    """
    seen = f"torch {version}, " + (f"CUDA {cuda}" if cuda else "built without CUDA")
    seen += f", GPU: {', '.join(gpus)}" if gpus else ", no GPU"
    if gpus or not driver:
        return Finding("torch", "pass", seen, "", "nothing here needs a GPU")
    cure = "run nvidia-smi, and look at CUDA_VISIBLE_DEVICES"
    cure = cure if cuda else "install a CUDA build of torch"
    advice = f"there is an NVIDIA driver, and torch does not use it: {cure}"
    return Finding("torch", "warn", seen, "", advice)


def thread_finding(environ: Mapping[str, str], cpus: int, torch_threads: int) -> Finding:
    """Return whether libraries were told to use more threads than there are CPUs.

    Jobs of `mbench run` use one thread each and as many processes as --jobs says; other code in
    the same environment takes what the variables say. Too many threads cost a multiple of the time.
    """
    given = {name: environ[name] for name in _THREAD_VARIABLES if name in environ}
    seen = ", ".join(f"{name}={value}" for name, value in given.items()) or "no variable set"
    seen += f", torch {torch_threads}, usable CPUs {cpus}"
    # OMP_NUM_THREADS may be a list, one number for each nesting level.
    first = {name: value.split(",")[0].strip() for name, value in given.items()}
    broken = [name for name, value in first.items() if not value.isdecimal() or not int(value)]
    threads = {name: int(value) for name, value in first.items() if name not in broken}
    threads["torch"] = torch_threads
    many = [name for name, count in threads.items() if count > cpus]
    if broken:
        seen += f"; not a number from 1: {', '.join(broken)}"
    elif many:
        seen += f"; more threads than CPUs: {', '.join(many)}"
    verdict: Verdict = "warn" if broken or many else "pass"
    advice = "unset it, or export OMP_NUM_THREADS=1 and use --jobs"
    return Finding("threads", verdict, seen, f"at most {cpus}", advice)


def blas_finding(libraries: Sequence[Mapping[str, str | None]]) -> Finding:
    """Return which BLAS and OpenMP libraries are loaded, and whether they can live together.

    Args:
        libraries: as `threadpool_info` gives them.

    References:
        threadpoolctl, "Multiple OpenMP": Intel's and LLVM's in one process may crash or hang.
    """
    blas = {
        f"{library['internal_api']} {library.get('version') or ''}".strip()
        for library in libraries
        if library["user_api"] == "blas"
    }
    openmp = {str(x["prefix"]) for x in libraries if x["user_api"] == "openmp"}
    seen = f"{', '.join(sorted(blas)) or 'no BLAS found'}; "
    seen += f"OpenMP: {', '.join(sorted(openmp)) or 'none'}"
    if {"libiomp", "libomp"} <= openmp:
        advice = "Intel's and LLVM's OpenMP can hang together: install all from one source"
        return Finding("BLAS", "warn", seen, "", advice)
    advice = "numpy without a BLAS is slow: install it again with pip or conda"
    return Finding("BLAS", "pass" if blas else "warn", seen, "", advice)


def nearest_folder(path: Path) -> Path:
    """Return the path itself where it is a folder, else the nearest folder above it."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def free_finding(folder: Path, free_gb: float) -> Finding:
    """Return whether a folder's disk has room for embeddings, predictions and packed features."""
    verdict: Verdict = "warn" if free_gb < FREE_WARN_GB else "pass"
    return Finding(
        "disk", "fail" if free_gb < FREE_FAIL_GB else verdict, f"{free_gb:.1f} GB free in {folder}",
        f"warn below {FREE_WARN_GB:g} GB, fail below {FREE_FAIL_GB:g} GB",
        "make room, or choose another folder with --results", round(free_gb, 1),
    )  # fmt: skip


def write_finding(folder: Path) -> Finding:
    """Return whether files in a folder can be written, renamed over another, and locked."""
    verdict: Verdict = "pass"
    seen = "can be written, replaced and locked"
    try:
        with tempfile.TemporaryDirectory(prefix=".mbench-doctor-", dir=folder) as scratch:
            probe = Path(scratch) / "probe.txt"
            write_text(probe, "first")
            write_text(probe, "second")  # a rename onto a file that is there
            # The disk of another machine stamps files with the time of that machine.
            skew = abs(probe.stat().st_mtime - time.time())
            if skew > _CLOCK_SKEW_S:
                verdict, seen = "warn", f"the clock of its disk is {skew:.0f} s off"
            if probe.read_text(encoding="utf-8") != "second":
                verdict, seen = "fail", "a file that was replaced kept its old content"
            try:
                with sole_writer(Path(scratch)):
                    pass
            except InputError as error:
                verdict = "warn"
                seen = f"files cannot be locked, so two runs may write at once ({error})"
    except (InputError, OSError) as error:
        verdict, seen = "fail", str(error)
    advice = "choose a folder that you may write to with --results, on a local disk if you can"
    return Finding("results folder", verdict, f"{folder}: {seen}", "", advice)


def openslide_finding() -> Finding:
    """Return whether slides can be opened."""
    advice = "pip install openslide-python openslide-bin; only slides need it, features do not"
    try:
        import madeleine_bench.slides.reader  # noqa: F401  (the only door to OpenSlide)
    except (ImportError, OSError) as error:
        return Finding("OpenSlide", "warn", f"cannot be loaded: {error}", "", advice)
    seen = ", ".join(f"{name} {_version(name)}" for name in ("openslide-python", "openslide-bin"))
    return Finding("OpenSlide", "pass", seen, "", advice)


def encoding_finding(files: str, text: str, screen: str | None) -> Finding:
    """Return whether names of files and text are UTF-8: slide ids and label words may not be ASCII.

    Args:
        files: encoding of file names.
        text: encoding of text files that do not say theirs.
        screen: encoding of the terminal; None where there is none.
    """
    names = {"file names": files, "text": text, "screen": screen or "none"}
    seen = ", ".join(f"{what} {name}" for what, name in names.items())
    odd = [name for name in names.values() if name.lower().replace("-", "") not in ("utf8", "none")]
    advice = "export PYTHONUTF8=1, or LC_ALL=C.UTF-8"
    return Finding("encoding", "warn" if odd else "pass", seen, "UTF-8", advice)


def clock_finding(now: float, installed: float) -> Finding:
    """Return whether the clock is plausible: records and resumed runs go by it.

    Args:
        now: the clock, seconds since 1970.
        installed: when this code was written to disk, in the same seconds.
    """
    seen = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    advice = "set the clock (timedatectl set-ntp true); records carry its time"
    early = time.gmtime(now).tm_year < _FIRST_YEAR or installed > now + 60.0
    seen += ", before this code was written or installed" if early else ""
    return Finding("clock", "warn" if early else "pass", seen, "", advice)


def _gpus() -> list[str]:
    import warnings

    import torch

    with warnings.catch_warnings(action="ignore"):  # a driver too old for torch warns
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(index) for index in range(count)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _applies(requirement: Requirement, extra: str) -> bool:
    """Return whether a requirement counts on this machine, when an extra ("" is none) is wanted."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _faults(requirements: Sequence[Requirement]) -> list[str]:
    """Return what is absent or of a version that was not asked for."""
    faults = []
    for requirement in requirements:
        asked, version = requirement.specifier, _version(requirement.name)
        if version is None:
            faults.append(f"{requirement.name} is not installed (asked for: {asked or 'any'})")
        elif not asked.contains(version, prereleases=True):
            faults.append(f"{requirement.name} is {version} (asked for: {asked})")
    return faults
