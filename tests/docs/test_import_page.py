"""The transcripts of docs/import.md and bring-your-data.md are what the program prints, short."""

import re
import shlex
from pathlib import Path

import pytest

from tests.data.peer_folders import write_peers
from tests.docs.page_commands import ROOT
from tests.docs.tool_layouts import write_layouts

TRANSCRIPTS = [
    found
    for page in ("import.md", "bring-your-data.md")
    for found in re.findall(
        r"```console\n\$ mbench (.+)\n((?:.*\n)*?)```", (ROOT / "docs" / page).read_text()
    )
]
LONGEST = 10


@pytest.fixture(scope="module")
def peers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    write_peers(folder)
    write_layouts(folder)
    return folder


def test_there_is_one_of_each_tool_and_one_of_a_table():
    assert len(TRANSCRIPTS) == 5


@pytest.mark.parametrize(("command", "shown"), TRANSCRIPTS)
def test_the_page_shows_what_is_printed(command, shown, peers, mbench, monkeypatch):
    monkeypatch.chdir(peers)
    said = mbench(*shlex.split(command))
    assert (said.code, said.err) == (0, "")
    assert said.out == shown
    assert shown.count("\n") < LONGEST
