"""The shipped encoders on small phantoms: which pass, and what the controls are caught by."""

import pytest
from threadpoolctl import threadpool_limits

from madeleine_bench.encoders.registry import find_encoder, load_encoder, shipped_encoders
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.runner.doctor import examine_encoder
from madeleine_bench.types import Silence
from tests.doctor.conftest import finding, verdicts
from tests.phantoms.declare import make_cohort

# What fails, and what warns, on the two phantoms below. All others neither fail nor warn.
FAILS = {
    "patch-count": {"effective rank", "half of the patches", "patch count"},
    "site-only": {"duplicates", "uses the patches"},
    "case-id": {"uses the patches"},
    "oracle": {"uses the patches"},
}
WARNS = {
    "max-pool": {"patch count"},
    "site-only": {"site"},
    "oracle": {"width"},
}
NEEDS_LABELS = {"abmil", "clam-sb", "dsmil", "ilra", "mean-mlp", "transmil"}


@pytest.fixture(scope="module")
def phantom():
    """Cases of one slide each, in six sites."""
    return PhantomCohort(make_cohort({"H&E": 32}, 32, sites=6, patches=(15, 90)), [])


@pytest.fixture(scope="module")
def several():
    """Four slides a case, two stains."""
    return PhantomCohort(make_cohort({"H&E": 16, "HER2": 16}, 8), [])


def examined(name, data):
    encoder = load_encoder(find_encoder(name))
    with threadpool_limits(1):
        return examine_encoder(encoder, data, list(data.slides["slide_id"]), Silence())


@pytest.mark.parametrize("name", sorted(set(shipped_encoders()) - NEEDS_LABELS))
def test_shipped_encoders_pass_and_controls_are_caught(name, phantom):
    found = examined(name, phantom)
    # Two slides have as many patches only by chance.
    assert verdicts(found, "fail") - {"duplicates"} == FAILS.get(name, set()) - {"duplicates"}
    assert verdicts(found, "warn") == WARNS.get(name, set())


@pytest.mark.parametrize("name", ["patch-count", "site-only"])
def test_few_distinct_embeddings_are_duplicates(name, phantom):
    assert "duplicates" in verdicts(examined(name, phantom), "fail")


def test_the_slides_of_a_case_share_the_embedding_of_case_id(several):
    found = examined("case-id", several)
    assert verdicts(found, "fail") == {"duplicates", "uses the patches"}
    assert "32 of 32" in finding(found, "duplicates").found


def test_stains_are_a_note(several):
    found = finding(examined("mean-pool", several), "stain")
    assert found.verdict == "pass"
    assert "balanced accuracy 1.00, chance 0.50, p 0.002" in found.found


@pytest.mark.parametrize("name", sorted(NEEDS_LABELS))
def test_of_a_supervised_network_the_contract_alone_is_checked(name, phantom):
    found = examined(name, phantom)
    assert verdicts(found, "pass") == {"contract"}
    assert len(verdicts(found, "skipped")) == len(found.findings) - 1
    assert found.rows is None
