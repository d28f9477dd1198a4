"""The phantom against the published few-shot numbers, and the order of what is plain and faint."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.seeds import rng_for
from tests.phantoms.declare import make_cohort, make_status, pooled

# Mean of CONCH patch features on BCNB at k = 1, 10, 25 (README of MADELEINE).
PUBLISHED = {
    "er": (0.575, 0.759, 0.785),
    "pr": (0.528, 0.678, 0.724),
    "her2": (0.509, 0.603, 0.647),
}
SHOTS = (1, 10, 25)
COUNTS = {"er": (227, 831), "pr": (268, 790), "her2": (781, 277)}


def bcnb(**options):
    cohort = make_cohort({"H&E": 1058}, 1058, cohort="bcnb", patches=(100, 400))
    tasks = [make_status(name, *counts, cohort="bcnb") for name, counts in COUNTS.items()]
    return PhantomCohort(cohort, tasks, **options)


def oracle(cohort):
    latents = [cohort.latents(case) for case in cohort.slides["case_id"]]
    return np.array([[one[name] for name in sorted(one)] for one in latents])


def few_shot(x, y, k, draws, *key):
    scores = []
    for draw in range(draws):
        rng = rng_for("test-few-shot", *key, k, draw)
        train = np.concatenate([rng.choice(np.flatnonzero(y == c), k, False) for c in (0, 1)])
        test = np.setdiff1d(np.arange(len(y)), train)
        model = LogisticRegression(C=1.0).fit(x[train], y[train])
        scores.append(roc_auc_score(y[test], model.decision_function(x[test])))
    return np.mean(scores)


@pytest.mark.slow
@pytest.mark.parametrize("label", PUBLISHED)
def test_mean_pool_on_phantom_bcnb_scores_as_published(label):
    found = []
    for seed in range(6):
        cohort = bcnb(seed=seed)
        x, y = pooled(cohort), (cohort.slides[label] == "1").to_numpy().astype(int)
        found.append([few_shot(x, y, k, 10, label, seed) for k in SHOTS])
    np.testing.assert_allclose(np.mean(found, axis=0), PUBLISHED[label], atol=0.05)


@pytest.fixture(scope="module")
def small():
    cohort = bcnb()
    rows = rng_for("test-small").permutation(1058)[:500]
    cohort.slides = cohort.slides.iloc[rows]
    return cohort.slides, pooled(cohort), oracle(cohort)


@pytest.mark.parametrize("label", PUBLISHED)
def test_mean_pool_lands_near_the_published_auc_and_below_the_oracle(small, label):
    slides, x, latents = small
    y = (slides[label] == "1").to_numpy().astype(int)
    found = few_shot(x, y, 25, 12, label)
    assert found == pytest.approx(PUBLISHED[label][2], abs=0.06)
    assert few_shot(latents, y, 25, 12, label) > found + 0.1


def test_mean_pool_keeps_a_norm_at_which_unscaled_regression_is_sane(small):
    _, x, _ = small
    assert 1.0 < np.linalg.norm(x, axis=1).mean() < 10.0


def test_the_null_phantom_is_at_chance():
    cohort = make_cohort({"H&E": 300}, 300)
    task = make_status("er", 150, 150)
    null = PhantomCohort(cohort, [task], signal=0.0)
    x, y = pooled(null), (null.slides["er"] == "1").to_numpy().astype(int)
    model = LogisticRegression(C=1.0).fit(x[:150], y[:150])
    auc = roc_auc_score(y[150:], model.decision_function(x[150:]))
    # 3.3 standard errors of an AUC with 75 against 75 under chance
    assert abs(auc - 0.5) < 3.3 * np.sqrt(151 / (12 * 75 * 75))
    assert few_shot(oracle(null), y, 25, 3, "null") > 0.9


def test_a_marker_is_plain_in_its_stain_and_faint_in_h_and_e():
    cohort = PhantomCohort(make_cohort({"H&E": 250, "ER": 250, "HER2": 250}, 250), [])
    slides, x, z = cohort.slides, pooled(cohort), oracle(cohort)
    er = z[:, sorted(cohort.latents("toy-phantom-0001")).index("er")]

    def explained(stain):
        """Squared correlation between er and its prediction from half of the cases."""
        rows = np.flatnonzero(slides["stain"] == stain)
        train, test = rows[:150], rows[150:]
        centre = x[train].mean(axis=0)
        kernel = (x[train] - centre) @ (x[train] - centre).T + 0.5 * np.eye(150)
        weights = np.linalg.solve(kernel, er[train] - er[train].mean())
        predicted = (x[test] - centre) @ (x[train] - centre).T @ weights
        return np.corrcoef(predicted, er[test])[0, 1] ** 2

    assert explained("ER") > explained("H&E") + 0.1
    assert explained("ER") > explained("HER2") + 0.1
    assert explained("ER") < 0.9
