"""The log of a training run, one row an epoch, and its curves as SVG."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from madeleine_bench.errors import InputError
from madeleine_bench.figures import COLOURS, GREY, styled_svg
from madeleine_bench.files import write_text

# Panels of the figure: title, and the columns of the log with the names they are shown by.
_LOSSES = {
    "loss": "Loss: weighted sum of its terms",
    "global": "Loss: contrast of slides (global)",
    "local": "Loss: transport of tokens (local)",
    "intra": "Loss: contrast of two views (intra)",
}
_HELD_OUT = {
    "held_out_retrieval": ("Retrieval on held-out cases", "mean reciprocal rank"),
    "held_out_recall_at_1": ("Retrieval on held-out cases", "recall at 1"),
    "held_out_chance": ("Retrieval on held-out cases", "chance"),
    "held_out_smooth_rank": ("Smooth rank of held-out H&E slides", "of this panel"),
    "held_out_token_cosine": (
        "Mean cosine between tokens of a slide (1 is collapse)",
        "of this panel",
    ),
}
_OTHER = ("epoch", "step", "learning_rate", "patches_per_s", "tokens_per_s", "seconds")
_CURVES = {
    "of this panel": (COLOURS[0], [1, 0]), "mean reciprocal rank": (COLOURS[0], [1, 0]),
    "recall at 1": (COLOURS[1], [1, 0]), "chance": (GREY, [4, 3]),
}  # fmt: skip
_FEW = 15


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
        self.path, self._resume_epoch = path, resume_epoch
        self._lines: list[list[str]] = []  # the columns, then the rows

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add the row of an epoch. The first row settles the columns of the log.

        Args:
            row: a number for each column, with "epoch" among them; None or NaN leaves it empty.

        Raises:
            InputError: the file cannot be read or written, or is of a run with other columns.
            ValueError: the row has not the columns of the rows before it.
        """
        self._lines = self._lines or self._start(list(row))
        if set(row) != set(self._lines[0]):
            raise ValueError(f"a row of {sorted(row)} in a log of {sorted(self._lines[0])}")
        self._lines.append([_cell(row[column]) for column in self._lines[0]])
        write_text(self.path, "".join(",".join(cells) + "\n" for cells in self._lines))

    def _start(self, columns: list[str]) -> list[list[str]]:
        """Return the columns, and the rows of an earlier part of the run."""
        if self._resume_epoch is None or not self.path.exists():
            return [columns]
        header, rows = _read_rows(self.path)
        if set(header) != set(columns):
            raise InputError(
                f"{self.path} has the columns {', '.join(header)}; this run logs "
                f"{', '.join(columns)}. Move the file away to go on with a new log"
            )
        epoch = header.index("epoch")
        return [header, *(row for row in rows if float(row[epoch]) <= self._resume_epoch)]


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
    losses = [c for c in log.columns if c not in _OTHER and c not in _HELD_OUT]
    losses.sort(key=lambda column: column != "loss")
    shown = {c: (_LOSSES.get(c, f"Loss: {c}"), "of this panel") for c in losses}
    shown |= {c: names for c, names in _HELD_OUT.items() if c in log}
    curves = pd.concat(
        log[["epoch"]].assign(value=log[column], panel=panel, curve=curve)
        for column, (panel, curve) in shown.items()
    ).dropna()
    panels = list(dict.fromkeys(curves["panel"]))
    colours, dashes = (list(each) for each in zip(*_CURVES.values(), strict=True))
    named = list(_CURVES)[1:] if "chance" in set(curves["curve"]) else []
    legend = alt.Legend(title=None, orient="bottom", values=named) if named else None
    epochs = alt.Axis(title="epoch", format="d", tickMinStep=1, tickCount=8, grid=False)
    chart = (
        alt.Chart(curves)
        .mark_line(strokeWidth=1.8, point={"size": 22} if log["epoch"].nunique() <= _FEW else False)
        .encode(
            alt.X("epoch:Q", axis=epochs, scale=alt.Scale(zero=False, nice=False, padding=4)),
            alt.Y("value:Q", axis=alt.Axis(title=None, tickCount=4)),
            alt.Color(
                "curve:N", legend=legend, scale=alt.Scale(domain=list(_CURVES), range=colours)
            ),
            alt.StrokeDash(
                "curve:N", legend=legend, scale=alt.Scale(domain=list(_CURVES), range=dashes)
            ),
        )
        .properties(width=360, height=110)
        .facet(
            alt.Facet(
                "panel:N",
                title=None,
                sort=panels,
                header=alt.Header(labelAnchor="start", labelFontSize=12),
            ),
            columns=2,
        )
        .resolve_scale(y="independent")
        .resolve_axis(x="independent")
        .properties(
            title=re.sub("phantom", "PHANTOM", title, flags=re.IGNORECASE), background="white"
        )
    )
    return styled_svg(chart)


def _cell(value: float | None) -> str:
    """Return a number as text that reads back as the same number."""
    return "" if value is None or value != value else repr(value)


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a log; a last row without its newline was cut and is left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no training log {path} that can be read: {error}") from error
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(whole)))
    header = rows.pop(0) if rows else []
    if "epoch" not in header:
        raise InputError(f"{path}:1: no training log: it has no column 'epoch'")
    epoch = header.index("epoch")
    for number, row in enumerate(rows, start=2):
        try:
            sound = len([float(cell or 0.0) for cell in row]) == len(header)
        except ValueError:
            sound = False
        if not sound or not row[epoch].isdecimal():
            raise InputError(
                f"{path}:{number}: expected {len(header)} numbers, found {','.join(row)[:80]}; "
                "remove the row"
            )
    return header, rows
