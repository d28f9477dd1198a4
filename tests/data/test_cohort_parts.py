"""A part of a cohort: a few slides, small enough to be sent to a worker, with the same bags."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.case_bags import CaseBags
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.packing import pack_cohort
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import CohortEntry, ColumnsEntry
from madeleine_bench.types import CohortData, rows_of
from tests.tool_bags import write_bag_file

CATALOGUE = load_catalogue()
SLIDES = 300


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    lines = ["slide_id,case_id,stain,er"]
    for number in range(SLIDES):
        if number != 7:
            bag = np.full((2, 4), number, np.float32)
            write_bag_file(folder / "bags" / f"s{number:03}.h5", bag, layout="trident")
        lines.append(f"s{number:03},c{number // 2:03},H&E,positive")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def local(files: Path, features: str = "bags") -> LocalCohort:
    columns = ColumnsEntry(case="case_id", stain="stain")
    entry = CohortEntry(features=files / features, labels=files / "labels.csv", columns=columns)
    return LocalCohort(CATALOGUE.cohorts["bcnb"], entry, files / "cache")


@pytest.fixture(params=["folder", "packed", "phantom", "cases"])
def cohort(request: pytest.FixtureRequest, files: Path) -> CohortData:
    if request.param == "phantom":
        return PhantomCohort(CATALOGUE.cohorts["bcnb"], CATALOGUE.tasks_of("bcnb"))
    if request.param == "cases":
        return CaseBags(local(files), ["H&E"])
    if request.param == "packed":
        if not (files / "packed").exists():
            pack_cohort(local(files), files / "packed")
        return local(files, "packed")
    return local(files)


def sent(data: CohortData) -> memoryview:
    """What goes to another process."""
    return ForkingPickler.dumps(data)


def test_a_part_has_the_same_bags_and_no_others(cohort):
    whole = [s for s in cohort.slides["slide_id"] if s not in cohort.no_bag]  # all facts known
    chosen = [whole[60], whole[5], whole[61]]
    keys = [cohort.content_key(slide_id) for slide_id in chosen]
    part = ForkingPickler.loads(sent(cohort.part(chosen)))
    assert part.slides["slide_id"].tolist() == sorted(chosen)
    names = (part.cohort_id, part.source, part.variant)
    assert names == (cohort.cohort_id, cohort.source, cohort.variant)
    assert part.no_bag == frozenset()
    for slide_id, key in zip(chosen, keys, strict=True):
        mine, theirs = part.read_bag(slide_id), cohort.read_bag(slide_id)
        assert np.array_equal(mine.features, theirs.features)
        assert (mine.slide_id, mine.case_id, mine.stain) == (
            theirs.slide_id, theirs.case_id, theirs.stain,
        )  # fmt: skip
        assert part.content_key(slide_id) == key
    assert len(cohort.slides) > len(part.slides)


def test_nothing_of_other_slides_is_sent(cohort):
    whole = [s for s in cohort.slides["slide_id"] if s not in cohort.no_bag]
    for slide_id in whole:
        cohort.content_key(slide_id)  # which is remembered
    data = bytes(sent(cohort.part(whole[3:5])))
    assert [slide_id for slide_id in whole if slide_id.encode() in data] == whole[3:5]


def test_a_slide_without_a_bag_is_still_without_one(files):
    part = local(files).part(["s006", "s007"])
    assert part.no_bag == {"s007"}
    assert set(part.files) == {"s006"}


def test_rows_of_a_table_that_are_not_there_are_refused():
    table = pd.DataFrame({"slide_id": ["a", "c"], "site": ["x", "y"]})
    assert rows_of(table, ["c"])["site"].tolist() == ["y"]
    for absent in ("b", "d"):
        with pytest.raises(KeyError, match=absent):
            rows_of(table, ["a", absent])
    with pytest.raises(KeyError):
        rows_of(table.iloc[::-1], ["a", "c"])
