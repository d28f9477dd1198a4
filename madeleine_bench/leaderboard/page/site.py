"""The whole site from one document: an index that holds everything, and a page for each thing."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.page import wording
from madeleine_bench.leaderboard.page.calibration_figure import (
    calibration_plot,
    calibration_summary,
)
from madeleine_bench.leaderboard.page.columns import columns_of, legend
from madeleine_bench.leaderboard.page.curve_figure import kaplan_meier
from madeleine_bench.leaderboard.page.curve_figure import summary as curve_summary
from madeleine_bench.leaderboard.page.duels import published_table, verdict, win_matrix
from madeleine_bench.leaderboard.page.figures import (
    cost_scatter,
    mean_reach,
    strip_axis,
    task_forest,
)
from madeleine_bench.leaderboard.page.rank_figure import critical_difference
from madeleine_bench.leaderboard.page.rows import row_groups, shade, warnings
from madeleine_bench.leaderboard.page.safety import (
    checked_slug,
    content_policy,
    linked,
    protocol_slug,
    script_json,
)

_UP = "../../../"


def write_site(document: dict[str, Any], folder: Path) -> list[Path]:
    """Return the paths of the pages written under a folder, the index first.

    Raises:
        InputError: a name in the document cannot name a file, the document is of another kind, or
            the folder holds something else.
    """
    check_site_folder(folder)
    written = []
    for name, text in page_files(document).items():
        write_text(folder / name, text)
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
    if folder.is_dir() and any(map(_is_kept, folder.iterdir())) and not _is_site(folder):
        raise InputError(
            f"{folder} holds files that are no leaderboard; choose an empty or a new folder"
        )


def _is_kept(path: Path) -> bool:
    """Return whether a file is somebody's, and not what a build that was killed left."""
    return not (path.name.startswith(".") and path.suffix == ".tmp")


def _is_site(folder: Path) -> bool:
    try:
        return "madeleine-bench" in (folder / "index.html").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def page_files(document: dict[str, Any]) -> dict[str, str]:
    """Return the text of every page by its path; equal documents give equal texts.

    Raises:
        InputError: a name in the document cannot name a file, or the document is of another kind.
    """
    content = _normal(document)
    boards = [_board_view(board, index) for index, board in enumerate(content["boards"])]
    pages = {"index.html": _index(content, boards)}
    for view in boards:
        for name, text in _detail_pages(content, view):
            if name in pages:
                raise InputError(f"two pages of the leaderboard would share the name {name}")
            pages[name] = text
    return pages


def _normal(document: dict[str, Any]) -> dict[str, Any]:
    # Equal documents may list their keys in another order; sorted, they give equal bytes.
    try:
        content: dict[str, Any] = json.loads(json.dumps(document, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the board document is not plain JSON: {error}") from error
    if content.get("schema_version") != 1:
        raise InputError(
            f"the board document has schema_version {content.get('schema_version')!r}; these pages "
            "read 1: make it again with this version of madeleine-bench"
        )
    return content


def _board_view(board: dict[str, Any], index: int) -> dict[str, Any]:
    where = f"{checked_slug(board['name'], 'board name')}/{protocol_slug(board['protocol'])}"
    for task in board["tasks"]:
        checked_slug(task["id"], "task id")
    groups = row_groups(board, f"encoders/{where}")
    return {
        "id": f"b{index}",
        "key": f"{board['name']}/{board['protocol']}",
        "where": where,
        "board": board,
        "columns": columns_of(board),
        "groups": groups,
        "rows": [row for group in groups for row in group.rows],
        "axis": strip_axis(mean_reach(board), bool(board["phantom"])),
        "ranks": critical_difference(board),
        "costs": _costs(board),
        "matrix": win_matrix(board),
        "curves": _curves(board),
    }


def _costs(board: dict[str, Any]) -> list[dict[str, Any]]:
    axes = (("parameters", "number of parameters"), ("seconds_per_slide", "seconds per slide"))
    return [
        {
            "title": title,
            "drawing": cost_scatter(board, key, title),
            "unknown": [e["label"] for e in board["encoders"] if e[key] is None],
            "zero": [e["label"] for e in board["encoders"] if e[key] == 0],
            "no_mean": [e["label"] for e in board["encoders"] if e[key] and e["mean"] is None],
        }
        for key, title in axes
    ]


def _curves(board: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    order = [e["label"] for e in board["encoders"]]
    return {
        task["id"]: [
            {"label": label, "index": order.index(label), "summary": curve_summary(curves[label]),
             "drawing": kaplan_meier(curves[label], label, bool(board["phantom"])),
             "calibration": calibration_plot(curves[label], label, bool(board["phantom"])),
             "calibration_summary": calibration_summary(curves[label])}
            for label in order if label in curves
        ]
        for task in board["tasks"] if (curves := board["survival"].get(task["id"]))
    }  # fmt: skip


def _index(content: dict[str, Any], boards: list[dict[str, Any]]) -> str:
    slim = [{k: v for k, v in b.items() if k != "survival"} for b in content["boards"]]
    data = {
        "boards": [
            {**board, "id": view["id"], "key": view["key"], "where": view["where"],
             "columns": [{"key": c.key, "head": c.head, "shown": c.shown} for c in view["columns"]]}
            for board, view in zip(slim, boards, strict=True)
        ],
        "wording": {"marks": wording.MARKS, "verified": wording.VERIFIED, "names": wording.NAMES},
    }  # fmt: skip
    phantoms = [bool(board["phantom"]) for board in content["boards"]]
    title = "Slide encoders, ranked with their uncertainty"
    if any(phantoms):
        title = f"PHANTOM: {title}" if all(phantoms) else f"{title} (real and PHANTOM boards)"
    return _render(
        "index.html", ("theme.js", "board.js"), title=title, phantom=all(phantoms) and phantoms,
        content=content, boards=boards, legend=legend(), data=script_json(data), root="",
        published=published_table(content["published"]),
    )  # fmt: skip


def _detail_pages(content: dict[str, Any], view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    board = view["board"]
    stamp = "PHANTOM: " if board["phantom"] else ""
    common = {"content": content, "view": view, "board": board, "root": _UP,
              "phantom": board["phantom"]}  # fmt: skip
    for task in board["tasks"]:
        rows = _scored(board, task["id"])
        published = [row for row in content["published"] if row["task"] == task["id"]]
        text = _render(
            "task.html", ("theme.js",), **common, title=f"{stamp}{task['id']}: {task['title']}",
            task=task, rows=rows, published=published_table(published),
            secondary=sorted({name for _, cell in rows for name in cell["secondary"]}),
            forest=_forest(rows, task, board),
        )  # fmt: skip
        yield f"tasks/{view['where']}/{task['id']}.html", text
    for row in view["rows"]:
        encoder = row.encoder
        text = _render(
            "encoder.html", ("theme.js",), **common, row=row, encoder=encoder,
            title=f"{stamp}{encoder['label']}: {encoder['title']}",
            pairs=[p for p in board["pairs"] if encoder["label"] in (p["first"], p["second"])],
        )  # fmt: skip
        yield f"encoders/{view['where']}/{encoder['slug']}.html", text


def _scored(board: dict[str, Any], task_id: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the encoders with a score on a task, the best first."""
    rows = [(e, e["cells"][task_id]) for e in board["encoders"] if task_id in e["cells"]]
    return sorted(rows, key=lambda row: (-row[1]["value"], row[0]["label"]))


def _forest(
    rows: list[tuple[dict[str, Any], dict[str, Any]]], task: dict[str, Any], board: dict[str, Any]
) -> Markup | None:
    if not rows:
        return None
    named = [(encoder["label"], cell) for encoder, cell in rows]
    return task_forest(named, wording.words(task["metric"]), bool(board["phantom"]))


def _render(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    style = _package_text("style.css")
    texts = [_package_text(name) for name in scripts]
    return _environment().get_template(template).render(
        **values, style=Markup(style), scripts=[Markup(text) for text in texts],
        policy=content_policy(style, texts),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: _package_text(f"templates/{name}")),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        number=wording.number, signed=wording.signed, interval=wording.interval,
        count=wording.count, p=wording.p_value, words=wording.words, mark=wording.mark,
        verified=wording.verified, seconds=wording.seconds, score_interval=wording.score_interval,
        whole_range=wording.whole_range, plural=wording.plural, linked=linked, shade=shade,
        verdict=verdict, metric=wording.metric, warnings=warnings, pretty=_pretty,
    )  # fmt: skip
    return environment


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


@cache
def _package_text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
