import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored

from madeleine_bench.errors import InputError
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.phantoms.roster import class_words, survival_words
from madeleine_bench.seeds import rng_for
from tests.phantoms.declare import make_cohort, make_status, make_survival, make_task


def cases_with(latent, n):
    draws = rng_for("test-labels", latent, n).standard_normal(n)
    return {f"case-{i}": {latent: float(z)} for i, z in enumerate(draws)}


@given(negative=st.integers(0, 30), positive=st.integers(1, 30), without=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_classes_are_exact_and_follow_the_ranks(negative, positive, without):
    task = make_status("er", negative, positive)
    cases = cases_with("er", negative + positive + without)
    words = class_words(task, task.labels, "er", cases, "toy", 0)
    assert set(words) == set(cases)
    held = {word: [cases[c]["er"] for c in words if words[c] == word] for word in ("0", "1", "")}
    assert [len(held[word]) for word in ("0", "1", "")] == [negative, positive, without]
    assert max(held["0"], default=-np.inf) < min(held["1"])


@given(n=st.integers(1, 60), share=st.floats(0, 1), without=st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_events_are_exact_and_times_are_whole_days(n, share, without):
    events = round(n * share)
    task = make_survival(n, events)
    cases = cases_with("hazard", n + without)
    times, died = survival_words(task, task.labels, "hazard", cases, "toy", 0)
    assert sum(word == "dead" for word in died.values()) == events
    assert sum(word == "alive" for word in died.values()) == n - events
    assert {case for case in cases if times[case] == ""} == {c for c in cases if died[c] == ""}
    assert all(int(time) >= 1 for time in times.values() if time)


def test_a_missing_label_is_left_to_chance():
    task = make_status("er", 40, 60)
    cases = cases_with("er", 400)
    words = class_words(task, task.labels, "er", cases, "toy", 0)
    without = [cases[case]["er"] for case in cases if not words[case]]
    assert abs(np.mean(without)) < 5 / np.sqrt(len(without))
    assert words != class_words(task, task.labels, "er", cases, "toy", 1)


def test_the_hazard_orders_the_deaths_as_well_as_stated():
    task = make_survival(3000, 420)
    cases = cases_with("hazard", 3000)
    times, died = survival_words(task, task.labels, "hazard", cases, "toy", 0)
    time = np.array([float(times[case]) for case in cases])
    event = np.array([died[case] == "dead" for case in cases])
    hazard = np.array([cases[case]["hazard"] for case in cases])
    assert concordance_index_censored(event, time, hazard)[0] == pytest.approx(0.75, abs=0.03)
    assert np.median(time) == pytest.approx(900, abs=1)


def test_labels_stand_on_every_slide_of_a_case_and_ignore_signal():
    cohort = make_cohort({"H&E": 60, "ER": 45}, 30)
    tasks = [make_status("er", 10, 15), make_survival(30, 8)]
    table = PhantomCohort(cohort, tasks).slides
    assert table.groupby("case_id")[["er", "days", "died"]].nunique().max().max() == 1
    per_case = table.drop_duplicates("case_id")
    assert per_case["er"].value_counts().to_dict() == {"1": 15, "0": 10, "": 5}
    assert (per_case["died"] == "dead").sum() == 8
    null = PhantomCohort(cohort, tasks, signal=0.0).slides
    assert table.equals(null)
    assert not table.equals(PhantomCohort(cohort, tasks, seed=1).slides)
    assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())


def test_ordered_levels_are_counted_over_the_cases_with_the_stain():
    names = ["none", "some", "much"]
    labels = {
        "type": "ordered",
        "column": "er",
        "classes": names,
        "map": {"0": "none", "1": "some", "2": "much"},
    }
    counts = {"none": 5, "some": 7, "much": 8}
    task = make_task(labels, {"n": 20, "classes": counts}, stains=("ER",))
    cohort = PhantomCohort(make_cohort({"ER": 20, "PR": 40}, 40), [task])
    table = cohort.slides
    er = table[table["stain"] == "ER"]
    assert er["er"].value_counts().to_dict() == {"0": 5, "1": 7, "2": 8}
    latent = np.array([cohort.latents(case)["er"] for case in er["case_id"]])
    level = er["er"].astype(int).to_numpy()
    assert latent[level == 0].max() < latent[level == 1].min()
    assert latent[level == 1].max() < latent[level == 2].min()
    without = set(table["case_id"]) - set(er["case_id"])
    assert (table.loc[table["case_id"].isin(without), "er"] == "").all()


def test_the_task_with_most_labels_fills_a_shared_column():
    cohort = make_cohort({"H&E": 30, "ER": 10}, 30)
    small = make_status("er", 4, 6, name="a-small", stains=("ER",))
    large = make_status("er", 12, 18, name="b-large")
    table = PhantomCohort(cohort, [small, large]).slides
    counts = table.drop_duplicates("case_id")["er"].value_counts().to_dict()
    assert counts == {"1": 18, "0": 12}


def test_tasks_of_other_cohorts_are_passed_over():
    table = PhantomCohort(make_cohort({"H&E": 5}, 5), [make_status("er", 2, 3, cohort="else")])
    assert "er" not in table.slides


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (make_status("er", 20, 31), r"toy-er.*'expected.n' is 51.* has 50 cases .*H&E"),
        (make_survival(30, 31), r"toy-os.*'expected.events' is 31"),
        (make_status("gradee", 2, 3), r"'phantom.labels' has no 'gradee'.*toy-gradee.*'grade'"),
    ],
)
def test_a_task_the_phantom_cannot_serve_is_refused(task, message):
    with pytest.raises(InputError, match=message):
        PhantomCohort(make_cohort({"H&E": 50}, 50), [task])


def test_an_unknown_latent_is_refused_with_the_closest_one():
    cohort = make_cohort({"H&E": 5}, 5, labels={"er": "hazzard"})
    with pytest.raises(InputError, match=r"toy\.yaml.*unknown latent 'hazzard'.*'hazard'"):
        PhantomCohort(cohort, [make_status("er", 2, 3)])


@given(order=st.permutations(range(12)))
@settings(max_examples=20, deadline=None)
def test_labels_do_not_depend_on_the_order_of_the_cases(order):
    assume(order != list(range(12)))
    task = make_status("er", 4, 5)
    cases = cases_with("er", 12)
    names = list(cases)
    shuffled = {names[i]: cases[names[i]] for i in order}
    first = class_words(task, task.labels, "er", cases, "toy", 0)
    assert class_words(task, task.labels, "er", shuffled, "toy", 0) == first
