"""Cross-stain search: a plain loop, what centring does, who is left out, and embeddings shared."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.metrics.retrieval import expected_hit
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.runner.cohorts import OpenCohort
from madeleine_bench.runner.cross_stain import (
    cross_stain,
    embed_cohort,
    search_stains,
    searched_stains,
)
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence
from tests.phantoms.declare import make_cohort

MEASURES = ["recall@1", "recall@5", "recall@10", "mean-average-precision", "mean-reciprocal-rank"]


def made_up(cases=20, per_stain=None, noise=0.0, dim=16, seed=0, shifts=None):
    """Slides whose embedding is that of their case, plus the shift of the stain, plus noise."""
    rng = np.random.default_rng(seed)
    of_case = rng.normal(size=(cases, dim))
    direction = rng.normal(size=dim)
    rows, matrix = [], []
    for stain, count in (per_stain or {"H&E": cases, "PAS": cases}).items():
        for number in range(count):
            case = number % cases
            rows.append((f"{stain}-{number:03d}", f"case-{case:03d}", stain))
            moved = (shifts or {}).get(stain, 0.0) * direction
            matrix.append(of_case[case] + moved + noise * rng.normal(size=dim))
    slides = pd.DataFrame(rows, columns=["slide_id", "case_id", "stain"])
    data = SimpleNamespace(cohort_id="toy", slides=slides)
    return Embeddings(tuple(slides["slide_id"]), np.float32(matrix), "hash"), data


def counts(search):
    return search["queries"], search["gallery"], search["cases_without_stain"]


def slow_recall(embeddings, slides, stain, k):
    """Return recall@k of centred embeddings by one loop over queries."""
    rows = dict(zip(embeddings.ids, embeddings.matrix.astype(float), strict=True))
    sides = {}
    for name in ("H&E", stain):
        own = slides[slides["stain"] == name].sort_values("slide_id")
        matrix = np.array([rows[slide] for slide in own["slide_id"]])
        matrix = matrix - matrix.mean(axis=0)
        sides[name] = (own["case_id"].tolist(), matrix / np.linalg.norm(matrix, axis=1)[:, None])
    (asking, queries), (cases, gallery) = sides["H&E"], sides[stain]
    found = [
        case in [cases[i] for i in np.argsort(-(gallery @ query))[:k]]
        for case, query in zip(asking, queries, strict=True)
        if case in cases
    ]
    return np.mean(found)


@pytest.mark.parametrize("per_stain", [{"H&E": 30, "PAS": 30}, {"H&E": 45, "PAS": 38}])
def test_it_equals_a_loop_over_queries(per_stain):
    embeddings, data = made_up(cases=30, per_stain=per_stain, noise=1.5)
    pas, mean = search_stains(embeddings, data, "H&E", ["PAS"])
    for k in (1, 5, 10):
        slow = slow_recall(embeddings, data.slides, "PAS", k)
        assert 0.0 < slow < 1.0
        assert pas["centred"][f"recall@{k}"]["value"] == pytest.approx(slow, abs=1e-12)
    assert {**mean, "stain": "PAS"} == pas
    assert counts(pas)[:2] == (per_stain["H&E"], per_stain["PAS"])


def test_a_shift_of_a_stain_is_taken_out_by_centring_and_only_by_it():
    embeddings, data = made_up(noise=0.1, shifts={"H&E": 30.0, "PAS": -30.0})
    (pas, _) = search_stains(embeddings, data, "H&E", ["PAS"])
    centred, raw = pas["centred"], pas["raw"]
    assert centred["recall@1"]["value"] == 1.0
    assert raw["recall@1"]["value"] < 0.9
    assert list(centred) == list(raw) == MEASURES


def test_perfect_and_chance_and_their_intervals():
    embeddings, data = made_up(cases=40)
    (pas, _) = search_stains(embeddings, data, "H&E", ["PAS"])
    for measure in pas["centred"].values():
        assert (measure["value"], *measure["ci95"]) == pytest.approx((1.0, 1.0, 1.0))
    noise = replace(embeddings, matrix=np.random.default_rng(1).normal(size=(80, 16)))
    (pas, _) = search_stains(noise, data, "H&E", ["PAS"])
    found = pas["centred"]["recall@10"]
    assert found["chance"] == pytest.approx(expected_hit(40, 1, 10)) == 0.25
    assert found["ci95"][0] < found["chance"] < found["ci95"][1]
    assert found["ci95"][0] < found["value"] < found["ci95"][1]


def test_constant_embeddings_find_no_more_than_chance():
    embeddings, data = made_up(cases=25)
    flat = replace(embeddings, matrix=np.full_like(embeddings.matrix, 0.3))
    (pas, _) = search_stains(flat, data, "H&E", ["PAS"])
    for centring in ("centred", "raw"):
        for measure in pas[centring].values():
            assert measure["value"] == pytest.approx(measure["chance"])


def test_cases_without_the_stain_do_not_ask_and_are_counted():
    embeddings, data = made_up(cases=20, per_stain={"H&E": 20, "PAS": 12, "Jones": 30})
    pas, jones, mean = search_stains(embeddings, data, "H&E", ["PAS", "Jones"])
    assert counts(pas) == (12, 12, 8)
    assert counts(jones) == (20, 30, 0)
    assert (mean["stain"], *counts(mean)) == ("mean", 32, 42, 8)
    # ten of twenty cases have two Jones slides
    either = (expected_hit(30, 2, 1) + expected_hit(30, 1, 1)) / 2
    assert jones["raw"]["recall@1"]["chance"] == pytest.approx(either)
    for name in MEASURES:
        one, other, both = (s["raw"][name] for s in (pas, jones, mean))
        assert both["value"] == pytest.approx((one["value"] + other["value"]) / 2)
        assert both["chance"] == pytest.approx((one["chance"] + other["chance"]) / 2)


def test_the_order_of_slides_moves_nothing():
    embeddings, data = made_up(noise=1.0)
    order = np.random.default_rng(2).permutation(len(embeddings.ids))
    shuffled = Embeddings(tuple(embeddings.ids[i] for i in order), embeddings.matrix[order], "hash")
    other = SimpleNamespace(cohort_id="toy", slides=data.slides.iloc[order[::-1]])
    assert search_stains(shuffled, other, "H&E", ["PAS"]) == search_stains(
        embeddings, data, "H&E", ["PAS"]
    )


def phantom(**slides):
    spec = make_cohort(slides or {"H&E": 9, "PAS": 9, "Jones": 4}, 6, organ="kidney")
    spec = spec.model_copy(update={"phantom": spec.phantom.model_copy(update={"labels": {}})})
    return OpenCohort(PhantomCohort(spec, []), (), "toy"), spec


def test_the_other_stains_are_searched_in_the_order_of_the_cohort():
    cohort, spec = phantom()
    assert searched_stains(cohort, spec, "H&E") == ("PAS", "Jones")
    assert searched_stains(cohort, spec, "PAS") == ("H&E", "Jones")


def test_a_stain_that_is_not_there_is_refused():
    cohort, spec = phantom()
    with pytest.raises(InputError, match=r"no case with a slide of 'Jone' .*did you mean 'Jones'"):
        searched_stains(cohort, spec, "Jone")
    alone, spec = phantom(PAS=9)
    with pytest.raises(InputError, match="no case with a slide of 'PAS' and one of another"):
        searched_stains(alone, spec, "PAS")


def test_embeddings_are_made_once_and_an_encoder_that_fails_stops_no_other(tmp_path):
    cohort, _ = phantom()
    good, wide = find_encoder("mean-pool"), find_encoder("max-pool")
    wide = EncoderEntry(wide.card.model_copy(update={"input_dim": 7}), wide.path, "test")
    ready, failures = embed_cohort([good, wide], cohort.data, Workspace(tmp_path), Silence())
    assert list(ready) == ["mean-pool"]
    assert ready["mean-pool"].matrix.shape == (22, 512)
    ((name, why),) = failures
    assert name == "max-pool"
    assert "width 7" in why.reason
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("mean-pool/*")}
    again, _ = embed_cohort([good], cohort.data, Workspace(tmp_path), Silence())
    assert again["mean-pool"].hash == ready["mean-pool"].hash
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("mean-pool/*")} == before


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="no cohort is called 'bwh-kidny'; did you mean"):
        cross_stain(("mean-pool",), "bwh-kidny", Workspace(tmp_path), Silence())
    with pytest.raises(InputError, match="no encoder is called 'mean-poll'"):
        cross_stain(("mean-poll",), "aidpath", Workspace(tmp_path), Silence())
