"""External validation: fitted on all of one cohort, tested on all of another."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from madeleine_bench.data.external import external_splits
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.card import contamination
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Units
from tests.stranger import write_stranger
from tests.tool_bags import write_bag_file

TOML = """
[cohorts.one]
features = "one"
labels = "one.csv"

[cohorts.two]
features = "two"
labels = "two.csv"

[tasks.one-er]
cohort = "one"
labels = { type = "binary", column = "er", classes = ["negative", "positive"] }

[tasks.two-er]
cohort = "two"
labels = { type = "binary", column = "ER status", classes = ["negative", "positive"], map = { "0" = "negative", "1" = "positive" } }

[tasks.one-os]
cohort = "one"
labels = { type = "survival", time = "days", event = "dead", event_value = 1, censored_value = 0 }

[tasks.two-os]
cohort = "two"
labels = { type = "survival", time = "days", event = "dead", event_value = 1, censored_value = 0 }

[tasks.receptor]
cohort = "two"
train_on = "one-er"
labels = { type = "binary", column = "ER status", classes = ["negative", "positive"], map = { "0" = "negative", "1" = "positive" } }
protocols = ["patho-bench-linprobe/v1"]
"""  # noqa: E501
EXTERNAL = ["--train-on", "one", "--test-on", "two"]


class Cohorts:
    """Two cohorts of bags whose labels show, less in the second; and their mbench.toml."""

    def __init__(self, folder, mbench):
        self.folder, self.mbench = folder, mbench
        self.results, self.toml = folder / "results", folder / "mbench.toml"
        self.toml.write_text(TOML)
        self.table = {"one": self._write("one", 60, 2.0), "two": self._write("two", 54, 1.0)}

    def _write(self, name, count, signal):
        rows = []
        for number in range(count):
            rng = rng_for("external", name, number)
            positive = number % 3 == 0
            features = rng.standard_normal((6, 8), dtype=np.float32)
            features[:, 0] += np.float32(signal * positive)
            slide = f"{name}-{number}"
            coords = np.zeros((6, 2), dtype=np.int64)
            write_bag_file(self.folder / name / f"{slide}.h5", features, coords, layout="clam")
            er = ("positive" if positive else "negative") if name == "one" else int(positive)
            days = int(2000 * np.exp(-positive) + rng.integers(0, 300))
            rows.append((slide, f"case-{slide}", er, days, number % 2))
        er = "er" if name == "one" else "ER status"
        table = pd.DataFrame(rows, columns=["slide_id", "case_id", er, "days", "dead"])
        table.to_csv(self.folder / f"{name}.csv", index=False)
        return table

    def change(self, name, column, row, value):
        table = self.table[name]
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        table.to_csv(self.folder / f"{name}.csv", index=False)

    def run(self, *options, encoder="mean-pool", code=0):
        where = ["--config", self.toml, "--results", self.results, "--jobs", "1"]
        said = self.mbench("run", "--encoder", encoder, *options, *where)
        assert said.code == code, said.err
        return said

    def embeddings(self, name):
        ids = self.table[name]["slide_id"]
        bags = [self.bag(name, slide) for slide in ids]
        return np.array([bag.mean(axis=0, dtype=np.float64) for bag in bags])

    def bag(self, name, slide):
        from madeleine_bench.data.bags import read_bag_file

        return read_bag_file(self.folder / name / f"{slide}.h5").features

    def record(self, task):
        (record,) = [r for r in ResultStore(self.results).records() if r.task.id == task]
        return record


@pytest.fixture
def cohorts(tmp_path, mbench, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Cohorts(tmp_path, mbench)


def test_the_score_is_that_of_a_direct_fit(cohorts):
    cohorts.run(*EXTERNAL, "--task", "er", "--protocol", "patho-bench-linprobe")
    record = cohorts.record("two-er-from-one-er")
    model = LogisticRegression(C=0.5, class_weight="balanced", max_iter=10000)
    model.fit(cohorts.embeddings("one"), cohorts.table["one"]["er"] == "positive")
    predicted = model.predict_proba(cohorts.embeddings("two"))[:, 1]
    direct = roc_auc_score(cohorts.table["two"]["ER status"], predicted)
    assert record.scores.main.value == pytest.approx(direct, abs=1e-6)
    rows = ResultStore(cohorts.results).read_predictions(record)
    order = np.argsort(cohorts.table["two"]["case_id"])
    assert rows["unit_id"].tolist() == cohorts.table["two"]["case_id"].iloc[order].tolist()
    assert rows["prob_positive"].to_numpy() == pytest.approx(predicted[order], abs=1e-6)


def test_one_record_says_both_cohorts(cohorts):
    cohorts.run(*EXTERNAL, "--task", "er")
    cohorts.run("--task", "one-er", "--task", "two-er")
    record = cohorts.record("two-er-from-one-er")
    one, two = cohorts.record("one-er"), cohorts.record("two-er")
    assert record.task.cohort == "two"
    assert list(record.sides) == ["two", "one"]
    assert record.inputs.n == 54
    assert [(fold.n_train, fold.n_test) for fold in record.folds] == [(60, 54)]
    assert (record.features, record.inputs.embeddings) == (two.features, two.inputs.embeddings)
    assert record.training.task == "one-er"
    assert record.training.features == one.features
    assert record.training.embeddings == one.inputs.embeddings
    assert record.scores.main.ci95 is not None
    assert "training" not in one.model_dump()


def test_a_second_run_computes_nothing_and_other_training_features_anew(cohorts):
    cohorts.run(*EXTERNAL, "--task", "er")
    assert "0 computed, 1 already there" in cohorts.run(*EXTERNAL, "--task", "er").err
    again = cohorts.run("--task", "two-er-from-one-er")
    assert "0 computed, 1 already there" in again.err
    write_bag_file(
        cohorts.folder / "one" / "one-5.h5", np.ones((3, 8), np.float32),
        np.zeros((3, 2), np.int64), layout="clam",
    )  # fmt: skip
    assert "1 computed, 0 already there" in cohorts.run(*EXTERNAL, "--task", "er").err
    said = cohorts.mbench(
        "run", "--encoder", "mean-pool", *EXTERNAL, "--task", "er", "--jobs", "1",
        "--check-determinism",
    )  # fmt: skip
    assert said.code == 0, said.err


def test_an_own_task_names_what_it_is_trained_on(cohorts):
    said = cohorts.run("--task", "receptor")
    assert "receptor: trained on 60 cases of one, tested on 54 of two" in said.err
    cohorts.run(*EXTERNAL, "--task", "two-er", "--protocol", "patho-bench-linprobe")
    own, made = cohorts.record("receptor"), cohorts.record("two-er-from-one-er")
    assert own.scores.main.value == made.scores.main.value
    shown = cohorts.mbench("tasks", "show", "receptor").out
    assert re.search(r"train on: +one-er", shown)


def test_survival(cohorts):
    cohorts.run(*EXTERNAL, "--task", "os")
    record = cohorts.record("two-os-from-one-os")
    assert record.protocol == "cox/v2"
    assert (record.folds[0].n_train, record.inputs.n) == (60, 54)


def test_few_shot_draws_are_those_of_the_training_task(cohorts):
    protocol = ["--protocol", "few-shot"]
    cohorts.run("--task", "one-er", *protocol)
    said = cohorts.run(*EXTERNAL, "--task", "er", *protocol)
    assert "one-er, few-shot/v2: 25, 50 shots a class are left out" in said.err
    folders = sorted((cohorts.results / "splits").rglob("*.csv"))
    assert len(folders) == 1
    record = cohorts.record("two-er-from-one-er")
    assert {(fold.key["shots"] * 2, 54) for fold in record.folds} == {
        (fold.n_train, fold.n_test) for fold in record.folds
    }


def test_draws_of_one_side_are_found_in_the_joined_table():
    def units(*ids):
        return Units(pd.DataFrame({"unit_id": ids}), {}, {}, "")

    joined, trained = units("a", "b", "c", "d", "e"), units("b", "d", "e")
    (split,) = external_splits(joined, trained)
    assert (split.train.tolist(), split.test.tolist()) == ([1, 3, 4], [0, 2])


def test_the_board_shows_the_drop(cohorts):
    cohorts.run(*EXTERNAL, "--task", "er")
    assert "From internal" not in cohorts.mbench("leaderboard", "show").out
    assert "From internal to external validation" in cohorts.run("--task", "one-er").out
    shown = cohorts.mbench("leaderboard", "show")
    internal, external = (
        cohorts.record(t).scores.main.value for t in ("one-er", "two-er-from-one-er")
    )
    line = next(x for x in shown.out.splitlines() if x.startswith("two-er-from-one-er"))
    assert f"{internal - external:+.3f}" in line
    document = json.loads(cohorts.mbench("leaderboard", "show", "--format", "json").out)
    (board,) = document["boards"]
    (row,) = board["external"]
    assert row["drop"] == pytest.approx(internal - external)
    assert (row["encoder"], row["trained_on"]) == ("mean-pool", "one-er")
    assert (board["track"], board["core"]) == ("own", 1)
    assert [t["id"] for t in board["tasks"] if t["core"]] == ["one-er"]
    assert cohorts.mbench("leaderboard", "build").code == 0


def test_an_encoder_that_saw_the_training_cohort_is_contaminated():
    assert contamination(("one",), "two", "one") == "contaminated"
    assert contamination(("three",), "two", "one") == "clean"
    assert contamination(None, "two", "one") == "unknown"


def test_mixed_case_and_equivocal_words_of_both_sides_are_mapped(cohorts):
    cohorts.change("one", "er", 0, "Pos")
    said = cohorts.run(*EXTERNAL, "--task", "er", code=2)
    assert "unknown label 'Pos'" in said.err
    entry = '[cohorts.one.tasks.one-er]\nmap = { Pos = "positive", positive = "positive", '
    cohorts.toml.write_text(TOML + entry + 'negative = "negative" }\n')
    cohorts.run(*EXTERNAL, "--task", "er")


@pytest.mark.parametrize("column", ["case_id", "slide_id"])
@pytest.mark.parametrize(("mine", "words"), [
    ("case-one-7", "case-one-7 is in both"),
    ("CASE-one-07", "CASE-one-07 of the first may be case-one-7 of the second"),
])  # fmt: skip
def test_an_overlap_is_refused_by_name(cohorts, column, mine, words):
    if column == "slide_id":
        mine, words = (text.replace("case-", "").replace("CASE-o", "O") for text in (mine, words))
        (cohorts.folder / "two" / "two-3.h5").rename(cohorts.folder / "two" / f"{mine}.h5")
    cohorts.change("two", column, 3, mine)
    said = cohorts.run(*EXTERNAL, "--task", "er", code=2)
    what = column.removesuffix("_id")
    assert f"two-er-from-one-er: two and one share 1 {what}s: {words}" in said.err
    audited = cohorts.mbench("audit", "--task", "two-er-from-one-er")
    assert audited.code == 1
    assert not (cohorts.results / "records").exists()
    if "may be" in words:
        exact = TOML.replace('one.csv"', 'one.csv"\nids = "exact"')
        cohorts.toml.write_text(exact.replace('two.csv"', 'two.csv"\nids = "exact"'))
        cohorts.run(*EXTERNAL, "--task", "er")


def test_equal_files_of_the_two_cohorts_are_refused(cohorts):
    bag = (cohorts.folder / "one" / "one-4.h5").read_bytes()
    (cohorts.folder / "two" / "two-9.h5").write_bytes(bag)
    said = cohorts.run("--task", "receptor", code=2)
    assert "slide 'two-9' of two and slide 'one-4' of one have the same content" in said.err


@pytest.mark.parametrize(("old", "new", "options", "words"), [
    ('"ER status", classes = ["negative", "positive"]', '"ER status", classes = ["positive", '
     '"negative"]', [*EXTERNAL, "--task", "er"], "the classes differ: positive, negative in two, "
     "and negative, positive in one-er"),
    ("", "", ["--train-on", "one", "--test-on", "tow", "--task", "er"], "did you mean 'two'?"),
    ("", "", [*EXTERNAL, "--task", "pr"], "--task pr: no tasks of cohort two end in it; its tasks "
     "are two-er, two-os."),
    ("", "", ["--train-on", "one", "--task", "er"], "--train-on and --test-on each name a cohort"),
    ("", "", ["--test-on", "one", "--task", "er"], "--train-on and --test-on each name a cohort"),
    ("", "", ["--train-on", "one", "--test-on", "one", "--task", "er"], "of the same cohort one"),
    ("", "", ["--task", "two-er-from-one-os"], "which has survival labels, and here they are bin"),
    ('train_on = "one-er"', 'train_on = "one-eer"', ["--task", "receptor"], "mbench.toml:26: "
     "receptor: 'train_on' names no task: 'one-eer'; did you mean 'one-er'?"),
    ('train_on = "one-er"', 'train_on = "two-er"', ["--task", "receptor"], "of the same cohort t"),
    ('train_on = "one-er"', 'train_on = "one-er"\nsplits = "x.csv"', ["--task", "receptor"],
     "leave out 'splits'"),
    ("", "", [*EXTERNAL, "--task", "er", "--protocol", "finetune"], "finetune/v1 trains networks"),
    ('labels = "one.csv"', 'labels = "one.csv"\npatch_encoder = "uni"', ["--task", "receptor"], ""),
])  # fmt: skip
def test_wrong_inputs(cohorts, old, new, options, words):
    cohorts.toml.write_text(TOML.replace(old, new, 1) if old else TOML)
    said = cohorts.run(*options, code=2 if words else 0)
    assert words in said.err
    assert "internal error" not in said.err


def test_two_patch_encoders_are_refused(cohorts):
    text = TOML.replace('one.csv"', 'one.csv"\npatch_encoder = "uni"')
    cohorts.toml.write_text(text.replace('two.csv"', 'two.csv"\npatch_encoder = "conch"'))
    said = cohorts.run("--task", "receptor", code=2)
    assert "the patch encoder of two is conch, that of one is uni" in said.err


def test_a_supervised_encoder_is_left_out_by_name(cohorts):
    said = cohorts.run("--task", "two-er-from-one-er", "--encoder", "abmil")
    assert "left out: protocol finetune/v1 trains networks, which external tasks" in said.err
    assert "1 computed" in said.err
    alone = cohorts.run("--task", "two-er-from-one-er", encoder="abmil", code=2)
    assert "finetune/v1 trains networks" in alone.err


def test_a_phantom_and_files_are_not_joined(cohorts):
    cohorts.toml.write_text('[cohorts.tcga-breast]\nfeatures = "phantom"\n')
    options = ["--train-on", "tcga-breast", "--test-on", "cptac-breast", "--task", "er"]
    said = cohorts.run(*options, code=2)
    assert "the board of cptac-breast is phantom, that of tcga-breast is phantom-own" in said.err


def test_a_submission_leaves_external_records_out(cohorts):
    cohorts.run(*EXTERNAL, "--task", "er")
    cohorts.run("--task", "one-er")
    said = cohorts.mbench("submit", "pack", "mean-pool", "--out", "a.zip")
    assert said.code == 0, said.err
    assert "1 records of board local" in said.out


def test_a_task_of_one_cohort_has_no_key_and_keeps_its_hash():
    task = load_catalogue().tasks["tcga-breast-er"]
    assert "train_on" not in task.model_dump()


WORDS = {"er": 120, "pr": 115, "her2": 95}


def test_tcga_to_cptac_by_the_built_in_labels(tmp_path, mbench, monkeypatch):
    """Show 3: real ids and labels, made-up features; `equivocal` is no label, case is mapped."""
    monkeypatch.chdir(tmp_path)
    cohort = '[cohorts.{}]\nfeatures = "phantom"\n'
    toml = cohort.format("tcga-breast") + cohort.format("cptac-breast")
    (tmp_path / "mbench.toml").write_text(toml)
    options = ["--train-on", "tcga-breast", "--test-on", "cptac-breast", "--jobs", "1"]
    tasks = [part for word in WORDS for part in ("--task", word)]
    said = mbench("run", "--encoder", "patch-count", *options, *tasks)
    assert said.code == 0, said.err
    records = {r.task.id: r for r in ResultStore(tmp_path / "results").records()}
    assert len(records) == len(WORDS)
    for word, count in WORDS.items():
        record = records[f"cptac-breast-{word}-from-tcga-breast-{word}"]
        assert record.inputs.n == count
        assert record.folds[0].n_train > 740
        assert record.board == "phantom-own-labels"
        assert ("no label: 'equivocal'" in record.inputs.missing) == (word == "her2")


def test_a_slide_that_does_not_fit_into_memory_is_left_out_on_either_side(cohorts):
    lost = ("one-3", "two-5")
    body = f"return bag.features.mean(axis=0) if bag.slide_id not in {lost} else bag.too_large()"
    card = write_stranger(cohorts.folder / "stranger", body)
    code = card.parent / "encoder.py"
    text = code.read_text().replace("bag.too_large()", "large()")
    code.write_text(text + "\ndef large():\n    raise MemoryError('full')\n")
    said = cohorts.run(*EXTERNAL, "--task", "er", encoder=card, code=1)
    assert "2 case(s) could not be encoded because memory ran out" in " ".join(said.err.split())
    cohorts.run(*EXTERNAL, "--task", "er", "--allow-partial", encoder=card)
    record = cohorts.record("two-er-from-one-er")
    assert record.inputs.missing["could not be encoded"] == ("case-one-3", "case-two-5")
    (fold,) = record.folds
    assert (fold.n_train, fold.n_test) == (59, 53)
