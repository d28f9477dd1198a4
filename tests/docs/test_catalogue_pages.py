"""The card of a task, cohort, protocol or encoder says all that its YAML says."""

import html
import re

import pytest

from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import read_yaml
from tests.docs.catalogue_cards import catalogue_pages
from tests.docs.site_pages import encoder_pages

TASKS, ENCODERS, BASELINES = (resource_folder(n) for n in ("tasks", "encoders", "baselines"))
PAGES = {**catalogue_pages(load_catalogue()), **encoder_pages()}
_FOLDERS = {
    "tasks": TASKS, "cohorts": TASKS / "cohorts", "protocols": TASKS / "protocols",
    "encoders/slide-encoders": ENCODERS, "encoders/external": ENCODERS / "external",
    "encoders/patch-encoders": ENCODERS / "patch", "encoders/baselines": BASELINES,
    "encoders/controls": BASELINES,
}  # fmt: skip


def plain(text: str) -> str:
    """A page as a reader sees it: without marks, entities and line ends."""
    seen = html.unescape(re.sub(r"\\([\\`*_\[\]|~])", r"\1", text.replace("`", "")))
    return " ".join(seen.split())


def leaves(value: object) -> list[str]:
    """Everything a YAML says, as words; keys of maps are words too."""
    if isinstance(value, dict):
        return [word for key, inside in value.items() for word in [str(key), *leaves(inside)]]
    if isinstance(value, list):
        return [word for inside in value for word in leaves(inside)]
    if isinstance(value, bool) or value is None:
        return []
    return [f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())]


def facts(path) -> list[str]:
    """The values of a card, and those that a task has from its cohort; not the names of keys."""
    data = dict(read_yaml(path))
    if path.parent == TASKS:
        data = {**read_yaml(TASKS / "cohorts" / f"{data['cohort']}.yaml")["task_defaults"], **data}
    data.pop("task_defaults", None)
    return [word for value in data.values() for word in leaves(value)]


def files():
    return [
        (f"{folder}/{path.stem}.md", path)
        for folder, source in _FOLDERS.items()
        for path in sorted(source.glob("*.yaml"))
        if f"{folder}/{path.stem}.md" in PAGES
    ]


# Keys inside a card that its page puts into words.
_WORDED = {
    "type", "column", "classes", "map", "missing", "name", "chance", "higher_is_better", "scheme",
    "folds", "repeats", "like", "n", "events", "status", "source", "how", "url", "time", "event",
    "event_value", "censored_value", "model",
}  # fmt: skip


@pytest.mark.parametrize(("page", "path"), files(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_card_says_all_that_its_yaml_says(page, path):
    text = plain(PAGES[page])
    told = [word for word in facts(path) if word not in _WORDED]
    assert len(told) > 5
    assert [word for word in told if word.lower() not in text.lower()] == []


def test_every_yaml_has_one_card_and_stands_in_the_index():
    paths = [path for _, path in files()]
    every = {path for source in _FOLDERS.values() for path in source.glob("*.yaml")}
    assert sorted(paths) == sorted(every)
    for page, path in files():
        folder = page.split("/")[0]
        assert f"({page.removeprefix(folder + '/')})" in PAGES[f"{folder}/index.md"], path


def test_a_card_shows_a_changed_fact():
    catalogue = load_catalogue()
    task = catalogue.tasks["bcnb-er"]
    changed = task.model_copy(update={"title": "A | <b>title</b>", "version": 7})
    other = type(catalogue)({"bcnb-er": changed}, catalogue.cohorts, catalogue.protocols)
    page = catalogue_pages(other)["tasks/bcnb-er.md"]
    assert page.startswith("# A \\| &lt;b&gt;title&lt;/b&gt;\n")
    assert "`bcnb-er`, 7" in page
