"""Is this environment sound: packages, torch, threads, BLAS, disk, OpenSlide, encoding, clock.

Each check takes the facts it judges, so that it can be tried on other machines' facts.
"""

import locale
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from madeleine_bench.embeddings.doctor.checks import Finding, Verdict
from madeleine_bench.embeddings.doctor.disk import disk_findings
from madeleine_bench.embeddings.doctor.packages import (
    declared_demands,
    installed_version,
    package_findings,
)
from madeleine_bench.provenance import blas_libraries

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
# mbench was written in this year, so a clock before it is wrong.
_FIRST_YEAR = 2025


def examine_environment(results: Path) -> list[Finding]:
    """Return one finding for each check; nothing is changed, and no file stays behind.

    Args:
        results: the results folder; it need not exist.
    """
    return [
        *package_findings(declared_demands()),
        torch_finding(**_torch_facts()),
        thread_finding(os.environ, usable_cpus(), _torch_threads()),
        blas_finding(*_loaded_blas()),
        *disk_findings(results),
        openslide_finding(),
        encoding_finding(
            sys.getfilesystemencoding(), locale.getpreferredencoding(False), sys.stdout.encoding
        ),
        clock_finding(time.time(), Path(__file__).stat().st_mtime),
    ]


def torch_finding(*, version: str, cuda: str | None, gpus: Sequence[str], driver: bool) -> Finding:
    """Return which build of torch there is, and whether it sees the GPU it was built for.

    Args:
        version: of torch.
        cuda: the CUDA it was built for; None for a CPU build.
        gpus: names of the GPUs it sees.
        driver: whether an NVIDIA driver is there.
    """
    seen = f"torch {version}, " + (f"CUDA {cuda}" if cuda else "built without CUDA")
    seen += f", GPU: {', '.join(gpus)}" if gpus else ", no GPU"
    advice = "nothing here needs a GPU"
    verdict: Verdict = "pass"
    if driver and not gpus:
        verdict = "warn"
        advice = (
            "there is an NVIDIA driver, and torch does not use it: "
            + ("run nvidia-smi, and look at CUDA_VISIBLE_DEVICES" if cuda
               else "install a CUDA build of torch")
        )  # fmt: skip
    return Finding("torch", verdict, seen, "", advice)


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
    many = [name for name, value in first.items() if name not in broken and int(value) > cpus]
    many += ["torch"] if torch_threads > cpus else []
    advice = "unset it, or export OMP_NUM_THREADS=1 and use --jobs"
    if broken:
        found = f"{seen}; not a number from 1: {', '.join(broken)}"
        return Finding("threads", "warn", found, f"at most {cpus}", advice)
    if many:
        found = f"{seen}; more threads than CPUs: {', '.join(many)}"
        return Finding("threads", "warn", found, f"at most {cpus}", advice)
    return Finding("threads", "pass", seen, f"at most {cpus}", advice)


def blas_finding(libraries: Sequence[Mapping[str, str]], runtimes: Sequence[str]) -> Finding:
    """Return which BLAS and OpenMP libraries are loaded, and whether they can live together.

    Args:
        libraries: as `provenance.blas_libraries` gives them.
        runtimes: file prefixes of the OpenMP libraries, such as "libgomp".

    References:
        threadpoolctl, "Multiple OpenMP": Intel's and LLVM's in one process may crash or hang.
    """
    blas = sorted(
        {
            " ".join(info[key] for key in ("internal_api", "version") if key in info)
            for info in libraries
            if info["internal_api"] != "openmp"
        }
    )
    known = sorted(set(runtimes))
    seen = f"{', '.join(blas) or 'no BLAS found'}; OpenMP: {', '.join(known) or 'none'}"
    if {"libiomp", "libomp"} <= set(known):
        advice = "Intel's and LLVM's OpenMP can hang together: install all from one source"
        return Finding("BLAS", "warn", seen, "", advice)
    advice = "numpy without a BLAS is slow: install it again with pip or conda"
    return Finding("BLAS", "pass" if blas else "warn", seen, "", advice)


def openslide_finding() -> Finding:
    """Return whether slides can be opened."""
    advice = "pip install openslide-python openslide-bin; only slides need it, features do not"
    try:
        import madeleine_bench.slides.reader  # noqa: F401  (the only door to OpenSlide)
    except (ImportError, OSError) as error:
        return Finding("OpenSlide", "warn", f"cannot be loaded: {error}", "", advice)
    found = [f"{name} {installed_version(name)}" for name in ("openslide-python", "openslide-bin")]
    return Finding("OpenSlide", "pass", ", ".join(found), "", advice)


def encoding_finding(files: str, text: str, screen: str | None) -> Finding:
    """Return whether names of files and text are UTF-8: slide ids and label words may not be ASCII.

    Args:
        files: encoding of file names.
        text: encoding of text files that do not say theirs.
        screen: encoding of the terminal; None where there is none.
    """
    found = {"file names": files, "text": text, "screen": screen or "none"}
    seen = ", ".join(f"{what} {name}" for what, name in found.items())
    odd = [name for name in found.values() if name.lower().replace("-", "") not in ("utf8", "none")]
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
    if time.gmtime(now).tm_year < _FIRST_YEAR:
        return Finding("clock", "warn", f"{seen}, before this code was written", "", advice)
    if installed > now + 60.0:
        return Finding("clock", "warn", f"{seen}, before this code was installed", "", advice)
    return Finding("clock", "pass", seen, "", advice)


def usable_cpus(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many CPUs this process may use, a container's quota counted.

    Args:
        quota: the file of control groups that holds "<microseconds or max> <period>".
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cpus, int(allowed) // int(period)))
    except (OSError, ValueError):
        return cpus


def _torch_facts() -> dict[str, Any]:
    import shutil
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver too old for torch warns; no GPU is then seen
        there = torch.cuda.is_available()
    count = torch.cuda.device_count() if there else 0
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(index) for index in range(count)],
        "driver": shutil.which("nvidia-smi") is not None,
    }


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _loaded_blas() -> tuple[list[dict[str, str]], list[str]]:
    """Return BLAS and OpenMP libraries, and prefixes of the latter, once all users are loaded."""
    import scipy.linalg  # noqa: F401
    import sklearn  # noqa: F401
    import torch  # noqa: F401
    from threadpoolctl import threadpool_info

    openmp = [info["prefix"] for info in threadpool_info() if info["user_api"] == "openmp"]
    return blas_libraries(), openmp
