"""From results folders to a board on the screen, in a file, or as a site."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from madeleine_bench.cli.console import LiveProgress, board_svg, print_board
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.aggregate import Board, build_boards
from madeleine_bench.leaderboard.case_draws import CaseDraws
from madeleine_bench.leaderboard.comparison import compare
from madeleine_bench.leaderboard.document import leaderboard_document
from madeleine_bench.leaderboard.export import to_csv, to_markdown
from madeleine_bench.leaderboard.page import check_site_folder, serve, write_site
from madeleine_bench.leaderboard.sources import Sources
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.reference import read_adjudications, read_published

Form = Literal["table", "csv", "json", "markdown", "svg"]


def show_boards(
    results: Sequence[Path],
    board: str | None,
    protocol: str | None,
    form: Form,
    out: Path | None,
    catalogue: Path | None,
) -> None:
    """Print the boards of results folders, or write them to a file.

    Raises:
        InputError: a record or the catalogue is broken, a name and revision stands for two
            encoders, or there is no such board.
    """
    declared, sources = load_catalogue(catalogue), Sources(results)
    sources.check(declared)
    boards = _boards(sources, declared, protocol)
    if not boards:
        raise InputError(f"no records for this in {_listed(results)}; make some with mbench run")
    chosen = [b for b in boards if board in (None, b.name)]
    if not chosen:
        hint = did_you_mean(str(board), [b.name for b in boards])
        raise InputError(f"no board is called '{board}'{hint}")
    if form == "table":
        if out is not None:
            raise InputError("--out wants --format csv, json, markdown or svg")
        for one in chosen:
            print_board(one)
        return
    text = _text(chosen, form, sources, declared)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}", err=True)


def build_site(
    results: Sequence[Path], out: Path, protocols: Sequence[str], catalogue: Path | None
) -> None:
    """Write index.html, a page for each task and encoder, leaderboard.json and leaderboard.csv.

    Raises:
        InputError: there are no records, or records, predictions or the catalogue are broken, a
            name and revision stands for two encoders, or the folder holds something else.
    """
    check_site_folder(out)
    declared, sources = load_catalogue(catalogue), Sources(results)
    sources.check(declared)
    boards = _boards(sources, declared, None)
    for protocol in protocols:
        more = _boards(sources, declared, protocol)
        if not more:
            raise InputError(f"no records under {protocol} in {_listed(results)}")
        boards += more
    if not boards:
        raise InputError(f"no records in {_listed(results)}; make some with mbench run")
    document = _document(boards, sources, declared)
    pages = write_site(document, out)
    write_text(out / "leaderboard.json", _json(document))
    write_text(out / "leaderboard.csv", to_csv(boards))
    typer.echo(f"{len(pages)} pages in {out}; open {out / 'index.html'}", err=True)


def serve_site(folder: Path, port: int) -> None:
    """Show a built site to this machine alone, until interrupted.

    Raises:
        InputError: the folder has no site, or the port is taken.
    """
    serve(folder, port, lambda address: typer.echo(f"{address} (Ctrl-C ends it)", err=True))


def _boards(sources: Sources, catalogue: Catalogue, protocol: str | None) -> list[Board]:
    asked = catalogue.select_protocols([protocol] if protocol else [])
    names: list[str | None] = [one.name for one in asked]
    records = sources.records
    return [board for name in names or [None] for board in build_boards(records, catalogue, name)]


def _text(boards: Sequence[Board], form: Form, sources: Sources, catalogue: Catalogue) -> str:
    if form == "csv":
        return to_csv(boards)
    if form == "markdown":
        return "\n".join(to_markdown(board) for board in boards)
    if form == "json":
        return _json(_document(boards, sources, catalogue))
    if len(boards) != 1:
        raise InputError(f"one board a picture: --board {' | '.join(b.name for b in boards)}")
    return board_svg(boards[0])


def _document(boards: Sequence[Board], sources: Sources, catalogue: Catalogue) -> dict[str, Any]:
    draws = CaseDraws(sources.stores, catalogue)
    folder = resource_folder("leaderboard")
    with LiveProgress() as progress:
        progress.phase("resample", sum(len(c.cells) for b in boards for c in b.columns))

        def draws_of(record: Record) -> NDArray[np.float64]:
            found = draws.of(record)
            progress.advance(f"{record.encoder.name} {record.task.id}")
            return found

        compared = [(board, compare(board, draws_of)) for board in boards]
    return leaderboard_document(
        compared,
        catalogue,
        sources.predictions,
        sources.card,
        read_published(folder / "published", catalogue.tasks),
        read_adjudications(folder / "adjudications.yaml"),
    )


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(str(folder) for folder in folders)
