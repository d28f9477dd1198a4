"""A run of `mbench pretrain`, from bags on disk to an encoder that scores."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.errors import Interrupted
from madeleine_bench.files import sole_writer
from madeleine_bench.pretrain import run
from madeleine_bench.types import Bag

LAST_EPOCH = "3"


def weights_of(folder):
    return load_file(folder / "small-acrobat.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def log_without_clock(folder):
    return pd.read_csv(folder / "log.csv").drop(columns=["seconds", "patches_per_s"])


def test_a_run_leaves_an_encoder_its_log_and_its_curves(acrobat, mbench):
    said = mbench(*acrobat.arguments("--set", "epochs=12"))
    assert said.code == 0, said.err
    out = acrobat.folder / "out"
    assert {p.name for p in out.iterdir()} == {
        ".writer", "card.yaml", "checkpoint.safetensors", "curves.svg", "log.csv", "run.json",
        "small-acrobat.safetensors",
    }  # fmt: skip
    log = pd.read_csv(out / "log.csv")
    assert log["epoch"].tolist() == list(range(1, 13))
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    np.testing.assert_allclose(log["loss"], log["global"] + log["local"], rtol=1e-5)
    assert log["held_out_retrieval"].max() > log["held_out_chance"].iloc[0]
    assert (out / "curves.svg").read_text().startswith("<svg")
    about = json.loads((out / "run.json").read_text())
    best = log["held_out_retrieval"][::-1].idxmax()
    assert about["state"]["best_epoch"] == log["epoch"][best]
    entry = find_encoder(str(out / "card.yaml"))
    assert entry.card.training_cohorts == ("acrobat",)
    bag = Bag("s", "c", np.ones((3, 6), dtype=np.float32), organ="breast")
    assert load_encoder(entry).encode(bag).shape == (8,)


def test_the_same_run_twice_gives_the_same_weights(acrobat, mbench):
    for name in ("one", "two"):
        assert mbench(*acrobat.arguments("--out", acrobat.folder / name)).code == 0
    one, two = acrobat.folder / "one", acrobat.folder / "two"
    assert (one / "small-acrobat.safetensors").read_bytes() == (
        two / "small-acrobat.safetensors"
    ).read_bytes()
    assert (one / "card.yaml").read_text() == (two / "card.yaml").read_text()
    other = acrobat.folder / "other"
    assert mbench(*acrobat.arguments("--set", "seed=1", "--out", other)).code == 0
    assert not same(weights_of(one), weights_of(other))


@pytest.mark.parametrize(
    ("step", "preset"), [(1, "corrected"), (4, "corrected"), (6, "corrected"), (2, "aligned")]
)
def test_a_run_stopped_at_any_step_goes_on_to_the_same_weights(
    acrobat, mbench, monkeypatch, step, preset
):
    setting = ("--set", "model.dropout=0.3", "--set", f"objective.preset={preset}")
    whole, stopped = acrobat.folder / "whole", acrobat.folder / "stopped"
    assert mbench(*acrobat.arguments(*setting, "--out", whole)).code == 0
    taken = 0
    real = run.Run.step

    def interrupted_step(run, batch):
        nonlocal taken
        real(run, batch)
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run.Run, "step", interrupted_step)
    said = mbench(*acrobat.arguments(*setting, "--out", stopped))
    assert said.code == Interrupted.exit_code, said.err
    assert "--resume" in said.err
    assert not (stopped / "card.yaml").exists()
    monkeypatch.setattr(run.Run, "step", real)
    said = mbench(*acrobat.arguments(*setting, "--out", stopped, "--resume"))
    assert said.code == 0, said.err
    assert same(weights_of(whole), weights_of(stopped))
    pd.testing.assert_frame_equal(
        log_without_clock(whole), log_without_clock(stopped), check_exact=True
    )


def test_resuming_a_finished_run_changes_nothing(acrobat, mbench):
    assert mbench(*acrobat.arguments()).code == 0
    out = acrobat.folder / "out"
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.name != "run.json"}
    assert mbench(*acrobat.arguments("--resume")).code == 0
    assert before == {p.name: p.read_bytes() for p in out.iterdir() if p.name != "run.json"}


def test_a_second_run_in_the_same_folder_is_refused(acrobat, mbench):
    assert mbench(*acrobat.arguments()).code == 0
    before = weights_of(acrobat.folder / "out")
    said = mbench(*acrobat.arguments())
    assert said.code == 2
    assert "holds a run already" in said.err
    assert "--resume" in said.err
    assert same(before, weights_of(acrobat.folder / "out"))


def test_a_run_that_goes_on_keeps_others_out(acrobat, mbench):
    with sole_writer(acrobat.folder / "out"):
        said = mbench(*acrobat.arguments())
    assert said.code == 2
    assert "another process is writing" in said.err
    assert mbench(*acrobat.arguments()).code == 0


def test_weights_that_are_not_numbers_are_never_saved(acrobat, mbench, monkeypatch):
    assert mbench(*acrobat.arguments("--set", "epochs=2")).code == 0
    checkpoint = acrobat.folder / "out" / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    real = run.Run.step

    def spoiling_step(self, batch):
        real(self, batch)
        with torch.no_grad():
            self.model.projector.weight[0, 0] = torch.nan

    monkeypatch.setattr(run.Run, "step", spoiling_step)
    monkeypatch.setattr(run.Run, "_add_terms", lambda self, terms: None)
    other = acrobat.folder / "spoilt"
    said = mbench(*acrobat.arguments("--set", "epochs=2", "--out", other))
    assert said.code == 1
    assert "projector.weight" in said.err
    assert not (other / "checkpoint.safetensors").exists()
    assert checkpoint.read_bytes() == before


def test_views_of_he_alone_train_intra_ssl(acrobat, mbench):
    said = mbench(*acrobat.arguments("--set", "epochs=10", encoder="intra-ssl"))
    assert said.code == 0, said.err
    log = pd.read_csv(acrobat.folder / "out" / "log.csv")
    assert "global" not in log
    assert log["intra"].iloc[-1] < log["intra"].iloc[0]
    assert "stains H&E;" in said.err


def test_stain_encodings_are_trained_and_asked_for(acrobat, mbench):
    said = mbench(*acrobat.arguments("--set", "model.stain_encoding=true"))
    assert said.code == 0, said.err
    encoder = load_encoder(find_encoder(str(acrobat.folder / "out" / "card.yaml")))
    features = np.ones((3, 6), dtype=np.float32)
    he, er = (
        encoder.encode(Bag("s", "c", features, stain=s, organ="breast")) for s in ("H&E", "ER")
    )
    assert not np.allclose(he, er)


def test_published_objective_trains_as_the_released_code_does(acrobat, mbench):
    said = mbench(*acrobat.arguments("--set", "objective.preset=published"))
    assert said.code == 0, said.err
    recipe = json.loads((acrobat.folder / "out" / "run.json").read_text())["recipe"]
    assert recipe["optimiser"]["clip_norm"] is None
    assert recipe["model"]["gate_dropout"] == 0.25


def test_bfloat16_runs_close_to_float32(acrobat, mbench):
    logs = {}
    for precision in ("fp32", "bf16"):
        out = acrobat.folder / precision
        said = mbench(*acrobat.arguments("--set", f"precision={precision}", "--out", out))
        assert said.code == 0, said.err
        logs[precision] = pd.read_csv(out / "log.csv")["loss"]
    assert not np.array_equal(logs["fp32"], logs["bf16"])
    np.testing.assert_allclose(logs["bf16"], logs["fp32"], rtol=0.1)
