"""The command `mbench`: its groups, and what happens to an error."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from madeleine_bench import __version__
from madeleine_bench.cli import (
    audit,
    compare,
    data,
    doctor,
    encoders,
    features,
    leaderboard,
    pretrain,
    regress,
    run,
    sensitivity,
    slides,
    stains,
    stratify,
    submit,
    tasks,
)
from madeleine_bench.cli.completion import offer_names
from madeleine_bench.errors import MbenchError

INTERNAL_ERROR = 70
INTERRUPTED = 130
_METAVARS: dict[Any, str] = {
    str: "TEXT",
    list[str]: "TEXT",
    Path: "PATH",
    list[Path]: "PATH",
    int: "N",
    float: "NUMBER",
}
_NAMES = {
    name: name.upper() for name in ("encoder", "task", "protocol", "cohort", "board", "stain")
}

app = typer.Typer(
    name="mbench",
    help="Is my slide encoder better, on which task, and are we sure?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
for function in (
    *(run.run, run.evaluate, compare.compare, audit.audit, stains.cross_stain, doctor.doctor),
    *(regress.regress, sensitivity.sensitivity, stains.stains, stratify.stratify),
    pretrain.pretrain,
):
    app.command()(function)
for group in (tasks, data, slides, features, encoders, leaderboard, submit):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Is my slide encoder better, on which task, and are we sure?"""


def command() -> Callable[..., Any]:
    """Return the whole command line, each example last in its help and on one line.

    Help is wrapped at spaces and hyphens, and a wrapped example cannot be copied.
    """
    offer_names(app)
    whole = typer.main.get_command(app)
    waiting: list[Any] = [whole]
    while waiting:
        one = waiting.pop()
        text, mark, example = inspect.cleandoc(one.help or "").partition("Example: ")
        if mark:
            one.help = f"{text.rstrip()}\n\n\b\n{mark}{' '.join(example.split())}"
        for parameter in one.params:
            kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
            if parameter.param_type_name == "argument":
                parameter.metavar = parameter.metavar or parameter.name.upper()
            else:
                named = _NAMES.get(parameter.name) or _METAVARS.get(kind)
                parameter.metavar = parameter.metavar or named
        waiting += getattr(one, "commands", {}).values()
    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a check failed, 2 wrong input, 130 interrupted."""
    try:
        command()(args=list(sys.argv[1:] if arguments is None else arguments))
    except MbenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's answer to Ctrl-C outside a progress bar is silence
            typer.echo("interrupted; the same command continues from there", err=True)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("MBENCH_DEBUG"):
            raise
        typer.echo(
            f"internal error: {type(error).__name__}: {error}\n"
            "This is a fault of mbench, not yours. Run again with MBENCH_DEBUG=1 in the "
            "environment and report what it prints.",
            err=True,
        )
        sys.exit(INTERNAL_ERROR)
