"""Is this environment sound: packages, torch, threads, disk, OpenSlide.

Each check takes the facts it judges, so that it can be tried on other machines' facts.
"""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from madeleine_bench.encoders.contract import Finding, Verdict
from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer, write_text

FREE_WARN_GB, FREE_FAIL_GB = 10.0, 1.0
_DISTRIBUTION = "madeleine-bench"


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
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(index) for index in range(count)]
    return [
        package_finding(importlib.metadata.requires(_DISTRIBUTION) or []),
        torch_finding(torch.__version__, torch.version.cuda, gpus, shutil.which("nvidia-smi")),
        thread_finding(threadpool_info(), joblib.cpu_count()),
        free_finding(folder, shutil.disk_usage(folder).free / 1e9),
        write_finding(folder),
        openslide_finding(),
    ]


def package_finding(demands: Sequence[str]) -> Finding:
    """Return whether the needed packages are there, in the versions asked for.

    Args:
        demands: requirement lines, such as "numpy>=1.26"; those with the marker of an extra pass.
    """
    requirements = [Requirement(line) for line in demands]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    faults = _faults(needed)
    seen = "; ".join(faults) or f"{len(needed)} packages as asked for"
    advice = f"pip install -c constraints.txt {_DISTRIBUTION}, or -e . in a checkout"
    return Finding("packages", "fail" if faults else "pass", seen, "its metadata", advice)


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
    cure = "look at CUDA_VISIBLE_DEVICES" if cuda else "install a CUDA build of torch"
    advice = f"there is an NVIDIA driver, and torch does not use it: run nvidia-smi, and {cure}"
    return Finding("torch", "warn" if driver and not gpus else "pass", seen, "", advice)


def thread_finding(libraries: Sequence[Mapping[str, Any]], cpus: int) -> Finding:
    """Return whether a library of threads uses more of them than there are CPUs.

    Jobs of `mbench run` use one thread each and as many processes as --jobs says; other code in
    the same environment takes what OMP_NUM_THREADS and its siblings say. Too many threads cost a
    multiple of the time.

    Args:
        libraries: as `threadpool_info` gives them.
        cpus: how many this process may use.
    """
    threads = sorted({(str(x["prefix"]), int(x["num_threads"])) for x in libraries})
    seen = ", ".join(f"{name} {count}" for name, count in threads) or "none loaded"
    advice = "unset OMP_NUM_THREADS and its siblings, or export OMP_NUM_THREADS=1 and use --jobs"
    verdict: Verdict = "warn" if any(count > cpus for _, count in threads) else "pass"
    return Finding("threads", verdict, seen, f"at most {cpus}", advice)


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
    """Return whether files in a folder can be written and locked against other processes."""
    verdict: Verdict = "fail"
    seen = "can be written and locked"
    try:
        with tempfile.TemporaryDirectory(prefix=".mbench-doctor-", dir=folder) as scratch:
            write_text(Path(scratch) / "probe.txt", "")
            verdict = "warn"  # without locks two runs may write at once
            with sole_writer(Path(scratch)):
                verdict = "pass"
    except (InputError, OSError) as error:
        seen = str(error)
    advice = "choose a folder that you may write to with --results, on a local disk if you can"
    return Finding("results folder", verdict, f"{folder}: {seen}", "", advice)


def openslide_finding() -> Finding:
    """Return whether slides can be opened."""
    advice = "pip install openslide-python openslide-bin; only slides need it, features do not"
    try:
        import madeleine_bench.slides.reader  # noqa: F401  (the only door to OpenSlide)
    except (ImportError, OSError) as error:
        return Finding("OpenSlide", "warn", f"cannot be loaded: {error}", "", advice)
    return Finding("OpenSlide", "pass", "can be loaded", "", advice)


def _faults(requirements: Sequence[Requirement]) -> list[str]:
    """Return what is absent or of a version that was not asked for."""
    faults = []
    for requirement in requirements:
        name, asked = requirement.name, requirement.specifier
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{name} is not installed (asked for: {asked or 'any'})")
            continue
        if not asked.contains(version, prereleases=True):
            faults.append(f"{name} is {version} (asked for: {asked})")
    return faults
