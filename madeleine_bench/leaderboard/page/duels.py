"""Pairs of encoders as a matrix, and published numbers as rows: two tables of a board's page."""

from typing import Any


def win_matrix(board: dict[str, Any]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Return a row for each ranked encoder: its pair with every other, seen from its own side."""
    labels = [e["label"] for e in board["encoders"] if e["rank"] is not None]
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in board["pairs"]:
        seen[pair["first"], pair["second"]] = _side(pair, 1.0, pair["wins"], pair["losses"])
        seen[pair["second"], pair["first"]] = _side(pair, -1.0, pair["losses"], pair["wins"])
    return [(row, [seen.get((row, other)) for other in labels]) for row in labels]


def _side(pair: dict[str, Any], sign: float, wins: int, losses: int) -> dict[str, Any]:
    """Return a pair as its row sees it."""
    marked = "" if not pair["better"] else "better" if sign > 0 else "worse"
    arrow = ("\u25b2" if sign > 0 else "\u25bc") if marked else ""
    return {"mean": sign * pair["mean"], "wins": wins, "ties": pair["ties"], "losses": losses,
            "marked": marked, "arrow": arrow}  # fmt: skip


def verdict(pair: dict[str, Any]) -> str:
    """Return what the tests say of a pair, the first seen against the second."""
    return "better on these cohorts" if pair["better"] else "no significant difference"


def published_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return published numbers with one line per encoder and task, one column per shot count."""
    shots = sorted({row["shots"] for row in rows}, key=lambda k: (k is None, k or 0))
    lines: dict[tuple[str, str, str, str], dict[Any, float]] = {}
    for row in rows:
        key = (row["task"], row["encoder"], row["source"], row["metric"])
        lines.setdefault(key, {})[row["shots"]] = row["value"]
    sources = sorted({(row["source"], row["citation"]) for row in rows})
    return {"shots": shots, "lines": sorted(lines.items()), "sources": sources}
