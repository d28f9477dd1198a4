"""The README agrees with the catalogue."""

import re

from madeleine_bench.specs.catalogue import load_catalogue
from tests.docs.page_commands import ROOT

CATALOGUE = load_catalogue()
ROW = re.compile(r"^\| ([a-z-]+) \| ([\d,]+) \| .* \| (open|on request|private)", re.MULTILINE)


def test_the_table_names_every_core_cohort_with_its_slides_and_access():
    text = (ROOT / "README.md").read_text()
    found = {
        name: (int(slides.replace(",", "")), access) for name, slides, access in ROW.findall(text)
    }
    core = {task.cohort for task in CATALOGUE.tasks.values() if task.status == "core"}
    cohorts = [CATALOGUE.cohorts[name] for name in core]
    assert found == {c.id: (c.slides, c.access.status.replace("-", " ")) for c in cohorts}


def test_the_numbers_of_tasks_are_those_of_the_catalogue():
    text = " ".join((ROOT / "README.md").read_text().split())
    core = [task for task in CATALOGUE.tasks.values() if task.status == "core"]
    reachable = [t for t in core if CATALOGUE.cohorts[t.cohort].access.status != "private"]
    assert f"on {len(core)} tasks of" in text
    assert f"The {len(reachable)} tasks with open or requestable data" in text
