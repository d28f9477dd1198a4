"""What the pages tell a reader to type works: every `mbench` line is understood, and is run."""

import re
import shlex
from collections import Counter
from typing import Any

import pytest
import typer

from madeleine_bench.cli import main
from tests.docs.given import READY, given
from tests.docs.not_run import NOT_RUN, listed, why_not
from tests.docs.page_commands import pages, steps

# Of click, which typer carries in itself or imports, by its version.
USAGE_ERROR = typer.BadParameter.__bases__[0]
ALL = [step for page in pages() for step in steps(page) if not step.file]
SYNOPSIS = re.compile(r"BUNDLE| \.\.\.")


def parse(line: str) -> None:
    """Let the command line understand a line, without doing what it says."""
    words = shlex.split(line, comments=True)[1:]
    command: Any = main.command()
    while isinstance(commands := getattr(command, "commands", None), dict):
        if words[0].startswith("-"):
            break
        if words[0] not in commands:
            raise ValueError(f"no command '{words[0]}' in: {line}")
        command, words = commands[words[0]], words[1:]
    command.make_context("mbench", words)


@pytest.mark.parametrize(
    "step",
    [s for s in ALL if s.text.startswith("mbench ") and not SYNOPSIS.search(s.text)],
    ids=lambda s: f"{s.page}:{s.line}",
)
def test_every_command_of_a_page_is_understood(step):
    if "--install-completion" in step.text or "--show-completion" in step.text:
        return  # click answers these while it parses; test_command_completion.py runs them
    parse(step.text)


def test_a_command_that_is_gone_or_misspelt_would_be_found():
    for line in ("mbench rum", "mbench run --encoders a --task b", "mbench data status --no-such"):
        with pytest.raises((ValueError, USAGE_ERROR)):
            parse(line)


def test_the_list_of_what_is_not_run_has_nothing_stale():
    used = Counter(entry for step in ALL if not step.not_run for entry in listed(step))
    for page, start in NOT_RUN:
        assert start, f"{page}: name the command"
        assert used[page, start], f"{page}: nothing that runs begins with '{start}'"
    for step in ALL:
        assert len(listed(step)) <= 1, f"{step.page}:{step.line} is listed twice"


def test_what_pages_take_for_given_is_of_pages_that_run():
    run = {step.page for step in ALL if not why_not(step)}
    assert set(READY) <= run


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page, shell, tmp_path, my_encoder):
    todo = [step for step in steps(page) if step.file or not why_not(step)]
    if not any(not step.file for step in todo):
        pytest.skip("no command of this page is run")
    with given(page.name, tmp_path, shell) as here:
        for name in here.names:
            assert any(name in step.text for step in todo), f"{page.name} has no {name}"
        assert any(step.text.startswith(here.twice) for step in todo), here.twice
        for step in todo:
            if step.file:
                path = tmp_path / step.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.text)
            else:
                shell(here.line(step.text), f"{step.page}:{step.line}", **here.variables)
