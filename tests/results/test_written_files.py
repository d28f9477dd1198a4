"""Files that are named by their content."""

import pandas as pd
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.files import replacing
from madeleine_bench.hashing import hash_file
from madeleine_bench.results.store import ResultStore

CELL = ("phantom", "a", "bcnb-er@1", "few-shot/v2", "k" * 64)


def predictions(rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"draw": range(rows), "unit_id": [f"é{i}" for i in range(rows)], "risk": [0.5] * rows}
    )


def test_predictions_carry_the_hash_of_their_bytes_in_their_name(tmp_path):
    written = ResultStore(tmp_path).write_predictions(CELL, predictions(70_000))
    path = tmp_path / written.path
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert hash_file(path) == written.hash
    assert path.name == f"few-shot-v2.{'k' * 16}.{written.hash[:16]}.parquet"
    assert written.rows == 70_000
    pd.testing.assert_frame_equal(pd.read_parquet(path), predictions(70_000))


def test_the_same_predictions_are_the_same_bytes(tmp_path):
    first, second = ResultStore(tmp_path / "a"), ResultStore(tmp_path / "b")
    one = first.write_predictions(CELL, predictions(3))
    other = second.write_predictions(CELL, predictions(3))
    assert one == other
    assert (tmp_path / "a" / one.path).read_bytes() == (tmp_path / "b" / one.path).read_bytes()


def test_a_write_that_fails_leaves_nothing_under_either_name(tmp_path):
    def never(written):
        raise AssertionError("named although it was not written")

    def write():
        with replacing(tmp_path / "x", never) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_the_folder(tmp_path):
    def full(written):
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(InputError, match=r"cannot write .*No space left"),
        replacing(tmp_path / "x", full) as temporary,
    ):
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == []
