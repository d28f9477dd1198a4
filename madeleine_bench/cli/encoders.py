"""`mbench encoders`: which there are, and whether one keeps the contract."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import print_facts, print_table

Encoder = Annotated[str, typer.Argument(help="Encoder name or path of its card.")]
_VERDICTS = {"pass": "passed", "fail": "FAILED"}

app = typer.Typer(help="List, test and import slide encoders.", no_args_is_help=True)


@app.command("list")
def list_encoders() -> None:
    """List all encoders: built-in, external and installed.

    Example: mbench encoders list
    """
    from madeleine_bench.encoders.registry import (
        external_encoders,
        plugged_encoders,
        shipped_encoders,
    )
    from madeleine_bench.encoders.trident import needs

    rows = [
        [e.card.name, e.card.revision, e.card.kind, e.card.title, needs(e.card)]
        for e in (*shipped_encoders().values(), *external_encoders().values())
    ]
    rows += [[point.name, "", "entry point", point.value, ""] for point in plugged_encoders()]
    print_table(f"{len(rows)} encoders", ["encoder", "revision", "kind", "title", "needs"], rows)


@app.command()
def show(encoder: Encoder) -> None:
    """Show the card of an encoder.

    Example: mbench encoders show madeleine
    """
    from madeleine_bench.encoders.registry import find_encoder
    from madeleine_bench.encoders.trident import external_model, needs

    entry = find_encoder(encoder)
    card = entry.card.model_dump(mode="json", exclude={"training_cohorts"})
    cohorts = entry.card.training_cohorts
    trained = "unknown" if cohorts is None else ", ".join(cohorts) or "none"
    card["training_cohorts"] = trained
    if model := external_model(entry.card):
        card["needs"] = f"{needs(entry.card)}: {model.page}"
    print_facts({**card, "card": str(entry.path)})


@app.command()
def check(encoder: Encoder) -> None:
    """Test an encoder on synthetic bags.

    Exit code 1: at least one check failed.

    Example: mbench encoders check my-encoder/card.yaml
    """
    from madeleine_bench.encoders.contract import check_contract
    from madeleine_bench.encoders.registry import find_encoder, load_encoder
    from madeleine_bench.errors import CheckFailed

    checks = check_contract(load_encoder(find_encoder(encoder)))
    rows = [[_VERDICTS.get(c.verdict, c.verdict), c.check, c.found] for c in checks]
    print_table(encoder, ["verdict", "check", "seen"], rows)
    if failed := [c.check for c in checks if c.verdict == "fail"]:
        raise CheckFailed(f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}")


@app.command("import")
def import_weights(
    model: Annotated[Literal["madeleine-official"], typer.Argument(help="Published model.")],
    weights: Annotated[Path, typer.Option(help="model.pt, as published.")],
    config: Annotated[Path, typer.Option(help="model_config.json, as published.")],
    name: Annotated[str, typer.Option(help="Name of the new encoder.")] = "madeleine-official",
    out: Annotated[Path, typer.Option(help="Output folder for weights and card.")] = Path(
        "imported"
    ),
    cohort: Annotated[str, typer.Option(help="Cohort that the model was trained on.")] = "acrobat",
    force: Annotated[bool, typer.Option(help="Overwrite existing files.")] = False,
) -> None:
    """Convert published weights to safetensors and a card.

    The command does not run any code in the file.

    Example: mbench encoders import madeleine-official --weights model.pt --config model_config.json
    """
    from madeleine_bench.encoders.official import import_official

    card = import_official(weights, config, out, name=name, cohort=cohort, force=force)
    typer.echo(f"wrote {card}, and its weights beside it; try: mbench encoders check {card}")
