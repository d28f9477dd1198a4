import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.phantoms.layout import HETEROGENEITY_STD, NOISE_STD, Section, patch_features
from madeleine_bench.phantoms.world import (
    BREAST,
    DIM,
    NUISANCE_DECAY,
    NUISANCE_DIMS,
    NUISANCE_LARGEST_STD,
    SITE_SHARE,
    WORLDS,
    Appearance,
)
from madeleine_bench.seeds import rng_for
from tests.phantoms.declare import make_cohort, make_status

TOY = make_cohort({"H&E": 12, "ER": 8}, 6, sites=2)


def digest(cohort, slide_ids):
    parts = {}
    for slide_id in slide_ids:
        bag = cohort.read_bag(slide_id)
        parts[slide_id] = hashlib.sha256(bag.features.tobytes() + bag.coords.tobytes()).hexdigest()
    return parts


def test_a_bag_is_what_the_cohort_says():
    cohort = PhantomCohort(TOY, [make_status("er", 2, 4)])
    assert (cohort.cohort_id, cohort.source, cohort.variant) == ("toy", "phantom", "")
    assert cohort.no_bag == frozenset()
    for row in cohort.slides.itertuples():
        bag = cohort.read_bag(row.slide_id)
        told = (bag.slide_id, bag.case_id, bag.stain, bag.site, bag.patch_encoder)
        assert told == (row.slide_id, row.case_id, row.stain, row.site, "phantom-512")
        assert bag.features.dtype == np.float32
        assert bag.features.shape == (len(bag.coords), DIM)
        assert 30 <= len(bag.features) <= 60
        assert np.isfinite(bag.features).all()
        assert set(bag.latents) == set(BREAST.latents)
        assert bag.latents == cohort.latents(row.case_id)


def test_bags_depend_on_nothing_but_their_name():
    cohort = PhantomCohort(TOY, [])
    ids = cohort.slides["slide_id"].tolist()
    forward = digest(cohort, ids)
    assert digest(PhantomCohort(TOY, [make_status("er", 2, 4)]), ids[::-1]) == forward
    assert digest(cohort, ids[5:6])[ids[5]] == forward[ids[5]]
    assert len(set(forward.values())) == len(ids)
    larger = make_cohort({"H&E": 24, "ER": 8}, 12, sites=1)
    first = PhantomCohort(larger, []).latents("toy-phantom-0001")
    assert first == cohort.latents("toy-phantom-0001")


@pytest.mark.parametrize("threads", ["1", "3"])
def test_bags_are_the_same_in_another_process_with_any_number_of_threads(threads):
    script = (
        "import json;"
        "from madeleine_bench.phantoms import PhantomCohort;"
        "from tests.phantoms.test_phantom_bags import TOY, digest;"
        "cohort = PhantomCohort(TOY, []);"
        "print(json.dumps(digest(cohort, cohort.slides['slide_id'])))"
    )
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **dict.fromkeys(names, threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    cohort = PhantomCohort(TOY, [])
    assert json.loads(answer.stdout) == digest(cohort, cohort.slides["slide_id"])


def test_the_variant_names_what_differs_and_the_key_follows_the_bag():
    slide = "toy-phantom-0001-HE-1"
    plain = PhantomCohort(TOY, [])
    variants = {
        "": PhantomCohort(TOY, [], signal=1.0, seed=0),
        "signal-0": PhantomCohort(TOY, [], signal=0.0),
        "seed-3": PhantomCohort(TOY, [], seed=3),
        "signal-0.5-seed-3": PhantomCohort(TOY, [], signal=0.5, seed=3),
    }
    assert [cohort.variant for cohort in variants.values()] == list(variants)
    keys = {name: cohort.content_key(slide) for name, cohort in variants.items()}
    bags = {name: digest(cohort, [slide])[slide] for name, cohort in variants.items()}
    assert len(set(keys.values())) == len(set(bags.values())) == 4
    assert keys[""] == plain.content_key(slide)
    assert keys[""] == PhantomCohort(TOY, [make_status("er", 2, 4)]).content_key(slide)
    assert keys[""] != plain.content_key("toy-phantom-0001-HE-2")
    other = make_cohort({"H&E": 12, "ER": 8}, 6, sites=2, nuisance_case_share=0.5)
    assert keys[""] != PhantomCohort(other, []).content_key(slide)


def test_a_table_of_real_labels_keeps_them():
    rows = {
        "slide_id": ["TCGA-A1-0001-DX1", "TCGA-A1-0001-DX2", "TCGA-B2-0002-DX1"],
        "case_id": ["TCGA-A1-0001", "TCGA-A1-0001", "TCGA-B2-0002"],
        "stain": "H&E",
        "site": ["A1", "A1", ""],
        "er": ["Equivocal", "Equivocal", "Positive"],
    }
    table = pd.DataFrame(rows)
    cohort = PhantomCohort(TOY, [make_status("er", 2, 4)], table=table)
    assert cohort.slides.equals(pd.DataFrame(rows))
    first, second, third = (cohort.read_bag(slide) for slide in rows["slide_id"])
    assert first.latents == second.latents != third.latents
    assert not np.array_equal(first.features[:5], second.features[:5])
    assert (first.site, third.site) == ("A1", None)
    assert cohort.content_key(rows["slide_id"][0]) != cohort.content_key(rows["slide_id"][1])


def test_wrong_requests_are_refused_in_one_message():
    cohort = PhantomCohort(TOY, [])
    with pytest.raises(InputError, match="no slide 'toy-phantom-0001-HE-9'; did you mean"):
        cohort.read_bag("toy-phantom-0001-HE-9")
    with pytest.raises(InputError, match="no slide 'x'"):
        cohort.content_key("x")
    with pytest.raises(InputError, match=r"has no key 'phantom'.*mbench\.toml"):
        PhantomCohort(TOY.model_copy(update={"phantom": None}), [])
    for signal in (-1.0, float("nan")):
        with pytest.raises(InputError, match="signal of a phantom"):
            PhantomCohort(TOY, [], signal=signal)
    columns = {"slide_id": ["a"], "case_id": ["a"], "stain": ["Jones"], "site": [""]}
    strange = PhantomCohort(TOY, [], table=pd.DataFrame(columns))
    with pytest.raises(InputError, match=r"stain 'Jones'.*'breast' does not know"):
        strange.read_bag("a")


def test_patch_features_equal_a_plain_loop():
    rng = rng_for("test-features")
    section = Section(
        np.zeros((7, 2), np.int32), np.array([0, 2, 1, 0, 2, 2, 1]), np.arange(-3.0, 4)
    )
    typical, moved = rng.standard_normal((3, DIM)), rng.standard_normal((3, DIM))
    moved[1] = 0.0
    features = patch_features(section, typical, moved, rng_for("test-noise"))
    noise = rng_for("test-noise").standard_normal((7, DIM), dtype=np.float32)
    for patch in range(7):
        kind = section.tissue[patch]
        strength = max(0.0, 1.0 + HETEROGENEITY_STD * section.heterogeneity[patch])
        plain = typical[kind] + strength * moved[kind] + NOISE_STD * noise[patch]
        np.testing.assert_allclose(features[patch], plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("organ", WORLDS)
def test_without_signal_nothing_a_slide_shows_depends_on_a_latent(organ):
    appearance = Appearance(WORLDS[organ])
    case, section = (appearance.draw(rng_for("test-null", name)) for name in ("case", "section"))
    low = dict.fromkeys(WORLDS[organ].latents, -3.0)
    high = dict.fromkeys(WORLDS[organ].latents, 3.0)
    for stain in WORLDS[organ].stains:
        null = [appearance.shifts(stain, z, case, section, 0.0) for z in (low, high)]
        np.testing.assert_array_equal(*null)
        real = [appearance.shifts(stain, z, case, section, 1.0) for z in (low, high)]
        assert np.abs(real[0] - real[1]).max() > 0.01


@pytest.mark.parametrize("stains", [{"H&E": 20}, {"H&E": 20, "PAS": 20, "Jones": 20}])
def test_null_bags_are_the_same_whatever_the_latents(monkeypatch, stains):
    organ = "kidney" if "PAS" in stains else "breast"
    declared = make_cohort(stains, 20, organ=organ, labels={})
    ids = PhantomCohort(declared, []).slides["slide_id"].tolist()[:6]
    null, real = (PhantomCohort(declared, [], signal=signal) for signal in (0.0, 1.0))
    before = [digest(cohort, ids) for cohort in (null, real)]
    opposite = dict.fromkeys(WORLDS[organ].latents, 2.5)
    for cohort in (null, real):
        monkeypatch.setattr(cohort, "latents", lambda case: opposite)
    assert digest(null, ids) == before[0]
    assert all(digest(real, ids)[slide] != before[1][slide] for slide in ids)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
def test_nuisance_has_the_stated_share_between_sections_of_a_case(share):
    appearance = Appearance(BREAST)
    rng = rng_for("test-share", share)
    pairs = []
    for _ in range(1500):
        site, case, *sections = (appearance.draw(rng) for _ in range(4))
        pairs.append([appearance.nuisance(site, case, one, share) for one in sections])
    first, second = np.array(pairs).transpose(1, 0, 2)
    stated = NUISANCE_LARGEST_STD**2 * sum(NUISANCE_DECAY ** (2 * i) for i in range(NUISANCE_DIMS))
    variance = (first**2).sum(axis=1).mean()
    assert variance == pytest.approx(stated, rel=0.08)
    common = (first * second).sum(axis=1).mean() / variance
    assert common == pytest.approx(SITE_SHARE + (1 - SITE_SHARE) * share, abs=0.08)


def test_bag_sizes_and_sites_know_no_latent():
    cohort = PhantomCohort(make_cohort({"H&E": 400}, 400, sites=2, patches=(5, 40)), [])
    sizes = [len(cohort.read_bag(slide).coords) for slide in cohort.slides["slide_id"]]
    site = (cohort.slides["site"] == "site-1").astype(float)
    latents = np.array([list(cohort.latents(case).values()) for case in cohort.slides["case_id"]])
    for known in (sizes, site):
        related = np.corrcoef(np.column_stack([known, latents]).T)[0, 1:]
        assert np.abs(related).max() < 4 / np.sqrt(400)
