"""Folders of Patho-Bench, CLAM, STAMP and MOOZY, written as each tool writes and reads them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from madeleine_bench.seeds import rng_for
from tests.tool_bags import write_bag_file

DIM = 12
CONFIG = """\
task_col: {column}
extra_cols: {extra}
metrics:
  - {metric}
label_dict:
{names}
sample_col: {unit}
"""


def slides_of(name: str, cases: int = 40, classes: int = 2) -> pd.DataFrame:
    """A row per slide, one or two a case: slide_id, case_id, a class, days and whether it died."""
    rng = rng_for("peer folders", name)
    rows = []
    for number in range(cases):
        case, label = f"{name}-{number:03d}", number % (classes + 1) % classes
        days = int(rng.exponential(900 / (1 + 2 * label))) + 1
        row = {"case_id": case, "label": label, "days": days, "died": int(rng.random() < 0.7)}
        rows += [{"slide_id": f"{case}-{slide}", **row} for slide in range(1 + number % 2)]
    return pd.DataFrame(rows)


def write_features(folder: Path, table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Write a bag for each slide, and return the mean of its patches."""
    means = {}
    for slide in table.itertuples():
        patches = rng_for("patches", slide.slide_id).standard_normal((5, DIM), dtype=np.float32)
        patches[:, :2] += 1.2 * slide.label, -0.3 * np.log(slide.days)
        coords = np.zeros((len(patches), 2), dtype=np.int64)
        path = folder / f"{slide.slide_id}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bag_file(path, patches, coords, layout="trident", patch_encoder="conch_v1")
        means[str(slide.slide_id)] = patches.mean(axis=0, dtype=np.float64)
    return means


def fold_columns(table: pd.DataFrame, folds: int, unit: str = "case_id") -> dict[str, list[str]]:
    """Columns fold_0, ...: five are a partition of the units, others drawn anew each time."""
    labels = table.groupby(unit)["label"].first()
    if folds == 5:
        parts = StratifiedKFold(5, shuffle=True, random_state=1).split(labels, labels)
        tests = [set(labels.index[test]) for _, test in parts]
    else:
        tests = [
            set(labels.groupby(labels).sample(frac=0.3, random_state=n).index) for n in range(folds)
        ]
    return {
        f"fold_{n}": ["test" if one in test else "train" for one in table[unit]]
        for n, test in enumerate(tests)
    }


def write_patho_bench(
    folder: Path,
    table: pd.DataFrame,
    folds: Mapping[str, list[str]],
    *,
    metric: str = "macro-ovr-auc",
    unit: str = "case_id",
) -> Path:
    """Write k=all.tsv and config.yaml: a task of classes, or of survival called OS, PFS or DSS."""
    column = folder.name
    names = dict(enumerate(("wildtype", "mutant", "other")[: table["label"].nunique()]))
    content, extra = table[["case_id", "slide_id"]].assign(**{column: table["label"]}), []
    if column in ("OS", "PFS", "DSS"):
        extra = [f"{column}_event", f"{column}_days"]
        content = content.assign(**{extra[0]: table["died"], extra[1]: table["days"]})
    folder.mkdir(parents=True, exist_ok=True)
    content.assign(**folds).to_csv(folder / "k=all.tsv", sep="\t", index=False)
    listed = "\n".join(f"  {number}: {name}" for number, name in names.items())
    text = CONFIG.format(column=column, extra=extra, metric=metric, names=listed, unit=unit)
    (folder / "config.yaml").write_text(text)
    return folder


def write_clam(folder: Path, table: pd.DataFrame, splits: int = 3) -> Path:
    """Write dataset_csv and splits as create_splits_seq.py: lists, booleans and a descriptor."""
    (folder / "dataset_csv").mkdir(parents=True)
    (folder / "splits" / "task_2_50").mkdir(parents=True)
    labels = table["label"].map(lambda number: f"subtype_{number + 1}")
    dataset = table[["case_id", "slide_id"]].assign(label=labels)
    dataset.to_csv(folder / "dataset_csv" / "subtypes.csv", index=False)
    cases = table["case_id"].unique()
    for number in range(splits):
        part = dict(zip(rng_for("clam", number).permutation(cases), range(len(cases)), strict=True))
        rank = table["case_id"].map(part) / len(cases)
        sides = [
            table["slide_id"][mask] for mask in (rank < 0.5, rank.between(0.6, 0.7), rank > 0.7)
        ]
        path = folder / "splits" / "task_2_50" / f"splits_{number}.csv"
        lists = pd.concat([side.reset_index(drop=True) for side in sides], axis=1)
        lists.columns = ["train", "val", "test"]
        lists.to_csv(path)
        rows = np.repeat(np.eye(3).astype(bool), [len(side) for side in sides], axis=0)
        booleans = pd.DataFrame(rows, index=pd.concat(sides).tolist(), columns=lists.columns)
        booleans.to_csv(path.with_name(f"splits_{number}_bool.csv"))
        pd.DataFrame({"train": [1], "val": [1], "test": [1]}, index=["subtype_1"]).to_csv(
            path.with_name(f"splits_{number}_descriptor.csv")
        )
    return folder


def write_stamp(folder: Path, table: pd.DataFrame) -> Path:
    """Write clini.csv, slide.csv and the splits.json of `stamp crossval`."""
    folder.mkdir(parents=True)
    cases = table.groupby("case_id").first()
    status = cases["died"].map({1: "Dead", 0: "alive"})
    words = cases["label"].map({1: "MSIH", 0: "nonMSIH"})
    clini = pd.DataFrame({"PATIENT": cases.index, "isMSIH": words, "TIME": cases["days"]})
    clini.assign(STATUS=status).to_csv(folder / "clini.csv", index=False)
    files = [f"conch/{slide}.h5" for slide in table["slide_id"]]
    pd.DataFrame({"PATIENT": table["case_id"], "FILENAME": files}).to_csv(
        folder / "slide.csv", index=False
    )
    parts = StratifiedKFold(4, shuffle=True, random_state=0).split(cases, words)
    splits = [
        {"train_patients": list(cases.index[train]), "test_patients": list(cases.index[test])}
        for train, test in parts
    ]
    (folder / "splits.json").write_text(json.dumps({"splits": splits}, indent=4))
    return folder


def write_peers(folder: Path) -> None:
    """Write what docs/import.md imports, and bags of all slides under features/."""
    for name, folds in (("cptac_brca", 50), ("tcga_brca", 5)):
        table = slides_of(name[:4].upper(), 60)
        path = folder / "splits" / name / "TP53_mutation"
        write_patho_bench(path, table, fold_columns(table, folds))
        write_features(folder / "features" / name, table)
    table = slides_of("P", 60, classes=3)
    write_clam(folder / "CLAM", table)
    (folder / "CLAM" / "dataset_csv").rename(folder / "dataset_csv")
    (folder / "CLAM" / "splits").rename(folder / "splits_clam")
    write_features(folder / "features" / "clam", table)
    table = slides_of("CRC", 60)
    write_stamp(folder / "crc", table)
    write_features(folder / "features" / "crc", table)


def write_moozy(folder: Path, table: pd.DataFrame, *, survival: bool = False) -> Path:
    """Write task.csv and config.yaml; the first survival time is negative."""
    folder.mkdir(parents=True)
    rows = pd.DataFrame(
        {"filename": [f"{slide}.svs" for slide in table["slide_id"]], "case_id": table["case_id"]}
    )
    text = "task_type: classification\nsample_col: case_id\ntask_col: grade\n"
    if survival:
        days = table["days"].mask(table["case_id"] == table["case_id"][0], -1)
        rows = rows.assign(OS_event=table["died"], OS_days=days)
        text = "task_type: survival\nsample_col: case_id\ntask_col: OS\n"
    else:
        rows = rows.assign(label=[f"G{label + 1}" for label in table["label"]])
    rows.to_csv(folder / "task.csv", index=False)
    (folder / "config.yaml").write_text(text)
    return folder


def roles_in(path: Path) -> dict[tuple[int, int], dict[str, str]]:
    """The rows of one of our split files."""
    rows = pd.read_csv(path, dtype={"unit_id": str})
    return {
        (int(key[0]), int(key[1])): dict(zip(part["unit_id"], part["role"], strict=True))
        for key, part in rows.groupby(["repeat", "fold"])
    }


def patho_bench_folds(path: Path, unit: str) -> Iterator[dict[str, str]]:
    """The role of each sample in each fold, as Patho-Bench's DataSplit reads a split file."""
    table: Any = pd.read_csv(path, sep="\t", dtype={"case_id": str, "slide_id": str})
    columns = sorted((c for c in table if "fold_" in c), key=lambda c: int(c.split("_")[-1]))
    for column in columns:
        yield table.groupby(unit)[column].first().to_dict()
