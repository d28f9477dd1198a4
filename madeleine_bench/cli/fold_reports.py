"""What `mbench data split` prints: the folds of a label table, and how balanced they could be."""

from pathlib import Path
from typing import Literal

import typer

from madeleine_bench.cli.console import print_table
from madeleine_bench.data.site_folds import FoldReport
from madeleine_bench.data.table_folds import FoldColumns, fold_table
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes


def split_table(
    labels: Path,
    columns: FoldColumns,
    folds: int,
    unit: Literal["slide", "case"],
    missing: tuple[str, ...],
    out: Path,
) -> None:
    """Write folds of a label table and print how balanced they are.

    Raises:
        InputError: the table has no such folds, or the file is there with other ones.
    """
    made = fold_table(labels, columns, folds, unit, missing)
    if out.exists() and (not out.is_file() or out.read_bytes() != made.data):
        raise InputError(
            f"{out} is there and holds something else; scores on other folds cannot be compared. "
            "Remove it, or give another --out"
        )
    write_bytes(out, made.data)
    left_out = f"; {len(made.without)} without a label left out" if made.without else ""
    typer.echo(f"{made.units} {unit}s in {folds} folds: {out}{left_out}")
    _print_folds(made.report)
    if made.look_alikes:
        first = " and ".join(f"'{one}'" for one in made.look_alikes[0])
        typer.echo(
            f"Check the case ids: {len(made.look_alikes)} group(s) may be spellings of one case, "
            f"first {first}; folds may part them. Write one spelling in the label table."
        )
    typer.echo(f'\nTo use them: splits = "{out}" under the task in mbench.toml (docs/audit.md)')


def _print_folds(report: FoldReport) -> None:
    shares = [sum(counts) / len(report.counts) for counts in zip(*report.counts, strict=True)]
    rows = [
        [str(fold), str(report.groups[fold]), *map(str, counts)]
        for fold, counts in enumerate(report.counts)
    ]
    rows.append(["share", "", *(f"{share:.1f}" for share in shares)])
    print_table("", ["fold", f"{report.what}s", *report.labels], rows)
    typer.echo(f"{report.verdict[0].upper()}{report.verdict[1:]}.")
    typer.echo(
        f"Sum over folds and classes {report.total:.1f}, bound {report.total_bound:.1f} "
        f"({report.effort})."
    )
    for line in report.large:
        typer.echo(f"Large: {line}.")
