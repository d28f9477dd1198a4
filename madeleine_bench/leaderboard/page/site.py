"""The whole site from one document: an index that holds everything, and a page for each thing."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.page import figures, tables, text
from madeleine_bench.leaderboard.page.text import checked_slug

Json = dict[str, Any]
_UP = "../../../"


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
    for part in ("tasks", "encoders"):
        for path in (folder / part).rglob("*.html"):
            if path not in written:
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
    """Return the text of every page by its path; equal documents give equal texts.

    Raises:
        InputError: a name in the document cannot name a file, or the document is of another kind.
    """
    content = _normal(document)
    views = [_board_view(board, index) for index, board in enumerate(content["boards"])]
    pages = {"index.html": _index(content, views)}
    for view in views:
        for name, page in _detail_pages(content, view):
            if name in pages:
                raise InputError(f"two pages of the leaderboard would share the name {name}")
            pages[name] = page
    return pages


def _normal(document: Json) -> Json:
    # Equal documents may list their keys in another order; sorted, they give equal bytes.
    try:
        content: Json = json.loads(json.dumps(document, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the board document is not plain JSON: {error}") from error
    if content.get("schema_version") != 1:
        raise InputError(
            f"the board document has schema_version {content.get('schema_version')!r}; these pages "
            "read 1: make it again with this version of madeleine-bench"
        )
    return content


def _board_view(board: Json, index: int) -> Json:
    protocol = checked_slug(board["protocol"].replace("/", "-"), "protocol")
    where = f"{checked_slug(board['name'], 'board name')}/{protocol}"
    for task in board["tasks"]:
        checked_slug(task["id"], "task id")
    return {
        "id": f"b{index}",
        "key": f"{board['name']}/{board['protocol']}",
        "where": where,
        "board": board,
        "columns": tables.columns_of(board),
        "groups": tables.row_groups(board, f"encoders/{where}"),
    }


def _index(content: Json, views: list[Json]) -> str:
    data = {
        "boards": [
            {key: value for key, value in view["board"].items() if key != "survival"}
            | {key: view[key] for key in ("id", "key", "where", "columns")}
            for view in views
        ],
        "wording": text.NAMES,
    }
    phantoms = [board["phantom"] for board in content["boards"]]
    title = "Slide encoders, ranked with their uncertainty"
    if any(phantoms):
        title = f"PHANTOM: {title}" if all(phantoms) else f"{title} (real and PHANTOM boards)"
    return _render(
        "index.html", ("theme.js", "board.js"), title=title, phantom=all(phantoms) and phantoms,
        content=content, boards=views, data=text.script_json(data), root="",
        published=tables.published_table(content["published"]),
    )  # fmt: skip


def _detail_pages(content: Json, view: Json) -> Iterator[tuple[str, str]]:
    board = view["board"]
    stamp = "PHANTOM: " if board["phantom"] else ""
    common = {"content": content, "view": view, "board": board, "root": _UP,
              "phantom": board["phantom"]}  # fmt: skip
    for task in board["tasks"]:
        rows = [(e, e["cells"][task["id"]]) for e in board["encoders"] if task["id"] in e["cells"]]
        rows.sort(key=lambda row: (-row[1]["value"], row[0]["label"]))
        named = [(encoder["label"], cell) for encoder, cell in rows]
        metric = text.words(task["metric"])
        published = [row for row in content["published"] if row["task"] == task["id"]]
        page = _render(
            "task.html", ("theme.js",), **common, title=f"{stamp}{task['id']}: {task['title']}",
            task=task, rows=rows, published=tables.published_table(published),
            secondary=sorted({name for _, cell in rows for name in cell["secondary"]}),
            forest=figures.task_forest(named, metric, board["phantom"]) if rows else None,
        )  # fmt: skip
        yield f"tasks/{view['where']}/{task['id']}.html", page
    for row in (row for group in view["groups"] for row in group["rows"]):
        encoder = row["encoder"]
        page = _render(
            "encoder.html", ("theme.js",), **common, row=row, encoder=encoder,
            title=f"{stamp}{encoder['label']}: {encoder['title']}",
            pairs=[p for p in board["pairs"] if encoder["label"] in (p["first"], p["second"])],
        )  # fmt: skip
        yield row["href"], page


def _render(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    style = text.page_file("style.css")
    texts = [text.page_file(name) for name in scripts]
    return _environment().get_template(template).render(
        **values, style=Markup(style), scripts=[Markup(script) for script in texts],
        policy=text.content_policy(style, texts),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: text.page_file(f"templates/{name}")),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters = (
        text.number, text.signed, text.interval, text.score_interval, text.count, text.short_count,
        text.seconds, text.tally, text.words, text.linked, text.pretty, tables.warnings,
    )  # fmt: skip
    environment.globals["figures"] = figures
    environment.filters.update({each.__name__: each for each in filters}, p=text.p_value)
    return environment
