"""The manual of the command line as Markdown, read off the commands themselves."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand

from madeleine_bench.cli import main

EXAMPLE = "Example: "
# What a table, HTML or Markdown would take for its own.
_ESCAPED = {ord(c): f"&#{ord(c)};" for c in "|<*[`_"}


def leaf_commands() -> dict[str, TyperCommand]:
    """Every command that does something, by its words: "data status"."""
    return dict(_leaves(main.command(), ()))


def command_manual() -> dict[str, str]:
    """Markdown pages by path: one for each first word, and an index."""
    pages: dict[str, list[str]] = {}
    rows = ["| command | what it does |", "| --- | --- |"]
    for name, command in leaf_commands().items():
        group = name.split()[0]
        rows.append(f"| [mbench {name}]({group}.md#{_anchor(name)}) | {_summary(command)} |")
        pages.setdefault(group, [f"# mbench {group}"]).append(command_section(name, command))
    index = [
        "# Commands",
        "`mbench COMMAND --help` says the same in the terminal.",
        "\n".join(rows),
    ]
    return {
        "commands/index.md": "\n\n".join(index) + "\n",
        **{f"commands/{group}.md": "\n\n".join(parts) + "\n" for group, parts in pages.items()},
    }


def command_section(name: str, command: TyperCommand) -> str:
    """The manual of one command: what it does, how it is called, its options, an example."""
    said, _, line = (command.help or "").partition(EXAMPLE)
    prose = [" ".join(paragraph.split()) for paragraph in said.replace("\b", "").split("\n\n")]
    context = typer.Context(command, info_name=f"mbench {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    rows = ["| argument or option | meaning |", "| --- | --- |"]
    for parameter in command.params:
        record = parameter.get_help_record(context) or (parameter.make_metavar(context), "")
        said_of = record[1] or getattr(parameter, "help", "") or ""
        rows.append(f"| <code>{_plain(record[0])}</code> | {_plain(said_of)} |")
    parts = [f"## mbench {name}"] if " " in name else []
    parts += [_plain(paragraph) for paragraph in prose if paragraph]
    parts += ["**Use**", f"```text\nmbench {name} {usage}\n```"]
    return "\n\n".join([*parts, "**Example**", f"```text\n{line}\n```", "\n".join(rows)])


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, TyperCommand]]:
    if isinstance(commands := getattr(command, "commands", None), dict):
        for word, child in commands.items():
            yield from _leaves(child, (*words, word))
    else:
        yield " ".join(words), command


def _summary(command: TyperCommand) -> str:
    return _plain(" ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split()))


def _plain(text: str) -> str:
    return text.translate(_ESCAPED)


def _anchor(name: str) -> str:
    return "mbench-" + name.replace(" ", "-")
