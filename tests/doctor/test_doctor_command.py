"""`mbench doctor`: what is printed, written and exited with, and every wrong request."""

import json

import pytest

from madeleine_bench.encoders.contract import CHECKS
from madeleine_bench.runner.doctor import draw_slides

AIDPATH = ("doctor", "--source", "phantom", "--cohort", "aidpath", "--slides", "12")


def test_the_environment_is_a_table_and_a_file(mbench, tmp_path):
    said = mbench("doctor", "--results", tmp_path / "results", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "Environment: " in said.out
    assert "OpenSlide" in said.out
    document = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert document["what"] == "mbench doctor: environment"
    assert {finding["check"] for finding in document["findings"]} > {"torch", "disk"}
    assert not (tmp_path / "results").exists()


def test_a_failed_environment_exits_1(mbench, tmp_path, monkeypatch):
    monkeypatch.setattr("madeleine_bench.runner.environment.FREE_FAIL_GB", 1e9)
    monkeypatch.setattr("madeleine_bench.runner.environment.FREE_WARN_GB", 1e9)
    said = mbench("doctor", "--results", tmp_path)
    assert said.code == 1
    assert "these failed: disk" in said.err
    assert "FAIL disk: make room" in said.out


def test_a_good_encoder_exits_0_with_a_report(mbench, tmp_path):
    said = mbench(*AIDPATH, "--encoder", "mean-pool", "--out", tmp_path)
    assert said.code == 0, said.err
    assert "mean-pool 1 on PHANTOM aidpath: " in said.out
    document = json.loads((tmp_path / "doctor.json").read_text())
    (cohort,) = document["cohorts"]
    assert cohort["phantom"]
    assert cohort["usable_slides"] == 12
    assert [finding["check"] for finding in cohort["findings"]] == list(CHECKS)


def test_a_control_exits_1_and_says_what_to_look_at(mbench, tmp_path):
    said = mbench(*AIDPATH, "--encoder", "patch-count", "--out", tmp_path)
    assert said.code == 1
    assert "these failed: effective rank, " in said.err
    assert "FAIL patch count: the embedding says how much tissue was cut" in said.out


def test_several_cohorts_are_in_one_report(mbench, tmp_path):
    said = mbench(*AIDPATH, "--cohort", "mgh-breast", "--encoder", "mean-pool", "--out", tmp_path)
    assert said.code == 0, said.err
    document = json.loads((tmp_path / "doctor.json").read_text())
    assert [cohort["cohort"] for cohort in document["cohorts"]] == ["aidpath", "mgh-breast"]


def test_of_a_supervised_network_the_contract_alone_is_checked(mbench, tmp_path):
    said = mbench(*AIDPATH, "--encoder", "abmil", "--out", tmp_path)
    assert said.code == 0, said.err
    assert "1 pass, 18 skipped" in said.out


def test_the_users_own_cohort_is_the_default(mbench, bcnb):
    said = mbench("doctor", "--encoder", "mean-pool", "--config", bcnb.config, "--slides", "20",
                  "--results", bcnb.folder / "results")  # fmt: skip
    assert "mean-pool 1 on bcnb: " in said.out
    assert "PHANTOM" not in said.out


def test_a_stranger_s_encoder_by_its_card(mbench, tmp_path):
    (tmp_path / "encoder.py").write_text(
        "import numpy as np\n"
        "from madeleine_bench.encoders import BaseEncoder\n"
        "class Sum(BaseEncoder):\n"
        "    def __init__(self, card, weights=None, *, device='cpu'):\n"
        "        super().__init__(card, weights)\n"
        "    def encode(self, bag):\n"
        "        return bag.features.sum(axis=0)\n"
    )
    (tmp_path / "card.yaml").write_text(
        'name: sums\nrevision: "1"\ntitle: Sum\nimplementation: encoder.py:Sum\n'
        "training_cohorts: []\nlicence: MIT\ndescription: The sum.\n"
    )
    said = mbench(*AIDPATH, "--encoder", tmp_path / "card.yaml")
    assert said.code == 1
    assert "norm at half the patches" in said.err
    assert "look for a sum in place of a mean" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("doctor", "--cohort", "bcnb"), "--cohort goes with --encoder"),
        (("doctor", "--encoder", "mean-pol"), "no encoder is called 'mean-pol'"),
        (("doctor", "--encoder", "mean-pool", "--cohort", "bcnc"), "no cohort is called 'bcnc'"),
        (("doctor", "--encoder", "mean-pool", "--slides", "3"), "--slides"),
        (("doctor", "--encoder", "mean-pool", "--source", "local", "--cohort", "bcnb"),
         "cohort bcnb is not configured"),
        (("doctor", "--encoder", "mean-pool", "--cohort", "ucsb-breast"), "has no phantom"),
        (("doctor", "--encoder", "titan"), "titan"),
    ],
)  # fmt: skip
def test_wrong_requests_exit_2_and_say_what_to_do(mbench, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = mbench(*arguments)
    assert said.code == 2
    assert words in said.err + said.out


def test_features_of_another_encoder_are_refused(mbench, bcnb):
    said = mbench("doctor", "--encoder", "madeleine", "--config", bcnb.config,
                  "--results", bcnb.folder / "results")  # fmt: skip
    assert said.code == 2
    assert "expects" in said.err


def test_the_oracle_is_refused_on_files(mbench, bcnb):
    said = mbench("doctor", "--encoder", "oracle", "--config", bcnb.config,
                  "--results", bcnb.folder / "results")  # fmt: skip
    assert said.code == 2
    assert "--source phantom" in said.err


def test_too_few_slides_are_refused(mbench, bcnb):
    for path in sorted((bcnb.folder / "features").glob("*.h5"))[:35]:
        path.unlink()
    said = mbench("doctor", "--encoder", "mean-pool", "--config", bcnb.config,
                  "--results", bcnb.folder / "results")  # fmt: skip
    assert said.code == 2
    assert "5 slides with features" in said.err


def test_a_folder_that_cannot_be_made_is_an_input_error(mbench, tmp_path):
    (tmp_path / "file").write_text("")
    said = mbench("doctor", "--results", tmp_path, "--out", tmp_path / "file" / "out")
    assert said.code == 2
    assert "cannot write" in said.err
    said = mbench("doctor", "--results", tmp_path / "file")
    assert said.code == 2
    assert "is a file; name a folder" in said.err


def test_the_sample_is_the_same_each_time(small):
    first = draw_slides(small, 10)
    assert first == draw_slides(small, 10) == sorted(first)
    assert len(draw_slides(small, 1000)) == 30


def test_no_number_of_a_report_is_infinite(mbench, tmp_path):
    said = mbench(*AIDPATH, "--encoder", "oracle", "--out", tmp_path)
    assert said.code == 1
    text = (tmp_path / "doctor.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(word))
