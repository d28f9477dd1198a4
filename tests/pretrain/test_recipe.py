from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.encoders.registry import shipped_encoders
from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.presets import PRESETS
from madeleine_bench.pretrain.recipe import (
    OptimiserRecipe,
    Recipe,
    load_recipe,
    shipped_recipes,
    with_changes,
)
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import parse_spec, read_yaml

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden" / "madeleine_golden.npz"


def make_recipe(**keys) -> Recipe:
    return Recipe(name="toy", encoder=keys.pop("encoder", "madeleine"), cohort="acrobat", **keys)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_whole(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    cohort = load_catalogue().cohorts[recipe.cohort]
    assert cohort.role == "pretraining"
    assert "H&E" in cohort.stains


def test_the_paper_s_recipe() -> None:
    recipe = load_recipe("madeleine")
    assert (recipe.patches, recipe.batch_cases, recipe.epochs) == (2048, 65, 120)
    assert recipe.optimiser == OptimiserRecipe()
    assert recipe.objective.temperature == 0.001
    assert recipe == make_recipe(objective={"preset": "aligned"}).model_copy(
        update={"name": "madeleine"}
    )
    assert load_recipe("madeleine-se").model.stain_encoding
    alone = load_recipe("intra-ssl")
    assert alone.encoder == "intra-ssl"
    assert alone.model == recipe.model


def test_recipes_are_no_encoder_cards() -> None:
    assert all(entry.path.parent.name != "recipes" for entry in shipped_encoders().values())


def test_recipe_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nencoder: intra-ssl\ncohort: acrobat\nepochs: 7\n")
    assert load_recipe(path).epochs == 7
    assert load_recipe(str(path)) == load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 7", "4: unknown key 'epoch'; did you mean 'epochs'"),
        ("model: {widht: 7}", "unknown key 'model.widht'; did you mean 'width'"),
        ("epochs: 0", "'epochs': .* greater than or equal to 1"),
        ("epochs: 5", "warmup_epochs 5 leaves no epoch of 5"),
        ("held_out_share: 0", "'held_out_share'"),
        ("held_out_share: 0.6", "'held_out_share'"),
        ("patches: 100", "objective.tokens 256 is above patches 100"),
        ("min_patches: 3000", "min_patches 3000 is above patches 2048"),
        ("min_patches: 1\nobjective: {intra_weight: 1}", "2 or more"),
        ("batch_cases: 1", "'batch_cases'"),
        ("objective: {temperature: 0}", "'objective.temperature'"),
        ("objective: {temperature: .inf}", "'objective.temperature'"),
        ("objective: {preset: publshed}", "'corrected', 'published' or 'aligned'"),
        ("objective: {local_weight: -1}", "'objective.local_weight'"),
        ("optimiser: {learning_rate: 1.0e-9}", "final_learning_rate 1e-08 is above"),
        ("optimiser: {clip_norm: 0}", "'optimiser.clip_norm'"),
        ("model: {dropout: 1}", "'model.dropout'"),
        ("seed: -1", "'seed'"),
        ("unusable: drop", "'refuse' or 'skip'"),
    ],
)
def test_wrong_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f"name: wrong\nencoder: madeleine\ncohort: acrobat\n{text}\n")
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("wrong", [{"model": {"stain_encoding": True}}, {"min_patches": 1}])
def test_what_intra_ssl_cannot_do(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"intra-ssl sees one stain|cut in halves"):
        make_recipe(encoder="intra-ssl", **wrong)


def test_unknown_recipe() -> None:
    with pytest.raises(
        InputError, match=r"no recipe is called 'madelein' .*did you mean 'madeleine"
    ):
        load_recipe("madelein")
    with pytest.raises(InputError, match=r"cannot read absent\.yaml"):
        load_recipe("absent.yaml")


def test_changes() -> None:
    changed = with_changes(
        make_recipe(),
        ["epochs=30", "model.width=64", "optimiser.learning_rate=1e-3", "optimiser.clip_norm=null"],
    )
    assert (changed.epochs, changed.model.width) == (30, 64)
    assert changed.model.heads == 4
    assert changed.optimiser.learning_rate == 1e-3
    assert changed.optimiser.clip_norm is None
    assert with_changes(make_recipe(), []) == make_recipe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "expected key=value"),
        ("epohs=3", "unknown key 'epohs'; did you mean 'epochs'"),
        ("model.widht=3", "unknown key 'model.widht'; did you mean 'width'"),
        ("epochs.width=3", "expected key=value with a key of the recipe"),
        ("modle.width=3", "expected key=value with a key of the recipe"),
        ("model=3", "'model': Input should be a valid dictionary"),
        ("epochs=[1", "not a YAML value"),
        ("epochs=", "'epochs': Input should be a valid integer"),
        ("epochs=two", "'epochs': Input should be a valid integer"),
        ("epochs=3", "warmup_epochs 5 leaves no epoch of 3"),
    ],
)
def test_wrong_changes(change: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--set .*{message}"):
        with_changes(make_recipe(), [change])


def test_a_recipe_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = shipped_recipes()["madeleine-se"]
    recipe = parse_spec(Recipe, read_yaml(path), path)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_published_schedule_is_that_of_the_released_code() -> None:
    if not GOLDEN.exists():
        pytest.skip(f"golden numbers absent: no file {GOLDEN}")
    expected = np.load(GOLDEN)["lr/per_step"]
    rates = [PRESETS["published"].learning_rate(i, 18, 120, OptimiserRecipe()) for i in range(2160)]
    np.testing.assert_allclose(rates, expected, rtol=1e-10, atol=0)


@given(
    steps=st.integers(1, 7),
    epochs=st.integers(1, 9),
    warmup=st.integers(0, 8),
    preset=st.sampled_from(["corrected", "published"]),
)
def test_the_rate_rises_then_falls(steps: int, epochs: int, warmup: int, preset: str) -> None:
    warmup = min(warmup, epochs - 1)
    optimiser = OptimiserRecipe(learning_rate=0.3, final_learning_rate=0.001, warmup_epochs=warmup)
    rates = np.array(
        [PRESETS[preset].learning_rate(i, steps, epochs, optimiser) for i in range(steps * epochs)]
    )
    peak = int(rates.argmax())
    assert rates[peak] == pytest.approx(0.3)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) <= 1e-15).all()
    if preset == "corrected" and len(rates) > 1:
        assert peak == max(steps * warmup - 1, 0)
        if len(rates) > peak + 1:
            assert rates[-1] == pytest.approx(0.001, rel=1e-12)


def test_halfway_down_the_cosine() -> None:
    optimiser = OptimiserRecipe(learning_rate=0.3, final_learning_rate=0.1, warmup_epochs=0)
    assert PRESETS["corrected"].learning_rate(2, 5, 1, optimiser) == pytest.approx(0.2)


def test_published_couples_what_the_recipe_leaves_open() -> None:
    recipe = with_changes(load_recipe("madeleine"), ["objective.preset=published"])
    assert recipe.optimiser.clip_norm is None
    assert recipe.model.gate_dropout == 0.25
    given = with_changes(
        load_recipe("madeleine"), ["objective.preset=published", "optimiser.clip_norm=2"]
    )
    assert given.optimiser.clip_norm == 2.0
    back = Recipe.model_validate(recipe.model_dump(mode="json"))
    assert back == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("encoder=intra-ssl", "needs pairs of stains"),
        ("objective.tokens=1", "objective.tokens must be 2 or more"),
        ("objective.plan_cells=8", "'objective.plan_cells'"),
    ],
)
def test_what_aligned_cannot_have(change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_changes(load_recipe("madeleine"), [change])
