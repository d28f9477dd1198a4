"""The limit between copies and honest relatives lies between them, as docs/submissions.md says."""

import json

import numpy as np

from benchmarks import encoder_relatives
from madeleine_bench.stats.procrustes import procrustes_residual
from madeleine_bench.submissions.duplicates import NEAR_CKA, SAME_RESIDUAL

FOUND = json.loads(encoder_relatives.OUT.read_text())
HONEST = [name for name in FOUND if name.startswith(("mean", "half"))]
COPIES = [name for name in FOUND if name.startswith("turned") and "3.0%" not in name]


def test_the_limit_lies_between_copies_and_relatives():
    assert FOUND["limit_of_residual"] == SAME_RESIDUAL
    assert (len(HONEST), len(COPIES)) == (4, 3)
    assert all(FOUND[name]["residual"][0] > SAME_RESIDUAL for name in HONEST)
    assert all(FOUND[name]["residual"][1] < SAME_RESIDUAL for name in COPIES)
    assert all(FOUND[name]["cka"][0] > NEAR_CKA for name in COPIES)


def test_relatives_and_copies_are_what_they_are_called():
    features = np.arange(60.0).reshape(20, 3)
    made = encoder_relatives.summaries(features, "a")
    assert np.allclose(made["mean-pool"], features.mean(axis=0))
    assert made["mean and deviation"].shape == (6,)
    assert np.allclose(made["mean without the outer tenths"], features[2:18].mean(axis=0))
    mean = np.random.default_rng(0).standard_normal((50, 6))
    blurred = encoder_relatives.copies(mean, "bcnb")
    left = [procrustes_residual(mean, copy) for copy in blurred.values()]
    assert left == sorted(left)
