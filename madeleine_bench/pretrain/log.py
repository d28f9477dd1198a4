"""The log of a training run, one row an epoch, and its curves as SVG."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from madeleine_bench.errors import InputError
from madeleine_bench.figures import COLOURS, styled_svg
from madeleine_bench.files import write_text

_NO_CURVE = ["step", "learning_rate", "patches_per_s", "tokens_per_s", "seconds"]
_SAME_PANEL = {
    "held_out_recall_at_1": "held_out_retrieval",
    "held_out_chance": "held_out_retrieval",
}


def append_row(path: Path, row: Mapping[str, float | None]) -> None:
    """Write a log again with the row of an epoch after those of the epochs before it.

    Rows of that epoch and later ones are of a run that was stopped and goes on: they are dropped.

    Args:
        path: the CSV file; made where it is not there.
        row: a number for each column, with "epoch" among them; None or NaN leaves it empty.

    Raises:
        InputError: the file cannot be read or written, or is of a run with other columns.
    """
    epoch = row["epoch"]
    assert epoch is not None
    rows = (
        [kept for kept in _read_rows(path) if int(kept["epoch"]) < epoch] if path.exists() else []
    )
    if rows and set(rows[0]) != set(row):
        raise InputError(
            f"{path} has the columns {', '.join(rows[0])}; this run logs {', '.join(row)}. Move "
            "the file away to go on with a new log"
        )
    rows.append({name: "" if v is None or v != v else repr(v) for name, v in row.items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_log(path: Path) -> pd.DataFrame:
    """Return the log of a run, one row an epoch; empty cells are NaN.

    Raises:
        InputError: the file is absent or no training log.
    """
    numbers = [{name: float(v or "nan") for name, v in row.items()} for row in _read_rows(path)]
    return pd.DataFrame(numbers).astype({"epoch": int})


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log as text by column, all of them numbers or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text), restval="no cell")
        rows = list(reader)
        if "epoch" not in (reader.fieldnames or ()) or not text.endswith("\n"):
            raise ValueError("it has no column 'epoch', or was cut")
        for row in rows:
            int(row["epoch"])
            [float(cell or "nan") for cell in row.values()]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"no training log {path} that can be read: {error}") from error
    return rows


def loss_curves_svg(log: pd.DataFrame, title: str) -> str:
    """Return the curves of a run as SVG: the same text for the same log.

    Each loss term and each measure of held-out cases has a panel and a scale of its own, under its
    name in the log; chance and recall at 1 stand beside retrieval.

    Args:
        log: as `read_log` returns it, with one row or more.
        title: stands above; name a phantom cohort as such.
    """
    # Imported here: drawing is rare, and `mbench --help` shall not wait for it.
    import altair as alt

    shown = log.drop(columns=_NO_CURVE, errors="ignore")
    curves = shown.melt("epoch", var_name="curve").dropna()
    curves["panel"] = curves["curve"].replace(_SAME_PANEL)
    epochs = alt.Axis(title="epoch", format="d", tickMinStep=1, tickCount=8, grid=False)
    chart = (
        alt.Chart(curves)
        .mark_line(strokeWidth=1.8, point={"size": 12})
        .encode(
            alt.X("epoch:Q", axis=epochs, scale=alt.Scale(zero=False, nice=False, padding=4)),
            alt.Y("value:Q", axis=alt.Axis(title=None, tickCount=4)),
            alt.Color("curve:N", sort=None, scale=alt.Scale(range=COLOURS)),
        )
        .properties(width=360, height=110)
        .facet(alt.Facet("panel:N", title=None, sort=None), columns=2)
        .resolve_scale(y="independent")
        .resolve_axis(x="independent")
        .properties(
            title=re.sub("phantom", "PHANTOM", title, flags=re.IGNORECASE), background="white"
        )
    )
    return styled_svg(chart)
