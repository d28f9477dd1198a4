"""What a reviewer is told: rules that hit what they should, copies found, text that is inert."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.embeddings.store import Embeddings, EmbeddingStore
from madeleine_bench.hashing import hash_array
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.record import Record, record_id
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.cohorts import VerifyRequest
from madeleine_bench.submissions.duplicates import SAME_RESIDUAL, compare, likenesses
from madeleine_bench.submissions.markdown import review_markdown
from madeleine_bench.submissions.readable import (
    best_column,
    nearest_mean_accuracy,
    time_correlation,
)
from madeleine_bench.submissions.review import review, review_json
from madeleine_bench.submissions.standing import KnownEncoder, known_encoders, standings
from madeleine_bench.submissions.suspicion import (
    RULES,
    contaminated,
    suspicious_embeddings,
    suspicious_likeness,
    suspicious_scores,
)
from madeleine_bench.submissions.text import inert
from madeleine_bench.submissions.verify import verify
from madeleine_bench.types import Silence
from tests.submissions.conftest import members_of

RECORD = "records/bcnb-er.linear-probe-v1.json"
IDS = tuple(f"s{number:03d}" for number in range(60))


def embeddings(matrix, ids=IDS):
    single = np.asarray(matrix, dtype=np.float32)
    return Embeddings(tuple(ids), single, hash_array(ids, single))


def noise(*shape, seed=0):
    return rng_for("review", seed, *shape).standard_normal(shape).astype(np.float32)


BASE = noise(60, 12)


def rotation(width):
    return np.linalg.qr(noise(width, width, seed=3).astype(np.float64))[0]


@pytest.mark.parametrize(
    ("matrix", "relation"),
    [
        (BASE, "equal"),
        (BASE[:, ::-1], "the same columns, in another order or scale"),
        (BASE * np.linspace(-3, 9, 12), "the same columns, in another order or scale"),
        (BASE[:, 2:7] * 2 + 1, "some of its columns, in another order or scale"),
        (BASE @ rotation(12) * 7 + 3, "equal up to rotation and scale"),
        (BASE @ rotation(12) + 0.01 * noise(60, 12, seed=9), "equal up to rotation and scale"),
        (BASE @ rotation(12) + 0.02 * noise(60, 12, seed=9), ""),
        (BASE + 0.5 * noise(60, 12, seed=9), ""),
        (noise(60, 12, seed=4), ""),
        (np.zeros((60, 3)), ""),
    ],
)
def test_a_copy_is_found_however_it_was_dressed(matrix, relation):
    found = compare("bcnb", "known", embeddings(matrix), embeddings(BASE))
    assert found is not None
    assert found.relation == relation


# Bags of 40 patches for each slide: what honest encoders that know of one another make of them.
BAGS = 3.0 * BASE[:, None] + noise(60, 40, 12, seed=6)
MEAN = BAGS.mean(axis=1)
INNER = np.sort(BAGS, axis=1)[:, 4:-4].mean(axis=1)


@pytest.mark.parametrize(
    ("matrix", "relation"),
    [
        (np.hstack([MEAN, BAGS.std(axis=1)]), ""),
        (BAGS[:, ::2].mean(axis=1), ""),
        (INNER, ""),
        (MEAN[:, :6], "some of its columns, in another order or scale"),
    ],
    ids=["mean and deviation", "other patches", "without the outer tenths", "half of the columns"],
)
def test_an_honest_relative_is_no_duplicate(matrix, relation):
    found = compare("bcnb", "mean-pool", embeddings(matrix), embeddings(MEAN))
    assert found is not None
    assert found.relation == relation
    assert not found.duplicate
    assert suspicious_likeness([found]) == []


def test_cka_alone_would_call_the_mean_beside_a_deviation_a_duplicate():
    beside = embeddings(np.hstack([MEAN, BAGS.std(axis=1)]))
    found = compare("bcnb", "mean-pool", beside, embeddings(MEAN))
    assert found is not None
    assert found.cka > 0.999
    assert found.residual > 5 * SAME_RESIDUAL


@given(st.sampled_from([0.0, 1e-4, 1e-3, 5e-3]), st.floats(1e-3, 1e3), st.integers(0, 9))
def test_a_copy_turned_scaled_and_blurred_is_found(share, scale, seed):
    turned = MEAN.astype(float) @ rotation(12)
    blurred = scale * (turned + share * turned.std(axis=0) * noise(60, 12, seed=seed))
    found = compare("bcnb", "mean-pool", embeddings(blurred), embeddings(MEAN))
    assert found is not None
    assert found.relation == "equal up to rotation and scale"
    (hit,) = suspicious_likeness([found])
    assert "of the variance apart" in hit.seen


def test_slides_in_another_order_and_a_part_of_them_are_matched_by_id():
    order = rng_for("order").permutation(60)[:40]
    part = embeddings(BASE[order], [IDS[i] for i in order])
    found = compare("bcnb", "known", part, embeddings(BASE))
    assert found is not None
    assert (found.relation, found.slides) == ("equal", 40)
    assert compare("bcnb", "known", embeddings(BASE[:20], IDS[:20]), embeddings(BASE)) is None


def test_wide_embeddings_of_few_slides_are_not_judged_by_cka():
    found = compare("c", "k", embeddings(noise(60, 6500)), embeddings(noise(60, 6500, seed=1)))
    assert found is not None
    assert (found.cka, found.relation) == (None, "")


def test_known_encoders_are_read_from_the_results_folder(tmp_path):
    store = EmbeddingStore(tmp_path)
    for name, matrix in (("a", BASE), ("me", BASE), ("b", noise(60, 12, seed=5))):
        store.write(store.path("phantom", name, "bcnb", "k" * 64), IDS, matrix)
    found = likenesses("phantom", "me", {"bcnb": embeddings(BASE)}, tmp_path)
    assert [(like.encoder, like.duplicate) for like in found] == [("a", True), ("b", False)]
    (hit,) = suspicious_likeness(found)
    assert (hit.rule, hit.where) == ("duplicate", "bcnb")
    control = likenesses("phantom", "me", {"bcnb": embeddings(BASE + 0.1 * noise(60, 12, seed=9))},
                         tmp_path)  # fmt: skip
    as_site = [type(like)(**{**vars(like), "encoder": "site-only"}) for like in control]
    assert "like a control" in {hit.rule for hit in suspicious_likeness(as_site)}


@pytest.fixture(scope="module")
def honest(first):
    return {c.record.task.id: c.record for c in read_bundle(first.bundle).claims}


def scored(record, value, **more):
    """The record with another score."""
    content = record.model_dump(mode="json")
    content["scores"]["main"] |= {"value": value, "ci95": [value - 0.02, min(1.0, value + 0.02)]}
    content["encoder"] |= more
    content["source"] = "phantom"
    return Record.model_validate({**content, "record_id": record_id(content)})


def known(label, kind, records):
    return KnownEncoder(label, kind, records)


def rules(own, others):
    return [(hit.rule, hit.where) for hit in suspicious_scores(own, others)]


def test_rules_on_scores(honest):
    def board(er, pr, **more):
        return {
            ("bcnb-er", "p"): scored(honest["bcnb-er"], er, **more),
            ("bcnb-pr", "p"): scored(honest["bcnb-pr"], pr, **more),
        }

    oracle = known("oracle 1", "control", board(0.95, 0.9, name="oracle"))
    best = known("best 1", "encoder", board(0.8, 0.7))
    assert rules(board(0.82, 0.72), [oracle, best]) == []
    assert rules(board(0.96, 0.705), [oracle, best]) == [("lone gain", "bcnb-er")]
    assert rules(board(0.98, 0.9), [oracle, best]) == [("above the ceiling", "bcnb-er")]
    assert rules(board(0.996, 0.9), [best]) == [("perfect", "bcnb-er")]
    assert rules(board(0.87, 0.7), [best]) == [("lone gain", "bcnb-er")]
    assert rules(board(0.87, 0.76), [best]) == []
    assert rules(board(0.87, 0.7), []) == []


class Table:
    """Just the slides of a cohort."""

    def __init__(self, sites):
        import pandas as pd

        self.slides = pd.DataFrame({"slide_id": IDS, "case_id": IDS, "stain": "H&E", "site": sites})


def test_a_row_for_each_site_is_found():
    sites = [f"site{number % 5}" for number in range(60)]
    rows = np.stack([noise(8, seed=number % 5) for number in range(60)])
    (hit,) = suspicious_embeddings({"c": embeddings(rows)}, {}, {}, {"c": Table(sites)})
    assert hit.rule == "few distinct rows"
    assert "5 distinct rows of 60, as many as sites" in hit.seen
    assert suspicious_embeddings({"c": embeddings(BASE)}, {}, {}, {"c": Table(sites)}) == []


LABELS = np.array(["no", "yes"] * 30)


def test_labels_in_one_column_and_labels_in_all_are_read():
    column, value = best_column(BASE.astype(float), LABELS == "yes")
    assert value < 0.8
    coded = np.hstack([BASE, (LABELS == "yes")[:, None] * 0.01])
    assert best_column(coded, LABELS == "yes") == (12, 1.0)
    assert column < 12
    spread = BASE + np.outer(LABELS == "yes", 8 * noise(12, seed=2))
    assert nearest_mean_accuracy(spread, LABELS) == 1.0
    assert nearest_mean_accuracy(BASE.astype(float), LABELS) < 0.7


def test_left_out_class_means_equal_a_plain_loop():
    scaled = (BASE - BASE.mean(axis=0)) / BASE.std(axis=0)
    right = []
    for row in range(60):
        rest = np.arange(60) != row
        means = {n: scaled[rest & (n == LABELS)].mean(axis=0) for n in ("no", "yes")}
        gaps = {n: np.sum((scaled[row] - mean) ** 2) for n, mean in means.items()}
        right.append(min(gaps, key=gaps.get) == LABELS[row])
    assert nearest_mean_accuracy(BASE.astype(float), LABELS) == pytest.approx(np.mean(right))


def test_a_column_of_times_is_found():
    days = noise(60, seed=8).astype(float)
    assert time_correlation(np.hstack([BASE, -np.exp(days)[:, None]]), days)[0] == 12
    assert time_correlation(BASE.astype(float), days)[1] < 0.5


def test_contamination_is_said_by_cohort():
    assert [hit.where for hit in contaminated(["acrobat", "bcnb"], ["aidpath", "bcnb"])] == ["bcnb"]
    assert contaminated(None, ["bcnb"]) == []


def test_standing_is_over_the_tasks_of_the_submission(honest):
    own = {(t, "p"): scored(r, 0.75) for t, r in honest.items()}
    others = [
        known("half 1", "encoder", {("bcnb-er", "p"): own["bcnb-er", "p"]}),
        known("best 1", "encoder", {cell: scored(r, 0.9) for cell, r in own.items()}),
    ]
    rows = standings("me 1", "encoder", own, others)
    assert [(row.label, round(row.mean, 6)) for row in rows] == [("best 1", 0.8), ("me 1", 0.5)]


def test_reported_scores_are_no_known_encoders(honest):
    word = [r.model_copy(update={"verification": "V0"}) for r in honest.values()]
    assert known_encoders(word, "local", "me", "1") == []
    (other,) = known_encoders(honest.values(), "local", "me", "1")
    assert other.label == "stranger 1"
    assert known_encoders(honest.values(), "local", "stranger", "1") == []


def reviewed(path, first, tmp_path):
    request = VerifyRequest(config=first.cohort.config, results=first.results)
    return review(verify(read_bundle(path), request, tmp_path, Silence()), first.results)


HOSTILE = (
    "<script>alert(1)</script> @octocat `x` | [a](http://evil) ![b](http://evil/p.png) #1 "
    "<!-- **b** -->"
)


def test_hostile_text_is_inert_in_the_report(first, altered, tmp_path):
    text = members_of(first.bundle)["card.yaml"].decode()
    card = re.sub("title: .*", f"title: {json.dumps(HOSTILE)}", text)
    found = reviewed(altered({"card.yaml": card.encode()}), first, tmp_path)
    report = review_markdown(found)
    assert inert(HOSTILE) in report
    outside = re.sub(r"`[^`\n]*`", "", report)
    assert not re.search(r"script|octocat|evil|!\[|<|>|@", outside)
    assert not re.search("<|>|@", report)
    assert report.count("`") % 2 == 0
    for line in report.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert json.loads(review_json(found))["findings"][0]["claimed"] != ""


def test_the_report_of_an_honest_submission(first, tmp_path):
    found = reviewed(first.bundle, first, tmp_path)
    report = review_markdown(found)
    assert "verified" in report
    assert "Embeddings that encode the labels of the test slides pass V0 and V1." in report
    assert "`max-pool 1`" in report
    assert "| `bcnb` | clean |" in report
    assert {row.label for row in found.standing} == {"stranger 1", "max-pool 1"}
    assert review_json(found) == review_json(reviewed(first.bundle, first, tmp_path / "again"))
    assert len(RULES) == 9


@given(st.text(), st.text())
def test_two_inert_texts_in_a_row_stay_two_cells(one, other):
    row = f"| {inert(one)} | {inert(other)} |"
    assert row.count("|") == 3
    assert row.count("`") == 4
