"""The training step of the transport benchmark, at its toy size, and its row among the results."""

import json
import sys

import pytest

from benchmarks import transport


def test_the_step_is_put_beside_what_the_file_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    path = tmp_path / "transport.json"
    path.write_text(json.dumps({"rows": [1, 2]}))
    monkeypatch.setattr(
        sys, "argv", ["transport.py", "--step", "--repeats", "1", "--out", str(path)]
    )
    transport.main()
    found = json.loads(path.read_text())
    assert found["rows"] == [1, 2]
    step = found["step"]
    assert step["cases"] == transport.STEP_CASES
    assert step["cases"] < step["slides"] < step["cases"] * step["stains"]
    assert step["loss_apart"] < 1e-5
    assert min(step["median_ms"].values()) > 0


def test_the_committed_step_compares_equal_losses():
    step = json.loads(transport.RESULTS.read_text())["step"]
    assert step["loss_apart"] < 1e-5
    ratio = step["median_ms"]["plain"] / step["median_ms"]["ours"]
    assert step["times_faster"] == pytest.approx(ratio, rel=0.01)
