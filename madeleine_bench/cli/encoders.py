"""`mbench encoders`: which there are, and whether one keeps the contract."""

from typing import Annotated

import typer

app = typer.Typer(help="Slide encoders.", no_args_is_help=True)


@app.command("list")
def list_encoders() -> None:
    """List the encoders that ship here and those that other packages offer."""
    from madeleine_bench.cli.console import print_table
    from madeleine_bench.encoders.registry import plugged_encoders, shipped_encoders

    rows = [
        [e.card.name, e.card.revision, e.card.kind, e.card.title]
        for e in shipped_encoders().values()
    ]
    rows += [[name, "", "entry point", point.value] for name, point in plugged_encoders().items()]
    print_table(f"{len(rows)} encoders", ["encoder", "revision", "kind", "title"], rows)


@app.command()
def show(encoder: Annotated[str, typer.Argument(help="Name, or path of a card.")]) -> None:
    """Show the card of an encoder."""
    from madeleine_bench.cli.descriptions import describe_encoder
    from madeleine_bench.encoders.registry import find_encoder

    describe_encoder(find_encoder(encoder))


@app.command()
def check(encoder: Annotated[str, typer.Argument(help="Name, or path of a card.")]) -> None:
    """Run the contract checks of an encoder on made-up bags; exit 1 where one fails."""
    from madeleine_bench.cli.console import print_table
    from madeleine_bench.encoders.contract import check_contract
    from madeleine_bench.encoders.registry import find_encoder, load_encoder
    from madeleine_bench.errors import CheckFailed

    checks = check_contract(load_encoder(find_encoder(encoder)))
    rows = [["passed" if c.passed else "FAILED", c.name, c.seen] for c in checks]
    print_table(encoder, ["verdict", "check", "seen"], rows)
    if failed := [c.name for c in checks if not c.passed]:
        raise CheckFailed(f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}")
