"""`mbench tasks new`: a task of one's own in ten lines, which then runs; and what it refuses."""

import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.cli import tasks as cli_tasks
from madeleine_bench.data.interchange import toml_block
from madeleine_bench.results.store import ResultStore
from tests.tool_bags import write_bag_file

COLUMNS = (
    "slide_id,case_id,er,grade,score,stage,subtype,os_months,vital,status,site,one,rare,number"
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with 60 slides of 40 cases: bags and labels.csv; the working folder."""
    folder = tmp_path / "mine"
    rows = [COLUMNS]
    for n in range(60):
        case = n % 40
        rng = np.random.default_rng(case)
        features = rng.standard_normal((6, 4)).astype(np.float32)
        features[:, 0] += 2.0 * (case % 2)
        coords = np.zeros((6, 2), dtype=np.int64)
        write_bag_file(folder / "bags" / f"s{n:02d}.h5", features, coords, layout="clam")
        cells = [
            f"s{n:02d}", f"c{case:02d}", "positive" if case % 2 else "negative",
            str(1 + case % 3), f"{case % 3}+", ("low", "mid", "high", "NA")[case % 4],
            ("luminal", "basal", "her2")[case % 3], f"{case + 3.5}", ("Alive", "Dead")[case % 2],
            ("0:LIVING", "1:DECEASED")[case % 2], f"h{case % 4}", "x",
            "yes" if case < 3 else "no", f"{case}.5",
        ]  # fmt: skip
        rows.append(",".join(cells))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def new(mbench, mine):
    """Declare a task of the cohort mine, and return what was said and mbench.toml."""

    def call(*options, cohort="mine", labels="labels.csv", task="my-er"):
        given = ["--id", task, "--cohort", cohort, "--labels", labels, *options]
        said = mbench("tasks", "new", *given)
        path = mine / "mbench.toml"
        return said, tomllib.loads(path.read_text()) if path.exists() else {}

    return call


def test_one_command_writes_ten_lines_and_the_next_one_scores(new, mbench, mine):
    said, toml = new("--label", "er", "--features", "bags", "--site", "site")
    assert said.code == 0, said.err
    assert said.out.splitlines() == [
        "my-er: 40 of 40 cases scored (negative: 20, positive: 20)",
        "  binary, as there are 2 classes; the positive class is positive",
        "  60 of 60 slides have a feature file",
        "  scored by linear-probe/v2, auroc, in 5 folds that are stratified and keep the slides of "
        "a case together",
        "wrote mbench.toml",
        "next: mbench run --encoder mean-pool --task my-er",
    ]
    assert len((mine / "mbench.toml").read_text().splitlines()) <= 10
    assert toml["cohorts"]["mine"]["labels"] == "labels.csv"
    assert toml["cohorts"]["mine"]["columns"] == {"site": "site"}
    said = mbench(*said.out.splitlines()[-1].removeprefix("next: mbench ").split(), "--jobs", "1")
    assert said.code == 0, said.err
    assert "Board 'local-own' (real data)" in said.out
    assert "21" not in said.out
    (record,) = ResultStore(mine / "results").records()
    assert record.inputs.n == 40
    assert record.scores.main.value > 0.9
    assert "my-er: 40 of 40 cases scored (negative: 20, positive: 20)" in said.err


@pytest.mark.parametrize(
    ("options", "labels", "words"),
    [
        (["--label", "er", "--positive", "negative"],
         {"type": "binary", "classes": ["positive", "negative"]}, "positive class is negative"),
        (["--label", "grade", "--type", "ordered"],
         {"type": "ordered", "classes": ["1", "2", "3"]}, "ordered: 1 < 2 < 3"),
        (["--label", "score", "--type", "ordered"],
         {"type": "ordered", "classes": ["0+", "1+", "2+"]}, "0+ < 1+ < 2+"),
        (["--label", "stage", "--type", "ordered", *["--classes", "low", "--classes", "mid"],
          "--classes", "high"],
         {"type": "ordered", "classes": ["low", "mid", "high"], "missing": ["NA"]},
         "read as no label: NA"),
        (["--label", "stage", "--missing", "high"],
         {"type": "binary", "classes": ["low", "mid"], "missing": ["NA", "high"]}, "no label: NA"),
        (["--label", "subtype"],
         {"type": "multiclass", "classes": ["basal", "her2", "luminal"]}, "as there are 3 classes"),
        (["--time", "os_months", "--event", "vital"],
         {"type": "survival", "event_value": "Dead", "censored_value": "Alive",
          "time_unit": "months"}, "'Dead' is the event; os_months is in months"),
        (["--time", "number", "--event", "status", "--positive", "1:DECEASED"],
         {"event_value": "1:DECEASED", "censored_value": "0:LIVING"}, "number is taken for days"),
        (["--label", "er", "--unit", "slide"], {"type": "binary"}, "60 of 60 slides scored"),
        (["--label", "number", "--unit", "case"], {"type": "continuous"}, "40 different numbers"),
    ],
)  # fmt: skip
def test_labels_are_inferred_and_said(new, options, labels, words):
    said, toml = new(*options, "--site", "site", task="it")
    if "--time" in options and "number" in options:  # up to 39.5 days with decimals are not days
        assert said.code == 2
        assert 'time_unit = "months"' in said.err
        return
    assert said.code == 0, said.err
    assert words in said.out
    assert "fill in: features in mbench.toml" in said.out
    assert labels.items() <= toml["tasks"]["it"]["labels"].items()


def test_a_second_task_adds_one_block_and_needs_no_table(new, mbench, mine):
    new("--label", "er")
    said = mbench("tasks", "new", "--id", "my-grade", "--cohort", "mine", "--label", "grade",
                  "--type", "multiclass")  # fmt: skip
    assert said.code == 0, said.err
    text = (mine / "mbench.toml").read_text()
    assert text.count("[cohorts.mine]") == 1
    assert "[tasks.my-er]" in text
    assert "[tasks.my-grade]" in text
    assert mbench("tasks", "list", "my-*").out.count("my-") == 2


def test_columns_that_say_what_a_row_is(new, mine):
    text = (mine / "labels.csv").read_text().replace("case_id", "patient").replace("slide_id", "f")
    (mine / "other.csv").write_text(text)
    said, toml = new("--label", "er", "--slide", "f", labels="other.csv")
    assert said.code == 0, said.err
    assert "no case column: every slide is a case of its own" in said.out
    assert "column 'site' is the site" in said.out
    assert toml["cohorts"]["mine"]["columns"] == {"slide": "f", "case": "", "site": "site"}
    assert "60 of 60 cases scored" in said.out


def test_stains_of_a_column(new, mine):
    lines = (mine / "labels.csv").read_text().splitlines()
    rows = [f"{line},{'PAS' if n % 2 else 'H&E'}" for n, line in enumerate(lines[1:])]
    (mine / "stained.csv").write_text("\n".join([f"{lines[0]},stain", *rows]) + "\n")
    said, toml = new("--label", "er", labels="stained.csv")
    assert said.code == 0, said.err
    assert toml["cohorts"]["mine"]["stains"] == ["H&E", "PAS"]


def test_a_task_on_a_built_in_cohort_with_its_own_labels(mbench, mine):
    said = mbench("tasks", "new", "--id", "my-lumA", "--cohort", "bcnb", "--labels", "labels.csv",
                  "--label", "er")  # fmt: skip
    assert "--id: 'my-lumA' is not a valid id" in said.err
    said = mbench("tasks", "new", "--id", "my-lum", "--cohort", "bcnb", "--labels", "labels.csv",
                  "--label", "er")  # fmt: skip
    assert said.code == 0, said.err
    columns = tomllib.loads((mine / "mbench.toml").read_text())["cohorts"]["bcnb"]["columns"]
    assert columns == {"case": "case_id", "site": "site"}


def test_elsewhere_with_config(new, mine, mbench):
    said, _ = new("--label", "er", "--config", "sub/my.toml")
    assert said.code == 0, said.err
    assert "next: mbench run --config sub/my.toml --encoder" in said.out
    toml = tomllib.loads((mine / "sub" / "my.toml").read_text())
    assert toml["cohorts"]["mine"]["labels"] == str(mine / "labels.csv")


def test_on_a_terminal_what_is_missing_is_asked(mbench, mine, monkeypatch):
    asked = []

    def ask(question, suggested):
        asked.append(question)
        answers = {"Label table": "labels.csv", "Label column": "grade", "Classes": "ordered"}
        return next((a for q, a in answers.items() if question.startswith(q)), suggested)

    monkeypatch.setattr(cli_tasks, "ask_on_terminal", lambda: ask)
    said = mbench("tasks", "new")
    assert said.code == 0, said.err
    assert [question.split(" (")[0] for question in asked] == [
        "Label table", "Label column", "Id of the cohort", "Id of the task", "Classes 1",
    ]  # fmt: skip
    assert "grade" in asked[1]
    toml = tomllib.loads((mine / "mbench.toml").read_text())
    assert toml["tasks"]["labels-grade"]["labels"]["type"] == "ordered"


WRONG = {
    "nothing given": ([], ["missing --id, --cohort, --labels, --label; for example: mbench tasks"]),
    "no label column": (["L"], ["missing --label;"]),
    "half of survival": (["L", "--time", "os_months"], ["--time COLUMN and --event COLUMN"]),
    "label and time": (["L", "--label", "er", "--time", "a", "--event", "b"], ["give --label"]),
    "unknown column": (["L", "--label", "grad"], ["no column is called 'grad'; did you mean 'gra"]),
    "unknown role": (["L", "--label", "er", "--case", "patient"], ["--case: labels.csv: no"]),
    "no table": (["L", "--label", "er", "--labels", "no.csv"], ["cannot read the label table no"]),
    "a table of Word": (["L", "--label", "er", "--labels", "x.docx"], ["is a .csv, .tsv or .parq"]),
    "one class": (["L", "--label", "one"], ["column 'one' has only 'x'", "two classes or more"]),
    "too many classes": (["L", "--label", "slide_id"], ["60 different words, such as s00, s01"]),
    "levels or classes": (["L", "--label", "grade"], ["1 (21), 2 (20), 3 (19)", "--type ordered"]),
    "binary of three": (["L", "--label", "grade", "--type", "binary"], ["two classes, found 3"]),
    "order unknown": (["L", "--label", "stage", "--type", "ordered"], ["--classes high --classes"]),
    "wrong classes": (["L", "--label", "er", "--classes", "a"], ["--classes must name each class"]),
    "no such positive": (["L", "--label", "er", "--positive", "pos"], ["did you mean 'positive'"]),
    "positive of three": (["L", "--label", "subtype", "--positive", "her2"], ["is of a binary"]),
    "no such missing": (["L", "--label", "er", "--missing", "??"], ["no row of column 'er' is"]),
    "too few cases": (["L", "--label", "rare"], ["3 case(s) of class 'yes' cannot fill 5 folds"]),
    "event unclear": (["L", "--time", "os_months", "--event", "status"], ["--positive WORD"]),
    "event of three": (["L", "--time", "os_months", "--event", "subtype"], ["expected two"]),
    "type and time": (["L", "--time", "os_months", "--event", "vital", "--type", "binary"],
                      ["--type binary has classes"]),
    "survival by label": (["L", "--label", "er", "--type", "survival"], ["needs --time COLUMN"]),
    "unknown type": (["L", "--label", "er", "--type", "regressio"], ["is not one of"]),
    "taken": (["--id", "bcnb-er", "--cohort", "m", "--labels", "labels.csv", "--label", "er"],
              ["there is a task 'bcnb-er' already"]),
    "no id": (["--id", "My Task", "--cohort", "m", "--labels", "labels.csv", "--label", "er"],
              ["--id: 'My Task' is not a valid id"]),
    "no features": (["L", "--label", "er", "--features", "nowhere"], ["no folder", "nowhere"]),
    "features of others": (["L", "--label", "er", "--features", "."], ["features"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_input_is_one_clear_message_and_writes_nothing(fault, mbench, mine):
    options, words = WRONG[fault]
    start = ["--id", "my-er", "--cohort", "mine", "--labels", "labels.csv"]
    options = [*start, *options[1:]] if options[:1] == ["L"] else options
    if fault == "features of others":
        (mine / "bags").rename(mine / "gone")
        (mine / "gone").rename(mine.parent / "gone")
    said = mbench("tasks", "new", *options)
    assert said.code == 2, said.out
    for part in words:
        assert part in said.err
    assert "Traceback" not in said.err
    assert not (mine / "mbench.toml").exists()


def test_what_contradicts_the_file_that_is_there_is_refused(new, mbench, mine):
    new("--label", "er", "--features", "bags")
    before = (mine / "mbench.toml").read_text()
    (mine / "b.csv").write_text((mine / "labels.csv").read_text())
    for options, words in (
        (["--label", "er"], "there is a task 'my-er' already"),
        (["--label", "grade", "--features", "b"], "says that the features of cohort mine are in"),
        (["--label", "grade", "--labels", "b.csv"], "says that the labels of cohort mine are in"),
        (["--label", "er", "--case", "site"], "write columns = "),
    ):
        task = "my-er" if "already" in words else "other"
        said, _ = new(*options, task=task)
        assert said.code == 2
        assert words in said.err
    (mine / "mbench.toml").write_text('[cohorts.mine]\nfeatures = "bags"\nlabels = "labels.csv"\n')
    said, toml = new("--label", "er", labels=mine / "labels.csv", task="by-hand")
    assert 'write columns = { site = "site" } under [cohorts.mine]' in said.err
    (mine / "mbench.toml").write_text(
        '[cohorts.mine]\nfeatures = "bags"\nlabels = "labels.csv"\ncolumns = { site = "site" }\n'
    )
    said, toml = new("--label", "er", task="by-hand")
    assert said.code == 0, said.err
    assert list(toml["tasks"]) == ["by-hand"]
    (mine / "mbench.toml").write_text('tasks = "folder"\n')
    (mine / "folder").mkdir()
    said, _ = new("--label", "er", task="other")
    assert "tasks are in the folder" in said.err
    (mine / "mbench.toml").write_text("[broken\n")
    said = mbench("tasks", "new", "--id", "x", "--cohort", "m", "--labels", "labels.csv", "--label",
                  "er")  # fmt: skip
    assert said.code == 2
    assert "mbench.toml" in said.err
    assert before.count("[tasks.") == 1


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_survives_the_file(column, word):
    keys = {"labels": {"column": column, "missing": [word]}}
    if not any("\ud800" <= c <= "\udfff" or c == "\x7f" for c in column + word):
        assert tomllib.loads(toml_block("tasks.a", keys))["tasks"]["a"] == keys
