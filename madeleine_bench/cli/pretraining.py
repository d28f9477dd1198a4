"""From the options of `mbench pretrain` to a run: which recipe, which cohort, which folders."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from madeleine_bench.cli.console import LiveProgress, console
from madeleine_bench.data.config import load_config
from madeleine_bench.data.packing import packed_folder
from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.loop import pretrain
from madeleine_bench.pretrain.recipe import Recipe, load_recipe, shipped_recipes, with_changes
from madeleine_bench.runner.cohorts import PhantomChoice, SourceChoice, open_cohort
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.types import CohortData, Silence, board_name

PHANTOM_SUFFIX = "-phantom"


@dataclass(frozen=True)
class Wanted:
    """What the user asked to train, on what, and where files go; None is the default."""

    encoder: str
    cohort: str | None
    changes: tuple[str, ...]
    out: Path | None
    features: Path | None
    name: str | None
    source: SourceChoice
    results: Path
    config: Path | None
    catalogue: Path | None
    phantom: PhantomChoice


def run_pretraining(wanted: Wanted, *, device: str, resume: bool) -> None:
    """Train, with live progress, and say where the encoder lies.

    Raises:
        InputError: recipe, cohort or folder cannot be used.
    """
    recipe, data, organ = _recipe_and_data(wanted)
    board = board_name(data.source, data.variant)
    out = wanted.out or wanted.results / "pretrain" / board / f"{recipe.name}-{recipe.cohort}"
    features = wanted.features or packed_folder(data, wanted.results)
    speaks = os.environ.get("RANK", "0") == "0"
    with LiveProgress() if speaks else nullcontext(Silence()) as progress:
        card = pretrain(
            recipe, data, features, out, progress,
            organ=organ, device=device, resume=resume, name=wanted.name,
        )  # fmt: skip
    if speaks:
        console().print(f"card: {card}", markup=False)
        console().print(f"next: mbench run --encoder {card} --task all", markup=False)


def _recipe_and_data(wanted: Wanted) -> tuple[Recipe, CohortData, str]:
    """Return the recipe with the user's changes, the cohort it trains on, and its organ."""
    catalogue = load_catalogue(wanted.catalogue)
    config = load_config(wanted.config)
    recipe = load_recipe(wanted.encoder)
    cohort_id = wanted.cohort or recipe.cohort
    if cohort_id not in catalogue.cohorts:
        hint = did_you_mean(cohort_id, sorted(catalogue.cohorts))
        raise InputError(f"no cohort is called '{cohort_id}'{hint}")
    trainable = [c.id for c in catalogue.cohorts.values() if c.role == "pretraining"]
    if cohort_id not in trainable:
        raise InputError(
            f"cohort {cohort_id} is for evaluation; an encoder trained on it would have seen its "
            f"test cases. For pretraining: {', '.join(trainable)}"
        )
    data = open_cohort(
        catalogue, cohort_id, wanted.source, config, wanted.results / "cache", wanted.phantom
    ).data
    if data.source == "phantom" and wanted.encoder + PHANTOM_SUFFIX in shipped_recipes():
        recipe = load_recipe(wanted.encoder + PHANTOM_SUFFIX)
    recipe = with_changes(recipe, [f"cohort={cohort_id}", *wanted.changes])
    return recipe, data, catalogue.cohorts[cohort_id].organ
