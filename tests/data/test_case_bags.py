"""Cases of several slides: fused late, early and per stain, and what a missing stain does."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.case_bags import CaseBags, slide_groups
from madeleine_bench.data.labels import NO_STAIN, build_units
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Bag, Units

CATALOGUE = load_catalogue()
SLIDES = [("a1", "a", "H&E"), ("a2", "a", "PAS"), ("a3", "a", "PAS"), ("b1", "b", "H&E")]
STAIN_OF = {slide: stain for slide, _, stain in SLIDES}


class Cohort:
    """Four slides of two cases; patch features are the number of the slide."""

    cohort_id, source, variant = "made-up", "local", ""

    def __init__(self, no_bag=()):
        self.no_bag = frozenset(no_bag)
        self.keys = {slide: f"key of {slide}" for slide in STAIN_OF}
        self.slides = pd.DataFrame(SLIDES, columns=["slide_id", "case_id", "stain"]).assign(site="")

    def read_bag(self, slide_id):
        number = list(STAIN_OF).index(slide_id)
        features = np.full((number + 1, 3), float(number), dtype=np.float32)
        coords = np.zeros((number + 1, 2), dtype=np.int64)
        case = slide_id[0]
        return Bag(
            slide_id, case, features, stain=STAIN_OF[slide_id], coords=coords, organ="kidney"
        )

    def content_key(self, slide_id):
        return self.keys[slide_id]


def units():
    table = pd.DataFrame({"unit_id": ["a", "b"], "case_id": ["a", "b"], "site": ["", ""]})
    return Units(table, {"a": ("a1", "a2", "a3"), "b": ("b1",)}, {}, "")


def test_late_averages_slides_and_per_stain_averages_stains():
    embeddings = Embeddings(tuple(STAIN_OF), np.array([[0.0], [6.0], [12.0], [5.0]], "f4"), "")
    late = unit_embeddings(embeddings, units(), slide_groups(units(), "late", STAIN_OF))
    assert late.tolist() == [[6.0], [5.0]]
    assert np.array_equal(late, unit_embeddings(embeddings, units()))
    per_stain = unit_embeddings(embeddings, units(), slide_groups(units(), "per-stain", STAIN_OF))
    assert per_stain.tolist() == [[4.5], [5.0]]


def test_early_takes_the_embedding_of_the_case():
    embeddings = Embeddings(("b", "a"), np.array([[1.0], [2.0]], "f4"), "")
    groups = slide_groups(units(), "early", STAIN_OF)
    assert unit_embeddings(embeddings, units(), groups).tolist() == [[2.0], [1.0]]


def test_a_case_is_one_bag_of_all_its_slides():
    cases = CaseBags(Cohort(), ("H&E", "PAS"))
    assert cases.slides["slide_id"].tolist() == ["a", "b"]
    assert cases.slides["stain"].tolist() == ["several", "H&E"]
    bag = cases.read_bag("a")
    assert bag.features[:, 0].tolist() == [0, 1, 1, 2, 2, 2]
    assert (bag.slide_id, bag.case_id, bag.stain, bag.organ) == ("a", "a", "several", "kidney")
    assert bag.coords is None
    assert cases.read_bag("b").coords is not None


def test_stains_that_are_not_asked_for_are_not_in_the_bag():
    cases = CaseBags(Cohort(), ("PAS",))
    assert cases.slides["slide_id"].tolist() == ["a"]
    assert cases.read_bag("a").features[:, 0].tolist() == [1, 1, 2, 2, 2]
    assert cases.read_bag("a").stain == "PAS"


def test_slides_without_a_file_are_left_out_of_their_case():
    cases = CaseBags(Cohort(no_bag=("a2", "b1")), ("H&E", "PAS"))
    assert cases.no_bag == {"b"}
    assert cases.read_bag("a").features[:, 0].tolist() == [0, 2, 2, 2]


def test_a_case_changes_when_any_of_its_bags_does():
    cohort = Cohort()
    cases = CaseBags(cohort, ("H&E", "PAS"))
    before = [cases.content_key(case) for case in ("a", "b")]
    cohort.keys["a3"] = "another"
    after = [cases.content_key(case) for case in ("a", "b")]
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.fixture(scope="module")
def kidney():
    return PhantomCohort(CATALOGUE.cohorts["bwh-kidney"], CATALOGUE.tasks_of("bwh-kidney"))


def test_a_case_without_a_stain_is_scored_and_named(kidney):
    task = CATALOGUE.tasks["bwh-kidney-amr"]
    whole = kidney.slides
    case = whole["case_id"].iloc[0]
    kidney.slides = whole[~((whole["case_id"] == case) & (whole["stain"] == "PAS"))]
    try:
        found = build_units(task, kidney, "phantom")
    finally:
        kidney.slides = whole
    assert found.missing == {NO_STAIN.format("PAS"): (case,)}
    assert case in set(found.table["unit_id"])
    assert not build_units(task, kidney, "phantom").missing


@pytest.mark.parametrize("protocol", ["linear-probe", "few-shot"])
def test_a_task_with_the_splits_of_another_has_the_same_folds(protocol, kidney, tmp_path):
    of = {}
    for name in ("bwh-kidney-amr", "bwh-kidney-amr-he"):
        task = CATALOGUE.tasks[name]
        scored = build_units(task, kidney, "phantom")
        of[name] = scored, frozen_splits(tmp_path, task, CATALOGUE.protocol(protocol), scored)
    (one, first), (two, second) = of.values()
    assert one.table["unit_id"].tolist() == two.table["unit_id"].tolist()
    assert one.table["label"].tolist() == two.table["label"].tolist()
    assert len(two.slides[two.table["unit_id"][0]]) < len(one.slides[one.table["unit_id"][0]])
    assert [s.key for s in first] == [s.key for s in second]
    assert all(np.array_equal(a.test, b.test) for a, b in zip(first, second, strict=True))
    task = CATALOGUE.tasks["bwh-kidney-amr-he"]
    alone = task.model_copy(
        update={"splits": task.splits.model_copy(update={"like": None}), "id": "another"}
    )
    other = frozen_splits(tmp_path, alone, CATALOGUE.protocol(protocol), two)
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


def test_given_splits_may_name_a_case_that_lacks_a_stain(kidney, tmp_path):
    task = CATALOGUE.tasks["bwh-kidney-amr"]
    scored = build_units(task, kidney, "phantom")
    unit = scored.table["unit_id"][0]
    lacking = replace(scored, missing={NO_STAIN.format("PAS"): (unit,)})
    rows = [f"0,{i % 5},{u}" for i, u in enumerate(scored.table["unit_id"])]
    given = tmp_path / "given.csv"
    given.write_text("\n".join(["repeat,fold,unit_id", *rows]) + "\n")
    splits = frozen_splits(tmp_path, task, CATALOGUE.protocol("linear-probe"), lacking, given)
    assert sorted(i for split in splits for i in split.test) == list(range(len(scored.table)))
