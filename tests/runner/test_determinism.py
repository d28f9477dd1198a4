"""`mbench run --check-determinism`: what is made again is the same to the byte, or exit 1."""

import re

import pytest

from madeleine_bench.runner import embedding
from madeleine_bench.runner import run as run_module
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import check_determinism, run
from madeleine_bench.runner.workers import LocalWorkers
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence
from tests.stranger import MEAN, write_stranger

NOISE = "return bag.features.mean(axis=0) + 1e-3 * np.random.default_rng().standard_normal(8)"
THREADS = (
    "import os; return bag.features.mean(axis=0) + float(os.environ['OMP_NUM_THREADS'] == '1')"
)


@pytest.fixture
def arguments(bcnb, tmp_path):
    """The command with an encoder of the given body."""

    def make(body):
        card = write_stranger(tmp_path, body, name="given", trained="[]")
        return [
            "run", "--encoder", card, "--task", "bcnb-er", "--protocol",
            "linear-probe", "--jobs", "1", "--config", bcnb.config, "--results", tmp_path / "r",
        ]  # fmt: skip

    return make


@pytest.fixture
def here(monkeypatch):
    """Workers that are this process: what differs is not theirs."""
    monkeypatch.setattr(run_module, "LocalWorkers", lambda *given, **more: LocalWorkers(1))


def test_an_encoder_that_is_the_same_again(mbench, arguments, here):
    said = mbench(*arguments(MEAN), "--check-determinism")
    assert said.code == 0
    assert "made again, the same to the byte: 2 files" in said.err


def test_an_encoder_that_changes_is_named(mbench, arguments, here, tmp_path):
    said = mbench(*arguments(NOISE), "--check-determinism")
    assert said.code == 1
    assert re.search(r"embeddings/local/given/bcnb.*: not there, or of other bytes", said.err)
    assert re.search(r"predictions/local/given/bcnb-er.*: not there, or of other", said.err)
    assert len(list((tmp_path / "r" / "records").rglob("*.json"))) == 1


def test_what_fails_when_made_again_and_what_is_gone_are_told(arguments, here, bcnb, tmp_path):
    card = arguments(MEAN)[2]
    request = Request(
        (str(card),), ("bcnb-er",), ("linear-probe",),
        Workspace(tmp_path / "r", config=bcnb.config),
    )  # fmt: skip
    run(request, Silence())
    for folder in ("embeddings", "records"):
        for path in (tmp_path / "r" / folder).rglob("*.*"):
            path.unlink() if path.is_file() else None
    _, differences = check_determinism(request, Silence())
    (line,) = differences
    assert "embeddings" in line
    assert line.endswith("not there, or of other bytes")
    arguments("raise RuntimeError('no more')")
    embedding._loaded_by_path.cache_clear()  # as a new process begins
    compared, differences = check_determinism(request, Silence())
    assert compared == 0
    assert "failed when it was made again" in differences[0]


@pytest.mark.slow
def test_an_encoder_that_depends_on_threads_is_found(mbench, arguments, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said = mbench(*arguments(THREADS), "--check-determinism")
    assert said.code == 1
    assert "embeddings/local/given/bcnb" in said.err


@pytest.mark.slow
def test_in_other_processes_it_is_the_same(mbench, arguments):
    assert mbench(*arguments(MEAN), "--check-determinism", "--time-limit", "60").code == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_limit_that_is_none(mbench, arguments, seconds):
    said = mbench(*arguments(MEAN), "--time-limit", seconds)
    assert said.code == 2
    assert "--time-limit must be above 0 seconds" in said.err
