"""The rows of a board's tables: what stands in each cell of the main table and of the heat map."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from madeleine_bench.leaderboard.page import wording
from madeleine_bench.leaderboard.page.figures import interval_strip, mean_reach
from madeleine_bench.leaderboard.page.safety import checked_slug

GROUPS = {
    "ranked": ("Ranked", "complete, on the same data, verified by recomputing or made here"),
    "incomplete": ("Not ranked", "incomplete, or scored on other data or features than the rest"),
    "reported": ("Reported only (V0)", "numbers as submitted, not recomputed"),
    "control": ("Controls", "they show what no encoder, or a perfect one, scores; never ranked"),
}


@dataclass(frozen=True)
class Entry:
    """What one cell of the main table says: a line, smaller lines below it, perhaps a drawing."""

    said: str
    notes: Sequence[str] = ()
    drawing: Markup | None = None


@dataclass(frozen=True)
class Row:
    """One encoder: its place in the document, its page, its cells by column key."""

    index: int
    encoder: dict[str, Any]
    href: str
    group: str
    entries: dict[str, Entry]


@dataclass(frozen=True)
class RowGroup:
    """Rows that are ordered among themselves and never mixed with the others."""

    key: str
    title: str
    meaning: str
    rows: list[Row] = field(default_factory=list)


def row_groups(board: dict[str, Any], folder: str) -> list[RowGroup]:
    """Return a board's encoders in their groups, each in the document's order.

    `folder` is where the encoder pages of the board lie.
    """
    ends = mean_reach(board)
    means = {encoder["label"]: encoder["mean"] for encoder in board["encoders"]}
    groups = {key: RowGroup(key, *text) for key, text in GROUPS.items()}
    for index, encoder in enumerate(board["encoders"]):
        href = f"{folder}/{checked_slug(encoder['slug'], 'encoder slug')}.html"
        key = group_of(encoder)
        entries = _entries(board, encoder, ends, means.get(encoder["baseline"]))
        groups[key].rows.append(Row(index, encoder, href, key, entries))
    return list(groups.values())


def group_of(encoder: dict[str, Any]) -> str:
    """Return which group of rows an encoder stands in."""
    if encoder["rank"] is not None:
        return "ranked"
    if encoder["kind"] == "control":
        return "control"
    return "reported" if encoder["verification"] == "V0" else "incomplete"


def _entries(
    board: dict[str, Any],
    encoder: dict[str, Any],
    ends: tuple[float, float],
    baseline: float | None,
) -> dict[str, Entry]:
    families = {
        f"family:{name}": Entry(wording.number(encoder["families"].get(name)))
        for name in board["families"]
    }
    strip = None
    if encoder["mean"] is not None:
        strip = interval_strip(encoder, ends, baseline, bool(board["phantom"]))
    return {
        **_standing(encoder),
        "intervals": Entry("", _both(encoder, "mean_ci95_cases", "mean_ci95"), strip),
        "gain": _gain(encoder),
        "coverage": Entry(f"{encoder['coverage']}/{board['core']}"),
        **families,
        **_facts(encoder),
    }


def _standing(encoder: dict[str, Any]) -> dict[str, Entry]:
    rank = encoder["rank"]
    span = [wording.whole_range(encoder["rank_ci95"])] if encoder["rank_ci95"] else []
    states = [cell["contamination"] for cell in encoder["cells"].values()]
    return {
        "rank": Entry(wording.NONE if rank is None else str(rank), span),
        "letters": Entry(encoder["letters"] or wording.NONE),
        "mean": Entry(wording.number(encoder["mean"])),
        "mean_rank": Entry(wording.number(encoder["mean_rank"], 2)),
        "win_rate": Entry(wording.number(encoder["win_rate"], 2)),
        "contamination": Entry("", wording.tally(states)),
        "verification": Entry(*_level(encoder["verification"])),
    }


def _level(level: str) -> tuple[str, list[str]]:
    first, _, rest = wording.verified(level).partition(" ")
    return (first, [rest]) if rest and level != "none" else (wording.verified(level), [])


def _facts(encoder: dict[str, Any]) -> dict[str, Entry]:
    cohorts = encoder["training_cohorts"]
    trained = "unknown" if cohorts is None else ", ".join(cohorts) or "none"
    return {
        "parameters": Entry(wording.short_count(encoder["parameters"])),
        "seconds": Entry(wording.seconds(encoder["seconds_per_slide"])),
        "dim": Entry(wording.count(encoder["dim"])),
        "kind": Entry(encoder["kind"]),
        "training": Entry(trained),
    }


def _gain(encoder: dict[str, Any]) -> Entry:
    gain = encoder["gain"]
    if gain is None:
        return Entry(wording.NONE)
    return Entry(wording.signed(gain["value"]), _both(gain, "ci95_cases", "ci95"))


def _both(source: dict[str, Any], cases: str, cohorts: str) -> list[str]:
    return [wording.interval(source[key]) for key in (cases, cohorts) if source[key] is not None]


def shade(cell: dict[str, Any]) -> str:
    """Return the class of a cell's shade: one of ten steps from chance to perfect, or below."""
    corrected = cell["corrected"]
    return "below" if corrected < 0 else f"q{min(9, int(corrected * 10))}"


def warnings(cell: dict[str, Any]) -> list[str]:
    """Return what a reader must know before trusting a score, the empty list when nothing."""
    said = []
    if cell["status"] != "ok":
        said.append(f"! {wording.words(cell['status'])}")
    if not cell["comparable"]:
        said.append("\u2260 other data or features")
    if cell["corrected"] < 0:
        said.append("\u25bd below chance")
    if cell["verification"] == "V0":
        said.append("V0 reported")
    # A case whose label nobody has is the cohort's, not this encoder's; its page counts it still.
    absent = sum(n for reason, n in cell["missing"].items() if "label" not in reason)
    return [*said, f"{absent} missing"] if absent else said
