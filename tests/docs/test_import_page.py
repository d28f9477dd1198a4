"""The transcripts of docs/import.md are what the program prints, and short."""

import re
import shlex
from pathlib import Path

import pytest

from tests.data.peer_folders import write_peers
from tests.docs.page_commands import ROOT

PAGE = ROOT / "docs" / "import.md"
TRANSCRIPTS = re.findall(r"```console\n\$ mbench (.+)\n((?:.*\n)*?)```", PAGE.read_text())
LONGEST = 10


@pytest.fixture(scope="module")
def peers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    write_peers(folder)
    return folder


def test_there_is_one_of_each_tool():
    assert len(TRANSCRIPTS) == 4


@pytest.mark.parametrize(("command", "shown"), TRANSCRIPTS)
def test_the_page_shows_what_is_printed(command, shown, peers, mbench, monkeypatch):
    monkeypatch.chdir(peers)
    said = mbench(*shlex.split(command))
    assert (said.code, said.err) == (0, "")
    assert said.out == shown
    assert shown.count("\n") < LONGEST
