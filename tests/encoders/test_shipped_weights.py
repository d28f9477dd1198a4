"""The weights that ship: theirs, small, phantom by name, and with the record of their training."""

import json

import pandas as pd
import pytest

from benchmarks.train_shipped_weights import LIMIT_BYTES
from madeleine_bench.encoders.registry import check_weights, shipped_encoders
from madeleine_bench.encoders.weights import read_weights
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.catalogue import load_catalogue

TRAINED = {name: entry for name, entry in shipped_encoders().items() if entry.weights_path}
TRAINING = resource_folder("encoders") / "training"


def test_the_three_trained_encoders_ship():
    assert {"madeleine", "madeleine-se", "intra-ssl"} <= set(TRAINED)


def test_the_weights_are_small():
    assert sum(entry.weights_path.stat().st_size for entry in TRAINED.values()) <= LIMIT_BYTES


@pytest.mark.parametrize("name", TRAINED)
def test_weights_are_those_of_the_card_and_serve_both_organs(name):
    entry = TRAINED[name]
    check_weights(entry)
    models = read_weights(entry.weights_path)
    assert set(models) == {"breast", "kidney"}
    organs = {c.id: c.organ for c in load_catalogue().cohorts.values()}
    for organ, (description, _) in models.items():
        assert organs[description.cohort] == organ
        assert description.cohort in entry.card.training_cohorts
        assert description.width == entry.card.dim
    assert "PHANTOM" in entry.card.description
    assert "phantom" in entry.card.title


def without_retired(recipe):
    """Take out the keys that recipes had when these weights were trained; all had no effect."""
    model = {**recipe, "objective": {**recipe["objective"]}, "optimiser": {**recipe["optimiser"]}}
    assert model.pop("compile", False) is False
    assert model.pop("validate_every", 1) == 1
    assert model["objective"].pop("gradient", "unrolled") == "unrolled"
    assert model["optimiser"].pop("ema_decay", None) is None
    return model


@pytest.mark.parametrize("name", TRAINED)
def test_every_shipped_model_has_the_record_of_its_training(name):
    for description, _ in read_weights(TRAINED[name].weights_path).values():
        folder = TRAINING / f"{name}-{description.cohort}"
        about = json.loads((folder / "run.json").read_text())
        recipe = Recipe.model_validate(without_retired(about["recipe"]))
        assert recipe.cohort == about["data"]["cohort"] == description.cohort
        assert recipe.model.width == description.width
        assert about["data"]["source"] == "phantom"
        assert about["machine"]["cpu"]
        log = pd.read_csv(folder / "log.csv")
        assert len(log) == recipe.epochs
        assert log["loss"].iloc[-1] < log["loss"].iloc[0]
        if description.aligned:
            assert log["held_out_token_cosine"].iloc[-1] < 0.5
            log = log[log["held_out_gain_low"] > 0.0]  # better than mean-pool, and not by chance
        best = log["held_out_retrieval"][::-1].idxmax()
        assert description.aligned == name.startswith("madeleine")
        assert log["epoch"][best] == about["state"]["best_epoch"]
        assert log["held_out_retrieval"][best] > 5 * log["held_out_chance"][best]
        assert (folder / "curves.svg").stat().st_size > 0
