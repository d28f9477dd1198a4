"""`mbench pretrain`: train a slide encoder from the bags of a pretraining cohort."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from madeleine_bench.cli.completion import recipe_names
from madeleine_bench.cli.console import LiveProgress
from madeleine_bench.cli.options import Device, with_workspace
from madeleine_bench.specs.workspace import Workspace

if TYPE_CHECKING:
    from madeleine_bench.pretrain.recipe import Recipe
    from madeleine_bench.types import CohortData

PHANTOM_SUFFIX = "-phantom"


@with_workspace("jobs", "features")
def pretrain(
    encoder: Annotated[
        str,
        typer.Argument(
            help="madeleine, madeleine-se or intra-ssl; or the path of a recipe.",
            autocompletion=recipe_names,
        ),
    ],
    workspace: Workspace,
    cohort: Annotated[
        str | None, typer.Option(help="Pretraining cohort, instead of the recipe's.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="A key of the recipe, such as epochs=3; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoint, log, curves, weights and card.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Folder of the packed store of the bags, made where it is not there."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")
    ] = False,
    device: Device = "auto",
    name: Annotated[str | None, typer.Option(help="Name on the encoder's card.")] = None,
) -> None:
    """Pretrain a slide encoder.

    Writes a card that `mbench run --encoder` accepts. Phantom cohorts use the recipe for phantom
    data, other cohorts that of the paper. Several processes:
    torchrun --nproc-per-node 2 --no-python mbench pretrain madeleine

    Example: mbench pretrain madeleine --set epochs=3 --out results/pretrain/small
    """
    from madeleine_bench.data.packing import packed_folder
    from madeleine_bench.pretrain.loop import pretrain as train
    from madeleine_bench.types import Silence, board_name

    recipe, data, organ = _recipe_and_data(workspace, encoder, cohort, change or [])
    board = board_name(data.source, data.variant)
    out = out or workspace.results / "pretrain" / board / f"{recipe.name}-{recipe.cohort}"
    features = features or packed_folder(data, workspace.results)
    is_first = os.environ.get("RANK", "0") == "0"
    with LiveProgress() if is_first else nullcontext(Silence()) as progress:
        card = train(
            recipe, data, features, out, progress,
            organ=organ, device=device, resume=resume, name=name,
        )  # fmt: skip
    if is_first:
        typer.echo(f"card: {card}\nnext: mbench run --encoder {card} --task all")


def _recipe_and_data(
    workspace: Workspace, encoder: str, cohort: str | None, changes: list[str]
) -> "tuple[Recipe, CohortData, str]":
    """Return the recipe with the user's changes, the cohort it trains on, and its organ."""
    from madeleine_bench.errors import InputError
    from madeleine_bench.pretrain.recipe import load_recipe, shipped_recipes, with_changes
    from madeleine_bench.runner.cohorts import open_cohort

    catalogue, config = workspace.open()
    recipe = load_recipe(encoder)
    cohort_id = cohort or recipe.cohort
    spec = catalogue.cohort(cohort_id)
    if spec.role != "pretraining":
        trainable = [c.id for c in catalogue.cohorts.values() if c.role == "pretraining"]
        raise InputError(
            f"cohort {cohort_id} is for evaluation; an encoder trained on it would have seen its "
            f"test cases. For pretraining: {', '.join(trainable)}"
        )
    data = open_cohort(workspace, catalogue, cohort_id, config).data
    if data.source == "phantom" and encoder + PHANTOM_SUFFIX in shipped_recipes():
        recipe = load_recipe(encoder + PHANTOM_SUFFIX)
    recipe = with_changes(with_changes(recipe, [f"cohort={cohort_id}"]), changes)
    return recipe, data, spec.organ or "unknown"
