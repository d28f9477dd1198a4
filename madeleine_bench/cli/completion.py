"""What the Tab key offers: names of tasks, encoders, cohorts, protocols and recipes.

Shells ask on every press, so names are taken from the names of files (the loaders hold that a
file is called as what it declares) and nothing but the standard library is imported.
"""

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

import typer

from madeleine_bench.errors import InputError
from madeleine_bench.resources import resource_folder

_CARD = (".yaml", ".yml")
_VERSION = "-v"


def task_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of tasks that begin so, and `all`."""
    return _beginning(incomplete, ["all", *_stems(_catalogue(context))])


def cohort_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of cohorts that begin so."""
    return _beginning(incomplete, _stems(_catalogue(context), "cohorts"))


def protocol_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the versioned names of protocols that begin so."""
    stems = _stems(_catalogue(context), "protocols")
    return _beginning(incomplete, ["/v".join(stem.rsplit(_VERSION, 1)) for stem in stems])


def encoder_names(incomplete: str) -> list[str]:
    """Return the slide encoders that begin so: shipped, external, plugged in, or a card's path."""
    names = [p.name for p in importlib.metadata.entry_points(group="madeleine_bench.encoders")]
    for folder, inside in (("baselines", "."), ("encoders", "."), ("encoders", "external")):
        names += _stems(_shipped(folder), inside)
    return _beginning(incomplete, names) or _card_paths(incomplete)


def patch_encoder_names(incomplete: str) -> list[str]:
    """Return the patch encoders that begin so, or the paths of cards."""
    shipped = _stems(_shipped("encoders"), "patch")
    return _beginning(incomplete, shipped) or _card_paths(incomplete)


def recipe_names(incomplete: str) -> list[str]:
    """Return the pretraining recipes that begin so, or the paths of recipes."""
    shipped = _stems(_shipped("encoders"), "recipes")
    return _beginning(incomplete, shipped) or _card_paths(incomplete)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})


def _catalogue(context: typer.Context) -> Path:
    """Return the folder that --catalogue names on the same line, or the shipped one."""
    given = context.params.get("catalogue")
    return Path(given) if given else _shipped("tasks")


def _shipped(name: str) -> Path:
    """Return a shipped folder; one that is not there where the installation is incomplete.

    A broken installation is said by the command itself; Tab stays silent.
    """
    try:
        return resource_folder(name)
    except InputError:
        return Path(name)


def _stems(folder: Path, inside: str = ".") -> list[str]:
    return sorted(path.stem for path in (folder / inside).glob("*.yaml"))


def _card_paths(incomplete: str) -> list[str]:
    """Return folders and YAML files whose path begins so, as a shell would."""
    head, slash, _ = incomplete.rpartition("/")
    prefix = head + slash
    folder = Path(prefix or ".")
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    paths = [f"{prefix}{e.name}" for e in entries if e.suffix in _CARD and not e.is_dir()]
    paths += [f"{prefix}{e.name}/" for e in entries if e.is_dir()]
    return _beginning(incomplete, paths)
