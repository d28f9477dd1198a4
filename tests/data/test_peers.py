"""Imported tasks are those of the peers row by row, and score as a peer's own calls do."""

import json
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.util import Surv

from madeleine_bench.data.peers import read_table
from tests.data.peer_folders import (
    fold_columns,
    patho_bench_folds,
    roles_in,
    slides_of,
    write_clam,
    write_features,
    write_moozy,
    write_patho_bench,
    write_stamp,
)

Import = Callable[..., Any]


@pytest.fixture
def imported(mbench, tmp_path) -> Import:
    """Import into `mine` and return what was said, mbench.toml and the label table of a cohort."""

    def call(*arguments: object) -> tuple[str, dict[str, Any], Path]:
        said = mbench("tasks", "import", *arguments, "--out", tmp_path / "mine")
        assert said.code == 0, said.err
        mine = tmp_path / "mine"
        return said.out, tomllib.loads((mine / "mbench.toml").read_text()), mine

    return call


def labels_in(path: Path) -> dict[str, list[str]]:
    """Case and labels of each slide of one of our label tables."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return {row[0]: list(row[1:]) for row in table.itertuples(index=False)}


# ---- What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [1, 5, 50])
def test_patho_bench_row_by_row(folds: int, imported: Import, tmp_path: Path) -> None:
    table = slides_of("C3L")
    folder = write_patho_bench(
        tmp_path / "cptac_brca" / "TP53_mutation", table, fold_columns(table, folds)
    )
    said, toml, mine = imported(folder)
    task = toml["tasks"]["cptac_brca-tp53_mutation"]
    assert task["cohort"] == "cptac_brca"
    assert task["labels"] == {
        "type": "binary", "column": "TP53_mutation", "classes": ["wildtype", "mutant"],
        "map": {"0": "wildtype", "1": "mutant"},
    }  # fmt: skip
    assert labels_in(mine / "cptac_brca.csv") == {
        row.slide_id: [row.case_id, str(row.label)] for row in table.itertuples()
    }
    roles = roles_in(mine / task["splits"])
    assert list(roles.values()) == list(patho_bench_folds(folder / "k=all.tsv", "case_id"))
    keys = [(n, 0) for n in range(folds)] if folds == 50 else [(0, n) for n in range(folds)]
    assert list(roles) == keys
    assert {1: "one split", 5: "5 folds", 50: "50 Monte Carlo splits"}[folds] in said
    assert "the last is the positive one" in said
    assert "fill in: features" in said


def test_patho_bench_leaves_out_rows_without_a_label(imported: Import, tmp_path: Path) -> None:
    table = slides_of("C3L")
    folder = write_patho_bench(tmp_path / "cptac" / "OS", table, fold_columns(table, 5))
    path = folder / "k=all.tsv"
    rows = pd.read_csv(path, sep="\t")
    rows.loc[rows["case_id"] == "C3L-001", "OS"] = np.nan
    rows.loc[rows["case_id"] == "C3L-002", "fold_0"] = np.nan
    rows.to_csv(path, sep="\t", index=False)
    said, toml, mine = imported(folder)
    assert toml["tasks"]["cptac-os"]["labels"] == {
        "type": "survival", "time": "OS_days", "event": "OS_event", "event_value": "1",
        "censored_value": "0", "time_unit": "days",
    }  # fmt: skip
    labels = labels_in(mine / "cptac.csv")
    assert set(labels) == set(table["slide_id"][table["case_id"] != "C3L-001"])
    assert not any("C3L-001" in roles for roles in roles_in(mine / "cptac-os-splits.csv").values())
    assert "2 slides have no label and are left out" in said
    assert "OS_days is in days, as its name says" in said
    assert "C3L-002" not in roles_in(mine / "cptac-os-splits.csv")[0, 0]


def test_all_tasks_of_a_root_share_their_cohorts(imported: Import, tmp_path: Path) -> None:
    table = slides_of("C3L", classes=3)
    for task, rows in (("grade", table), ("PFS", table[table["case_id"] < "C3L-033"])):
        folder = tmp_path / "splits" / "cptac_pda" / task
        write_patho_bench(folder, rows, fold_columns(rows, 5), metric="weighted_kappa")
    said, toml, mine = imported(tmp_path / "splits", "--features", tmp_path / "bags")
    assert set(toml["tasks"]) == {"cptac_pda-pfs", "cptac_pda-grade"}
    assert toml["tasks"]["cptac_pda-grade"]["labels"]["type"] == "ordered"
    assert toml["cohorts"]["cptac_pda"]["features"] == (tmp_path / "bags").as_posix()
    labels = pd.read_csv(mine / "cptac_pda.csv", dtype=str)
    assert len(labels) == len(table)
    assert labels["PFS_days"].notna().sum() == (table["case_id"] < "C3L-033").sum()
    assert "--task 'cptac_pda-*'" in said


def test_tasks_with_other_slides_of_a_case_do_not_share_a_cohort(mbench, tmp_path: Path) -> None:
    """A case is scored from all its slides, so the score would not be that of Patho-Bench."""
    table = slides_of("C3L")
    for task, rows in (("grade", table), ("stage", table[table["slide_id"] != "C3L-001-1"])):
        write_patho_bench(tmp_path / "cptac" / task, rows, fold_columns(rows, 5))
    said = mbench("tasks", "import", tmp_path / "cptac", "--out", tmp_path / "mine")
    assert said.code == 2
    assert "cptac-stage lacks slide 'C3L-001-1' of case 'C3L-001'" in " ".join(said.err.split())


def test_a_cohort_that_is_built_in_gets_another_name(imported: Import, tmp_path: Path) -> None:
    table = slides_of("B")
    folder = write_patho_bench(tmp_path / "bcnb" / "her2", table, fold_columns(table, 5))
    said, toml, _ = imported(folder)
    assert list(toml["tasks"]) == ["bcnb-imported-her2"]
    assert "bcnb is a built-in cohort" in said


def test_external_task_trains_on_one_cohort_and_tests_on_the_other(
    imported: Import, tmp_path: Path
) -> None:
    sides = {"cptac_a": slides_of("A"), "cptac_b": slides_of("B", 30)}
    for name, table in sides.items():
        write_patho_bench(tmp_path / name / "BAP1_mutation", table, fold_columns(table, 5))
    _, toml, mine = imported(tmp_path / "cptac_a==cptac_b--BAP1_mutation")
    assert list(toml["tasks"]) == ["cptac_a-cptac_b-bap1_mutation"]
    expected = dict.fromkeys(sides["cptac_a"]["case_id"], "train")
    expected |= dict.fromkeys(sides["cptac_b"]["case_id"], "test")
    assert roles_in(mine / "cptac_a-cptac_b-bap1_mutation-splits.csv") == {(0, 0): expected}
    assert set(labels_in(mine / "cptac_a-cptac_b.csv")) == {
        slide for table in sides.values() for slide in table["slide_id"]
    }


@pytest.mark.parametrize("boolean", [False, True])
def test_clam_row_by_row(boolean: bool, imported: Import, tmp_path: Path) -> None:
    folder = write_clam(tmp_path / "CLAM", slides_of("P", classes=3))
    splits = folder / "splits" / "task_2_50"
    expected = []
    for number in range(3):
        lists = pd.read_csv(splits / f"splits_{number}.csv")
        expected.append(
            {s: role for role in ("train", "val", "test") for s in lists[role].dropna()}
        )
        if boolean:
            (splits / f"splits_{number}.csv").unlink()
    said, toml, mine = imported(folder)
    task = toml["tasks"]["subtypes-label"]
    assert task["unit"] == "slide"
    assert task["labels"]["classes"] == ["subtype_1", "subtype_2", "subtype_3"]
    assert list(roles_in(mine / task["splits"]).values()) == expected
    dataset = pd.read_csv(folder / "dataset_csv" / "subtypes.csv", dtype=str)
    assert labels_in(mine / "subtypes.csv") == {
        row.slide_id: [row.case_id, row.label] for row in dataset.itertuples()
    }
    assert "in alphabetical order" in said


def test_stamp_row_by_row(imported: Import, tmp_path: Path) -> None:
    table = slides_of("TCGA")
    folder = write_stamp(tmp_path / "crc", table)
    said, toml, mine = imported(folder, "--label", "isMSIH")
    task = toml["tasks"]["crc-ismsih"]
    assert task["labels"]["classes"] == ["MSIH", "nonMSIH"]
    splits = json.loads((folder / "splits.json").read_text())["splits"]
    expected = [
        dict.fromkeys(s["train_patients"], "train") | dict.fromkeys(s["test_patients"], "test")
        for s in splits
    ]
    assert list(roles_in(mine / task["splits"]).values()) == expected
    words = {1: "MSIH", 0: "nonMSIH"}
    assert labels_in(mine / "crc.csv") == {
        row.slide_id: [row.case_id, words[row.label]] for row in table.itertuples()
    }
    assert "validation patients" in said


def test_survival_of_stamp(imported: Import, tmp_path: Path) -> None:
    table = slides_of("TCGA")
    folder = write_stamp(tmp_path / "crc", table)
    said, toml, mine = imported(folder, "--survival", "TIME", "STATUS")
    assert "the event is STATUS = dead; TIME is read as days" in said
    assert "time_unit" not in toml["tasks"]["crc-time-status"]["labels"]
    assert labels_in(mine / "crc.csv") == {
        row.slide_id: [row.case_id, str(row.days), str(row.died)] for row in table.itertuples()
    }


def test_moozy_row_by_row(imported: Import, tmp_path: Path) -> None:
    table = slides_of("M")
    write_moozy(tmp_path / "tcga_x" / "grade", table)
    write_moozy(tmp_path / "tcga_x" / "survival", table, survival=True)
    said, toml, mine = imported(tmp_path / "tcga_x")
    assert set(toml["tasks"]) == {"tcga_x-grade", "tcga_x-survival"}
    assert "splits" not in toml["tasks"]["tcga_x-grade"]
    assert "five folds are drawn" in said
    columns = pd.read_csv(mine / "tcga_x.csv", nrows=1).columns.tolist()
    assert columns == ["slide_id", "case_id", "grade", "OS_days", "OS_event"]
    assert labels_in(mine / "tcga_x.csv") == {
        row.slide_id: [
            row.case_id, f"G{row.label + 1}",
            *(("", "") if row.case_id == "M-000" else (str(row.days), str(row.died))),
        ]
        for row in table.itertuples()
    }  # fmt: skip


def test_a_second_import_is_added(imported: Import, mbench, tmp_path: Path) -> None:
    for name in ("one", "two"):
        table = slides_of(name)
        write_patho_bench(tmp_path / name / "task", table, fold_columns(table, 5))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mbench.toml").write_text(
        '[cohorts.bcnb] # mine\nfeatures = "phantom"\nlabels = "l"\n'
    )
    imported(tmp_path / "one" / "task")
    _, toml, mine = imported(tmp_path / "two" / "task")
    assert list(toml["tasks"]) == ["one-task", "two-task"]
    assert "[cohorts.bcnb] # mine" in (mine / "mbench.toml").read_text()
    before = (mine / "mbench.toml").read_bytes()
    said = mbench("tasks", "import", tmp_path / "one" / "task", "--out", mine)
    assert said.code == 2
    assert "is there already" in said.err
    (mine / "one.csv").unlink()
    (mine / "one-task-splits.csv").unlink()
    said = mbench("tasks", "import", tmp_path / "one" / "task", "--out", mine)
    assert said.code == 2
    assert "has a cohort 'one' already" in said.err
    assert (mine / "mbench.toml").read_bytes() == before
    assert not (mine / "one.csv").exists()


# ---- What is scored ------------------------------------------------------------------------------


def by_unit(means: dict[str, Any], table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Embedding of each case, the mean over its slides, or of each slide, as Patho-Bench pools."""
    embeddings = pd.DataFrame.from_dict(means, orient="index")
    units = table.set_index("slide_id", drop=False)[unit]
    return embeddings.groupby(units.loc[embeddings.index].to_numpy()).mean()


def run(mbench, tmp_path: Path, task: str, protocol: str) -> dict[str, Any]:
    """Run mean-pool on a task under a protocol and return the record."""
    said = mbench(
        "run", "--config", tmp_path / "mine" / "mbench.toml", "--encoder", "mean-pool", "--task",
        task, "--protocol", protocol, "--jobs", "1", "--results", tmp_path / "results",
    )  # fmt: skip
    assert said.code == 0, said.err
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@pytest.mark.parametrize(
    ("folds", "classes", "unit"),
    [(5, 2, "case_id"), (50, 2, "case_id"), (5, 3, "case_id"), (5, 2, "slide_id")],
)
def test_scores_are_those_of_patho_benchs_probe(
    folds: int, classes: int, unit: str, imported: Import, mbench, tmp_path: Path
) -> None:
    table = slides_of("C3L", 60, classes)
    columns = fold_columns(table, folds)
    folder = write_patho_bench(tmp_path / "cptac" / "task", table, columns, unit=unit)
    means = write_features(tmp_path / "bags", table)
    imported(folder, "--features", tmp_path / "bags")
    record = run(mbench, tmp_path, "cptac-task", "patho-bench-linprobe/v1")
    embeddings, label = by_unit(means, table, unit), table.groupby(unit)["label"].first()
    scores = []
    for roles in patho_bench_folds(folder / "k=all.tsv", unit):
        train, test = ([u for u, r in roles.items() if r == side] for side in ("train", "test"))
        probe = LogisticRegression(C=0.5, max_iter=10_000, class_weight="balanced", random_state=0)
        probe.fit(embeddings.loc[train], label[train])
        predicted = probe.predict_proba(embeddings.loc[test])
        predicted = predicted[:, 1] if classes == 2 else predicted
        scores.append(roc_auc_score(label[test], predicted, multi_class="ovr"))
    assert 0.6 < np.mean(scores) < 1.0
    assert record["scores"]["main"]["value"] == pytest.approx(np.mean(scores), abs=1e-6)


def test_survival_scores_are_those_of_patho_bench(imported: Import, mbench, tmp_path: Path) -> None:
    table = slides_of("C3L", 80)
    folder = write_patho_bench(tmp_path / "cptac" / "PFS", table, fold_columns(table, 5))
    means = write_features(tmp_path / "bags", table)
    imported(folder, "--features", tmp_path / "bags")
    record = run(mbench, tmp_path, "cptac-pfs", "patho-bench-coxnet-002/v1")
    embeddings, cases = by_unit(means, table, "case_id"), table.groupby("case_id").first()
    scores = []
    for roles in patho_bench_folds(folder / "k=all.tsv", "case_id"):
        train, test = ([u for u, r in roles.items() if r == side] for side in ("train", "test"))
        y_train = Surv.from_arrays(cases["died"][train].astype(bool), cases["days"][train])
        y_test = Surv.from_arrays(cases["died"][test].astype(bool), cases["days"][test])
        model = CoxnetSurvivalAnalysis(alphas=[0.02], l1_ratio=0.5, max_iter=100_000)
        model.fit(embeddings.loc[train].to_numpy(), y_train)
        scores.append(model.score(embeddings.loc[test].to_numpy(), y_test))
    assert np.mean(scores) > 0.55
    assert record["scores"]["main"]["value"] == pytest.approx(np.mean(scores), abs=1e-6)


def test_external_score_is_that_of_one_fit(imported: Import, mbench, tmp_path: Path) -> None:
    tables = {name: slides_of(name, 40) for name in ("a", "b")}
    means: dict[str, Any] = {}
    for name, table in tables.items():
        write_patho_bench(tmp_path / name / "task", table, fold_columns(table, 5))
        means |= write_features(tmp_path / "bags" / name, table)
    imported(tmp_path / "a==b--task", "--features", tmp_path / "bags")
    record = run(mbench, tmp_path, "a-b-task", "patho-bench-linprobe/v1")
    both = pd.concat(tables.values())
    embeddings, label = by_unit(means, both, "case_id"), both.groupby("case_id")["label"].first()
    train, test = (label.index[label.index.str.startswith(name)] for name in tables)
    probe = LogisticRegression(C=0.5, max_iter=10_000, class_weight="balanced", random_state=0)
    probe.fit(embeddings.loc[train], label[train])
    expected = roc_auc_score(label[test], probe.predict_proba(embeddings.loc[test])[:, 1])
    assert record["scores"]["main"]["value"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tool", ["clam", "stamp", "moozy"])
def test_the_first_run_works(tool: str, imported: Import, mbench, tmp_path: Path) -> None:
    table = slides_of("P", 60)
    folder = tmp_path / "source" / "task"
    {"clam": write_clam, "stamp": write_stamp, "moozy": write_moozy}[tool](folder, table)
    write_features(tmp_path / "bags", table)
    more = ["--label", "isMSIH"] if tool == "stamp" else []
    said, toml, _ = imported(folder, *more, "--features", tmp_path / "bags")
    (task,) = toml["tasks"]
    assert f"--task {task}" in said
    record = run(mbench, tmp_path, task, "linear-probe/v2")
    assert record["inputs"]["n"] == len(table) if tool == "clam" else 60
    assert record["scores"]["main"]["value"] > 0.6


# ---- Wrong inputs --------------------------------------------------------------------------------


def patho(folder: Path) -> Path:
    table = slides_of("C3L")
    return write_patho_bench(folder / "cptac" / "task", table, fold_columns(table, 5))


def edited(path: Path, old: str, new: str, count: int = -1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def missing_column(folder: Path) -> Path:
    edited(patho(folder) / "k=all.tsv", "\ttask\t", "\ttsk\t")
    return folder


def unknown_role(folder: Path) -> Path:
    edited(patho(folder) / "k=all.tsv", "\ttest", "\ttesting", 1)
    return folder


def unknown_label(folder: Path) -> Path:
    edited(patho(folder) / "config.yaml", "  1: mutant", "  2: mutant")
    return folder


def two_roles_of_a_case(folder: Path) -> Path:
    path = patho(folder) / "k=all.tsv"
    rows = pd.read_csv(path, sep="\t")
    rows.loc[rows["slide_id"] == "C3L-001-1", "fold_3"] = "val"
    rows.to_csv(path, sep="\t", index=False)
    return folder


def no_folds(folder: Path) -> Path:
    edited(patho(folder) / "k=all.tsv", "fold_", "split_")
    return folder


def no_config(folder: Path) -> Path:
    (patho(folder) / "config.yaml").unlink()
    return folder


def wrong_sample_column(folder: Path) -> Path:
    edited(patho(folder) / "config.yaml", "sample_col: case_id", "sample_col: patient")
    return folder


def empty_table(folder: Path) -> Path:
    (patho(folder) / "k=all.tsv").write_text("")
    return folder


def overlap_of_cohorts(folder: Path) -> Path:
    for name in ("a", "b"):
        table = slides_of("same")
        write_patho_bench(folder / name / "task", table, fold_columns(table, 5))
    return folder / "a==b--task"


def several_tools(folder: Path) -> Path:
    patho(folder)
    write_stamp(folder / "stamp", slides_of("S"))
    return folder


def nothing_known(folder: Path) -> Path:
    (folder / "labels.csv").parent.mkdir(exist_ok=True)
    (folder / "labels.csv").write_text("slide_id,label\n1,2\n")
    return folder


def clam_unknown_slide(folder: Path) -> Path:
    write_clam(folder, slides_of("P"))
    edited(folder / "splits" / "task_2_50" / "splits_1.csv", "P-000-0", "P-999-0")
    return folder


def clam_case_on_both_sides(folder: Path) -> Path:
    table = slides_of("P")
    write_clam(folder, table)
    edited(folder / "dataset_csv" / "subtypes.csv", "P-002,", "P-004,")
    edited(folder / "dataset_csv" / "subtypes.csv", "P-006,", "P-004,")
    edited(folder / "dataset_csv" / "subtypes.csv", "P-008,", "P-004,")
    return folder


def clam_two_datasets(folder: Path) -> Path:
    write_clam(folder, slides_of("P"))
    path = folder / "dataset_csv" / "subtypes.csv"
    path.with_name("other.csv").write_bytes(path.read_bytes())
    return folder


def clam_no_label(folder: Path) -> Path:
    write_clam(folder, slides_of("P"))
    edited(folder / "dataset_csv" / "subtypes.csv", ",label", ",subtype")
    return folder


def clam_two_trues(folder: Path) -> Path:
    write_clam(folder, slides_of("P"), 1)
    splits = folder / "splits" / "task_2_50"
    (splits / "splits_0.csv").unlink()
    edited(splits / "splits_0_bool.csv", "True,False,False", "True,True,False", 1)
    return folder


def stamp(folder: Path) -> Path:
    """A folder of STAMP with one column of labels."""
    path = write_stamp(folder, slides_of("S")) / "clini.csv"
    pd.read_csv(path)[["PATIENT", "isMSIH"]].to_csv(path, index=False)
    return folder


def stamp_list(folder: Path) -> Path:
    stamp(folder)
    (folder / "splits.json").write_text('[["S-000"], ["S-001"]]')
    return folder


def stamp_unknown_patient(folder: Path) -> Path:
    edited(stamp(folder) / "splits.json", '"S-003"', '"S-903"')
    return folder


def stamp_no_label(folder: Path) -> Path:
    return write_stamp(folder, slides_of("S"))


def stamp_xlsx(folder: Path) -> Path:
    write_stamp(folder, slides_of("S"))
    (folder / "clini.csv").unlink()
    with zipfile.ZipFile(folder / "clini.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    return folder


def stamp_word(folder: Path) -> Path:
    edited(write_stamp(folder, slides_of("S")) / "clini.csv", "Dead", "departed", 1)
    return folder


def moozy_many_classes(folder: Path) -> Path:
    path = write_moozy(folder / "d" / "score", slides_of("M")) / "task.csv"
    rows = pd.read_csv(path)
    rows.assign(label=np.arange(len(rows)) / 7).to_csv(path, index=False)
    return folder


def moozy_no_type(folder: Path) -> Path:
    edited(write_moozy(folder / "d" / "t", slides_of("M")) / "config.yaml", "task_type", "type")
    return folder


def label_of_patho_bench(folder: Path) -> Path:
    patho(folder)
    return folder


WRONG: list[tuple[Callable[[Path], Path], str]] = [
    (missing_column, "k=all.tsv: row 1: no column is called 'task'; did you mean 'tsk'?"),
    (unknown_role, "row 2 is 'testing'; expected train, val, test or an empty cell"),
    (unknown_label, "task is '1', which 'label_dict' of"),
    (two_roles_of_a_case, "fold_3: 'C3L-001' is 'train' and 'val'; it must have one role"),
    (no_folds, "there is no column fold_0, fold_1"),
    (no_config, "config.yaml: No such file"),
    (wrong_sample_column, "'sample_col' must be case_id or slide_id"),
    (empty_table, "k=all.tsv is empty or not a table"),
    (overlap_of_cohorts, "a==b: 'same-000' is 'train' and 'test'"),
    (several_tools, "files of several tools: patho-bench ("),
    (nothing_known, "found no k=all.tsv (Patho-Bench)"),
    (clam_unknown_slide, "splits_1.csv: slide 'P-999-0' is not in the table"),
    (clam_case_on_both_sides, "case 'P-004' is in test and in train or val"),
    (
        clam_two_datasets,
        "expected one dataset csv with columns case_id and slide_id, but there are 2",
    ),
    (clam_no_label, "no column is called 'label'"),
    (clam_two_trues, "expected one True, in train, val or test"),
    (stamp_list, 'expected {"splits": [{"train_patients": [...], "test_patients": [...]}, ...]}'),
    (stamp_unknown_patient, "case 'S-903' is not in the table"),
    (stamp_no_label, "name the label with --label; columns: isMSIH, TIME, STATUS"),
    (stamp_xlsx, "pip install 'madeleine-bench[xlsx]'"),
    (moozy_many_classes, "different words; class labels have 2 to 20"),
    (moozy_no_type, "the key 'task_type' is missing"),
]


@pytest.mark.parametrize(
    ("make", "message"), WRONG, ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_inputs_have_one_clear_message(
    make: Callable[[Path], Path], message: str, mbench, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    source = make(tmp_path / "source")
    said = mbench("tasks", "import", source, "--out", tmp_path / "mine")
    assert said.code == 2, said.err
    plain = " ".join(said.err.split())
    assert message in plain, plain
    assert "Traceback" not in plain
    assert not (tmp_path / "mine").exists()


def test_options_that_do_not_fit(mbench, tmp_path: Path) -> None:
    patho(tmp_path)
    out = ["--out", tmp_path / "mine"]
    said = mbench("tasks", "import", tmp_path / "cptac", "--label", "x", *out)
    assert (said.code, "leave out --label and --survival" in said.err) == (2, True)
    said = mbench("tasks", "import", tmp_path / "none", *out)
    assert (said.code, "there is no file or folder" in said.err) == (2, True)
    folder = stamp_word(tmp_path / "stamp")
    said = mbench("tasks", "import", folder, "--survival", "TIME", "STATUS", *out)
    assert said.code == 2
    assert "STATUS is 'departed'; expected one of" in " ".join(said.err.split())


def test_xlsx_is_read_as_text(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    path = tmp_path / "clini.xlsx"
    pd.DataFrame({"PATIENT": ["007", " a "], "grade": ["G1", None]}).to_excel(path, index=False)
    assert read_table(path).to_numpy().tolist() == [["007", "G1"], ["a", ""]]


def test_from_says_whose_files_they_are(imported: Import, mbench, tmp_path: Path) -> None:
    """STAMP's tables without splits.json, beside a task of Patho-Bench."""
    folder = stamp(patho(tmp_path).parent / "stamp")
    (folder / "splits.json").unlink()
    said, toml, _ = imported(tmp_path / "cptac", "--from", "stamp", "--cohort", "CRC 1")
    assert toml["cohorts"]["crc-1"]["labels"] == "crc-1.csv"
    assert "five folds are drawn" in said
    (tmp_path / "mine" / "mbench.toml").write_text('tasks = "folder"\n')
    said = mbench("tasks", "import", tmp_path / "cptac" / "task", "--out", tmp_path / "mine")
    assert (said.code, "choose another --out" in said.err) == (2, True)


def test_features_are_to_be_filled_in(imported: Import, mbench, tmp_path: Path) -> None:
    imported(patho(tmp_path))
    toml = tmp_path / "mine" / "mbench.toml"
    assert "# fill in: the folder of the feature files" in toml.read_text()
    said = mbench("run", "--config", toml, "--encoder", "mean-pool", "--task", "cptac-task")
    assert said.code == 2
    assert str(tmp_path / "mine" / "features") in said.err.replace("\n", "")
