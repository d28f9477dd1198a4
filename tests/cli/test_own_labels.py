"""Own tasks of numbers and of several labels, end to end; and what is wrong with such tables."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Said

ROOT = Path(__file__).resolve().parents[2]
HEAD = '[cohorts.mine]\nfeatures = "bags"\nlabels = "labels.csv"\n'
TASKS = """
[tasks.share]
cohort = "mine"
labels = { type = "continuous", column = "share", missing = ["NA"] }
secondary = ["spearman", "mae"]

[tasks.both]
cohort = "mine"
labels = { type = "multilabel", columns = ["er", "pr"], missing = ["NA"] }

[tasks.er]
cohort = "mine"
labels = { type = "binary", column = "er", classes = ["0", "1"], missing = ["NA"] }
metric = { name = "average-precision" }
secondary = ["auroc", "balanced-accuracy"]

[tasks.os]
cohort = "mine"
labels = { type = "survival", time = "days", time_unit = "days", event = "dead", event_value = 1, censored_value = 0, missing = ["NA", "[Not Available]"] }
"""  # noqa: E501


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fifty slides as NumPy archives, their label table and mbench.toml, in the working folder."""
    (tmp_path / "bags").mkdir()
    rng = np.random.default_rng(0)
    rows = ["slide_id,case_id,share,er,pr,days,dead"]
    for number in range(50):
        level = number / 50.0
        features = rng.normal(size=(7, 6)).astype(np.float16)
        features[:, 0] += 3.0 * level
        place = rng.integers(0, 900, (7, 2))
        np.savez(tmp_path / "bags" / f"s{number:02d}.npz", shares=features, coords=place, side=224)
        er, pr = int(level + rng.normal() > 0.6), int(number % 3 == 0)
        words = ["NA", "NA", "NA", "[Not Available]", 1] if number == 7 else [
            round(level + 0.1 * rng.normal(), 3), er, pr, 100 + number, int(number % 2)
        ]  # fmt: skip
        rows.append(f"s{number:02d},c{number:02d},{','.join(map(str, words))}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "mbench.toml").write_text(HEAD + TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def records(folder: Path) -> dict[str, Any]:
    found = (json.loads(p.read_text()) for p in (folder / "results/records").rglob("*.json"))
    return {record["task"]["id"]: record for record in found}


def test_all_kinds_of_labels_run_and_are_shown(mine: Path, mbench: Callable[..., Said]) -> None:
    tasks = [part for name in ("share", "both", "er", "os") for part in ("--task", name)]
    encoders = ["--encoder", "mean-pool", "--encoder", "max-pool"]
    said = mbench("run", *encoders, *tasks, "--jobs", "1")
    assert said.code == 0, said.err
    made = records(mine)
    assert set(made) == {"share", "both", "er", "os"}
    share, both, er = (made[name]["scores"] for name in ("share", "both", "er"))
    assert set(share["secondary"]) == {"spearman", "mae"}
    assert share["main"]["value"] > 0.3
    assert set(both["secondary"]) == {"auroc@er", "auroc@pr"}
    assert er["main"]["chance"] == pytest.approx(
        sum(row.split(",")[3] == "1" for row in (mine / "labels.csv").read_text().splitlines()) / 49
    )
    assert made["share"]["inputs"]["missing"] == {"no label: 'NA'": ["c07"]}
    assert made["os"]["inputs"]["missing"] == {"no follow-up time": ["c07"]}
    assert mbench("leaderboard", "show").code == 0
    built = mbench("leaderboard", "build", "--out", "site")
    assert built.code == 0, built.err
    assert mbench("leaderboard", "show", "--format", "json").code == 0
    again = mbench("run", "--encoder", "mean-pool", "--task", "share", "--jobs", "1")
    assert "0 computed, 1 already there" in again.err + again.out


def test_status_and_audit_say_what_there_is(mine: Path, mbench: Callable[..., Said]) -> None:
    edit(mine / "labels.csv", "s03,c03,", "s03,c03,246666666667.0,1,0,5,1\nx,c99,")
    said = mbench("data", "status", "mine")
    assert "er 2" in said.out
    assert "of 49" in said.out
    said = mbench("audit", "--task", "share")
    assert said.code == 0, said.err
    assert "2.46667e+11 (c03)" in " ".join(said.out.split())
    assert mbench("tasks", "show", "share").code == 0
    ran = mbench("run", "--encoder", "mean-pool", "--task", "share", "--jobs", "1")
    assert "8 robust standard deviations" in " ".join((ran.err + ran.out).split())


def test_rows_are_left_out_by_rule_and_it_is_said(mine: Path, mbench: Callable[..., Said]) -> None:
    rule = 'labels = "labels.csv"\nexclude = { case_id = ["c0*", "c19"], share = "nothing" }'
    edit(mine / "mbench.toml", 'labels = "labels.csv"', rule)
    said = mbench("data", "status", "mine")
    text = " ".join(said.out.split())
    assert "39/39" in text
    assert '10 of 50 rows of labels.csv are left out, as exclude = { case_id = "c0*" } says' in text
    assert '0 of 50 rows of labels.csv are left out, as exclude = { share = "nothing" }' in text


def test_made_up_features_stand_in_for_an_own_cohort(
    mine: Path, mbench: Callable[..., Said]
) -> None:
    edit(mine / "mbench.toml", 'features = "bags"', 'features = "phantom"\norgan = "lung"')
    said = mbench("run", "--encoder", "mean-pool", "--task", "share", "--jobs", "1")
    assert said.code == 0, said.err
    assert "the features are synthetic" in " ".join((said.err + said.out).split())
    assert records(mine)["share"]["variant"] == "own-labels"


def fault_text(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "labels.csv", "s03,c03,", "s03,c03,0.1 high,1,1,5,1\ns60,c60,")
    return ["share"], ["slide 's03'", "'0.1 high'", "is not a number", 'missing = ["0.1 high"]']


def fault_decimal_comma(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "labels.csv", "s03,c03,", 's03,c03,"1,234",1,1,5,1\ns60,c60,')
    return ["share"], ["slide 's03'", "'1,234'", "without separators"]


def fault_infinite(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "labels.csv", "s03,c03,", "s03,c03,inf,1,1,5,1\ns60,c60,")
    return ["share"], ["slide 's03'", "'inf'", "is not a number"]


def fault_undeclared_nan(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", 'column = "share", missing = ["NA"]', 'column = "share"')
    return ["share"], ["slide 's07'", "'NA'", 'missing = ["NA"]']


def fault_constant(mine: Path) -> tuple[list[str], list[str]]:
    rows = (mine / "labels.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows[1:]]
    rows[1:] = [",".join([*row[:2], "0.5", *row[3:]]) for row in cells]
    (mine / "labels.csv").write_text("\n".join(rows) + "\n")
    return ["share"], ["two different numbers", "found 1 in 50 units"]


def fault_unknown_word(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "labels.csv", "s03,c03,", "s03,c03,0.1,maybe,1,5,1\ns60,c60,")
    return ["both"], ["'maybe' in column 'er'", "positive (1)", "negative (0)", "'missing'"]


def fault_one_class(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", 'columns = ["er", "pr"]',
         'columns = ["er", "pr"], positive = ["1", "0"], negative = ["no"]')  # fmt: skip
    return ["both"], ["no unit with features is negative in column 'er'"]


def fault_word_twice(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", 'columns = ["er", "pr"]', 'columns = ["er", "pr"], positive = [0]')
    return ["both"], ["mbench.toml:", "['0'] occur twice"]


def fault_column(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", '["er", "pr"]', '["er", "prr"]')
    return ["both"], ["no column is called 'prr'"]


def fault_metric(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", 'secondary = ["spearman", "mae"]', 'metric = { name = "auroc" }')
    return ["share"], ["auroc does not fit continuous labels", "r2, pearson, spearman"]


def fault_declared_chance(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", '"average-precision" }', '"average-precision", chance = 0.5 }')
    return ["er"], ["chance of average-precision is what the labels say: leave it out"]


def fault_follow_up(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", ', "[Not Available]"]', "]")
    return ["os"], ["slide 's07'", "'[Not Available]' in column 'days' is not a follow-up time"]


def fault_few_shot(mine: Path) -> tuple[list[str], list[str]]:
    return ["share", "--protocol", "few-shot"], ["few-shot/v2 scores", "share are continuous"]


def fault_retrieval(mine: Path) -> tuple[list[str], list[str]]:
    return ["both", "--protocol", "retrieval"], ["retrieval/v1 scores", "both are multilabel"]


def fault_supervised(mine: Path) -> tuple[list[str], list[str]]:
    return ["share", "--encoder", "abmil"], ["finetune/v1 scores", "share are continuous"]


def fault_exclude_column(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", '"labels.csv"\n', '"labels.csv"\nexclude = { slide = "s*" }\n')
    return ["share"], ["'exclude' in mbench.toml: no column is called 'slide'"]


def fault_exclude_all(mine: Path) -> tuple[list[str], list[str]]:
    edit(mine / "mbench.toml", '"labels.csv"\n', '"labels.csv"\nexclude = { slide_id = "s*" }\n')
    return ["share"], ["'exclude' leaves no row"]


def fault_two_arrays(mine: Path) -> tuple[list[str], list[str]]:
    np.savez(mine / "bags" / "s00.npz", one=np.ones((3, 6)), two=np.ones((3, 6)))
    return ["share"], ["s00.npz", "one (float64 (3, 6)), two (float64 (3, 6))"]


def fault_objects(mine: Path) -> tuple[list[str], list[str]]:
    np.savez(mine / "bags" / "s00.npz", features=np.array([{}, {}], dtype=object))
    return ["share"], ["s00.npz", "expected one array of floating-point features"]


def fault_cut_short(mine: Path) -> tuple[list[str], list[str]]:
    path = mine / "bags" / "s00.npz"
    path.write_bytes(path.read_bytes()[:100])
    return ["share"], ["s00.npz cannot be read as .npz", "cut short"]


FAULTS = {name: value for name, value in globals().items() if name.startswith("fault_")}


@pytest.mark.parametrize("name", FAULTS)
def test_each_wrong_input_ends_in_one_message(
    name: str, mine: Path, mbench: Callable[..., Said]
) -> None:
    (task, *more), words = FAULTS[name](mine)
    encoder = [] if "--encoder" in more else ["--encoder", "mean-pool"]
    said = mbench("run", *encoder, "--task", task, "--jobs", "1", *more)
    assert said.code == 2, said.out
    assert "Traceback" not in said.err
    text = " ".join(said.err.split())
    assert text.count("error:") == 1
    for word in words:
        assert word in text, text


def test_several_arrays_are_told_apart_by_name(mine: Path, mbench: Callable[..., Said]) -> None:
    for path in (mine / "bags").glob("*.npz"):
        arrays = dict(np.load(path))
        np.savez(path, other=arrays["shares"][:, :2], **arrays)
    assert mbench("run", "--encoder", "mean-pool", "--task", "share", "--jobs", "1").code == 2
    edit(mine / "mbench.toml", 'labels = "labels.csv"',
         'labels = "labels.csv"\npatch_encoder_in_files = "shares"')  # fmt: skip
    said = mbench("run", "--encoder", "mean-pool", "--task", "share", "--jobs", "1")
    assert said.code == 0, said.err
    assert records(mine)["share"]["inputs"]["dim"] == 6


SHARED = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


@needs_data
def test_orion_is_forty_lines_and_a_script(
    tmp_path: Path, mbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    orion, folder = ROOT / "examples" / "orion", SHARED / "orion_crc"
    text = (orion / "mbench.toml").read_text()
    assert len(text.splitlines()) <= 40
    (tmp_path / "mbench.toml").write_text(text)
    (tmp_path / "bags").symlink_to(folder / "bags")
    script = [sys.executable, orion / "labels.py", folder / "samples.csv", folder / "bags"]
    subprocess.run([*script, tmp_path / "labels.csv"], check=True)
    monkeypatch.chdir(tmp_path)
    said = mbench("data", "status", "orion")
    assert "41/41" in said.out
    assert "intact 30, absent 6" in said.out
    assert "events 25" in said.out
    tasks = ["--task", "orion-cd45", "--task", "orion-mismatch-repair"]
    said = mbench("run", "--encoder", "mean-pool", *tasks, "--jobs", "1")
    assert said.code == 0, said.err
    made = records(tmp_path)
    assert made["orion-cd45"]["scores"]["main"]["value"] > 0.5
    assert made["orion-cd45"]["inputs"]["n"] == 40


@needs_data
def test_normal_slides_of_the_kidney_are_left_out(
    tmp_path: Path, mbench: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mbench.toml").write_text((ROOT / "examples/tcga_kidney/mbench.toml").read_text())
    (tmp_path / "tcga_kidney.csv").symlink_to(SHARED / "tcga_kidney" / "tcga_kidney.csv")
    monkeypatch.chdir(tmp_path)
    said = mbench("data", "status", "tcga-kidney")
    text = " ".join(said.out.split())
    assert "928/928" in text
    assert "12 of 940 rows of tcga_kidney.csv are left out" in text
    assert "TCGA-KICH 109, TCGA-KIRC 513, TCGA-KIRP 276" in text
    assert "896 cases: events 224" in text
    assert "-2.4867 to 1.0675" in text
