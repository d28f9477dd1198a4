"""`mbench stratify`: the table, the JSON, the figures, and every wrong input."""

import json

import pytest

from tests.leaderboard.survival_records import keep, predictions


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    keep(folder, "mean-pool", predictions(1, skill=0.4), 0.58, kind="baseline")
    keep(folder, "madeleine", predictions(0), 0.66)
    return folder


def test_the_table_says_phantom_and_what_each_encoder_gives(mbench, results):
    said = mbench("stratify", "--results", results)
    assert said.code == 0, said.err
    assert "tcga-breast-os on board 'phantom' (PHANTOM), calibration at day 600" in said.out
    assert "PHANTOM: synthetic data" in said.out
    lines = [line.split()[0] for line in said.out.splitlines() if line.startswith("m")]
    assert lines == ["madeleine", "mean-pool"]
    for word in ("hazard ratio", "log-rank p", "slope", "O/E", "cox/v2"):
        assert word in said.out


def test_the_folder_holds_the_json_and_a_figure_that_is_the_same_twice(mbench, results, tmp_path):
    asked = ("stratify", "--results", results, "--encoder", "madeleine")
    svgs = []
    for out in (tmp_path / "out", tmp_path / "again"):
        said = mbench(*asked, "--out", out, "--format", "json")
        assert said.out == (out / "stratify.json").read_text()
        folder = out / "phantom" / "tcga-breast-os"
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["madeleine.cox-v2.png", "madeleine.cox-v2.svg"]
        svgs.append((folder / "madeleine.cox-v2.svg").read_text())
    assert svgs[0] == svgs[1]
    assert "PHANTOM" in svgs[0]


def test_the_json_holds_the_curves_and_the_groups(mbench, results):
    said = mbench("stratify", "--results", results, "--format", "json")
    (stratum,) = json.loads(said.out)["strata"]
    first = stratum["encoders"][0]
    assert (stratum["phantom"], first["encoder"], first["concordance"]) == (True, "madeleine", 0.66)
    assert first["low"]["n"] + first["high"]["n"] == 120
    low, high = first["hazard_ratio_ci95"]
    assert low < first["hazard_ratio"] < high
    assert first["calibration"]["day"] == 600
    assert sum(group["n"] for group in first["calibration"]["groups"]) == 120


def test_a_fine_tuned_supervised_encoder_is_read_by_its_own_protocol(mbench, tmp_path):
    folder = tmp_path / "r"
    keep(folder, "abmil", predictions(2), 0.6, kind="supervised", protocol="finetune/v1")
    table = predictions(3)
    keep(folder, "abmil", table, 0.61, kind="supervised", protocol="finetune-discrete-time/v1")
    assert "finetune/v1" in mbench("stratify", "--results", folder).out
    said = mbench("stratify", "--results", folder, "--protocol", "finetune-discrete-time")
    assert "finetune-discrete-time/v1" in said.out


def test_a_group_without_anybody_is_said(mbench, tmp_path):
    folder = tmp_path / "r"
    keep(folder, "flat", predictions().assign(high_risk=False))
    said = mbench("stratify", "--results", folder)
    assert said.code == 0, said.err
    assert "nobody" in said.out


def test_several_repeats_are_said(mbench, tmp_path):
    keep(tmp_path / "r", "a", predictions(repeats=2))
    assert "a: the first of 2 repeats" in mbench("stratify", "--results", tmp_path / "r").out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--encoder", "madelene"), "did you mean 'madeleine'"),
        (("--task", "tcga-breast-oss"), "did you mean 'tcga-breast-os'"),
        (("--task", "bcnb-er"), "bcnb-er is binary"),
        (("--protocol", "coxx/v1"), "did you mean 'cox/v1'"),
        (("--protocol", "patho-bench-coxnet-007"), "no record of tcga-breast-os under patho-bench"),
        (("--format", "csv"), "csv"),
    ],
)
def test_wrong_requests_are_refused(mbench, results, more, says):
    said = mbench("stratify", "--results", results, *more)
    assert (said.code, says in said.err) == (2, True), said.err
    assert "Traceback" not in said.err


def test_predictions_that_are_gone_or_altered_are_refused(mbench, results):
    (path,) = (results / "predictions" / "phantom" / "madeleine").rglob("*.parquet")
    kept = path.read_bytes()
    path.write_bytes(kept + b"x")
    said = mbench("stratify", "--results", results)
    assert (said.code, "altered since record" in said.err) == (2, True)
    path.unlink()
    said = mbench("stratify", "--results", results)
    assert (said.code, "are gone" in said.err) == (2, True)
    assert mbench("stratify", "--results", results, "--encoder", "mean-pool").code == 0


def test_no_records_are_said(mbench, tmp_path):
    said = mbench("stratify", "--results", tmp_path / "absent")
    assert (said.code, "no folder" in said.err) == (2, True)
    (tmp_path / "empty").mkdir()
    said = mbench("stratify", "--results", tmp_path / "empty")
    assert (said.code, "mbench run --task tcga-breast-os" in said.err) == (2, True)
