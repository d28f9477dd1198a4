"""A verification that takes too long ends: it says so, and leaves no report or worker."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.submissions.report import deadline
from tests.submissions.conftest import members_of, snapshot

# Nothing that Python raises in it ends it; it says which process it is, and stands still.
HANGS = """
import os, pathlib, time
from madeleine_bench.encoders.base import BaseEncoder
class StrangerEncoder(BaseEncoder):
    def __init__(self, card, weights, trim):
        self.card = card
    def encode(self, bag):
        marker = pathlib.Path({marker!r})
        (marker.parent / "half").write_text(str(os.getpid()))
        os.replace(marker.parent / "half", marker)
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ring_when(marker: Path) -> None:
    """Let the alarm go off as soon as the encoder hangs, however long that takes to come."""

    def watch():
        while not marker.is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGALRM)

    threading.Thread(target=watch, daemon=True).start()


@pytest.fixture
def hanging(first, altered, tmp_path):
    marker = tmp_path / "hangs"
    ring_when(marker)
    return altered({"code/encoder.py": HANGS.format(marker=str(marker)).encode()}), marker


def test_an_encoder_that_hangs(first, hanging, mbench, tmp_path):
    bundle, marker = hanging
    reports = tmp_path / "report.md", tmp_path / "report.json"
    for report in reports:
        report.write_text("verified")
    said = mbench("submit", "verify", bundle, *first.options, "--level", "V3", "--allow-code",
                  "--out", reports[0], "--json", reports[1])  # fmt: skip
    assert said.code == 1
    assert "not verified: the time limit of 3600 s ran out. No report was written" in said.err
    assert "--time-limit" in said.err
    assert "Traceback" not in said.err
    assert "V1 recomputed" not in said.out
    assert not any(report.exists() for report in reports)
    pid = int(marker.read_text())
    assert pid != os.getpid()
    assert not alive(pid)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_nothing_is_added_when_time_is_out(first, hanging, mbench):
    before = snapshot(first.results)
    said = mbench("leaderboard", "add", hanging[0], *first.options, "--level", "V2", "--allow-code")
    assert said.code == 1
    assert "the time limit of 3600 s ran out" in said.err
    assert snapshot(first.results) == before


@pytest.mark.parametrize("command", [("submit", "verify"), ("leaderboard", "add")])
def test_a_tiny_limit(first, mbench, command):
    said = mbench(*command, first.bundle, *first.options, "--time-limit", "1e-6")
    assert said.code == 1
    assert "the time limit of 1e-06 s ran out" in said.err
    assert said.out == ""


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "1e30"])
def test_a_limit_that_is_none(first, mbench, limit):
    said = mbench("submit", "verify", first.bundle, *first.options, "--time-limit", limit)
    assert said.code == 2
    assert "--time-limit must be above 0" in said.err


def test_an_error_of_the_block_comes_out_and_the_alarm_is_off():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(InputError, match="mine"), deadline(Path("a"), 900.0):
        raise InputError("mine")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_in_another_thread_the_block_runs_without_a_limit():
    done = []

    def work():
        with deadline(Path("a"), 1e-6):
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.mark.slow
def test_an_encoder_that_ends_its_process_is_a_finding(first, altered, mbench):
    code = members_of(first.bundle)["code/encoder.py"]
    code = code.replace(b"patches = ", b"__import__('os')._exit(7); patches = ")
    said = mbench("submit", "verify", altered({"code/encoder.py": code}), *first.options,
                  "--level", "V2", "--allow-code")  # fmt: skip
    assert said.code == 1
    assert "reached V1" in said.err
    assert "EXIT(7)" in said.err


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_report_in_the_place_of_the_bundle_or_of_a_folder(submitted, mbench, tmp_path, option):
    before = submitted.bundle.read_bytes()
    said = mbench(*submitted.verify, submitted.bundle, option, submitted.bundle)
    assert said.code == 2
    assert "must be different files" in said.err
    assert submitted.bundle.read_bytes() == before
    said = mbench(*submitted.verify, submitted.bundle, option, tmp_path)
    assert said.code == 2
    assert f"cannot write {tmp_path}" in said.err


def test_the_verdict_is_said_where_no_report_can_be_written(first, mbench, tmp_path):
    def refuse(path: Path, text: str) -> None:
        raise InputError(f"cannot write {path}: No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("madeleine_bench.cli.console.write_text", refuse)
        said = mbench("submit", "verify", first.bundle, *first.options, "--out", tmp_path / "r.md")
    assert said.code == 2
    assert "No space left" in said.err
    assert "V1 recomputed" in said.out
