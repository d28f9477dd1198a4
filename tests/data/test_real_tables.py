"""Real labels of TCGA, and a made-up table in the layout and with the counts of BCNB's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from madeleine_bench.data.audit import audit_splits
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.types import Units

TCGA = Path(__file__).parents[2].parent / "shared" / "data" / "tcga_brca" / "tcga_brca.csv"
Make = Callable[..., Any]


@pytest.fixture
def tcga(catalogue: Catalogue, make_cohort: Make) -> Any:
    if not TCGA.is_file():
        pytest.skip(f"real TCGA labels not there: {TCGA}")
    cohort = make_cohort([("x", "x", "", {})])
    cohort.slides = read_label_table(TCGA, catalogue.cohorts["tcga-breast"].columns)
    return cohort


def units_of(catalogue: Catalogue, cohort: Any, task_id: str) -> Units:
    return build_units(catalogue.tasks[task_id], cohort, str(TCGA))


def test_tcga_slides_cases_and_deaths(tcga: Any, catalogue: Catalogue) -> None:
    assert len(tcga.slides) == 1134
    assert tcga.slides["case_id"].nunique() == 1062
    assert tcga.slides["site"].nunique() == 39
    survival = units_of(catalogue, tcga, "tcga-breast-os")
    assert len(survival.table) == 1061
    assert int(survival.table["event"].sum()) == 146
    assert (survival.table["time_days"] == 0).any(), "a follow-up of 0 days is kept"
    assert {reason: len(ids) for reason, ids in survival.missing.items()} == {
        "no follow-up time": 1
    }


@pytest.mark.parametrize(
    ("task_id", "positive", "negative", "words"),
    [
        ("tcga-breast-er", 588, 174, {"Not Performed", "Performed but Not Available"}),
        ("tcga-breast-pr", 511, 248, {"Not Performed", "Performed but Not Available"}),
        ("tcga-breast-her2", 111, 637, {"Equivocal", "Not Available"}),
    ],
)
def test_tcga_words_are_mapped_or_missing_by_name(
    tcga: Any, catalogue: Catalogue, task_id: str, positive: int, negative: int, words: set[str]
) -> None:
    units = units_of(catalogue, tcga, task_id)
    counts = units.table["label"].value_counts().to_dict()
    assert counts == {"positive": positive, "negative": negative}
    assert set(units.missing) == {"no label: empty"} | {f"no label: '{word}'" for word in words}
    assert len(units.table) + sum(map(len, units.missing.values())) == 1062
    slides = [slide for ids in units.slides.values() for slide in ids]
    assert len(slides) == len(set(slides)) > len(units.table)


def test_tcga_splits_are_clean(tcga: Any, catalogue: Catalogue, tmp_path: Path) -> None:
    for task in catalogue.tasks_of("tcga-breast"):
        units = build_units(task, tcga, str(TCGA))
        for name in task.protocols:
            protocol = catalogue.protocols[name]
            splits = frozen_splits(tmp_path, task, protocol, units)
            few_shot = protocol.method.kind == "few-shot"
            scheme = "few-shot" if few_shot else task.splits.scheme
            assert audit_splits(splits, units, scheme) == []
            if scheme == "site-preserved":
                events = [int(units.table["event"].to_numpy()[s.test].sum()) for s in splits]
                assert sum(events) == 146
                assert min(events) >= 10


BCNB_COUNTS = {
    "bcnb-er": {"positive": 831, "negative": 227},
    "bcnb-pr": {"positive": 790, "negative": 268},
    "bcnb-her2": {"positive": 277, "negative": 781},
    "bcnb-aln": {"N0": 655, "N+": 403},
}


@pytest.fixture
def bcnb(tmp_path: Path, catalogue: Catalogue, make_cohort: Make) -> Any:
    """One row per case, slide_id 1 to 1058; her2_binary is not her2."""
    rows = ["slide_id,er,pr,her2,her2_binary,HER2 Expression,ki67_binary,ALN_status,grade,age"]
    for i in range(1058):
        aln = "N0" if i < 655 else ("N+(1-2)" if i < 900 else "N+(>2)")
        cells = [i < 831, i < 790, i >= 781, i >= 500, f"{i % 4}+" if i % 4 else "0", i < 156, aln]
        grade = "" if i < 132 else str(1 + i % 3)
        words = [str(int(c)) if isinstance(c, bool) else str(c) for c in cells]
        rows.append(",".join([str(i + 1), *words, grade, str(30 + i % 50)]))
    path = tmp_path / "bcnb.csv"
    path.write_text("\n".join(rows) + "\n")
    cohort = make_cohort([("x", "x", "", {})])
    cohort.slides = read_label_table(path, catalogue.cohorts["bcnb"].columns)
    return cohort


@pytest.mark.parametrize("task_id", sorted(BCNB_COUNTS))
def test_bcnb_counts(bcnb: Any, catalogue: Catalogue, task_id: str) -> None:
    units = build_units(catalogue.tasks[task_id], bcnb, "bcnb.csv")
    assert units.table["label"].value_counts().to_dict() == BCNB_COUNTS[task_id]
    assert (units.table["case_id"] == units.table["unit_id"]).all()
    assert units.missing == {}


def test_bcnb_her2_is_not_her2_binary(bcnb: Any, catalogue: Catalogue) -> None:
    units = build_units(catalogue.tasks["bcnb-her2"], bcnb, "bcnb.csv")
    likeness = (bcnb.slides["her2_binary"] == "1").sum()
    assert int((units.table["label"] == "positive").sum()) == 277 != likeness
    order = dict(zip(bcnb.slides["slide_id"], bcnb.slides["her2"], strict=True))
    for unit_id, label in zip(units.table["unit_id"], units.table["label"], strict=True):
        assert (label == "positive") == (order[unit_id] == "1")
