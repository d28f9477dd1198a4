"""What a terminal shows of a board, at 80 and 120 columns, compared with stored captures.

To write the captures again: python -m tests.leaderboard.test_terminal
"""

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

import pytest

from madeleine_bench.cli.console import print_body, print_table
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.comparison import compare
from madeleine_bench.leaderboard.terminal import board_tables
from tests.leaderboard.records import CATALOGUE, draws_of, make_record, varied_row

CAPTURES = Path(__file__).parent / "terminal"
CASES = [(name, width) for name in ("ranking", "tasks", "one-task", "real") for width in (80, 120)]


def full_board(source="phantom"):
    return (
        varied_row("mean-pool", 0.7, 1, kind="baseline", source=source)
        + varied_row("madeleine", 0.78, 2, source=source)
        + varied_row("intra-ssl", 0.66, 3, source=source)
        + varied_row("an-encoder-with-a-long-name", 0.71, 4, source=source)
        + varied_row("random-projection", 0.6, 5, kind="control", source=source)
        + varied_row("half", 0.6, 6, source=source)[::2]
    )


def capture(name, width):
    """Return what is printed at a width."""
    records = full_board("local" if name == "real" else "phantom")
    if name == "one-task":
        task = CATALOGUE.tasks["bcnb-er"]
        records = [make_record(f"encoder-{i}", task, 0.6 + i / 50) for i in range(3)]
    (board,) = build_boards(records, CATALOGUE)
    body = board_tables(board, compare(board, draws_of), width, tasks=name == "tasks")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), mock.patch.dict(os.environ, {"COLUMNS": str(width)}):
        print_body(body)
    return "".join(f"{line.rstrip()}\n" for line in said.getvalue().splitlines())


@pytest.mark.parametrize(("name", "width"), CASES)
def test_the_board_is_printed_as_captured(name, width):
    text = capture(name, width)
    assert text == (CAPTURES / f"{name}_{width}.txt").read_text()
    assert max(map(len, text.splitlines())) <= width


def test_a_number_and_its_interval_stay_on_one_line():
    for line in capture("ranking", 80).splitlines()[:20]:
        assert line.count("(") == line.count(")")


def test_nothing_of_a_long_cell_is_cut_off(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = "/slides/" + "x" * 150
    print_table("", ["path", "state"], [[path, "read"], ["short", "failed"]])
    assert path in "".join(capsys.readouterr().out.split()).replace("read", "")


if __name__ == "__main__":
    for case, columns in CASES:
        (CAPTURES / f"{case}_{columns}.txt").write_text(capture(case, columns))
