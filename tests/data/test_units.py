from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.data.labels import NO_FILE, SOME_FILES, build_units
from madeleine_bench.errors import InputError
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.task import SurvivalLabels
from madeleine_bench.types import Units

Make = Callable[..., Any]


def er(*words: str) -> list[tuple[str, str, str, dict[str, str]]]:
    """Slides s0, s1, ... of cases c0, c1, ... with a word each in ERStatus."""
    return [(f"s{i}", f"c{i}", "X", {"ERStatus": word}) for i, word in enumerate(words)]


def test_gaps_are_counted_by_name(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = er("Positive", "Negative", "", "Not Performed", " Positive", "Indeterminate", "Negative")
    units = build_units(catalogue.tasks["tcga-breast-er"], make_cohort(rows, ["s6"]), "t.csv")
    assert list(units.table["unit_id"]) == ["c0", "c1", "c4"]
    assert list(units.table["label"]) == ["positive", "negative", "positive"]
    assert units.missing == {
        "no feature file": ("c6",),
        "no label: 'Indeterminate'": ("c5",),
        "no label: 'Not Performed'": ("c3",),
        "no label: empty": ("c2",),
    }
    assert units.slides == {"c0": ("s0",), "c1": ("s1",), "c4": ("s4",)}


def test_unknown_word_says_how_to_declare_it(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = er("Positive", "Negative", "positve", "positve", "odd")
    message = (
        r"t\.csv: column 'ERStatus': unknown label 'positve' in 2 row\(s\), first at slide 's2' "
        r"\(also unknown: odd\); did you mean 'Positive'\? .*tcga-breast-er\].*"
        r"map = .*\"positve\" = .*missing = \[\"Not Perf.*, \"positve\"\]"
    )
    with pytest.raises(InputError, match=message):
        build_units(catalogue.tasks["tcga-breast-er"], make_cohort(rows), "t.csv")


def test_column_is_never_matched_by_likeness(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = [(f"s{i}", f"s{i}", "", {"her2_binary": str(i % 2)}) for i in range(4)]
    with pytest.raises(InputError, match=r"no column is called 'her2'; did you mean 'her2_binary'"):
        build_units(catalogue.tasks["bcnb-her2"], make_cohort(rows), "t.csv")
    with pytest.raises(InputError, match=r"no column is called 'er'"):
        build_units(catalogue.tasks["bcnb-er"], make_cohort(rows), "t.csv")


def test_numbers_are_one_word_however_written(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = [(f"s{i}", f"s{i}", "", {"er": word}) for i, word in enumerate(["1", "1.0", "0", "0.0"])]
    units = build_units(catalogue.tasks["bcnb-er"], make_cohort(rows), "t.csv")
    assert list(units.table["label"]) == ["positive", "positive", "negative", "negative"]


def test_case_is_scored_from_all_its_slides(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = [
        ("a1", "A", "X", {"ERStatus": "Positive"}),
        ("a2", "A", "X", {"ERStatus": ""}),
        ("a3", "A", "X", {"ERStatus": "Positive"}),
        ("b1", "B", "X", {"ERStatus": "Negative"}),
    ]
    units = build_units(catalogue.tasks["tcga-breast-er"], make_cohort(rows, ["a3"]), "t.csv")
    assert units.slides == {"A": ("a1", "a2"), "B": ("b1",)}
    assert units.missing == {SOME_FILES: ("a3",)}


def test_slides_of_a_case_must_agree(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = [
        ("a1", "A", "X", {"ERStatus": "Positive"}),
        ("a2", "A", "X", {"ERStatus": "Negative"}),
        ("b1", "B", "X", {"ERStatus": "Negative"}),
    ]
    message = r"case 'A' disagree: 'positive' \(slide 'a1'\) and 'negative' \(slide 'a2'\)"
    with pytest.raises(InputError, match=message):
        build_units(catalogue.tasks["tcga-breast-er"], make_cohort(rows), "t.csv")
    by_slide = catalogue.tasks["tcga-breast-er"].model_copy(update={"unit": "slide"})
    assert len(build_units(by_slide, make_cohort(rows), "t.csv").table) == 3


def test_only_the_stains_of_the_task(make_cohort: Make, catalogue: Catalogue) -> None:
    task = catalogue.tasks["mgh-breast-er-quant"]
    words = list(task.labels.map)  # type: ignore[union-attr]
    rows = [(f"s{i}", f"c{i}", "", {"er_level": words[i % 6]}) for i in range(8)]
    stains = {f"s{i}": "ER" if i < 6 else "PR" for i in range(8)}
    units = build_units(task, make_cohort(rows, stains=stains), "t.csv")
    assert list(units.table["unit_id"]) == [f"s{i}" for i in range(6)]
    assert units.missing == {}
    only_pr = make_cohort(rows, stains=dict.fromkeys(stains, "PR"))
    with pytest.raises(InputError, match=r"wants slides of stain ER; there are PR"):
        build_units(task, only_pr, "t.csv")


def test_one_class_is_refused_with_what_was_left_out(
    make_cohort: Make, catalogue: Catalogue
) -> None:
    rows = er("Positive", "Positive", "Negative")
    message = (
        r"at least two of the classes negative, positive .*found positive in 2 units .*1 no fe"
    )
    with pytest.raises(InputError, match=message):
        build_units(catalogue.tasks["tcga-breast-er"], make_cohort(rows, ["s2"]), "t.csv")
    with pytest.raises(InputError, match="found none in 0 units"):
        build_units(catalogue.tasks["tcga-breast-er"], make_cohort(er("", "")), "t.csv")


def follow_up(*cells: tuple[str, str]) -> list[tuple[str, str, str, dict[str, str]]]:
    return [
        (f"s{i}", f"c{i}", "X", {"os_days": time, "os_event": event})
        for i, (time, event) in enumerate(cells)
    ]


def test_survival_keeps_time_zero_and_counts_gaps(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = follow_up(("0", "1.0"), ("612.5", "0"), ("", "1"), ("7", ""), ("", ""))
    units = build_units(catalogue.tasks["tcga-breast-os"], make_cohort(rows), "t.csv")
    assert list(units.table["time_days"]) == [0.0, 612.5]
    assert list(units.table["event"]) == [True, False]
    assert units.table["event"].dtype == bool
    assert units.missing == {"no event indicator": ("c3",), "no follow-up time": ("c2", "c4")}


def test_polarity_is_what_is_declared(make_cohort: Make, catalogue: Catalogue) -> None:
    labels = SurvivalLabels(
        type="survival", time="os_days", event="os_event", event_value="0", censored_value="1"
    )
    task = catalogue.tasks["tcga-breast-os"].model_copy(update={"labels": labels})
    rows = follow_up(("1", "1"), ("2", "0"))
    units = build_units(task, make_cohort(rows), "t.csv")
    assert list(units.table["event"]) == [False, True]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("5", "dead"), r"slide 's1': 'dead' in column 'os_event' is neither the event \('1'\)"),
        (("-1", "1"), r"slide 's1': '-1' in column 'os_days' is not a follow-up time"),
        (("soon", "1"), r"'soon' in column 'os_days' is not a follow-up time"),
        (("nan", "1"), r"'nan' in column 'os_days' is not a follow-up time"),
        (("inf", "0"), r"'inf' in column 'os_days' is not a follow-up time"),
    ],
)
def test_wrong_survival_cells(
    make_cohort: Make, catalogue: Catalogue, cells: tuple[str, str], message: str
) -> None:
    rows = follow_up(("3", "1"), cells)
    with pytest.raises(InputError, match=message):
        build_units(catalogue.tasks["tcga-breast-os"], make_cohort(rows), "t.csv")


def test_no_event_is_refused(make_cohort: Make, catalogue: Catalogue) -> None:
    rows = follow_up(("3", "0"), ("4", "0"))
    with pytest.raises(InputError, match=r"no event among 2 units .*check event_value \('1'\)"):
        build_units(catalogue.tasks["tcga-breast-os"], make_cohort(rows), "t.csv")


def test_a_case_has_one_site_where_folds_keep_sites(
    make_cohort: Make, catalogue: Catalogue
) -> None:
    cells = {"os_days": "3", "os_event": "1"}
    rows = [("a1", "A", "X", cells), ("a2", "A", "Y", cells)]
    with pytest.raises(
        InputError, match=r"case 'A' disagree: 'X' \(slide 'a1'\) and 'Y' \(slide 'a2'\)"
    ):
        build_units(catalogue.tasks["tcga-breast-os"], make_cohort(rows), "t.csv")


def reference_counts(words: list[str]) -> dict[str, int]:
    """The plain way to count: each word looked up by hand."""
    known = {"Positive": "positive", "Negative": "negative"}
    return {n: sum(known.get(w) == n for w in words) for n in ("positive", "negative")}


WORDS = st.sampled_from(["Positive", "Negative", "", "Not Performed", "Indeterminate"])


@given(words=st.lists(WORDS, min_size=2, max_size=20), order=st.randoms(use_true_random=False))
def test_nothing_is_lost_and_row_order_does_not_matter(
    words: list[str], order: Any, catalogue: Catalogue
) -> None:
    import pandas as pd

    words = ["Positive", "Negative", *words]
    rows = [
        {"slide_id": f"s{i:03d}", "case_id": f"c{i:03d}", "stain": "H&E", "site": "", "ERStatus": w}
        for i, w in enumerate(words)
    ]
    shuffled = order.sample(rows, len(rows))

    class Cohort:
        cohort_id, source, variant, no_bag = "x", "local", "", frozenset({"s002"})

        def __init__(self, records: list[dict[str, str]]) -> None:
            self.slides = pd.DataFrame(records, dtype=str)

    task = catalogue.tasks["tcga-breast-er"]
    results: list[Units] = [build_units(task, Cohort(r), "t") for r in (rows, shuffled)]  # type: ignore[arg-type]
    units = results[0]
    assert units.hash == results[1].hash
    assert units.missing == results[1].missing
    kept = set(units.table["unit_id"])
    lost = {unit_id for ids in units.missing.values() for unit_id in ids}
    assert kept | lost == {f"c{i:03d}" for i in range(len(words))}
    assert not kept & lost
    counts = reference_counts(words[:2] + words[3:])
    assert units.table["label"].value_counts().to_dict() == {k: v for k, v in counts.items() if v}
    if words[2] in ("Positive", "Negative"):
        assert units.missing[NO_FILE] == ("c002",)


def test_hash_follows_the_content(make_cohort: Make, catalogue: Catalogue) -> None:
    task = catalogue.tasks["tcga-breast-er"]
    base = build_units(task, make_cohort(er("Positive", "Negative", "")), "t").hash
    assert build_units(task, make_cohort(er("Positive", "Negative", "")), "u").hash == base
    assert build_units(task, make_cohort(er("Negative", "Positive", "")), "t").hash != base
    moved = [(s, c, "Y", cells) for s, c, _, cells in er("Positive", "Negative", "")]
    assert build_units(task, make_cohort(moved), "t").hash != base
