"""A small cohort with sites, and how the doctor's verdicts are read."""

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.encoders.base import BaseEncoder
from madeleine_bench.runner.doctor import Examination, examine_encoder
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag, Silence

SLIDES, DIM = 30, 12


class SmallCohort:
    """30 slides of 30 cases in 3 sites; a slide's patches lie about a centre of its own."""

    cohort_id, source, variant = "small", "local", ""
    no_bag: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.bags = {}
        for number in range(SLIDES):
            rng = rng_for("doctor-tests", number)
            patches = 20 + int(60 * rng.random())
            centre = rng.standard_normal(DIM)
            features = centre + 0.5 * rng.standard_normal((patches, DIM))
            slide_id = f"s{number:02d}"
            self.bags[slide_id] = Bag(
                slide_id,
                f"c{number:02d}",
                features.astype(np.float32),
                site=f"site {number % 3}",
                stain=("H&E", "HER2")[number // 15],
            )
        columns = ("slide_id", "case_id", "stain", "site")
        rows = [[getattr(bag, name) for name in columns] for bag in self.bags.values()]
        self.slides = pd.DataFrame(rows, columns=columns)

    def read_bag(self, slide_id: str) -> Bag:
        return self.bags[slide_id]

    def content_key(self, slide_id: str) -> str:
        return slide_id


def card(**values) -> EncoderCard:
    declared = {
        "name": "made-for-a-test",
        "revision": "1",
        "title": "made for a test",
        "implementation": "tests.doctor.conftest:Mean",
        "training_cohorts": (),
        "licence": "none",
        "description": "none",
    }
    return EncoderCard(**{**declared, **values})


class Mean(BaseEncoder):
    """A sound encoder; sabotaged ones change what it returns."""

    def __init__(self, **values) -> None:
        super().__init__(card(**values))

    def encode(self, bag: Bag) -> np.ndarray:
        return bag.features.mean(axis=0, dtype=np.float64).astype(np.float32)


@pytest.fixture(scope="session")
def small() -> SmallCohort:
    return SmallCohort()


@pytest.fixture
def examine(small):
    """Examine an encoder on the small cohort, or on another one."""

    def call(encoder, data=None, **options) -> Examination:
        data = data or small
        return examine_encoder(encoder, data, list(data.slides["slide_id"]), Silence(), **options)

    return call


def verdicts(found: Examination, verdict: str) -> set[str]:
    return {finding.check for finding in found.findings if finding.verdict == verdict}


def finding(found: Examination, check: str):
    return next(each for each in found.findings if each.check == check)
