"""A small pretraining cohort on disk: 24 cases, three stains that share what a case is like."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from madeleine_bench.seeds import rng_for
from tests.tool_bags import write_bag_file

DIM, CASES = 6, 24
STAINS = {"H&E": 1, "ER": 1, "HER2": 2}  # a stain of step 2 is there for every second case
RECIPE = """
name: small
encoder: {encoder}
cohort: acrobat
model: {{width: 8, heads: 2}}
objective: {{temperature: 0.1, tokens: 4}}
patches: 12
batch_cases: 8
epochs: 3
optimiser: {{learning_rate: 0.01, warmup_epochs: 1, final_learning_rate: 1.0e-5}}
precision: fp32
held_out_share: 0.25
"""


@dataclass
class LocalAcrobat:
    """A cohort in ACROBAT's place: bags, labels.csv, mbench.toml and a recipe."""

    folder: Path

    @property
    def labels(self) -> Path:
        return self.folder / "labels.csv"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    def recipe(self, encoder: str = "madeleine") -> Path:
        path = self.folder / f"{encoder}.yaml"
        path.write_text(RECIPE.format(encoder=encoder))
        return path

    def write_bag(self, slide_id: str, features: np.ndarray) -> None:
        """Write a bag whose patches lie on a square grid, row by row."""
        side = int(np.ceil(np.sqrt(len(features))))
        cells = np.stack(np.divmod(np.arange(len(features)), side), axis=1)
        write_bag_file(self.features / f"{slide_id}.h5", features, 512 * cells, layout="clam")

    def arguments(self, *more, encoder: str = "madeleine") -> list[str]:
        """Arguments of `mbench` that train on this cohort."""
        given = [
            "pretrain", self.recipe(encoder), "--config", self.folder / "mbench.toml",
            "--results", self.folder / "results", "--device", "cpu", *more,
        ]  # fmt: skip
        if "--out" not in given:
            given += ["--out", self.folder / "out"]
        return [str(argument) for argument in given]


@pytest.fixture
def acrobat(tmp_path) -> LocalAcrobat:
    cohort = LocalAcrobat(tmp_path / "acrobat")
    rows = ["slide_id,case_id,stain"]
    for case in range(CASES):
        shared = rng_for("case", case).standard_normal(DIM)
        for number, (stain, step) in enumerate(STAINS.items()):
            if case % step:
                continue
            slide_id = f"c{case:02d}-{number}"
            noise = rng_for("bag", slide_id).standard_normal((9 + (case + number) % 7, DIM))
            cohort.write_bag(slide_id, (2 * shared + noise + number).astype(np.float32))
            rows.append(f"{slide_id},case{case:02d},{stain}")
    cohort.labels.write_text("\n".join(rows) + "\n")
    (cohort.folder / "mbench.toml").write_text(
        '[cohorts.acrobat]\nfeatures = "features"\nlabels = "labels.csv"\n'
    )
    return cohort
