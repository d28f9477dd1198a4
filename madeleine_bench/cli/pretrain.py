"""`mbench pretrain`: train a slide encoder from the bags of a pretraining cohort."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import cohort_names, recipe_names
from madeleine_bench.cli.options import Catalogue, Config, Results, Seed, Signal, Source


def pretrain(
    encoder: Annotated[
        str,
        typer.Argument(
            help="madeleine, madeleine-se or intra-ssl; or the path of a recipe.",
            autocompletion=recipe_names,
        ),
    ],
    cohort: Annotated[
        str | None,
        typer.Option(
            help="Pretraining cohort, instead of the recipe's.", autocompletion=cohort_names
        ),
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
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: the GPU where there is one.")
    ] = "auto",
    name: Annotated[str | None, typer.Option(help="Name on the encoder's card.")] = None,
    source: Source = "auto",
    results: Results = Path("results"),
    config: Config = None,
    catalogue: Catalogue = None,
    phantom_signal: Signal = None,
    phantom_seed: Seed = None,
) -> None:
    """Train a slide encoder; the card it leaves is what `mbench run --encoder` takes.

    On a phantom cohort the recipe for phantoms is used, else that of the paper. Several processes:
    torchrun --nproc-per-node 2 --no-python mbench pretrain madeleine

    Example: mbench pretrain madeleine --set epochs=3 --out results/pretrain/small
    """
    from madeleine_bench.cli.pretraining import Wanted, run_pretraining
    from madeleine_bench.runner.cohorts import PhantomChoice

    phantom = PhantomChoice(phantom_signal, phantom_seed)
    run_pretraining(
        Wanted(encoder, cohort, tuple(change or ()), out, features, name, source, results, config,
               catalogue, phantom),
        device=device, resume=resume,
    )  # fmt: skip
