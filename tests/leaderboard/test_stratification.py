"""Risk groups, numbers at risk and calibration of survival records, and what a reader is told."""

from xml.etree import ElementTree

import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.figures import svg_png
from madeleine_bench.leaderboard.stratification import (
    stratification_figure,
    stratify,
    survival_records,
    survival_tasks,
)
from madeleine_bench.metrics.calibration import calibration, risk_groups
from madeleine_bench.types import Survival
from tests.leaderboard.records import CATALOGUE, make_record
from tests.leaderboard.survival_records import DAYS, OS, predictions


def strata(table, **more):
    return stratify("one", make_record("one", OS, 0.6, **more), lambda _: table)


def survival_of(table):
    return Survival(table["time_days"].to_numpy(), table["event"].to_numpy())


def test_all_folds_of_the_first_repeat_are_the_cohort():
    table = predictions(repeats=3)
    first = table[table["repeat"] == 0]
    found = strata(table)
    assert found.repeats == 3
    assert found.groups == risk_groups(survival_of(first), first["high_risk"].to_numpy())
    assert found.groups.low.n + found.groups.high.n == len(first) == 120
    day = DAYS[1]
    assert found.calibration == calibration(
        survival_of(first), first[f"surv@{day}"].to_numpy(), day
    )


def test_the_day_is_the_middle_one():
    assert strata(predictions()).calibration.day == 600


def test_of_two_middle_days_the_earlier_is_taken():
    table = predictions().drop(columns="surv@900")
    assert strata(table).calibration.day == 300


def test_numbers_at_risk_are_those_still_watched():
    table = predictions()
    found = strata(table).at_risk
    assert found["years"][0] == 0
    years = table["time_days"] / 365.25
    for year, low, high in zip(*found.values(), strict=True):
        assert low == int(((years >= year) & ~table["high_risk"]).sum())
        assert high == int(((years >= year) & table["high_risk"]).sum())
    long = table.assign(time_days=table["time_days"] * 20)
    assert len(strata(long).at_risk["years"]) <= 8


def test_a_group_without_units_or_events_has_no_ratio():
    table = predictions()
    found = strata(table.assign(high_risk=False))
    assert found.groups.high is None
    assert set(found.at_risk["high"]) == {0}
    quiet = table.assign(event=table["event"] & table["high_risk"])
    assert strata(quiet).groups.hazard_ratio is None


def test_equal_predictions_have_no_slope_and_records_without_days_no_calibration():
    table = predictions()
    same = table.assign(**{f"surv@{day}": 0.7 for day in DAYS})
    assert strata(same).calibration.slope is None
    none = strata(table.drop(columns=[f"surv@{day}" for day in DAYS]))
    assert none.calibration is None


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda t: t.drop(columns="high_risk"), "no column"),
        (lambda t: t.assign(**{"surv@600": np.nan}), "column 'surv@600' is empty or NaN"),
        (lambda t: t.assign(**{"surv@600": 1.5}), r"lie in \[0, 1\]"),
        (lambda t: t.assign(time_days=-1.0), "not negative"),
        (lambda t: t.head(0), "no rows"),
    ],
)
def test_broken_predictions_are_refused_by_name(broken, says):
    with pytest.raises(InputError, match=says) as caught:
        strata(broken(predictions()))
    assert "predictions of one on tcga-breast-os under cox/v2" in str(caught.value)


def test_records_are_the_newest_of_each_encoder_best_first():
    records = [
        make_record("a", OS, 0.6, created="2026-01-01"),
        make_record("a", OS, 0.7, created="2026-02-01"),
        make_record("b", OS, 0.8),
        make_record("c", OS, 0.9, verification="V0"),
        make_record("d", OS, 0.65, protocol="finetune/v1", kind="supervised"),
        make_record("a", OS, 0.5, source="local"),
    ]
    found = survival_records(records, CATALOGUE, OS)
    assert [(label, r.scores.main.value) for label, r in found["phantom"]] == [
        ("b", 0.8), ("a", 0.7), ("d", 0.65)
    ]  # fmt: skip
    assert [label for label, _ in found["local"]] == ["a"]
    tuned = survival_records(records, CATALOGUE, OS, (), "finetune/v1")
    assert [label for label, _ in tuned["phantom"]] == ["d"]
    assert list(survival_records(records, CATALOGUE, OS, ["b"])) == ["phantom"]


@pytest.mark.parametrize(
    ("encoders", "protocol", "says"),
    [
        (["mean-pol"], None, "no record of tcga-breast-os is of encoder 'mean-pol'; did you mean "
                             "'mean-pool'"),
        ([], "finetune/v1", "no record of tcga-breast-os under finetune/v1"),
    ],
)  # fmt: skip
def test_records_that_are_not_there_are_refused(encoders, protocol, says):
    with pytest.raises(InputError) as caught:
        survival_records([make_record("mean-pool", OS, 0.6)], CATALOGUE, OS, encoders, protocol)
    assert says in str(caught.value)


def test_only_survival_tasks_are_taken():
    assert survival_tasks(CATALOGUE, []) == [OS]
    assert survival_tasks(CATALOGUE, ["tcga-breast-*"]) == [OS]
    with pytest.raises(InputError, match="bcnb-er is binary"):
        survival_tasks(CATALOGUE, ["bcnb-er"])


def test_figures_say_phantom_for_phantoms_alone_and_bear_an_empty_group():
    table = predictions()
    phantom, real = strata(table), strata(table, source="local")
    assert "os (PHANTOM, synthetic data)" in stratification_figure(phantom, "os")
    assert "PHANTOM" not in stratification_figure(real, "os")
    empty = stratification_figure(strata(table.assign(high_risk=True)), "os")
    assert "Low risk: nobody; high risk: " in empty
    bare = table.drop(columns=[f"surv@{day}" for day in DAYS])
    assert "Calibration" not in stratification_figure(strata(bare), "os")
    same = strata(table.assign(**{f"surv@{day}": 0.7 for day in DAYS}))
    assert "Calibration slope \u2013" in stratification_figure(same, "os")


def test_a_figure_stands_alone_and_shows_score_tests_and_numbers_at_risk():
    one = strata(predictions())
    figure = stratification_figure(one, "<os>")
    root = ElementTree.fromstring(figure)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "one: C 0.600 (0.600 to 0.600)" in texts
    assert any("log-rank p" in text and "hazard ratio" in text for text in texts)
    assert any(text.startswith("Calibration slope ") for text in texts)
    place = texts.index("number at risk")
    counts = [*map(str, (*one.at_risk["low"], *one.at_risk["high"]))]
    assert [text for text in texts[place:] if text in {*counts}][: len(counts)] == counts
    assert "var(" not in figure
    assert svg_png(figure).startswith(b"\x89PNG")
