"""Feature stores made in memory: row i of the whole store has i in its first dimension."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from madeleine_bench.data.packed import FeatureStore, PackedSlide

DIM = 3
Slide = tuple[str, str, str, int]


def make_store(slides: Sequence[Slide]) -> FeatureStore:
    """A store of slides (slide id, case id, stain, number of patches)."""
    rows = sorted(slides)
    lengths = [patches for *_, patches in rows]
    features = np.zeros((sum(lengths), DIM), np.float16)
    features[:, 0] = np.arange(len(features))
    features[:, 1] = np.repeat(np.arange(len(rows)), lengths)
    return FeatureStore(
        path=Path("made-up"),
        cohort_id="toy",
        source="local",
        variant="",
        content="none",
        missing=(),
        patch_encoder=None,
        dim=DIM,
        dtype="float16",
        parts=(),
        slides=[PackedSlide(*row) for row in rows],
        shards=(features,),
    )


def make_breast(cases: int, patches: int = 11) -> FeatureStore:
    """A store in which every case has H&E and ER, every second one HER2 besides."""
    slides = []
    for number in range(cases):
        stains = ["H&E", "ER", "HER2"][: 2 + number % 2]
        slides += [(f"s{number:03d}-{s}", f"c{number:03d}", s, patches + number) for s in stains]
    return make_store(slides)
