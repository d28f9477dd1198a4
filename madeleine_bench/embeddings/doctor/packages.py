"""Are Python and the packages here those that this package asks for."""

import importlib.metadata
import platform
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from madeleine_bench.embeddings.doctor.checks import Finding, Verdict

_DISTRIBUTION = "madeleine-bench"
_CHECKOUT = Path(__file__).resolve().parents[3]
# For those who change the code; users have no need of it.
_NOT_OFFERED = "dev"


@dataclass(frozen=True)
class Demands:
    """What the package asks for, as requirement lines such as "numpy>=1.26".

    Attributes:
        where: what says so; empty where nothing does.
        python: which versions of Python, such as ">=3.11".
        needed: packages that must be there.
        extras: optional packages by the name of their extra.
    """

    where: str = ""
    python: str = ""
    needed: tuple[str, ...] = ()
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def declared_demands(checkout: Path = _CHECKOUT) -> Demands:
    """Return what pyproject.toml asks for in a checkout, else what the installed package does.

    The metadata of an editable install is as old as the install; pyproject.toml is not.
    """
    try:
        with (checkout / "pyproject.toml").open("rb") as handle:
            project = tomllib.load(handle)["project"]
        if project["name"] == _DISTRIBUTION:
            optional = project.get("optional-dependencies", {})
            return Demands(
                "pyproject.toml", project.get("requires-python", ""),
                tuple(project.get("dependencies", ())),
                {extra: tuple(lines) for extra, lines in optional.items()},
            )  # fmt: skip
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        pass
    try:
        metadata = importlib.metadata.metadata(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return Demands()
    lines = metadata.get_all("Requires-Dist") or []
    extras = {
        extra: tuple(line for line in lines if _belongs(line, extra) and not _belongs(line, ""))
        for extra in metadata.get_all("Provides-Extra") or []
    }
    needed = tuple(line for line in lines if _belongs(line, ""))
    python = (metadata.get_all("Requires-Python") or [""])[0]
    return Demands("its metadata", python, needed, extras)


def package_findings(demands: Demands) -> Iterator[Finding]:
    """Yield whether Python, the needed packages and those of each extra are as asked for."""
    version = platform.python_version()
    fits = SpecifierSet(demands.python).contains(version, prereleases=True)
    advice = "make a virtual environment with a Python that fits"
    yield Finding(
        "Python", "pass" if fits else "fail", version, demands.python or "any", advice
    )  # fmt: skip
    if not demands.where:
        seen = f"{_DISTRIBUTION} is not installed as a package, so nothing says what it needs"
        yield Finding("packages", "warn", seen, "", "install it: pip install -e .")
        return
    faults = _faults(demands.needed)
    seen = "; ".join(faults) or f"{len(demands.needed)} packages as asked for"
    advice = f"pip install -c constraints.txt {_DISTRIBUTION}, or -e . in a checkout"
    yield Finding("packages", "fail" if faults else "pass", seen, demands.where, advice)
    for extra in sorted(set(demands.extras) - {_NOT_OFFERED}):
        yield _extra(extra, demands.extras[extra])


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra(extra: str, lines: Sequence[str]) -> Finding:
    name, advice = f"extra {extra}", f"pip install '{_DISTRIBUTION}[{extra}]'"
    versions = {
        package: installed_version(package)
        for package in (Requirement(line).name for line in lines if _belongs(line, extra))
    }
    if absent := [package for package, version in versions.items() if version is None]:
        seen = f"not installed: {', '.join(absent)}; where you need it: {advice}"
        return Finding(name, "skipped", seen, "optional", advice)
    faults = _faults(lines, extra)
    seen = "; ".join(faults) or ", ".join(f"{p} {version}" for p, version in versions.items())
    verdict: Verdict = "warn" if faults else "pass"
    return Finding(name, verdict, seen, "optional", advice)


def _faults(lines: Sequence[str], extra: str = "") -> list[str]:
    """Return what is absent or of a version that was not asked for."""
    faults = []
    for requirement in (Requirement(line) for line in lines if _belongs(line, extra)):
        asked, found = requirement.specifier, installed_version(requirement.name)
        if found is None:
            faults.append(f"{requirement.name} is not installed (asked for: {asked or 'any'})")
        elif not asked.contains(found, prereleases=True):
            faults.append(f"{requirement.name} is {found} (asked for: {asked})")
    return faults


def _belongs(line: str, extra: str) -> bool:
    """Return whether a line counts on this machine, when an extra ("" is none) is wanted."""
    marker = Requirement(line).marker
    return marker is None or marker.evaluate({"extra": extra})
