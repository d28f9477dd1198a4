"""What stands in the tables of a board's page: its columns, its rows in groups, its pairs."""

from typing import Any

from madeleine_bench.leaderboard.page.figures import interval_strip, mean_axis
from madeleine_bench.leaderboard.page.text import checked_slug, words

Json = dict[str, Any]

# The columns of the main table, by key in addresses and CSV; those of the families lie between. The
# page explains each in its legend.
_SHOWN = (
    *("rank", "encoder", "letters", "mean", "intervals", "gain", "mean_rank", "win_rate"),
    *("coverage", "contamination", "verification"),
)
_HIDDEN = ("parameters", "seconds", "dim", "kind", "training")
_HEADS = {
    "intervals": "95% intervals",
    "seconds": "Time per slide",
    "dim": "Dimension",
    "training": "Trained on",
}
_GROUPS = {
    "ranked": ("Ranked", "complete, on the same data, verified by recomputing or made here"),
    "incomplete": ("Not ranked", "incomplete, or scored on other data or features than the rest"),
    "reported": ("Reported only (V0)", "numbers as submitted, not recomputed"),
    "control": ("Controls", "they show what no encoder, or a perfect one, scores; never ranked"),
}


def columns_of(board: Json) -> list[Json]:
    """Return the columns of a board's main table, left to right, each shown at first or not."""
    keys = [*_SHOWN, *(f"family:{name}" for name in board["families"]), *_HIDDEN]
    heads = [_HEADS.get(k) or words(k.removeprefix("family:")).replace("_", " ") for k in keys]
    return [
        {"key": key, "head": head[:1].upper() + head[1:], "shown": key not in _HIDDEN}
        for key, head in zip(keys, heads, strict=True)
    ]


def row_groups(board: Json, folder: str) -> list[Json]:
    """Return a board's encoders in groups that are never mixed, each in the document's order.

    `folder` is where the encoder pages of the board lie.
    """
    axis = mean_axis(board)
    means = {encoder["label"]: encoder["mean"] for encoder in board["encoders"]}
    groups: dict[str, list[Json]] = {key: [] for key in _GROUPS}
    for index, encoder in enumerate(board["encoders"]):
        strip = None
        if encoder["mean"] is not None:
            baseline = means.get(encoder["baseline"])
            strip = interval_strip(encoder, axis, baseline, board["phantom"])
        href = f"{folder}/{checked_slug(encoder['slug'], 'encoder slug')}.html"
        row = {"index": index, "encoder": encoder, "href": href, "strip": strip}
        groups[_group_of(encoder)].append(row)
    return [
        {"key": key, "title": title, "meaning": meaning, "rows": groups[key]}
        for key, (title, meaning) in _GROUPS.items()
    ]


def _group_of(encoder: Json) -> str:
    if encoder["rank"] is not None:
        return "ranked"
    if encoder["kind"] == "control":
        return "control"
    return "reported" if encoder["verification"] == "V0" else "incomplete"


def warnings(cell: Json) -> list[str]:
    """Return what a reader must know before trusting a score, the empty list when nothing."""
    # A case whose label nobody has is the cohort's, not this encoder's; its page counts it still.
    absent = sum(n for reason, n in cell["missing"].items() if "label" not in reason)
    lines = {
        f"! {words(cell['status'])}": cell["status"] != "ok",
        "\u2260 other data or features": not cell["comparable"],
        "\u25bd below chance": cell["corrected"] < 0,
        "V0 reported": cell["verification"] == "V0",
        f"{absent} missing": absent > 0,
    }
    return [line for line, applies in lines.items() if applies]


def published_table(rows: list[Json]) -> Json:
    """Return published numbers with one line per encoder and task, one column per shot count."""
    shots = sorted({row["shots"] for row in rows}, key=lambda k: (k is None, k or 0))
    lines: dict[tuple[str, str, str, str], dict[Any, float]] = {}
    for row in rows:
        key = (row["task"], row["encoder"], row["source"], row["metric"])
        lines.setdefault(key, {})[row["shots"]] = row["value"]
    sources = sorted({(row["source"], row["citation"]) for row in rows})
    return {"shots": shots, "lines": sorted(lines.items()), "sources": sources}
