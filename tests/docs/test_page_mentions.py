"""What pages only mention, or show as a file: commands in running text, extras, mbench.toml."""

import re
import shlex
import tomllib
from typing import Any

import pytest
from ruamel.yaml import YAML

from madeleine_bench.cli import main
from madeleine_bench.runner.dask_workers import QUEUES, queue_class
from madeleine_bench.specs.config import load_config
from tests.docs.page_commands import ROOT, pages, steps

MENTION = re.compile(r"`([^`\n]+)`")
TOML = re.compile(r"^( *)```toml[^\n]*\n(.*?)^\1```$", re.M | re.S)
EXTRA = re.compile(r"madeleine-bench\[([\w,-]+)\]")
TEXT = {page.name: page.read_text(encoding="utf-8") for page in pages()}
# Outside of fences: those are read as commands.
PROSE = {name: re.sub(r"(?ms)^ *```.*?^ *```", "", text) for name, text in TEXT.items()}
MENTIONS = [(name, mention) for name, text in PROSE.items() for mention in MENTION.findall(text)]
# A fragment of a task stands below its cohort; a pyproject.toml is none of ours.
_TASK = re.compile(r"\[cohorts\.([\w-]+)\.tasks")
_COHORT = '[cohorts.{}]\nfeatures = "f"\nlabels = "l"\n'
EXAMPLES = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in TEXT.items()
    for number, (_, block) in enumerate(TOML.findall(text))
    if not block.startswith("[project")
]
# Of mbench itself, and what stands for any command.
WHOLE = {"COMMAND"}


def check_mention(mention: str) -> None:
    """Follow the words of a mention to a command, and look for its options there."""
    command: Any = main.command()
    words = shlex.split(mention)[1:]
    while words and isinstance(commands := getattr(command, "commands", None), dict):
        if words[0].startswith("-") or words[0] in WHOLE:
            break
        assert words[0] in commands, f"no command '{words[0]}' in `{mention}`"
        command, words = commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    known |= {name for parameter in command.params for name in parameter.secondary_opts}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"no option {word} in `{mention}`"


@pytest.mark.parametrize(
    ("page", "mention"), [(p, m) for p, m in MENTIONS if m.startswith("mbench ")]
)
def test_commands_in_running_text_exist(page, mention):
    check_mention(mention)


@pytest.mark.parametrize("mention", ["mbench rum", "mbench data pakc", "mbench run --encoders a"])
def test_a_mention_that_is_gone_would_be_found(mention):
    with pytest.raises(AssertionError, match=r"no (command|option)"):
        check_mention(mention)


@pytest.mark.parametrize(
    ("page", "mention"), [(p, m) for p, m in MENTIONS if re.search(r"\bpython .*benchmarks", m)]
)
def test_benchmarks_in_running_text_exist(page, mention):
    words = shlex.split(mention)
    script = next(word for word in words if word.startswith("benchmarks"))
    path = ROOT / (script if script.endswith(".py") else script.replace(".", "/") + ".py")
    text = path.read_text(encoding="utf-8")
    for word in words:
        if word.startswith("--"):
            assert f'"{word}"' in text, f"{path} has no option {word}"


def test_extras_that_pages_install_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [e for text in TEXT.values() for some in EXTRA.findall(text) for e in some.split(",")]
    assert len(found) >= 2
    assert set(found) <= set(extras["optional-dependencies"])


def test_targets_of_make_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    fenced = [step.text for page in pages() for step in steps(page)]
    said = [words.split()[1] for words in [*fenced, *(m for _, m in MENTIONS)]
            if words.startswith("make ")]  # fmt: skip
    assert len(said) >= 3
    assert set(said) <= set(targets)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_mbench_toml_are_read(text, tmp_path):
    path = tmp_path / "mbench.toml"
    task = _TASK.match(text)
    path.write_text((_COHORT.format(task[1]) if task else "") + text)
    load_config(path)


def test_the_queue_of_the_page_would_get_its_jobs():
    """Nothing is submitted: the job that dask-jobqueue would hand to the queue is written."""
    pytest.importorskip("dask_jobqueue")
    (text,) = re.findall(r"(?ms)^```yaml\n(jobqueue:.*?)^```", TEXT["scale.md"])
    settings = YAML(typ="safe").load(text)["jobqueue"]
    assert set(settings) <= set(QUEUES)
    for queue, values in settings.items():
        options = {f"jobqueue.{queue}.{key}": value for key, value in values.items()}
        with pytest.importorskip("dask").config.set(options):
            job = queue_class(queue).job_cls
            script = job("tcp://node1:8786", name="one").job_script()
        for word in ("gpu", "pathology", "08:00:00", "--gres=gpu:1", "module load cuda"):
            assert word in script
        assert script.splitlines()[-1].endswith("--nthreads 1 --resources GPU=1")


def test_every_queue_of_the_program_is_one_of_dask_jobqueue():
    pytest.importorskip("dask_jobqueue")
    for queue in QUEUES:
        assert queue_class(queue).job_cls.config_name == queue
