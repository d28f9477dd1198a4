"""What the Tab key offers: names of tasks, encoders, cohorts, protocols and recipes.

Shells ask on every press, so names are taken from the names of files (the loaders hold that a
file is called as what it declares) and nothing but the standard library is imported. Where no name
begins so, the shell itself offers files, such as cards.
"""

import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from madeleine_bench.errors import InputError
from madeleine_bench.resources import resource_folder


def task_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of tasks that begin so, and `all`."""
    return _beginning(incomplete, ["all", *_stems("tasks", ".", context)])


def cohort_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of cohorts that begin so."""
    return _beginning(incomplete, _stems("tasks", "cohorts", context))


def protocol_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the versioned names of protocols that begin so."""
    stems = _stems("tasks", "protocols", context)
    return _beginning(incomplete, ["/v".join(stem.rsplit("-v", 1)) for stem in stems])


def encoder_names(incomplete: str) -> list[str]:
    """Return the slide encoders that begin so: shipped, external, or plugged in."""
    names = [p.name for p in importlib.metadata.entry_points(group="madeleine_bench.encoders")]
    for folder, inside in (("baselines", "."), ("encoders", "."), ("encoders", "external")):
        names += _stems(folder, inside)
    return _beginning(incomplete, names)


def patch_encoder_names(incomplete: str) -> list[str]:
    """Return the patch encoders that begin so."""
    return _beginning(incomplete, _stems("encoders", "patch"))


def recipe_names(incomplete: str) -> list[str]:
    """Return the pretraining recipes that begin so."""
    return _beginning(incomplete, _stems("encoders", "recipes"))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})


def _stems(shipped: str, inside: str, context: typer.Context | None = None) -> list[str]:
    """Return what the YAML files of a folder declare: one of --catalogue on the line, or shipped.

    A broken installation is said by the command itself; Tab stays silent.
    """
    given = context.params.get("catalogue") if context else None
    try:
        folder = Path(given) if given else resource_folder(shipped)
    except InputError:
        return []
    return [path.stem for path in (folder / inside).glob("*.yaml")]


# What is offered for an option or argument, by its name.
NAMES: dict[str, Callable[..., list[str]]] = {
    "task": task_names,
    "pattern": task_names,
    "cohort": cohort_names,
    "protocol": protocol_names,
    "encoder": encoder_names,
    "card": encoder_names,
    "patch_encoder": patch_encoder_names,
}


def offer_names(app: typer.Typer) -> None:
    """Let Tab offer names for each option and argument that is called as what has names."""
    for group in app.registered_groups:
        offer_names(group.typer_instance or typer.Typer())
    callbacks: list[Any] = [command.callback for command in app.registered_commands]
    for parameter in (p for call in callbacks for p in inspect.signature(call).parameters.values()):
        for info in getattr(parameter.annotation, "__metadata__", ()):
            info.autocompletion = info.autocompletion or NAMES.get(parameter.name)
