"""The exit code of a run with failed parts: 2 where nothing but input is wrong, else 1."""

import h5py
import numpy as np
import pytest

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.runner.failures import Failure, ending
from tests.stranger import MEAN, write_stranger

BODIES = {
    "sound": MEAN,
    "raises": 'raise ValueError("mine")',
    "nan": "return bag.features.mean(axis=0) + np.float32(np.nan)",
}
OF_INPUT, OF_ENCODER = Failure("a file", is_user_error=True), Failure("it raised")


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ([OF_INPUT], InputError),
        ([OF_INPUT, OF_INPUT], InputError),
        ([OF_ENCODER], CheckFailed),
        ([OF_INPUT, OF_ENCODER], CheckFailed),
    ],
)
def test_it_is_2_only_where_every_failure_is_of_input(failures, kind):
    assert type(ending("m", [("a", each) for each in failures])) is kind


def test_a_failure_knows_what_error_it_was():
    assert Failure.of(InputError("a")) == Failure("a", is_user_error=True)
    assert Failure.of(CheckFailed("a")) == Failure("a")
    assert f"{Failure('a')}" == "a"


@pytest.fixture
def call(tmp_path, bcnb, mbench):
    def run(*encoders):
        cards = []
        for name in encoders:
            cards += ["--encoder", write_stranger(tmp_path / name, BODIES[name], name=name)]
        return mbench("run", *cards, "--task", "bcnb-er", "--protocol", "linear-probe", "--jobs",
                      "1", "--config", bcnb.config, "--results", tmp_path / "r")  # fmt: skip

    return run


def test_the_sound_encoder_is_scored_beside_those_that_fail(call):
    said = call("sound", "raises", "nan")
    assert said.code == 1
    assert "1 computed, 0 already there, 2 failed" in said.err
    assert "encode raised ValueError: mine" in said.err
    assert "component 0 of the embedding is nan" in said.err


def test_a_wrong_file_alone_is_wrong_input(call, bcnb):
    features = np.ones((4, 8), dtype=np.float32)
    features[2, 5] = np.nan
    with h5py.File(bcnb.bag(9), "w") as handle:
        handle["features"] = features
    said = call("sound")
    assert said.code == 2
    assert "9.h5" in said.err
