"""Phantom slides on disk: which cases, what table, and a run that goes on."""

import csv
import io

import pandas as pd
import pytest
from phantom_rendering.slides import (
    choose_cases,
    label_table,
    write_phantom_slides,
)

from madeleine_bench.errors import InputError
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.slides.reader import Slide
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.cohort import Columns
from madeleine_bench.types import Silence

CATALOGUE = load_catalogue()


def phantom(cohort_id, **changes):
    spec = CATALOGUE.cohorts[cohort_id]
    return PhantomCohort(spec, CATALOGUE.tasks_of(cohort_id), **changes)


def write(cohort, out, cases=1, **changes):
    columns = CATALOGUE.cohorts[cohort.cohort_id].columns
    return write_phantom_slides(cohort, columns, cases, out, Silence(), mpp=2.0, **changes)


def test_a_few_cases_meet_every_stain():
    cohort = phantom("acrobat")
    chosen = choose_cases(cohort.slides, 24)
    assert chosen["case_id"].nunique() == 24
    assert set(chosen["stain"]) == {"H&E", "ER", "PR", "HER2", "Ki67"}
    assert (chosen[chosen["stain"] == "H&E"]["case_id"].value_counts() == 1).all()
    assert len(choose_cases(cohort.slides, 1153)) == 4211


@pytest.mark.parametrize("cases", [0, -1, 1154])
def test_an_impossible_number_of_cases_is_refused(cases):
    with pytest.raises(InputError, match=r"1 to 1153 cases"):
        choose_cases(phantom("acrobat").slides, cases)


def test_the_table_is_named_as_the_cohort_declares():
    table = pd.DataFrame(
        [["s,1", "c", "H&E", "x", "1"]],
        columns=["slide_id", "case_id", "stain", "site", "er"],
    )
    text = label_table(table, Columns(slide="wsi", case=None, site="centre", stain=None))
    assert list(csv.reader(io.StringIO(text))) == [["wsi", "centre", "er"], ["s,1", "x", "1"]]


def test_slides_say_that_they_are_phantoms_and_are_not_drawn_twice(tmp_path):
    cohort = phantom("acrobat")
    done = write(cohort, tmp_path)
    names = sorted(path.name for path in done.slides.glob("*.tif"))
    assert done.drawn == len(names) >= 3
    before = {name: (done.slides / name).read_bytes() for name in names}
    with Slide(done.slides / names[0]) as slide:
        assert slide.phantom == "rendered"
        assert slide.mpp == pytest.approx(2.0)
    (done.slides / names[0]).write_bytes(b"cut short")
    (done.slides / names[1]).unlink()
    again = write(cohort, tmp_path, workers=2)
    assert (again.drawn, again.kept) == (2, len(names) - 2)
    assert {name: (done.slides / name).read_bytes() for name in names} == before


def test_another_phantom_is_drawn_anew_and_says_so(tmp_path):
    cohort = phantom("aidpath")
    write(cohort, tmp_path)
    null = write(phantom("aidpath", signal=0.0), tmp_path)
    assert null.drawn == 1
    with Slide(next(null.slides.glob("*.tif"))) as slide:
        assert slide.phantom == "rendered-signal-0"


def test_a_kidney_is_not_drawn(tmp_path):
    with pytest.raises(InputError, match="breast cohorts only"):
        write(phantom("bwh-kidney"), tmp_path)
    assert not list(tmp_path.iterdir())
