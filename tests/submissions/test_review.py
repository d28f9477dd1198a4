"""What a reviewer is told: rules that hit what they should, copies found, text that is inert."""

import json
import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.embeddings.compute import embed_slides
from madeleine_bench.embeddings.store import Embeddings, EmbeddingStore
from madeleine_bench.encoders.registry import load_encoder, shipped_encoders
from madeleine_bench.hashing import hash_array, hash_json
from madeleine_bench.runner.cohorts import open_cohort, slides_with_bags
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import Config
from madeleine_bench.specs.record import Record, record_id
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.parsing import inert
from madeleine_bench.submissions.report import beside_known, review
from madeleine_bench.submissions.suspicion import (
    COPY_SHARE,
    MOST_SLIDES,
    best_column,
    compare,
    likenesses,
    nearest_mean_accuracy,
    suspicious_embeddings,
    suspicious_likeness,
    suspicious_scores,
    time_correlation,
)
from madeleine_bench.submissions.verify import VerifyRequest, verify
from madeleine_bench.types import Silence
from tests.submissions.conftest import members_of

RECORD = "records/bcnb-er.linear-probe-v2.json"
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
    ("matrix", "rules"),
    [
        (BASE, ["duplicate"]),
        (BASE[:, ::-1], ["linear function"]),
        (BASE * np.linspace(-3, 9, 12), ["linear function"]),
        (BASE[:, 2:7] * 2 + 1, ["linear function"]),
        (BASE @ rotation(12) * 7 + 3, ["linear function"]),
        (BASE @ rotation(12) + 0.03 * noise(60, 12, seed=9), ["linear function"]),
        (BASE + 0.5 * noise(60, 12, seed=9), []),
        (noise(60, 12, seed=4), []),
        (np.zeros((60, 3)), []),
    ],
)
def test_a_copy_is_found_however_it_was_dressed(matrix, rules):
    found = compare("bcnb", "known", embeddings(matrix), embeddings(BASE))
    assert found is not None
    assert [hit.rule for hit in suspicious_likeness([found])] == rules


# Bags of 40 patches for each slide, more or less alike: what honest encoders make of them.
SPREAD = np.exp(0.5 * noise(60, 1, 12, seed=5))
BAGS = BASE[:, None] + SPREAD * noise(60, 40, 12, seed=6)
MEAN = BAGS.mean(axis=1)
BESIDE = np.hstack([MEAN, BAGS.std(axis=1)])


@pytest.mark.parametrize(
    "matrix",
    [BESIDE, BAGS[:, ::2].mean(axis=1), np.median(BAGS, axis=1)],
    ids=["mean and deviation", "other patches", "median"],
)
def test_an_honest_relative_hits_no_rule_and_its_shares_are_reported(matrix):
    like = compare("bcnb", "mean-pool", embeddings(matrix), embeddings(MEAN))
    assert like is not None
    assert like.explained is not None
    assert like.explained < COPY_SHARE - 0.005
    assert like.explains is not None
    assert suspicious_likeness([like]) == []


def test_both_directions_tell_what_contains_an_encoder_from_what_is_contained():
    """Patches' deviations beside the mean: all of mean-pool is in it, and more."""
    like = compare("bcnb", "mean-pool", embeddings(BESIDE), embeddings(MEAN))
    assert like is not None
    assert like.explains > 0.999
    assert like.explained < COPY_SHARE - 0.005


HONEST = ("madeleine", "madeleine-se", "intra-ssl", "max-pool", "untrained")


@lru_cache
def phantoms(slides):
    """Embeddings by shipped encoders of the first slides of the phantom of bcnb."""
    data = open_cohort(Workspace(source="phantom"), load_catalogue(), "bcnb", Config()).data
    encoders = {name: load_encoder(shipped_encoders()[name]) for name in ("mean-pool", *HONEST)}
    return embed_slides(encoders, data, slides_with_bags(data)[:slides])[0]


def phantom(name, slides):
    return phantoms(max(slides, 200))[name][:slides].astype(float)


def rotated(matrix, seed=0):
    width = matrix.shape[1]
    return matrix @ np.linalg.qr(rng_for("turn", seed, width).standard_normal((width, width)))[0]


def blurred(matrix):
    return rotated(matrix) + 0.03 * matrix.std(axis=0) * noise(*matrix.shape)


def scaled(matrix):
    return rotated(matrix) * 10.0 ** rng_for("scale").uniform(-1, 1, matrix.shape[1])


def principal(matrix):
    return np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)[:2]


def whitened(matrix):
    """All directions of the variance where slides suffice, else those of 99% of it."""
    left, values = principal(matrix)
    most = np.searchsorted(np.cumsum(values**2) / np.sum(values**2), 0.99) + 1
    return left[:, : most if len(matrix) <= matrix.shape[1] else None]


def reduced(matrix):
    left, values = principal(matrix)
    return (left * values)[:, :64]


def unit_rows(matrix):
    return rotated(matrix) / np.linalg.norm(matrix, axis=1, keepdims=True)


def replaced(matrix):
    copy = rotated(matrix)
    rows = rng_for("replaced").permutation(len(copy))[: len(copy) // 20]
    copy[rows] = np.roll(copy, 7, axis=0)[rows]
    return copy


SIZES = (50, 200, pytest.param(1_000, marks=pytest.mark.slow))
DISGUISES = (blurred, scaled, whitened, reduced, unit_rows, replaced)


def slide_ids(number):
    return [f"s{n:04d}" for n in range(number)]


def compared(known, submitted):
    ids = slide_ids(len(known))
    like = compare("bcnb", "mean-pool", embeddings(submitted, ids), embeddings(known, ids))
    assert like is not None
    return like


@pytest.mark.parametrize("slides", SIZES)
@pytest.mark.parametrize("disguise", DISGUISES, ids=lambda each: each.__name__)
def test_a_disguised_copy_is_flagged(disguise, slides):
    """All six passed as new: a rotation leaves more than .0001 of the variance, CKA may be low."""
    mean = phantom("mean-pool", slides)
    like = compared(mean, disguise(mean))
    assert like.explained > COPY_SHARE + 0.0003
    (hit,) = suspicious_likeness([like])
    assert hit.rule == "linear function"
    assert "explained" in hit.seen


@pytest.mark.parametrize("slides", SIZES)
@pytest.mark.parametrize("name", HONEST)
def test_honest_encoders_are_not_flagged_whichever_came_first(name, slides):
    mean, other = phantom("mean-pool", slides), phantom(name, slides)
    for known, submitted in ((mean, other), (other, mean)):
        like = compared(known, submitted)
        assert like.explained < COPY_SHARE - 0.01
        assert suspicious_likeness([like]) == []


def test_an_honest_projection_of_a_known_encoder_is_its_linear_function():
    """It cannot be parted from a copy reduced to 64 dimensions, and the rule says so."""
    known = noise(300, 40)
    (hit,) = suspicious_likeness([compared(known, known @ noise(40, 12, seed=2))])
    assert hit.rule == "linear function"


def test_whitening_of_all_directions_of_few_slides_leaves_nothing_to_compare():
    """Then every slide is as far from every other, whatever the encoder was."""
    left, _ = principal(phantom("mean-pool", 50))
    like = compared(phantom("mean-pool", 50), left[:, :49])
    assert like.explained is None


def test_more_slides_than_are_compared_make_the_same_verdict():
    many = noise(MOST_SLIDES + 500, 12)
    like = compared(many, rotated(many))
    assert like.slides == MOST_SLIDES + 500
    assert like.explained > COPY_SHARE


def test_slides_in_another_order_and_a_part_of_them_are_matched_by_id():
    order = rng_for("order").permutation(60)[:40]
    part = embeddings(BASE[order], [IDS[i] for i in order])
    found = compare("bcnb", "known", part, embeddings(BASE))
    assert found is not None
    assert (found.equal, found.slides) == (True, 40)
    assert compare("bcnb", "known", embeddings(BASE[:20], IDS[:20]), embeddings(BASE)) is None


def test_wide_embeddings_of_few_slides_are_not_judged_by_cka():
    found = compare("c", "k", embeddings(noise(60, 6500)), embeddings(noise(60, 6500, seed=1)))
    assert found is not None
    assert (found.cka, found.explained, found.explains) == (None, None, None)
    assert suspicious_likeness([found]) == []


def test_known_encoders_are_read_from_the_results_folder(tmp_path):
    store = EmbeddingStore(tmp_path)
    for name, matrix in (("a", BASE), ("me", BASE), ("b", noise(60, 12, seed=5))):
        store.write(store.path("phantom", name, "bcnb", "k" * 64), IDS, matrix)
    found = likenesses("phantom", "me", {"bcnb": embeddings(BASE)}, tmp_path)
    assert [(like.encoder, like.equal) for like in found] == [("a", True), ("b", False)]
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


@pytest.fixture(scope="module")
def beside(first):
    """Return the records of a submission, each with those of others."""
    bundle = read_bundle(first.bundle)
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"board": "phantom"}))

    def call(records, *others):
        return beside_known(bundle, records, [record for each in others for record in each])

    return call


def test_rules_on_scores(honest, beside):
    def board(er, pr, **more):
        return scored(honest["bcnb-er"], er, **more), scored(honest["bcnb-pr"], pr, **more)

    def rules(own, others):
        return [(hit.rule, hit.where) for hit in suspicious_scores(beside(own, *others))]

    oracle = board(0.95, 0.9, name="oracle", kind="control")
    best = board(0.8, 0.7, name="best")
    assert rules(board(0.82, 0.72), [oracle, best]) == []
    assert rules(board(0.96, 0.705), [oracle, best]) == []
    assert rules(board(0.98, 0.9), [oracle, best]) == [("above the ceiling", "bcnb-er")]
    assert rules(board(0.996, 0.9), [best]) == [("perfect", "bcnb-er")]
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


def test_contamination_is_said_by_cohort(first, altered, tmp_path):
    text = members_of(first.bundle)["card.yaml"].decode()
    line = next(line for line in text.splitlines() if line.startswith("training_cohorts"))
    for listed, verdict in (("[acrobat, bcnb]", "contaminated"), ("[acrobat]", "clean")):
        card = text.replace(line, f"training_cohorts: {listed}")
        found = reviewed(altered({"card.yaml": card.encode()}), first, tmp_path, "V0")
        assert found.document["contamination"] == {"bcnb": verdict}
        hits = [h["where"] for h in found.document["suspicions"] if h["rule"].startswith("trained")]
        assert hits == ["bcnb"] * (verdict == "contaminated")


def test_reported_scores_are_no_known_encoders(honest, beside):
    own = [scored(record, 0.75) for record in honest.values()]
    others = [scored(record, 0.9, name="other") for record in honest.values()]
    word = [record.model_copy(update={"verification": "V0"}) for record in others]
    assert [each.others for each in beside(own, word)] == [[], []]
    for each in beside(own, others):
        assert [each.label_of(other) for other in each.others] == ["other 1"]
    for each in beside(own, [scored(record, 0.9) for record in honest.values()]):
        assert each.others == []
        assert each.record.scores.main.value == 0.75


def test_the_newest_record_of_another_encoder_counts(honest, beside):
    old, new = (
        scored(honest["bcnb-er"], value, name="other").model_copy(
            update={"provenance": {"created": day}}
        )
        for value, day in ((0.9, "2026-01-01"), (0.8, "2026-01-02"))
    )
    (each,) = beside([scored(honest["bcnb-er"], 0.75)], [new, old])
    assert each.best == new


def test_an_encoder_is_labelled_where_its_features_are_others(honest, beside):
    own = [scored(record, 0.75) for record in honest.values()]
    content = scored(honest["bcnb-er"], 0.9, name="other").model_dump(mode="json")
    content["features"] = {"patch_encoder": "uni", "content": hash_json("x")}
    other = Record.model_validate({**content, "record_id": record_id(content)})
    mine = next(each for each in beside(own, [other]) if each.others)
    assert [mine.label_of(each) for each in mine.others] == ["other 1 (other features)"]


def reviewed(path, first, tmp_path, level="V1"):
    request = VerifyRequest(Workspace(first.results, config=first.cohort.config), level)
    return review(verify(read_bundle(path), request, tmp_path, Silence()))


HOSTILE = (
    "<script>alert(1)</script> @octocat `x` | [a](http://evil) ![b](http://evil/p.png) #1 "
    "<!-- **b** -->"
)


def test_hostile_text_is_inert_in_the_report(first, altered, tmp_path):
    text = members_of(first.bundle)["card.yaml"].decode()
    card = re.sub("title: .*", f"title: {json.dumps(HOSTILE)}", text)
    found = reviewed(altered({"card.yaml": card.encode()}), first, tmp_path)
    report = found.texts["report.md"]
    assert inert(HOSTILE) in report
    outside = re.sub(r"`[^`\n]*`", "", report)
    assert not re.search(r"script|octocat|evil|!\[|<|>|@", outside)
    assert not re.search("<|>|@", report)
    assert report.count("`") % 2 == 0
    for line in report.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert found.document["findings"][0]["claimed"] != ""


def test_the_report_of_an_honest_submission(first, tmp_path):
    found = reviewed(first.bundle, first, tmp_path)
    report = found.texts["report.md"]
    assert "verified" in report
    assert "Embeddings that encode the labels of the test slides pass V0 and V1." in report
    assert "`max-pool 1`" in report
    assert "| `bcnb` | `clean` |" in report
    assert {row["best_encoder"] for row in found.document["scores"]} == {"max-pool 1"}
    again = reviewed(first.bundle, first, tmp_path / "again")
    assert found.document == again.document
    assert "| encoder | cohort | slides | explained | explains | cka |" in report


@given(st.text(), st.text())
def test_two_inert_texts_in_a_row_stay_two_cells(one, other):
    row = f"| {inert(one)} | {inert(other)} |"
    assert row.count("|") == 3
    assert row.count("`") == 4
