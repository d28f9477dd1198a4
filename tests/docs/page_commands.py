"""What the pages tell a reader to type, and the files they tell him to write."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SHELL = ("bash", "console")
_PROGRAMS = (
    "mbench", "python", "pip", "make", "bash", "trident", "torchrun", "PYTHONPATH=.", "cp",
    "git", "hf",
)  # fmt: skip
_FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]+)")?\s*$')
_REASON = re.compile(r"^<!-- not run: (.+) -->$")


@dataclass(frozen=True)
class Step:
    """One thing to do: a command, or a file to write where `file` is given."""

    page: str
    line: int
    text: str
    file: str = ""
    not_run: str = ""


def pages() -> list[Path]:
    """Every page that people write, the README among them."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@cache
def steps(page: Path) -> tuple[Step, ...]:
    """What a page asks for, from top to bottom.

    A fence that says bash is commands, one that says console has them behind a dollar sign. In one
    that says nothing, and in an indented block, commands are the lines that begin with a program.
    A fence with a title is a file.
    """
    found: list[Step] = []
    reason = ""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if said := _REASON.match(line.strip()):
            reason = said[1]
        elif opened := _FENCE.match(line):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            inside = [text.removeprefix(opened[1]) for text in lines[at + 1 : end]]
            if opened[3]:
                found.append(Step(page.name, at + 1, "\n".join(inside) + "\n", opened[3], reason))
            elif opened[2] in _SHELL or not opened[2]:
                found += _commands(page.name, at + 2, inside, opened[2], reason)
            reason, at = "", end
        elif line.startswith("    mbench "):
            found += _commands(page.name, at + 1, [line.strip()], "", "")
        at += 1
    return tuple(found)


def _commands(page: str, first: int, lines: list[str], shell: str, reason: str) -> list[Step]:
    """The command lines of a block, each with what a backslash goes on to."""
    found: list[Step] = []
    joined = ""
    for number, line in enumerate(lines, first):
        joined += line.removesuffix("\\").strip() + (" " if line.endswith("\\") else "")
        if line.endswith("\\"):
            continue
        text = joined.removeprefix("$ ") if shell == "console" else joined
        wanted = {"bash": bool(text), "console": joined.startswith("$ ")}
        if wanted.get(shell, text.split(" ")[0] in _PROGRAMS) and not text.startswith("#"):
            found.append(Step(page, number, text, "", reason))
        joined = ""
    return found
