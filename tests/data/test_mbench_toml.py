from pathlib import Path

import pytest

from madeleine_bench.data.config import Config, load_config
from madeleine_bench.errors import InputError
from madeleine_bench.specs.catalogue import Catalogue
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
    config.check(catalogue)
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
            '[cohorts.bcnb]\nlabels = "t"\n',
            r"mbench\.toml:1: missing key 'cohorts\.bcnb\.features'",
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
        load_config(path).check(catalogue)


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
        config.check(catalogue)
    text = '[cohorts.bcnb]\nfeatures="phantom"\nlabels="t"\n[cohorts.bcnb.tasks.bcnb-ers]\n'
    config = load_config(write(tmp_path, text))
    with pytest.raises(
        InputError, match=r"toml:4: cohort bcnb has no task 'bcnb-ers'; did you mean"
    ):
        config.check(catalogue)


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
