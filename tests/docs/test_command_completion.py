"""Tab completes names, in a real shell's way and without anything heavy."""

import json
import os
import subprocess
import sys

import pytest
import typer

from madeleine_bench.cli.main import command
from madeleine_bench.encoders.registry import external_encoders, shipped_encoders
from madeleine_bench.pretrain.recipe import shipped_recipes
from madeleine_bench.slides.patch_encoders import shipped_patch_encoders
from madeleine_bench.specs.catalogue import load_catalogue

CATALOGUE = load_catalogue()
# What an option or argument is called whose values are names: --task, --patch-encoder, CARD.
NAMES = {"task", "pattern", "encoder", "card", "cohort", "protocol"}
# What bash is offered, and which modules were imported for it.
ASK = """
import json, os, sys
from madeleine_bench.cli.main import main
sys.argv = ["mbench"]
try:
    main([])
except SystemExit:
    pass
heavy = {"torch", "numpy", "pandas", "sklearn", "h5py", "scipy"} & set(sys.modules)
print("\\n" + json.dumps(sorted(heavy)))
"""


def offered(line: str) -> list[str]:
    """What Tab offers at the end of a line."""
    words = line.split(" ")
    env = {**os.environ, "_MBENCH_COMPLETE": "complete_bash", "COMP_WORDS": line}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True,
        env={**env, "COMP_CWORD": str(len(words) - 1)}, check=True,
    )  # fmt: skip
    *names, heavy = done.stdout.strip().splitlines()
    assert json.loads(heavy) == []
    return [name for name in names if name]


def beginning(start: str, names) -> list[str]:
    return sorted(name for name in names if name.startswith(start))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mbench run --encoder m", beginning("m", {**shipped_encoders(), **external_encoders()})),
        ("mbench run --task bcnb-", beginning("bcnb-", CATALOGUE.tasks)),
        ("mbench run --task al", ["all"]),
        ("mbench run --protocol f", beginning("f", CATALOGUE.protocols)),
        ("mbench data status b", beginning("b", CATALOGUE.cohorts)),
        ("mbench features extract --patch-encoder u", beginning("u", shipped_patch_encoders())),
        ("mbench pretrain ", beginning("", shipped_recipes())),
        ("mbench doctor --encoder mean-", ["mean-mlp", "mean-pool"]),
        ("mbench doctor --cohort b", beginning("b", CATALOGUE.cohorts)),
        ("mbench submit pack mean-p", ["mean-pool"]),
        ("mbench encoders show nobody", []),
    ],
)  # fmt: skip
def test_names_are_those_of_the_catalogue(line, expected):
    assert offered(line) == expected


def parameters(one, path=("mbench",)):
    """Every option and argument of the command tree, with the words that lead to it."""
    for name, inner in getattr(one, "commands", {}).items():
        yield from parameters(inner, (*path, name))
    yield from ((" ".join(path), parameter) for parameter in one.params)


def test_every_option_that_takes_names_offers_them():
    whole = command()
    named = [
        (path, parameter)
        for path, parameter in parameters(whole)
        if parameter.name.split("_")[-1] in NAMES
    ]
    assert {path for path, _ in named} >= {"mbench run", "mbench doctor", "mbench submit pack"}
    silent = [
        f"{path} {parameter.name}"
        for path, parameter in named
        if not parameter.shell_complete(typer.Context(whole), "")
    ]
    assert silent == []


def test_another_catalogue_on_the_line_is_asked(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ours-er.yaml").touch()
    assert offered(f"mbench tasks list --catalogue {tmp_path}/tasks o") == ["ours-er"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script(shell):
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True,
        env={**os.environ, "_MBENCH_COMPLETE": f"source_{shell}"}, check=True,
    )  # fmt: skip
    assert f"complete_{shell}" in done.stdout
