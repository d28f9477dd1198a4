"""The lock of what moves scores: what needs a new version of a task, and what does not."""

import pytest

from madeleine_bench.runner.lock import changes

HASHES = {"labels": "a", "splits": "b", "task_hash": "c"}
MOVED = {**HASHES, "splits": "x"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"linear-probe/v1": HASHES}, []),
        # It was refused: every task would have needed a new version, and with it new draws.
        ({"linear-probe/v2": HASHES}, []),
        ({"linear-probe/v1": MOVED}, ["bcnb-er@1 linear-probe/v1: splits changed"]),
        ({"few-shot/v2": HASHES}, ["bcnb-er@1 linear-probe/v1: no longer scored"]),
        ({"linear-probe/v0": HASHES}, ["bcnb-er@1 linear-probe/v1: no longer scored"]),
    ],
)  # fmt: skip
def test_what_needs_a_new_version_is_said(now, said):
    assert changes({"bcnb-er@1": {"linear-probe/v1": HASHES}}, {"bcnb-er@1": now}) == said


def test_a_new_version_of_the_task_may_change_everything():
    assert changes({"bcnb-er@1": {"linear-probe/v1": HASHES}}, {"bcnb-er@2": {}}) == []
