from pathlib import Path
from types import SimpleNamespace

import pytest

from madeleine_bench.data.audit import audit_splits
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.config import Config, load_config
from madeleine_bench.specs.task import ClassLabels, SurvivalLabels

FULL = """\
# my cohorts
[cohorts.tcga-breast]
features = "bags"
labels = "/abs/table.csv"
patch_encoder = "conch_v1"
columns = { slide = "file", site = "" }

[cohorts.tcga-breast.tasks.tcga-breast-er]
column = "er"
map = { "1" = "positive", "0" = "negative" }
missing = ["x"]
splits = "mine/er.csv"

[cohorts.tcga-breast.tasks.tcga-breast-os]
event = "censorship"
event_value = 0
censored_value = 1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mbench.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    entry = load_config(write(tmp_path, FULL)).cohorts["tcga-breast"]
    assert entry.features == tmp_path / "bags"
    assert entry.labels == Path("/abs/table.csv")
    assert entry.tasks["tcga-breast-er"].splits == tmp_path / "mine/er.csv"


def test_label_words_replace_those_of_the_task(tmp_path: Path, catalogue: Catalogue) -> None:
    config = load_config(write(tmp_path, FULL))
    config.checked(catalogue)
    declared = catalogue.tasks["tcga-breast-er"]
    er = config.task(declared).labels
    assert isinstance(er, ClassLabels)
    assert (er.column, er.map, er.missing) == ("er", {"1": "positive", "0": "negative"}, ("x",))
    assert er.classes == declared.labels.classes  # type: ignore[union-attr]
    survival = config.task(catalogue.tasks["tcga-breast-os"]).labels
    assert isinstance(survival, SurvivalLabels)
    assert (survival.event_value, survival.censored_value) == ("0", "1")
    untouched = catalogue.tasks["tcga-breast-pr"]
    assert config.task(untouched) is untouched
    assert config.splits_of(declared) == tmp_path / "mine/er.csv"
    assert config.splits_of(untouched) is None


def test_a_word_can_move_between_map_and_missing(tmp_path: Path, catalogue: Catalogue) -> None:
    head = '[cohorts.tcga-breast]\nfeatures="phantom"\nlabels="t.csv"\n'
    task = catalogue.tasks["tcga-breast-her2"]
    text = head + (
        "[cohorts.tcga-breast.tasks.tcga-breast-her2]\n"
        'map = { Positive = "positive", Equivocal = "positive", Negative = "negative" }\n'
    )
    labels = load_config(write(tmp_path, text)).task(task).labels
    assert isinstance(labels, ClassLabels)
    assert "Equivocal" in labels.map
    assert "Equivocal" not in labels.missing
    text = head + '[cohorts.tcga-breast.tasks.tcga-breast-her2]\nmissing = ["Positive"]\n'
    with pytest.raises(InputError, match=r"mbench\.toml:4: .*no word of 'map' leads to"):
        load_config(write(tmp_path, text)).task(task)


def test_columns_are_laid_over_those_of_the_cohort(tmp_path: Path, catalogue: Catalogue) -> None:
    entry = load_config(write(tmp_path, FULL)).cohorts["tcga-breast"]
    columns = entry.columns_for(catalogue.cohorts["tcga-breast"])
    assert (columns.slide, columns.case, columns.site) == ("file", "case_id", None)
    bare = entry.model_copy(update={"columns": None})
    assert bare.columns_for(catalogue.cohorts["bcnb"]).case is None


def test_no_file_is_an_empty_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config()
    write(tmp_path, '[cohorts.bcnb]\nfeatures="phantom"\nlabels="t.csv"\n')
    entry = load_config().cohorts["bcnb"]
    assert (entry.features, entry.labels) == ("phantom", tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cohorts.bcnb\n", r"mbench\.toml:1: not valid TOML"),
        ('[cohorts.bcnb]\nlabels = "t"\nlabels = "u"\n', r"mbench\.toml:3: not valid TOML"),
        (
            '[cohort.bcnb]\nlabels = "t"\n',
            r"mbench\.toml:1: unknown key 'cohort'; did you mean 'coh",
        ),
        (
            '[cohorts.bcnb]\nfeatures = "f"\nlabel = "t"\n',
            r"mbench\.toml:3: unknown key 'cohorts\.bcnb\.label'; did you mean 'labels'",
        ),
        (
            '[cohorts.bcnb]\nfeatures = 3\nlabels = "t"\n',
            r"mbench\.toml:2: 'cohorts\.bcnb\.features'",
        ),
        (
            '[cohorts.bcnb]\nfeatures = "f"\nlabels = "t"\ncolumns = { slid = "s" }\n',
            r"mbench\.toml:4: unknown key 'cohorts\.bcnb\.columns\.slid'; did you mean 'slide'",
        ),
        (
            '[cohorts.bcnb]\nfeatures="f"\nlabels="t"\n[cohorts.bcnb.tasks.bcnb-er]\ncolum="er"\n',
            r"mbench\.toml:5: unknown key '.*\.colum'; did you mean 'column'",
        ),
        ('path = "x"\n', r"mbench\.toml:1: unknown key 'path'"),
        ('[cohorts.bcnb]\nlabels = "C:\\\\t" "x"\n', r"mbench\.toml:2: not valid TOML"),
        (
            '[cohorts.bcnb]\nfeatures="f"\nlabels="t"\nids="exakt"\n',
            r"mbench\.toml:4: 'cohorts\.bcnb\.ids': Input should be 'exact'",
        ),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(write(tmp_path, text))


WINDOWS = r"write a Windows path in single quotes, as 'C:\\data', or with forward slashes"


@pytest.mark.parametrize(
    "name", [r"C:\data\features", r"C:\Users\x", "C:\\data\\", r"C:\features", r"D:\temp"]
)
@pytest.mark.parametrize("key", ["features", "labels", "splits"])
def test_backslashes_of_windows_get_a_cure(tmp_path: Path, key: str, name: str) -> None:
    r"""`\d` ended in the words of the TOML parser, and `\t` in a path with a tab in it."""
    paths = {"features": "f", "labels": "t", "splits": "s", key: name}
    text = (
        f'[cohorts.bcnb]\nfeatures = "{paths["features"]}"\nlabels = "{paths["labels"]}"\n'
        f'[cohorts.bcnb.tasks.bcnb-er]\nsplits = "{paths["splits"]}"\n'
    )
    line = {"features": 2, "labels": 3, "splits": 5}[key]
    with pytest.raises(InputError, match=WINDOWS) as caught:
        load_config(write(tmp_path, text))
    assert f"mbench.toml:{line}: " in str(caught.value)
    assert "Unescaped" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    single = text.replace(f'"{name}"', f"'{name}'")
    entry = load_config(write(tmp_path, single)).cohorts["bcnb"]
    assert str(entry.tasks["bcnb-er"].splits if key == "splits" else getattr(entry, key)).endswith(
        name
    )


def test_a_byte_order_mark_is_passed_over(tmp_path: Path, catalogue: Catalogue) -> None:
    path = tmp_path / "mbench.toml"
    path.write_text("\ufeff" + FULL.removeprefix("# my cohorts\n"), encoding="utf-8")
    assert load_config(path).cohorts["tcga-breast"].features == tmp_path / "bags"
    path.write_text('\ufeff[cohorts.bcnbb]\nfeatures="phantom"\nlabels="t"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"toml:1: no cohort is called 'bcnbb'"):
        load_config(path).checked(catalogue)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes("# é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(path)


def test_unknown_names_get_the_closest(tmp_path: Path, catalogue: Catalogue) -> None:
    text = '[cohorts.bcnbb]\nfeatures="phantom"\nlabels="t"\n'
    config = load_config(write(tmp_path, text))
    with pytest.raises(
        InputError, match=r"toml:1: no cohort is called 'bcnbb'; did you mean 'bcnb'"
    ):
        config.checked(catalogue)
    text = '[cohorts.bcnb]\nfeatures="phantom"\nlabels="t"\n[cohorts.bcnb.tasks.bcnb-ers]\n'
    config = load_config(write(tmp_path, text))
    with pytest.raises(
        InputError, match=r"toml:4: cohort bcnb has no task 'bcnb-ers'; did you mean"
    ):
        config.checked(catalogue)


def test_a_key_of_the_other_kind_of_labels(tmp_path: Path, catalogue: Catalogue) -> None:
    text = (
        '[cohorts.bcnb]\nfeatures="phantom"\nlabels="t"\n'
        '[cohorts.bcnb.tasks.bcnb-er]\nmap = {"yes" = "positive", "no" = "negative"}\ntime = "t"\n'
    )
    with pytest.raises(InputError, match=r"toml:6: 'time' is not a key of the binary labels"):
        load_config(write(tmp_path, text)).task(catalogue.tasks["bcnb-er"])
    text = text.replace('time = "t"\n', "").replace('"positive"', '"plus"')
    with pytest.raises(InputError, match=r"toml:4: .*leads to \['plus'\]"):
        load_config(write(tmp_path, text)).task(catalogue.tasks["bcnb-er"])


OWN = """\
[cohorts.orion]
features = "bags"
labels = "orion.csv"
organ = "colon"

[tasks.orion_mmr]
cohort = "orion"
labels = { type = "binary", column = "MMR", classes = ["pMMR", "dMMR"] }
splits = "mine.csv"

[tasks.orion-pfs]
cohort = "orion"
labels = { type = "survival", time = "PFS", event = "event", event_value = 1, censored_value = 0 }
"""


def test_own_cohort_and_tasks_in_a_few_lines(tmp_path: Path, catalogue: Catalogue) -> None:
    config = load_config(write(tmp_path, OWN)).opened(catalogue)[1]
    extended = config.extended(catalogue)
    task = extended.tasks["orion_mmr"]
    assert (task.status, task.unit, task.stains, task.metric.name) == (
        "own", "case", ("H&E",), "auroc",
    )  # fmt: skip
    assert task.labels.map == {"pMMR": "pMMR", "dMMR": "dMMR"}  # type: ignore[union-attr]
    assert task.protocols == ("linear-probe/v2",)
    assert extended.tasks["orion-pfs"].protocols == ("cox/v2",)
    assert extended.cohorts["orion"].organ == "colon"
    assert config.splits_of(task) == tmp_path / "mine.csv"
    assert set(catalogue.tasks) < set(extended.tasks)


def test_own_tasks_in_a_folder(tmp_path: Path, catalogue: Catalogue) -> None:
    (tmp_path / "mine" / "cohorts").mkdir(parents=True)
    (tmp_path / "mine/cohorts/orion.yaml").write_text("id: orion\nstains: [H&E, CD3]\n")
    (tmp_path / "mine/orion-mmr.yaml").write_text(
        "id: orion-mmr\ncohort: orion\nlabels: {type: binary, column: MMR, classes: [pMMR, dMMR]}\n"
    )
    path = write(tmp_path, 'tasks = "mine"\n')
    extended = load_config(path).opened(catalogue)[0]
    assert extended.tasks["orion-mmr"].stains == ("H&E", "CD3")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[tasks.orion_mmr]", "[tasks.bcnb-er]", r"toml:6: 'bcnb-er' is or calls itself a built-"),
        ('cohort = "orion"', 'cohort = "orino"', r"toml:7: no cohort is called 'orino'; did you "),
        ("classes =", "clases =", r"toml:8: unknown key 'tasks.orion_mmr.labels.clases'; did you"),
        ('type = "binary"', 'type = "binry"', r"toml:8: 'tasks.orion_mmr.labels'"),
        ("[cohorts.orion]", "[cohorts.orian]", "did you mean 'orian'|no cohort is called"),
        ('cohort = "orion"\nlabels', 'status = "core"\ncohort = "orion"\nlabels', "no 'status'"),
    ],
)
def test_a_wrong_own_task_names_its_line(
    old: str, new: str, message: str, tmp_path: Path, catalogue: Catalogue
) -> None:
    with pytest.raises(InputError, match=message):
        load_config(write(tmp_path, OWN.replace(old, new, 1))).opened(catalogue)[1]


BUILT_IN = '[cohorts.tcga-breast]\nfeatures = "bags"\n'


def test_built_in_labels_need_nothing_but_features(tmp_path: Path, catalogue: Catalogue) -> None:
    """Five of the 21 tasks: their labels and frozen site-preserved folds ship."""
    config = load_config(write(tmp_path, BUILT_IN)).opened(catalogue)[1]
    entry, cohort = config.cohorts["tcga-breast"], catalogue.cohorts["tcga-breast"]
    assert entry.labels == cohort.labels
    assert entry.labels is not None
    slides = read_label_table(entry.labels, entry.columns_for(cohort))
    data = SimpleNamespace(slides=slides, no_bag=frozenset(), cohort_id=cohort.id)
    for task in catalogue.tasks_of("tcga-breast"):
        units = build_units(task, data, "built in")  # type: ignore[arg-type]
        path = config.splits_of(task)
        splits = frozen_splits(tmp_path, task, catalogue.protocol(task.protocols[0]), units, path)
        assert audit_splits(splits, units, "site-preserved") == []
        assert len(splits) == 5


def test_own_labels_have_splits_of_their_own(tmp_path: Path, catalogue: Catalogue) -> None:
    config = load_config(write(tmp_path, BUILT_IN + 'labels = "mine.csv"\n')).opened(catalogue)[1]
    assert config.splits_of(catalogue.tasks["tcga-breast-er"]) is None


def test_a_cohort_without_built_in_labels_needs_a_table(
    tmp_path: Path, catalogue: Catalogue
) -> None:
    text = '[cohorts.bcnb]\nfeatures = "bags"\n'
    with pytest.raises(InputError, match=r"toml:1: missing key 'labels': cohort bcnb has no built"):
        load_config(write(tmp_path, text)).opened(catalogue)[1]


def test_shots_of_a_small_cohort(tmp_path: Path, catalogue: Catalogue) -> None:
    text = BUILT_IN + "[cohorts.tcga-breast.tasks.tcga-breast-er]\nshots = [1, 5]\n"
    config = load_config(write(tmp_path, text)).opened(catalogue)[1]
    assert config.task(catalogue.tasks["tcga-breast-er"]).shots == (1, 5)
    with pytest.raises(InputError, match=r"toml:4: 'cohorts.tcga-breast.*shots"):
        load_config(write(tmp_path, text.replace("[1, 5]", "[0]"))).opened(catalogue)[1]
