"""Every command's help has an example that is understood; the manual has them all."""

import pytest

from tests.docs.command_pages import EXAMPLE, command_manual, leaf_commands
from tests.docs.test_docs_commands import parse

COMMANDS = leaf_commands()


def example_of(name: str) -> str:
    text = " ".join((COMMANDS[name].help or "").split())
    assert EXAMPLE in text, f"mbench {name} --help has no example"
    return text.partition(EXAMPLE)[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name):
    example = example_of(name)
    assert example.startswith(f"mbench {name}")
    parse(example)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_printed_with_the_example_and_every_option(name, mbench):
    said = mbench(*name.split(), "-h")
    assert said.code == 0
    assert f"  {EXAMPLE}{example_of(name)}\n" in said.out  # on one line, to be copied
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"mbench {name}: {parameter.name} says nothing"


def test_the_manual_has_every_command_and_option():
    pages = command_manual()
    for name, command in COMMANDS.items():
        page = pages[f"commands/{name.split()[0]}.md"]
        assert f"mbench {name}" in page
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in page
        assert f"[mbench {name}]" in pages["commands/index.md"]
