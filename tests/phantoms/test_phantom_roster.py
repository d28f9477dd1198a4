import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.errors import InputError
from madeleine_bench.phantoms.roster import ROSTER_COLUMNS, make_roster
from madeleine_bench.specs.cohort import PhantomSpec


def phantom(slides, cases, **more):
    return PhantomSpec(organ="breast", slides=slides, cases=cases, labels={}, **more)


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    cases=st.integers(1, 25),
    sites=st.integers(1, 6),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_stain_is_dealt_evenly_and_no_site_is_empty(counts, cases, sites, seed):
    if sum(counts) < cases or sites > cases:
        return
    slides = dict(zip(("H&E", "ER", "PR", "HER2"), counts, strict=False))
    table = make_roster("toy", phantom(slides, cases, sites=sites), seed)
    assert list(table.columns) == ROSTER_COLUMNS
    assert table["slide_id"].is_unique
    assert table["slide_id"].is_monotonic_increasing
    assert table["stain"].value_counts().to_dict() == {s: n for s, n in slides.items() if n}
    assert table["case_id"].nunique() == cases
    for stain, count in slides.items():
        held = table[table["stain"] == stain]["case_id"].value_counts()
        assert held.max() <= -(-count // cases) if count else held.empty
        assert len(held) == min(count, cases)
    total = table["case_id"].value_counts()
    assert total.max() - total.min() <= 1
    assert table.groupby("case_id")["site"].nunique().max() == 1
    assert table["site"].nunique() == sites


def test_aidpath_gives_each_case_one_stain_and_kidney_every_case_all():
    aidpath = make_roster("aidpath", phantom({"HER2": 25, "Ki67": 25}, 50), 0)
    assert (aidpath["case_id"].value_counts() == 1).all()
    stains = {"H&E": 463, "PAS": 463, "Jones": 463, "trichrome": 463}
    kidney = make_roster("bwh-kidney", phantom(stains, 210), 0)
    assert len(kidney) == 1852
    assert (kidney.groupby("case_id")["stain"].nunique() == 4).all()


def test_one_slide_a_case_is_named_as_its_case():
    table = make_roster("bcnb", phantom({"H&E": 3}, 3), 0)
    assert table["slide_id"].tolist() == [f"bcnb-phantom-000{i}" for i in (1, 2, 3)]
    assert (table["slide_id"] == table["case_id"]).all()


def test_slide_names_tell_the_stain_and_the_section():
    table = make_roster("toy", phantom({"H&E": 3, "ER": 2}, 2), 0)
    names = [f"toy-phantom-{end}" for end in ("0001-ER", "0001-HE-1", "0001-HE-2", "0002-ER")]
    assert table["slide_id"].tolist() == [*names, "toy-phantom-0002-HE-1"]


def test_sites_are_a_few_big_ones_and_a_tail():
    sizes = make_roster("tcga", phantom({"H&E": 1041}, 1041, sites=39), 0)["site"].value_counts()
    assert len(sizes) == 39
    assert sizes.iloc[:5].sum() > 1041 / 2
    assert sizes.median() < 20


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (phantom({"H&E": 3}, 4), r"toy\.yaml.*'phantom.cases' is 4.*adds up to 3"),
        (phantom({"H&E": 4}, 4, sites=5), r"toy\.yaml.*'phantom.sites' is 5.*4 cases"),
    ],
)
def test_impossible_rosters_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        make_roster("toy", spec, 0)
