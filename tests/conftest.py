"""What several test folders share: running the command line, and a small cohort on disk."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from madeleine_bench.cli.main import main
from madeleine_bench.seeds import rng_for
from tests.tool_bags import write_bag_file

# Tables fit the width that a shell exports; tests read them at the width of a pipe.
os.environ.pop("COLUMNS", None)
# Tests judge what code does; how fast it is, on a machine that is busy or not, benchmarks judge.
settings.register_profile("mbench", deadline=None)
settings.load_profile("mbench")


@dataclass
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def mbench(capsys):
    """Run `mbench ARGUMENTS` in this process."""

    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@dataclass
class LocalBcnb:
    """A cohort of 40 made-up slides in BCNB's layout: bags, labels.csv and mbench.toml."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "mbench.toml"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.csv"

    def bag(self, number: int = 1) -> Path:
        return self.folder / "features" / f"{number}.h5"

    def write_bag(self, number: int, features: np.ndarray) -> None:
        coords = np.zeros((len(features), 2), dtype=np.int64)
        write_bag_file(self.bag(number), features, coords, layout="clam")


@pytest.fixture
def bcnb(tmp_path) -> LocalBcnb:
    cohort = LocalBcnb(tmp_path / "bcnb")
    rows = ["slide_id,er,pr,her2,her2_binary,ki67_binary,ALN_status"]
    for number in range(1, 41):
        rng = rng_for("tests", number)
        positive = number % 3 == 0
        features = rng.standard_normal((5 + number % 4, 8), dtype=np.float32)
        features[:, 0] += 2.0 * positive
        cohort.write_bag(number, features)
        other = number % 2
        rows.append(f"{number},{int(positive)},{other},{other},{1 - other},{other},N0")
    cohort.labels.write_text("\n".join(rows) + "\n")
    cohort.config.write_text('[cohorts.bcnb]\nfeatures = "features"\nlabels = "labels.csv"\n')
    return cohort
