"""What a task leaves out and why, by slide and by case."""

import pytest

from madeleine_bench.data.audit_cohort import (
    audit_coverage,
    coverage_line,
    require_coverage,
)
from madeleine_bench.data.labels import build_units
from madeleine_bench.errors import InputError


def test_empty_bags_and_missing_files_are_left_out_by_case(
    catalogue, small_cohort, write_bag, make_task
):
    for slide in ("a1", "b1", "c1"):
        write_bag(slide)
    write_bag("d1", patches=0)
    cohort = small_cohort(["a1", "a2", "b1", "c1", "d1", "d2", "e1"])
    cohort.slides["case_id"] = cohort.slides["slide_id"].str[0].str.upper()
    words = dict(zip("ABCDE", "01010", strict=True))
    cohort.slides["malignant"] = cohort.slides["case_id"].map(words)
    task = make_task("ucsb-breast-malignancy", unit="case")
    units = build_units(task, cohort, "t.csv")
    assert units.missing["no feature file"] == ("D", "E"), "as records have always said"
    line = coverage_line(task, cohort, units)
    assert line.startswith(
        "ucsb-breast-malignancy: 3 of 5 cases scored (benign: 2, malignant: 1); left out: "
        "no feature file or an empty one: 2 (D, E)"
    )
    (finding,) = audit_coverage(task, cohort, units)
    assert (finding.level, finding.kind) == ("error", "partial")
    assert finding.message.startswith("3 of 5 cases with a label have features (60%; 90% or more")
    with pytest.raises(InputError, match="--allow-partial"):
        require_coverage(task, cohort, units)
    cohort.source = "phantom"
    (finding,) = audit_coverage(task, cohort, units)
    assert finding.level == "warning", "a phantom never stops a run"
    require_coverage(task, cohort, units)
