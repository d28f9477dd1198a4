"""What follow-up is counted in: months read as days move every score but Harrell's c."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from madeleine_bench.data.audit_cohort import audit_times
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.errors import InputError
from madeleine_bench.metrics.calibration import calibration
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import score
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, task_hash
from madeleine_bench.specs.config import load_config
from madeleine_bench.specs.task import DAYS_IN, SurvivalLabels, TaskSpec
from madeleine_bench.types import Survival

Make = Callable[..., Any]
UNITS = 150
UNIT = DAYS_IN["months"]


@pytest.fixture
def os_task(make_task: Make) -> Callable[[str | None], TaskSpec]:
    task = make_task("tcga-breast-os", folds=3, scheme="case-stratified")

    def make(unit: str | None) -> TaskSpec:
        assert isinstance(task.labels, SurvivalLabels)
        return task.model_copy(
            update={"labels": task.labels.model_copy(update={"time_unit": unit})}
        )

    return make


@cache
def follow_up() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, whole days of up to 4 years, and events."""
    rng = rng_for("tests", "months")
    matrix = rng.standard_normal((UNITS, 4))
    to_event = rng.exponential(700 * np.exp(-matrix[:, 0]))
    censoring = rng.uniform(50, 1450, UNITS)
    days = np.maximum(np.ceil(np.minimum(to_event, censoring)), 1)
    return matrix, days, to_event < censoring


def rows_of(times: np.ndarray) -> list[tuple[str, str, str, dict[str, str]]]:
    events = follow_up()[2]
    return [
        (f"s{i:03d}", f"c{i:03d}", "", {"os_days": repr(float(time)), "os_event": str(int(event))})
        for i, (time, event) in enumerate(zip(times, events, strict=True))
    ]


@pytest.fixture
def judged(
    os_task: Make, make_cohort: Make, catalogue: Catalogue, tmp_path: Path
) -> Callable[..., dict[str, float | None]]:
    """All scores of one encoder, where the table has some times in some unit."""

    def call(times: np.ndarray, unit: str | None) -> dict[str, float | None]:
        task, protocol = os_task(unit), catalogue.protocols["cox/v2"]
        units = build_units(task, make_cohort(rows_of(times)), "t.csv")
        splits = frozen_splits(tmp_path, task, protocol, units)
        found = evaluate(task, protocol, follow_up()[0], units, splits)
        scores, _ = score(task, protocol, found.predictions, found.fits)
        table = found.predictions
        day = int(sorted(n for n in table.columns if n.startswith("surv@"))[4].split("@")[1])
        survival = Survival(table["time_days"].to_numpy(), table["event"].to_numpy())
        judged_at = calibration(survival, table[f"surv@{day}"].to_numpy(), day)
        return {
            "harrell-c": scores.main.value,
            **scores.secondary,
            "calibration": judged_at.observed_over_expected,
        }

    return call


def test_months_read_as_days_move_all_but_harrell_and_declared_ones_nothing(judged: Make) -> None:
    days = follow_up()[1]
    right, wrong = judged(days, None), judged(days / UNIT, "days")
    assert wrong["harrell-c"] == pytest.approx(right["harrell-c"], abs=1e-9)
    for name in ("uno-c", "td-auc", "calibration"):
        assert abs(wrong[name] - right[name]) > 1e-3, f"{name}: whole 'days' of a month are coarse"
    declared = judged(days / UNIT, "months")
    assert declared == pytest.approx(right, abs=1e-9)
    assert judged(days / DAYS_IN["years"], "years") == pytest.approx(right, abs=1e-9)


def test_what_cannot_be_days_is_refused_until_the_unit_is_said(
    os_task: Make, make_cohort: Make
) -> None:
    """They were read as days, and nothing was said."""
    months = follow_up()[1] / UNIT
    assert months.max() < 60
    cohort = make_cohort(rows_of(months))
    message = (
        r"^t\.csv: column 'os_days' cannot be days: no follow-up is longer than 4\d\.\d+, and "
        r"there are decimals, such as .* \(slide 's\d+'\)\. .*time_unit = \"months\" .* under "
        r"\[cohorts\.tcga-breast\.tasks\.tcga-breast-os\] in mbench\.toml$"
    )
    with pytest.raises(InputError, match=message):
        build_units(os_task(None), cohort, "t.csv")
    assert build_units(os_task("days"), cohort, "t.csv").table["time_days"].max() < 60
    in_days = build_units(os_task("months"), cohort, "t.csv").table["time_days"]
    np.testing.assert_allclose(in_days, follow_up()[1])


@pytest.mark.parametrize("times", [[5.0, 59.0], [5.5, 60.0], [0.0, 0.0]])
def test_what_may_be_days_passes(os_task: Make, make_cohort: Make, times: list[float]) -> None:
    rows = [
        (f"s{i}", f"c{i}", "", {"os_days": str(time), "os_event": "1"})
        for i, time in enumerate(times)
    ]
    assert list(build_units(os_task(None), make_cohort(rows), "t").table["time_days"]) == times


def test_decimals_of_long_follow_up_are_a_warning(os_task: Make, make_cohort: Make) -> None:
    cohort = make_cohort(rows_of(follow_up()[1] / UNIT * 6))
    units = build_units(os_task(None), cohort, "t.csv")
    (finding,) = audit_times(os_task(None), units)
    assert (finding.level, finding.kind) == ("warning", "time-unit")
    assert f"of {UNITS} follow-up times in column 'os_days' have decimals" in finding.message
    assert audit_times(os_task("days"), units) == []
    whole = build_units(os_task(None), make_cohort(rows_of(follow_up()[1])), "t.csv")
    assert audit_times(os_task(None), whole) == []


def test_wrong_times_are_named_in_the_unit(os_task: Make, make_cohort: Make) -> None:
    rows = [("s0", "c0", "", {"os_days": "-1", "os_event": "1"})]
    with pytest.raises(InputError, match="expected months as a number of 0 or more"):
        build_units(os_task("months"), make_cohort(rows), "t.csv")


def test_the_unit_stands_in_mbench_toml_and_not_in_the_hash(
    tmp_path: Path, catalogue: Catalogue
) -> None:
    text = '[cohorts.tcga-breast]\nfeatures = "f"\nlabels = "t.csv"\n'
    entry = '[cohorts.tcga-breast.tasks.{}]\ntime_unit = "{}"\n'
    path = tmp_path / "mbench.toml"
    declared = catalogue.tasks["tcga-breast-os"]
    path.write_text(text + entry.format("tcga-breast-os", "months"))
    task = load_config(path).task(declared)
    assert isinstance(task.labels, SurvivalLabels)
    assert task.labels.time_unit == "months"
    protocol = catalogue.protocols["cox/v2"]
    assert task_hash(task, protocol, "l", "s") == task_hash(declared, protocol, "l", "s")
    path.write_text(text + entry.format("tcga-breast-os", "weeks"))
    with pytest.raises(InputError, match=r"mbench\.toml:5: .*time_unit.*'days', 'months' or 'ye"):
        load_config(path)
    path.write_text(text + entry.format("tcga-breast-er", "days"))
    with pytest.raises(InputError, match=r"toml:5: 'time_unit' is not a key of the binary labels"):
        load_config(path).task(catalogue.tasks["tcga-breast-er"])


def test_a_phantom_of_months_has_the_same_days(catalogue: Catalogue) -> None:
    declared = catalogue.tasks["tcga-breast-os"]
    labels = declared.labels.model_copy(update={"time_unit": "months"})  # type: ignore[union-attr]
    months = declared.model_copy(update={"labels": labels})
    spec = catalogue.cohorts["tcga-breast"]
    found = [
        build_units(task, PhantomCohort(spec, [task]), "phantom").table["time_days"]
        for task in (declared, months)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)
