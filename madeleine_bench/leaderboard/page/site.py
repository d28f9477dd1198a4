"""The whole site from one document: an index, and a page for each task and each encoder.

What few readers ask for, the details of a score and the paired differences of encoders, lies in a
script for each encoder, which the index loads when it is asked for; this works from disk as well.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.page import figures, text
from madeleine_bench.leaderboard.page.text import checked_slug, words

Json = dict[str, Any]
_UP = "../../../"
# The columns of the main table, by key in addresses and CSV; those of the families lie between. The
# page explains each in its legend.
_SHOWN = ("rank", "encoder", "letters", "mean", "intervals", "gain")
_HIDDEN = (
    *("mean_rank", "win_rate", "coverage", "contamination", "verification"),
    *("parameters", "seconds", "dim", "kind", "training", "made"),
)
# How many encoders figures and tables of pairs show at first.
MOST_PICTURED = 20
MOST_IN_MATRIX = 12
_ROW = (
    *("label", "slug", "name", "title", "description", "kind", "training_cohorts", "verification"),
    *("complete", "coverage", "families", "mean", "rank", "mean_rank", "win_rate", "unranked"),
    *("mean_ci95", "mean_ci95_cases", "rank_ci95", "gain", "letters", "baseline", "made"),
    *("parameters", "seconds_per_slide", "dim"),
)
_CELL = ("value", "corrected", "ci95", "comparable", "contamination")
_HEADS = {
    "intervals": "95% CI",
    "seconds": "Time per slide",
    "dim": "Dimension",
    "training": "Trained on",
    "made": "Scored on",
}


def write_site(document: Json, folder: Path) -> list[Path]:
    """Return the paths of the pages written under a folder, the index first.

    Raises:
        InputError: a name in the document cannot name a file, the document is of another kind, or
            the folder holds something else.
    """
    check_site_folder(folder)
    written = []
    for name, page in page_files(document).items():
        write_text(folder / name, page)
        written.append(folder / name)
    # A page of an encoder that left the board must not stay on the site.
    kept = set(written)
    for part in ("tasks", "encoders", "details"):
        for path in [*(folder / part).rglob("*.html"), *(folder / part).rglob("*.js")]:
            if path not in kept:
                path.unlink()
    return written


def check_site_folder(folder: Path) -> None:
    """Check that a site can be written to a folder: it is absent, empty, or holds an older site.

    Raises:
        InputError: it holds something else, or is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out wants a folder")
    index = folder / "index.html"
    if index.is_file() and "madeleine-bench" in index.read_text("utf-8", errors="replace"):
        return
    # What a build that was killed left is nobody's.
    others = [p for p in folder.glob("*") if not (p.name[0] == "." and p.suffix == ".tmp")]
    if others:
        raise InputError(
            f"{folder} holds files that are no leaderboard; choose an empty or a new folder"
        )


def page_files(document: Json) -> dict[str, str]:
    """Return the text of every page and script by its path; equal documents give equal texts.

    Raises:
        InputError: a name in the document cannot name a file, or the document is of another kind.
    """
    content = _normal(document)
    views = [_board_view(board, index) for index, board in enumerate(content["boards"])]
    pages = {"index.html": _index(content, views)}
    for view in views:
        for name, page in chain(_detail_pages(content, view), _detail_scripts(view)):
            if name in pages:
                raise InputError(f"two pages of the leaderboard would share the name {name}")
            pages[name] = page
    return pages


def _normal(document: Json) -> Json:
    # Equal documents may list their keys in another order; sorted, they give equal bytes.
    try:
        # The comparisons are most of a large document, and no page lists their keys.
        boards = [{**board, "comparisons": []} for board in document["boards"]]
        small = {**document, "boards": boards}
        content: Json = json.loads(json.dumps(small, sort_keys=True, allow_nan=False))
        for board, source in zip(content["boards"], document["boards"], strict=True):
            board["comparisons"] = source["comparisons"]
        if content["schema_version"] != 1:
            raise ValueError(f"schema_version {content['schema_version']!r}, these pages read 1")
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"not a board document of this version of the tool: {error}") from error
    return content


def _board_view(board: Json, index: int) -> Json:
    track = "" if board.get("track", "core") == "core" else f"-{board['track']}"
    protocol = checked_slug(board["protocol"].replace("/", "-") + track, "protocol")
    where = f"{checked_slug(board['name'], 'board name')}/{protocol}"
    for task in board["tasks"]:
        checked_slug(task["id"], "task id")
    ranked = [e for e in board["encoders"] if e["rank"] is not None]
    axis = figures.mean_axis(board)
    return {
        "id": f"b{index}",
        "key": f"{board['name']}{track}/{board['protocol']}",
        "track": track.removeprefix("-") or "core",
        "where": where,
        "board": board,
        "columns": columns_of(board),
        "axis": axis,
        "best": _best(board, ranked),
        "date": max((e["made"] or "" for e in board["encoders"]), default="")[:10],
        "matrix": [e["label"] for e in ranked[:MOST_IN_MATRIX]],
        "pairs": {(p["first"], p["second"]): p for p in board["pairs"]},
        "groups": row_groups(board, f"encoders/{where}"),
    }


def _best(board: Json, ranked: list[Json]) -> Json:
    """Return the highest value of each column among the ranked encoders."""
    columns = {
        "mean": [e["mean"] for e in ranked],
        "gain": [e["gain"]["value"] for e in ranked if e["gain"]],
    }
    for name in board["families"]:
        columns[f"family:{name}"] = [e["families"].get(name) for e in ranked]
    for task in board["tasks"]:
        cells = [e["cells"].get(task["id"]) for e in ranked]
        columns[f"task:{task['id']}"] = [cell and cell["value"] for cell in cells]
    return {
        key: max((value for value in values if value is not None), default=None)
        for key, values in columns.items()
    }


def _index(content: Json, views: list[Json]) -> str:
    data = {"boards": [_board_data(view) for view in views], "wording": text.NAMES}
    phantoms = [board["phantom"] for board in content["boards"]]
    title = "Slide encoders for pathology: ranking with 95% confidence intervals"
    if any(phantoms):
        which = "PHANTOM" if all(phantoms) else "real and PHANTOM boards"
        title = f"{title} ({which})"
    return _render(
        "index.html", ("theme.js", "board.js"), title=title, phantom=all(phantoms) and phantoms,
        content=content, boards=views, data=text.script_json(data), root="", beside=" 'self'",
        published=published_table(content["published"]),
    )  # fmt: skip


def _board_data(view: Json) -> Json:
    """Return what the script of the index needs of a board."""
    board = view["board"]
    return {
        **{key: view[key] for key in ("id", "key", "where", "columns")},
        **{key: board[key] for key in ("phantom", "tasks", "families", "subsets")},
        "track": view["track"],
        "axis": vars(view["axis"]),
        "encoders": [
            {key: encoder[key] for key in _ROW}
            | {"cells": {name: _cell_data(cell) for name, cell in encoder["cells"].items()}}
            for encoder in board["encoders"]
        ],
    }


def _cell_data(cell: Json) -> Json:
    why = {} if cell["ci95"] else {"why": text.score_interval(cell)}
    return {key: cell[key] for key in _CELL} | why


def _detail_scripts(view: Json) -> Iterator[tuple[str, str]]:
    """Yield the script of each encoder: its scores in full, its pairs with the encoders below."""
    board = view["board"]
    below: dict[str, Json] = defaultdict(lambda: {"pairs": [], "comparisons": []})
    for pair in board["pairs"]:
        below[pair["first"]]["pairs"].append(pair)
    for pair in board["comparisons"]:
        short = {
            name: [row["difference"], row["ci95"], row["p_holm"], row["higher"]]
            for name, row in sorted(pair["tasks"].items())
        }
        below[pair["first"]]["comparisons"].append({**pair, "tasks": short})
    for encoder in board["encoders"]:
        content = {"cells": encoder["cells"], **below[encoder["label"]]}
        arguments = ",".join(map(text.script_json, (view["id"], encoder["slug"], content)))
        yield f"details/{view['where']}/{encoder['slug']}.js", f"mbenchDetails({arguments});\n"


def _detail_pages(content: Json, view: Json) -> Iterator[tuple[str, str]]:
    board = view["board"]
    stamp = "PHANTOM: " if board["phantom"] else ""
    first = {e["label"]: f"{view['where']}/{e['slug']}.html" for e in board["encoders"]}
    common = {"content": content, "view": view, "board": board, "root": _UP,
              "phantom": board["phantom"]}  # fmt: skip
    for task in board["tasks"]:
        rows = [(e, e["cells"][task["id"]]) for e in board["encoders"] if task["id"] in e["cells"]]
        rows.sort(key=lambda row: (-row[1]["value"], row[0]["label"]))
        published = [row for row in content["published"] if row["task"] == task["id"]]
        page = _render(
            "task.html", ("theme.js",), **common, title=f"{stamp}{task['id']}: {task['title']}",
            task=task, rows=rows, published=published_table(published), pages=first,
            external=[x for x in board["external"] if task["id"] in (x["task"], x["trained_on"])],
            secondary=sorted({name for _, cell in rows for name in cell["secondary"]}),
        )  # fmt: skip
        yield f"tasks/{view['where']}/{task['id']}.html", page
    pairs: dict[str, list[Json]] = defaultdict(list)
    for pair in board["pairs"]:
        for label in (pair["first"], pair["second"]):
            pairs[label].append(pair)
    for row in chain.from_iterable(view["groups"].values()):
        encoder = row["encoder"]
        page = _render(
            "encoder.html", ("theme.js",), **common, row=row, encoder=encoder,
            title=f"{stamp}{encoder['label']}: {encoder['title']}",
            pairs=pairs[encoder["label"]],
        )  # fmt: skip
        yield row["href"], page


def _render(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    values.setdefault("beside", "")
    style = text.page_file("style.css")
    texts = [text.page_file(name) for name in scripts]
    return _environment().get_template(template).render(
        **values, style=Markup(style), scripts=[Markup(script) for script in texts],
        policy=text.content_policy(style, texts, values["beside"]),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: text.page_file(f"templates/{name}")),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters = (
        text.number, text.signed, text.interval, text.score_interval, text.count, text.short_count,
        text.seconds, text.tally, text.words, text.names, text.linked, text.pretty,
        text.fold_rows, warnings,
    )  # fmt: skip
    environment.globals.update(figures=figures, most=MOST_PICTURED)
    environment.filters.update({each.__name__: each for each in filters}, p=text.p_value)
    return environment


def columns_of(board: Json) -> list[Json]:
    """Return the columns of a board's main table, left to right, each shown at first or not."""
    keys = [*_SHOWN, *(f"family:{name}" for name in board["families"]), *_HIDDEN]
    heads = [_HEADS.get(k) or words(k.removeprefix("family:")).replace("_", " ") for k in keys]
    return [
        {"key": key, "head": head[:1].upper() + head[1:], "shown": key not in _HIDDEN}
        for key, head in zip(keys, heads, strict=True)
    ]


def row_groups(board: Json, folder: str) -> dict[str, list[Json]]:
    """Return a board's encoders in groups that are never mixed, each in the document's order.

    `folder` is where the encoder pages of the board lie.
    """
    groups: dict[str, list[Json]] = defaultdict(list)
    for index, encoder in enumerate(board["encoders"]):
        href = f"{folder}/{checked_slug(encoder['slug'], 'encoder slug')}.html"
        groups[_group_of(encoder)].append({"index": index, "encoder": encoder, "href": href})
    return groups


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
