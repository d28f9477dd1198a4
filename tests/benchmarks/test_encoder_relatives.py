"""The threshold lies between copies and honest relatives, as docs/submissions.md says."""

import json

import numpy as np
import pytest

from benchmarks import encoder_relatives
from madeleine_bench.stats.similarity import linear_share
from madeleine_bench.submissions.suspicion import COPY_SHARE

MEASURED = json.loads(encoder_relatives.OUT.read_text())
WHITENED = "whitened"  # all directions of fewer slides than columns: nothing is left to compare


def test_the_threshold_lies_between_copies_and_relatives():
    assert MEASURED["threshold"] == COPY_SHARE
    honest, copies = MEASURED["edges"]["honest"], MEASURED["edges"]["copies"]
    assert len(honest) > 30
    assert len(copies) == 9
    assert all(most < COPY_SHARE for _, most in honest.values())
    assert all(least > COPY_SHARE for least, _ in copies.values())


def test_few_slides_whitened_in_all_directions_are_not_judged():
    shares = MEASURED["copies"][WHITENED]
    judged = {where for where, share in shares.items() if share is not None}
    assert judged == {"bcnb 1000"}


def test_relatives_are_what_they_are_called():
    features = np.arange(60.0).reshape(20, 3)
    made = encoder_relatives.summaries(features, "a")
    assert made["mean and deviation"].shape == (6,)
    assert np.allclose(made["mean without the outer tenths"], features[2:18].mean(axis=0))
    assert made["half of the columns"].shape == (1,)


@pytest.mark.parametrize("slides", [60, 400])
def test_every_disguise_is_one(slides):
    mean = np.random.default_rng(0).standard_normal((slides, 6))
    for name, copy in encoder_relatives.copies(mean, "bcnb").items():
        assert len(copy) == slides
        assert not np.allclose(copy[:, :6], mean)
        assert linear_share(mean, copy) > COPY_SHARE, name
