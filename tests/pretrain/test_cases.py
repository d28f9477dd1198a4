import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.cases import build_cases, check_pairs, split_cases
from tests.pretrain.stores import make_breast, make_store

MIXED = [
    ("s1", "c1", "H&E", 9),
    ("s2", "c1", "PR", 8),
    ("s3", "c1", "ER", 7),
    ("s4", "c2", "H&E", 6),
    ("s5", "c2", "ER", 5),
    ("s6", "c2", "ER", 4),
]


def build(slides, encoder="madeleine", unusable="refuse", min_patches=2):
    return build_cases(
        make_store(slides), min_patches=min_patches, unusable=unusable, encoder=encoder
    )


def test_slides_by_case_and_stain() -> None:
    table = build(MIXED)
    assert table.case_ids == ("c1", "c2")
    assert table.stains == ("H&E", "ER", "PR")
    assert table.slides == (((0,), (2,), (1,)), ((3,), (4, 5), ()))
    assert table.left_out == {}
    assert len(table) == 2


def test_intra_ssl_sees_he_alone() -> None:
    table = build([*MIXED, ("s7", "c3", "H&E", 3), ("s8", "c3", "ER", 1)], encoder="intra-ssl")
    assert table.stains == ("H&E",)
    assert table.slides == (((0,),), ((3,),), ((6,),))


def test_a_case_without_he() -> None:
    slides = [*MIXED, ("s7", "c3", "ER", 9)]
    with pytest.raises(InputError, match=r"no usable H&E slide \(1\): c3.*unusable: skip"):
        build(slides)
    table = build(slides, unusable="skip")
    assert table.case_ids == ("c1", "c2")
    assert table.left_out == {"no usable H&E slide": ("c3",)}


def test_a_bag_of_one_patch() -> None:
    slides = [*MIXED, ("s7", "c2", "PR", 1), ("s8", "c3", "H&E", 1), ("s9", "c3", "ER", 8)]
    with pytest.raises(InputError, match=r"fewer than 2 patches \(2\): s7, s8; .*\(1\): c3"):
        build(slides)
    table = build(slides, unusable="skip")
    assert table.case_ids == ("c1", "c2")
    assert table.slides[1] == ((3,), (4, 5), ())
    assert table.left_out == {
        "fewer than 2 patches": ("s7", "s8"),
        "no usable H&E slide": ("c3",),
    }


def test_a_case_without_a_second_stain_is_left_out_and_named() -> None:
    slides = [*MIXED, ("s7", "c3", "H&E", 9)]
    table = build(slides)
    assert table.case_ids == ("c1", "c2")
    assert table.left_out == {"no second stain": ("c3",)}
    assert build(slides, encoder="intra-ssl").case_ids == ("c1", "c2", "c3")


def test_a_stain_that_skipping_takes_away_is_no_stain_of_the_table() -> None:
    slides = [s if s[2] != "PR" else (*s[:3], 1) for s in MIXED]
    assert build(slides, unusable="skip").stains == ("H&E", "ER")


def test_many_ids_are_not_all_told() -> None:
    slides = [*MIXED, *((f"t{i}", f"d{i}", "ER", 4) for i in range(7))]
    with pytest.raises(InputError, match=r"\(7\): d0, d1, d2, d3, d4, \.\.\."):
        build(slides)


def test_cohorts_that_cannot_train() -> None:
    he = [slide for slide in MIXED if slide[2] == "H&E"]
    other = [slide for slide in MIXED if slide[2] != "H&E"]
    with pytest.raises(InputError, match=r"one stain, H&E.*train intra-ssl"):
        build(he)
    assert len(build(he, encoder="intra-ssl")) == 2
    for encoder in ("madeleine", "intra-ssl"):
        with pytest.raises(InputError, match=r"no H&E slide with features \(stains: ER, PR\)"):
            build(other, encoder=encoder)
    with pytest.raises(InputError, match="no case is left; fewer than 99 patches"):
        build(MIXED, unusable="skip", min_patches=99)


def test_split_is_a_partition() -> None:
    store = make_breast(40)
    table = build_cases(store, min_patches=2, unusable="refuse", encoder="madeleine")
    train, held_out = split_cases(table, 0.25, 3)
    assert sorted([*train.case_ids, *held_out.case_ids]) == list(table.case_ids)
    assert not set(train.case_ids) & set(held_out.case_ids)
    assert 4 <= len(held_out) <= 16
    assert train.stains == held_out.stains == table.stains
    where = table.case_ids.index(held_out.case_ids[0])
    assert held_out.slides[0] == table.slides[where]
    assert split_cases(table, 0.25, 3) == (train, held_out)
    assert split_cases(table, 0.25, 4) != (train, held_out)


def test_split_stays_when_cases_come() -> None:
    few, many = (
        split_cases(
            build_cases(make_breast(n), min_patches=2, unusable="refuse", encoder="madeleine"),
            0.3,
            0,
        )
        for n in (30, 50)
    )
    known = set(few[0].case_ids) | set(few[1].case_ids)
    assert set(many[1].case_ids) & known == set(few[1].case_ids)


@pytest.mark.parametrize("seed", range(8))
def test_each_side_of_a_split_keeps_two_cases(seed: int) -> None:
    table = build_cases(make_breast(5), min_patches=2, unusable="refuse", encoder="madeleine")
    for share in (1e-6, 0.5):
        assert np.min([len(part) for part in split_cases(table, share, seed)]) >= 2


def test_too_few_cases_to_split() -> None:
    table = build_cases(make_breast(3), min_patches=2, unusable="refuse", encoder="madeleine")
    with pytest.raises(InputError, match="3 cases can be used; pretraining needs 4"):
        split_cases(table, 0.1, 0)


def test_two_cases_share_a_stain_on_each_side_of_a_split() -> None:
    table = build_cases(make_breast(4), min_patches=2, unusable="refuse", encoder="madeleine")
    check_pairs(table.take([0, 1]), table.take([2, 3]))
    no_pair = build([*MIXED, ("s7", "c3", "H&E", 9), ("s8", "c3", "Ki67", 9)]).take([1, 2])
    with pytest.raises(InputError, match=r"no two held-out cases have the same stain.*c2, c3"):
        check_pairs(table, no_pair)
    with pytest.raises(InputError, match="no two training cases"):
        check_pairs(no_pair, table)
