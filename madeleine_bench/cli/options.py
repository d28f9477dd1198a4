"""Options that several commands share."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from madeleine_bench.specs.workspace import Workspace

Encoders = Annotated[
    list[str], typer.Option("--encoder", help="Encoder name or path of its card; repeatable.")
]
Tasks = Annotated[
    list[str], typer.Option("--task", help="Task id, pattern such as 'bcnb-*', or all; repeatable.")
]
Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        help="Protocol or pattern such as 'patho-bench-*' (default: those of the task); "
        "repeatable.",
    ),
]
Results = Annotated[
    Path, typer.Option("--results", envvar="MBENCH_RESULTS", help="Results folder.")
]
Folders = Annotated[
    list[Path],
    typer.Option("--results", envvar="MBENCH_RESULTS", help="Results folder; repeatable."),
]
Catalogue = Annotated[
    Path | None, typer.Option("--catalogue", help="Task folder (default: built-in).")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file with your cohorts (default: ./mbench.toml)."),
]
Source = Annotated[
    Literal["auto", "phantom", "local"],
    typer.Option(help="auto: your files if configured, else phantom (synthetic) data."),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Worker processes (default: one per CPU).")]
Signal = Annotated[
    float | None,
    typer.Option(min=0.0, max=4.0, help="Strength of the signal in phantom data (0: no signal)."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed of phantom data.")]
Features = Annotated[
    list[str] | None,
    typer.Option(
        "--features",
        help="Patch encoder to use, for cohorts with several feature folders (default: all); "
        "repeatable.",
    ),
]
ExecutorName = Annotated[
    Literal["local", "dask"],
    typer.Option(
        "--executor",
        help="local: processes on this machine; dask: a Dask cluster (see --scheduler).",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="With --executor dask: address tcp://HOST:PORT, or slurm, pbs, lsf, sge, oar, moab, "
        "htcondor."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Device for neural networks (auto: GPU if available)."),
]
Figures = Annotated[
    Path | None,
    typer.Option("--out", help="Output folder for results (JSON) and figures (SVG, PNG)."),
]
Form = Annotated[Literal["table", "json"], typer.Option("--format", help="Output format.")]

_WORKSPACE: dict[str, tuple[Any, Any]] = {
    "source": (Source, "auto"),
    "jobs": (Jobs, None),
    "results": (Results, Path("results")),
    "config": (Config, None),
    "catalogue": (Catalogue, None),
    "phantom_signal": (Signal, None),
    "phantom_seed": (Seed, None),
    "features": (Features, None),
}


def with_workspace(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a `Workspace` in place of its parameter `workspace`.

    Args:
        without: options that the command does not take, such as "jobs".
    """
    names = [name for name in _WORKSPACE if name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [p.replace(kind=kind) for p in signature.parameters.values()]
        parameters = [p for p in parameters if p.name != "workspace"]
        for name in names:
            annotation, default = _WORKSPACE[name]
            shared = inspect.Parameter(name, kind, default=default, annotation=annotation)
            parameters.append(shared)

        @functools.wraps(command)
        def call(**options: Any) -> None:
            values = {name: options.pop(name) for name in names}
            if "jobs" in names:
                values["jobs"] = values["jobs"] or os.cpu_count() or 1
            if "features" in names:
                values["features"] = tuple(values["features"] or ())
            command(**options, workspace=Workspace(**values))

        del call.__wrapped__  # its signature is another
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate
