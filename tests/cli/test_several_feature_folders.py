"""A cohort with several feature folders: rows by encoder and features, gains within the same."""

import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import build_boards, on_same_features
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import load_config
from tests.stranger import write_stranger
from tests.tool_bags import write_bag_file

TWO = 'features = { conch_v1 = "features", uni2 = "noise" }'


@pytest.fixture
def cohort(bcnb):
    """Features that tell the label, and wider ones that do not."""
    for number in range(1, 41):
        patches = rng_for("noise", number).standard_normal((6, 12), dtype=np.float32)
        coords = np.zeros((6, 2), dtype=np.int64)
        write_bag_file(bcnb.folder / "noise" / f"{number}.h5", patches, coords, layout="clam")
    bcnb.config.write_text(bcnb.config.read_text().replace('features = "features"', TWO))
    return bcnb


@pytest.fixture
def score(cohort, mbench, tmp_path):
    def call(*encoders, more=("--protocol", "linear-probe")):
        named = [part for name in encoders for part in ("--encoder", name)]
        return mbench(
            "run", *named, "--task", "bcnb-er", "--config", cohort.config, "--jobs", "1",
            "--results", tmp_path / "r", *more,
        )  # fmt: skip

    return call


def of_narrow_patches(tmp_path):
    card = write_stranger(tmp_path / "narrow", "return bag.features.std(axis=0)")
    card.write_text(card.read_text() + "patch_encoder: conch_v1\n")
    return card


def test_each_encoder_is_scored_on_each_folder_it_fits(score, tmp_path):
    card = of_narrow_patches(tmp_path)
    said = score("mean-pool", "max-pool", card)
    assert said.code == 0, said.err
    assert "5 computed" in said.err
    records = list(ResultStore(tmp_path / "r").records())
    scored = {(r.encoder.name, r.features.patch_encoder, r.inputs.dim) for r in records}
    assert {s for s in scored if s[0] != "max-pool"} == {
        ("mean-pool", "conch_v1", 8), ("mean-pool", "uni2", 12), ("stranger", "conch_v1", 8),
    }  # fmt: skip
    value = {(r.encoder.name, r.features.patch_encoder): r.scores.main.value for r in records}
    assert value["mean-pool", "conch_v1"] > value["mean-pool", "uni2"] + 0.1
    for label in ("mean-pool · conch_v1", "mean-pool · uni2", "max-pool · uni2"):
        assert label in said.out.replace("\n", " "), said.out
    assert "5 already there" in score("mean-pool", "max-pool", card).err
    embedded = tmp_path / "r" / "embeddings" / "local" / "mean-pool"
    assert len(list(embedded.glob("bcnb.*.safetensors"))) == 2


def test_gains_are_over_mean_pool_of_the_same_features(score, tmp_path):
    assert score("mean-pool", "max-pool").code == 0
    records = ResultStore(tmp_path / "r").records()
    (board,) = build_boards(records, load_catalogue(), "linear-probe/v2")
    by_label = {column.label: column for column in board.columns}
    assert len(by_label) == 4
    for made_by in ("conch_v1", "uni2"):
        pooled = on_same_features(
            by_label[f"max-pool · {made_by}"], board.columns, "mean-pool", ["bcnb"]
        )
        assert pooled is by_label[f"mean-pool · {made_by}"]
        assert pooled.cells["bcnb-er"].comparable


def test_one_folder_is_picked_by_its_name(score, cohort, mbench, tmp_path):
    said = score("mean-pool", more=["--protocol", "linear-probe", "--features", "uni2"])
    assert said.code == 0, said.err
    (record,) = ResultStore(tmp_path / "r").records()
    assert record.features.patch_encoder == "uni2"
    said = score("mean-pool", more=["--features", "uni3"])
    assert (said.code, "no feature folder 'uni3'; did you mean 'uni2'?" in said.err) == (2, True)
    options = ["--config", cohort.config, "--results", tmp_path / "r"]
    said = mbench("doctor", "--encoder", "mean-pool", "--cohort", "bcnb", *options)
    assert (said.code, "choose one of conch_v1, uni2 with --features" in said.err) == (2, True)
    assert mbench("data", "status", "bcnb", *options).out.count("40/40") == 2
    assert "bcnb uni2: 40 files opened" in mbench("data", "verify", "bcnb", *options).out


def test_an_encoder_that_fits_no_folder_is_refused(score, tmp_path):
    card = of_narrow_patches(tmp_path)
    card.write_text(card.read_text().replace("conch_v1", "virchow2"))
    said = score("mean-pool", card)
    assert (said.code, "it expects features of virchow2" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features = {}", "one or more"),
        (f'{TWO}\npatch_encoder = "uni2"', "no 'patch_encoder' beside them"),
        (f'{TWO}\npatch_encoder_in_files = "x"', "as the files name it"),
        ('features = { "a b" = "features" }', "features.a b"),
    ],
)
def test_wrong_folders_are_refused(text, message, tmp_path):
    path = tmp_path / "mbench.toml"
    path.write_text(f'[cohorts.bcnb]\nlabels = "labels.csv"\n{text}\n')
    with pytest.raises(InputError, match=message):
        load_config(path)


def test_given_embeddings_stand_beside_what_was_run_on_their_features(
    score, cohort, mbench, tmp_path
):
    assert score("mean-pool").code == 0
    rows = rng_for("given").standard_normal((40, 16), dtype=np.float32)
    np.savez(tmp_path / "titan.npz", ids=[str(n) for n in range(1, 41)], embeddings=rows)
    said = mbench(
        "evaluate", "--embeddings", tmp_path / "titan.npz", "--task", "bcnb-er", "--protocol",
        "linear-probe", "--patch-encoder", "uni2", "--config", cohort.config,
        "--results", tmp_path / "r",
    )  # fmt: skip
    assert said.code == 0, said.err
    (board,) = build_boards(
        ResultStore(tmp_path / "r").records(), load_catalogue(), "linear-probe/v2"
    )
    by_label = {column.label: column for column in board.columns}
    assert set(by_label) == {"mean-pool · conch_v1", "mean-pool · uni2", "titan · uni2"}
    pooled = on_same_features(by_label["titan · uni2"], board.columns, "mean-pool", ["bcnb"])
    assert pooled is by_label["mean-pool · uni2"]
    assert all(column.cells["bcnb-er"].comparable for column in board.columns)
