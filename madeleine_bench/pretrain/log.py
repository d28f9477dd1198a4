"""The log of a training run, one row an epoch, and its curves as SVG."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from madeleine_bench.errors import InputError
from madeleine_bench.figures import COLOURS, GREY, INK, styled_svg
from madeleine_bench.files import write_text

# Columns that are neither a loss term nor measured on held-out cases.
_OTHER = ("epoch", "step", "learning_rate", "patches_per_s", "tokens_per_s", "seconds")
_HELD_OUT = "held_out_"
_CHANCE = "chance"
_RETRIEVAL = {
    "retrieval": "mean reciprocal rank",
    "recall_at_1": "recall at 1",
    "chance": _CHANCE,
}
_TERMS = {
    "loss": "Loss: weighted sum of its terms",
    "global": "Loss: contrast of slides (global)",
    "local": "Loss: transport of tokens (local)",
    "intra": "Loss: contrast of two views (intra)",
}
_WIDTH, _HEIGHT = 360, 110
_GAPS = {"row": 78, "column": 64}
_MOST_TICKS = 9
_FEW, _POINT = 15, {"size": 22}


class TrainingLog:
    """A CSV file with one row an epoch, written whole after each epoch.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, resume_epoch: int | None = None) -> None:
        """Prepare a log; the file is not touched before the first row is appended.

        Args:
            path: the file.
            resume_epoch: the epoch after which the run goes on: its row and those before it are
                kept, later ones dropped. None begins a new log and replaces what is there.
        """
        self.path = path
        self._rows: list[list[str]] | None = None
        self._columns: list[str] = []
        self._resume_epoch = resume_epoch

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add the row of an epoch. The first row settles the columns of the log.

        Args:
            row: a number for each column, with "epoch" among them; None or NaN leaves it empty.

        Raises:
            InputError: the file cannot be read or written, or is of a run with other columns.
            ValueError: the row has not the columns of the rows before it.
        """
        if self._rows is None:
            self._columns, self._rows = self._start(list(row))
        if set(row) != set(self._columns):
            raise ValueError(f"a row of {sorted(row)} in a log of {sorted(self._columns)}")
        self._rows.append([_cell(row[column]) for column in self._columns])
        lines = [self._columns, *self._rows]
        write_text(self.path, "".join(",".join(cells) + "\n" for cells in lines))

    def _start(self, columns: list[str]) -> tuple[list[str], list[list[str]]]:
        """Return the columns, and the rows of an earlier part of the run."""
        if self._resume_epoch is None or not self.path.exists():
            return columns, []
        header, rows = _read_rows(self.path)
        if set(header) != set(columns):
            raise InputError(
                f"{self.path} has the columns {', '.join(header)}; this run logs "
                f"{', '.join(columns)}. Move the file away to go on with a new log"
            )
        epoch = header.index("epoch")
        return header, [row for row in rows if float(row[epoch]) <= self._resume_epoch]


def read_log(path: Path) -> pd.DataFrame:
    """Return the log of a run, one row an epoch; empty cells are NaN, a cut last row is left out.

    Raises:
        InputError: the file is absent or no training log.
    """
    header, rows = _read_rows(path)
    numbers = [[float(cell or "nan") for cell in row] for row in rows]
    return pd.DataFrame(numbers, columns=header).astype({"epoch": int})


def loss_curves_svg(log: pd.DataFrame, title: str) -> str:
    """Return the curves of a run as SVG: the same text for the same log.

    Panels, as far as the log has them: each loss term on a scale of its own, retrieval on held-out
    cases with chance as a dashed line, smooth rank, and token cosine.

    Args:
        log: as `read_log` returns it, with one row or more.
        title: stands above; name a phantom cohort as such.

    Raises:
        ValueError: the log has no row.
    """
    # Imported here: drawing is rare, and `mbench --help` shall not wait for it.
    import altair as alt

    if log.empty:
        raise ValueError("a log without a row has no curves")
    panels = [
        panel
        for row in zip_longest(_loss_panels(log), _held_out_panels(log), fillvalue=_BLANK)
        for panel in row
    ]
    heading = alt.Title(
        re.sub("phantom", "PHANTOM", title, flags=re.IGNORECASE), anchor="start", fontSize=15,
        fontWeight=600, color=INK, offset=20,
    )  # fmt: skip
    chart = alt.concat(
        *[_draw(log, panel) for panel in panels], columns=2, title=heading, padding=16,
        # "flush" sets panels out by their plots alone, so they align whatever stands around them.
        bounds="flush", spacing=_GAPS, background="white",
    )  # fmt: skip
    chart = chart.resolve_scale(color="independent", strokeDash="independent")
    return styled_svg(chart)


@dataclass(frozen=True)
class _Panel:
    """One small chart: a line for each series, columns of the log by the names they are shown by.

    `low` and `high` are where the axis must reach to; None leaves an end to the data.
    """

    title: str
    series: Mapping[str, str]
    low: float | None = None
    high: float | None = None


_BLANK = _Panel("", {})


def _loss_panels(log: pd.DataFrame) -> list[_Panel]:
    """Return a panel for each loss term, the total first."""
    terms = [c for c in log.columns if c not in _OTHER and not c.startswith(_HELD_OUT)]
    terms.sort(key=lambda term: term != "loss")
    return [_Panel(_TERMS.get(term, f"Loss: {term}"), {term: term}, 0.0) for term in terms]


def _held_out_panels(log: pd.DataFrame) -> list[_Panel]:
    found = {f"{_HELD_OUT}{name}": shown for name, shown in _RETRIEVAL.items()}
    panels = [
        _Panel("Retrieval on held-out cases", found, 0.0, 1.0),
        _Panel("Smooth rank of held-out H&E slides", {f"{_HELD_OUT}smooth_rank": "rank"}, 0.0),
        _Panel(
            "Mean cosine between tokens of a slide (1 is collapse)",
            {f"{_HELD_OUT}token_cosine": "cosine"},
            0.0,
            1.0,
        ),
    ]
    measured = set(log.columns[log.notna().any()])
    there = [
        replace(panel, series={c: n for c, n in panel.series.items() if c in measured})
        for panel in panels
    ]
    return [panel for panel in there if panel.series]


def _draw(log: pd.DataFrame, panel: _Panel) -> Any:
    import altair as alt

    if panel is _BLANK:
        nothing = alt.Chart(pd.DataFrame({"epoch": []})).mark_point()
        return nothing.properties(width=_WIDTH, height=_HEIGHT)
    names = list(panel.series.values())
    long = log[["epoch", *panel.series]].rename(columns=dict(panel.series))
    long = long.melt("epoch", var_name="curve").dropna()
    # Chance is a line to compare with, not a result: grey and dashed.
    colours = [
        GREY if name == _CHANCE else colour for name, colour in zip(names, COLOURS, strict=False)
    ]
    dashes = [[4, 3] if name == _CHANCE else [1, 0] for name in names]
    legend = None
    if len(names) > 1:
        legend = alt.Legend(
            title=None, orient="top", labelColor=INK, labelFontSize=11, symbolType="stroke",
            symbolSize=220, symbolStrokeWidth=2, offset=4, columnPadding=16,
        )  # fmt: skip
    reach = [*long["value"], *(end for end in (panel.low, panel.high) if end is not None)]
    low, high = min(reach), max(reach)
    epochs = alt.Axis(title="epoch", format="d", values=_epoch_ticks(log["epoch"]), grid=False)
    values = alt.Axis(title=None, tickCount=4, domain=False, ticks=False, minExtent=34)
    scale = alt.Scale(domain=[low, high if high > low else low + 1.0], zero=False, nice=4)
    return (
        alt.Chart(long)
        .mark_line(strokeWidth=1.8, point=_POINT if log["epoch"].nunique() <= _FEW else False)
        .encode(
            alt.X("epoch:Q", axis=epochs, scale=alt.Scale(zero=False, nice=False, padding=4)),
            alt.Y("value:Q", axis=values, scale=scale),
            alt.Color("curve:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            alt.StrokeDash("curve:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
        )
        .properties(width=_WIDTH, height=_HEIGHT, title=_panel_title(panel.title))
    )


def _epoch_ticks(epochs: pd.Series) -> list[int]:
    """Return whole epochs, evenly apart and few enough for their labels to stand apart."""
    first, last = int(epochs.min()), int(epochs.max())
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if (last - first) // step < _MOST_TICKS)
    return list(range(first + -first % step, last + 1, step))


def _panel_title(text: str) -> Any:
    import altair as alt

    return alt.Title(text, anchor="start", fontSize=12, fontWeight="normal", color=INK, offset=6)


def _cell(value: float | None) -> str:
    """Return a number as text that reads back as the same number."""
    return "" if value is None or value != value else repr(value)


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a log; a last row without its newline was cut and is left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"no training log {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(whole)))
    header = rows.pop(0) if rows else []
    if "epoch" not in header:
        raise InputError(f"{path}:1: no training log: it has no column 'epoch'")
    epoch = header.index("epoch")
    for number, row in enumerate(rows, start=2):
        sound = len(row) == len(header) and all(_is_number(cell) for cell in row)
        if not sound or not row[epoch].isdecimal():
            raise InputError(
                f"{path}:{number}: expected {len(header)} numbers, found {','.join(row)[:80]}; "
                "remove the row"
            )
    return header, rows


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0.0)
    except ValueError:
        return False
    return True
