"""A new encoder works as it is written, from the first test to the pull request."""

import subprocess
import sys

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.submissions.pack import class_name, new_encoder
from tests.submissions.conftest import snapshot


def test_a_new_encoder_goes_all_the_way(mbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = mbench("submit", "new", "my-net")
    assert said.code == 0, said.err
    assert "mbench encoders check my-net/card.yaml" in said.out
    assert sorted(p.name for p in (tmp_path / "my-net").iterdir()) == [
        "README.md", "card.yaml", "encoder.py", "test_encoder.py",
    ]  # fmt: skip
    assert mbench("encoders", "check", "my-net/card.yaml").code == 0
    run = ["run", "--encoder", "my-net/card.yaml", "--task", "aidpath-her2", "--protocol",
           "linear-probe", "--source", "phantom", "--jobs", "1"]  # fmt: skip
    assert mbench(*run).code == 0
    assert mbench("submit", "pack", "my-net/card.yaml", "--results", "results").code == 0
    said = mbench("submit", "verify", "my-net.zip", "--jobs", "1", "--out", "report.md")
    assert said.code == 0, said.err
    assert "PHANTOM" in (tmp_path / "report.md").read_text()


def test_its_own_test_passes_and_sees_an_encoder_that_wants_the_network(tmp_path):
    good, bad = new_encoder("2d-net", tmp_path), new_encoder("web-net", tmp_path)
    code = bad.with_name("encoder.py")
    text = "import socket\n" + code.read_text()
    code.write_text(text.replace("patches = ", "socket.socket()\n        patches = "))
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, good.parent, bad.parent],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "3 failed, 3 passed" in done.stdout
    assert "FAILED 2d-net" not in done.stdout
    assert "must not need the network" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Net", "say, my-net"),
        ("../evil", "say, evil"),
        ("a--b", "say, a-b"),
        ("", "cannot name an encoder"),
        ("x" * 65, "at most 64"),
        ("name\n", "cannot name an encoder"),
        ("aux", "Windows reserves it"),
        ("mean-pool", "is an encoder of madeleine-bench"),
        ("taken", "is there already"),
    ],
)
def test_bad_names_and_taken_folders_are_refused(name, message, tmp_path):
    (tmp_path / "taken").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=message):
        new_encoder(name, tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["none", "true", "base", "2d", "class", "a-b-c"])
def test_every_name_makes_a_class(name):
    made = class_name(name)
    assert made.isidentifier()
    assert made not in ("BaseEncoder" if name != "base" else "", "None", "True")
