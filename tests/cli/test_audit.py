"""`mbench audit` and `mbench data split`: what they find, say and write, and how they end."""

import json
import shutil
from pathlib import Path

import pytest

from madeleine_bench.resources import resource_folder

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TCGA = SHARED / "tcga_brca" / "tcga_brca.csv"


@pytest.fixture
def audit(mbench, tmp_path):
    """Run `mbench audit` and return how it ended and what it wrote."""

    def call(*arguments):
        out = tmp_path / "audit.json"
        said = mbench("audit", "--results", tmp_path / "results", "--json", out, *arguments)
        return said, json.loads(out.read_text()) if out.is_file() else None

    return call


def kinds(document, level):
    return [f["kind"] for t in document["tasks"] for f in t["findings"] if f["level"] == level]


def write_folds(path, fold_of):
    rows = "".join(f"0,{fold},{unit}\n" for unit, fold in sorted(fold_of.items()))
    path.write_text(f"repeat,fold,unit_id\n{rows}")


def give_folds(bcnb, fold_of):
    write_folds(bcnb.folder / "folds.csv", fold_of)
    bcnb.config.write_text(
        bcnb.config.read_text() + '\n[cohorts.bcnb.tasks.bcnb-er]\nsplits = "folds.csv"\n'
    )


def test_phantoms_are_clean_and_nothing_is_frozen(audit, tmp_path):
    said, document = audit("--task", "bcnb-*", "--task", "tcga-breast-os", "--source", "phantom")
    assert said.code == 0, said.err
    assert (document["errors"], document["warnings"]) == (0, 0)
    assert [task["board"] for task in document["tasks"]] == ["phantom"] * 6
    assert document["tasks"][0]["splits"] == ["folds (new)", "draws (new)"]
    assert not (tmp_path / "results").exists()
    assert "bcnb-er@1" in said.out


def test_a_configured_cohort_is_what_is_audited_by_default(audit, bcnb):
    said, document = audit("--config", bcnb.config)
    names = [task["task"].split("@")[0] for task in document["tasks"]]
    assert names == ["bcnb-aln", "bcnb-er", "bcnb-her2", "bcnb-ki67", "bcnb-pr"]
    er = document["tasks"][1]
    assert (er["units"], er["cases"], er["board"]) == (40, 40, "local")
    # ALN has one class only, and 50 shots are more than 40 slides have.
    assert set(kinds(document, "error")) == {"unusable"}
    assert said.code == 1
    assert "unusable" in said.out


def test_sound_files_pass_a_task_of_folds_only(mbench, bcnb, audit):
    catalogue = folds_only(bcnb.folder)
    said, document = audit("--config", bcnb.config, "--catalogue", catalogue, "--task", "bcnb-er")
    assert said.code == 0, said.out
    assert kinds(document, "error") == []
    assert document["tasks"][0]["splits"] == ["folds (new)"]


def folds_only(folder):
    """The catalogue, with ER of BCNB scored by the linear probe alone."""
    catalogue = folder / "tasks"
    shutil.copytree(resource_folder("tasks"), catalogue)
    for path in (catalogue / "bcnb-er.yaml", catalogue / "cohorts" / "bcnb.yaml"):
        text = path.read_text()
        path.write_text(text.replace("[linear-probe/v2, few-shot/v2]", "[linear-probe/v2]"))
    return catalogue


def test_a_unit_in_two_folds_and_a_left_out_one_are_listed(audit, bcnb):
    fold_of = {str(number): number % 5 for number in range(1, 40)}
    give_folds(bcnb, fold_of)
    with (bcnb.folder / "folds.csv").open("a") as rows:
        rows.write("0,3,1\n")
    catalogue = folds_only(bcnb.folder)
    said, document = audit("--config", bcnb.config, "--catalogue", catalogue, "--task", "bcnb-er")
    assert said.code == 0, said.out
    notes = [f["message"] for f in document["tasks"][0]["findings"] if f["level"] == "note"]
    assert notes[:2] == [
        "repeat 0: 1 unit(s) tested never (40)",
        "repeat 0: 1 unit(s) tested more than once (1)",
    ]
    assert document["tasks"][0]["splits"] == ["folds (given)"]


def test_equal_slides_stop_a_run_by_name_before_anything_is_computed(mbench, bcnb, tmp_path, audit):
    bcnb.bag(8).write_bytes(bcnb.bag(4).read_bytes())
    catalogue = folds_only(bcnb.folder)
    common = ["--config", bcnb.config, "--catalogue", catalogue, "--task", "bcnb-er"]
    said, document = audit(*common)
    assert said.code == 1
    (finding,) = (f for f in document["tasks"][0]["findings"] if f["level"] == "error")
    assert finding["kind"] == "duplicate"
    assert finding["slide_ids"] == ["4", "8"]
    results = tmp_path / "run"
    said = mbench("run", "--encoder", "mean-pool", *common, "--results", results, "--jobs", "1")
    assert said.code == 2
    assert "bcnb-er@1: slide '4' of case '4' and slide '8' of case '8'" in said.err
    assert "mbench audit --task bcnb-er lists all" in said.err
    assert not (results / "embeddings").exists()
    assert not (results / "records").exists()


def test_a_doubled_row_and_a_broken_file_are_findings_of_every_task(audit, bcnb):
    with bcnb.labels.open("a") as rows:
        rows.write("7,1,0,0,0,0,N0\n")
    said, document = audit("--config", bcnb.config)
    assert said.code == 1
    assert len(document["tasks"]) == 5
    assert set(kinds(document, "error")) == {"unusable"}
    assert "slide '7' stands in rows 8 and 42" in document["tasks"][0]["findings"][0]["message"]


def test_changed_frozen_folds_are_said_and_their_leak_too(mbench, bcnb, tmp_path, audit):
    catalogue = folds_only(bcnb.folder)
    common = ["--config", bcnb.config, "--catalogue", catalogue, "--task", "bcnb-er"]
    said = mbench(
        "run", "--encoder", "mean-pool", *common, "--results", tmp_path / "results", "--jobs", "1"
    )
    assert said.code == 0, said.err
    _, document = audit(*common)
    assert document["tasks"][0]["splits"] == ["folds (frozen)"]
    (path,) = (tmp_path / "results" / "splits" / "local").glob("bcnb-er*.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[1]]) + "\n")
    said, document = audit(*common)
    assert said.code == 1
    assert "unusable" in kinds(document, "error")
    path.write_text("\n".join(lines[:-1]) + "\n")
    said, document = audit(*common)
    assert said.code == 1
    assert kinds(document, "error") == ["changed"]
    assert "coverage" in kinds(document, "note")
    path.with_name(f"{path.name}.sha256").unlink()  # as earlier releases left it
    said, document = audit(*common)
    assert kinds(document, "error") == []
    assert "coverage" in kinds(document, "note")
    assert "changed" in kinds(document, "warning")


def test_labels_that_differ_within_a_case_are_an_error(audit, tmp_path):
    """Two cases of two slides each whose labels differ, in a task by case."""
    from madeleine_bench.seeds import rng_for
    from tests.tool_bags import write_bag_file

    rows = ["slide_id,case_id,site,ERStatus"]
    for number in range(24):
        case = number // 2
        word = "Positive" if number % 4 < 2 or number in (2, 6) else "Negative"
        rows.append(f"s{number:02d},c{case:02d},X,{word}")
        features = rng_for("audit", number).standard_normal((4, 8)).astype("float32")
        write_bag_file(tmp_path / "features" / f"s{number:02d}.h5", features, layout="clam")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    config = tmp_path / "mbench.toml"
    config.write_text('[cohorts.tcga-breast]\nfeatures = "features"\nlabels = "labels.csv"\n')
    said, document = audit("--config", config, "--task", "tcga-breast-er")
    assert said.code == 1
    (found,) = document["tasks"][0]["findings"]
    assert (found["level"], found["kind"]) == ("error", "unusable")
    assert "case 'c01' disagree: 'positive' (slide 's02') and 'negative'" in found["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "bcnb-err"], "no task is called 'bcnb-err'"),
        (["--task", "ucsb-breast-malignancy"], "has no phantom and is not configured"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--catalogue", "nowhere"], "no folder nowhere"),
    ],
)
def test_a_request_that_names_nothing_ends_with_2(audit, arguments, message):
    said, document = audit(*arguments)
    assert said.code == 2
    assert message in said.err
    assert document is None


@pytest.fixture
def table(tmp_path):
    """40 cases of two slides at eight sites, with a class and survival."""
    rows = ["slide_id,case_id,site,er,days,dead"]
    for number in range(80):
        case = number // 2
        word = "Equivocal" if case == 5 else "yes" if case % 3 else "no"
        days = "" if case == 7 else str(100 + case)
        rows.append(f"s{number:02d},c{case:02d},S{case % 8},{word},{days},{case % 2}")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def split(mbench, table, *arguments):
    out = table.parent / "splits.csv"
    said = mbench("data", "split", "--labels", table, "--out", out, *arguments)
    rows = [line.split(",") for line in out.read_text().splitlines()] if out.is_file() else []
    return said, rows


def test_folds_of_a_table_keep_sites_whole_and_say_how_good_they_are(mbench, table):
    common = ["--site", "site", "--label", "er", "--missing", "Equivocal", "--folds", "4"]
    said, rows = split(mbench, table, *common)
    assert said.code == 0, said.err
    assert rows[0] == ["repeat", "fold", "unit_id"]
    assert len(rows) == 1 + 39
    fold_of_site = {}
    for repeat, fold, case in rows[1:]:
        assert repeat == "0"
        assert fold_of_site.setdefault(int(case[1:]) % 8, fold) == fold
    assert set(fold_of_site.values()) == {"0", "1", "2", "3"}
    assert "39 cases in 4 folds" in said.out
    assert "1 without a label left out" in said.out
    assert "no folds are nearer (proved)" in said.out
    again, same = split(mbench, table, *common)
    assert again.code == 0
    assert same == rows
    other, _ = split(mbench, table, *common[:-1], "3")
    assert other.code == 2
    assert "is there and holds something else" in other.err


def test_folds_of_slides_and_of_survival(mbench, table):
    said, rows = split(
        mbench, table, "--site", "site", "--time", "days", "--event", "dead", "--unit", "slide"
    )
    assert said.code == 0, said.err
    assert len(rows) == 1 + 78
    assert "78 slides in 5 folds" in said.out
    fold_of = {slide: fold for _, fold, slide in rows[1:]}
    assert all(
        fold_of[f"s{2 * c:02d}"] == fold_of[f"s{2 * c + 1:02d}"] for c in range(40) if c != 7
    )


@pytest.mark.parametrize(
    ("old", "new", "arguments", "message"),
    [
        ("", "", ["--site", "site"], "say what folds are balanced by"),
        ("", "", ["--label", "er", "--event", "dead", "--site", "site"], "say what folds are"),
        ("", "", ["--time", "days", "--site", "site"], "say what folds are balanced by"),
        ("", "", ["--label", "ER", "--site", "site"], "no column is called 'ER'"),
        ("", "", ["--label", "er", "--site", "centre"], "named by --slide, --case, --site"),
        ("", "", ["--label", "er"], "column 'site', but it is not declared"),
        ("S3", "", ["--label", "er", "--site", "site"], "the site of 10 slide(s) is empty, first"),
        ("", "", ["--label", "er", "--site", "site"], "unit(s) of class 'Equivocal' cannot fill 5"),
        ("s02,c01,S1,yes", "s02,c01,S1,no", ["--label", "er", "--site", "site"],
         "slides of case 'c01' disagree: 'no' (slide 's02') and 'yes' (slide 's03')"),
        ("", "", ["--label", "er", "--site", "site", "--folds", "9"], "8 site(s) cannot fill 9"),
        ("", "", ["--label", "er", "--site", "site", "--missing", "no", "--missing", "Equivocal"],
         "has only 'yes' among"),
        ("", "", ["--time", "days", "--event", "er", "--site", "site"],
         "has the words Equivocal, no, yes; expected two"),
        ("s02,c01", "s03,c01", ["--label", "er", "--site", "site"], "slide 's03' stands in rows"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_divided_is_refused(mbench, table, old, new, arguments, message):
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new) if old else text)
    said, rows = split(mbench, table, *arguments)
    assert said.code == 2
    assert message in said.err
    assert rows == []


def test_a_table_that_is_not_there_is_named(mbench, tmp_path):
    said = mbench("data", "split", "--labels", tmp_path / "no.csv", "--label", "er")
    assert said.code == 2
    assert "cannot read the label table" in said.err


@pytest.mark.skipif(not TCGA.is_file(), reason=f"real labels absent: no {TCGA}")
def test_real_sites_of_tcga_are_divided_and_the_large_one_is_named(mbench, tmp_path):
    out = tmp_path / "os.csv"
    said = mbench(
        "data", "split", "--labels", TCGA, "--site", "site", "--time", "os_days",
        "--event", "os_event", "--out", out,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "1061 cases in 5 folds" in said.out
    assert "every class is within" in said.out.lower()
    assert "site 'BH' has 45 of the 146 units of '1'; a fold should have 29.2" in said.out


def test_the_splits_of_a_protocol_are_audited(audit, bcnb):
    said, document = audit("--task", "bcnb-er", "--config", bcnb.config, "--protocol", "few-shot")
    assert [task["splits"] for task in document["tasks"]] == [["draws (new)"]]
    _, document = audit("--task", "bcnb-er", "--config", bcnb.config, "--protocol", "linear-*")
    assert [task["splits"] for task in document["tasks"]] == [["folds (new)"]]
    both = ("--task", "tcga-breast-os", "--task", "tcga-breast-er", "--protocol", "linear-probe")
    said, document = audit("--source", "phantom", *both)
    assert said.code == 0
    assert [task["splits"] for task in document["tasks"]] == [["folds (new)"], []]
    assert kinds(document, "note") == ["not-scored"]


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("linear-prob", "no protocol is called 'linear-prob'; did you mean 'linear-probe/v"),
        ("cox", "--protocol: protocol cox/v2 scores survival labels; those of bcnb-er are binary"),
    ],
)
def test_a_wrong_protocol_is_refused(audit, bcnb, protocol, words):
    said, _ = audit("--task", "bcnb-er", "--config", bcnb.config, "--protocol", protocol)
    assert said.code == 2
    assert words in said.err
