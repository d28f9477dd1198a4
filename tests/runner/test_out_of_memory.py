"""A slide that does not fit into memory: other ways are tried, then it alone fails, by name."""

from typing import ClassVar

import numpy as np
import pytest

from madeleine_bench.embeddings.compute import CHUNK_PATCHES, OutOfMemory, encode_checked
from madeleine_bench.encoders.registry import load_encoder, shipped_encoders
from madeleine_bench.errors import CheckFailed
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import NOT_ENCODED
from madeleine_bench.types import Bag
from tests.stranger import write_stranger

BAG = Bag("s1", "c1", np.arange(20, dtype=np.float32).reshape(10, 2))
MEAN = load_encoder(shipped_encoders()["mean-pool"])


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class OnGpu:
    """An encoder on a GPU that is too small; `fails` are the devices that cannot do it."""

    card = MEAN.card

    def __init__(self, fails=("cuda",), error=OutOfMemoryError):
        self.device, self.fails, self.error = "cuda", fails, error
        self.tried = []

    def to(self, device):
        self.device = device

    def encode(self, bag):
        self.tried.append(self.device)
        if self.device in self.fails:
            raise self.error(f"{self.device} out of memory.\nMore.")
        return bag.features.mean(axis=0)


class InChunks(OnGpu):
    sizes: ClassVar[list[int]] = []

    def encode_in_chunks(self, bag, size):
        self.sizes.append(size)
        return bag.features.mean(axis=0)


@pytest.mark.parametrize("error", [OutOfMemoryError, MemoryError, RuntimeError])
def test_it_is_tried_on_the_cpu_and_the_encoder_goes_back(error):
    encoder = OnGpu(error=error)
    np.testing.assert_array_equal(encode_checked(encoder, BAG), [9, 10])
    assert encoder.tried == ["cuda", "cpu"]
    assert encoder.device == "cuda"


def test_then_in_chunks():
    encoder = InChunks(fails=("cuda", "cpu"))
    np.testing.assert_array_equal(encode_checked(encoder, BAG), [9, 10])
    assert encoder.tried == ["cuda", "cpu"]
    assert encoder.sizes == [CHUNK_PATCHES]


def test_then_it_fails_by_name():
    with pytest.raises(OutOfMemory) as raised:
        encode_checked(OnGpu(fails=("cuda", "cpu")), BAG)
    assert str(raised.value) == (
        "encoder mean-pool, slide s1: 10 patches do not fit into memory (OutOfMemoryError: cuda "
        "out of memory.; on the CPU OutOfMemoryError: cpu out of memory.)"
    )


def test_another_error_is_not_tried_again():
    encoder = OnGpu(error=ValueError)
    with pytest.raises(CheckFailed, match="encode raised ValueError") as raised:
        encode_checked(encoder, BAG)
    assert not isinstance(raised.value, OutOfMemory)
    assert encoder.tried == ["cuda"]


def test_chunks_of_madeleine_give_its_embedding():
    encoder = load_encoder(shipped_encoders()["madeleine"])
    rng = np.random.default_rng(0)
    width = encoder.card.input_dim or 512
    bag = Bag("s", "c", rng.standard_normal((50, width), np.float32), organ="breast")
    whole, chunks = encoder.encode(bag), encoder.encode_in_chunks(bag, 7)
    np.testing.assert_allclose(chunks, whole, atol=1e-5)


@pytest.fixture
def score(mbench, bcnb, tmp_path):
    """Run mean-pool and an encoder that cannot do some slides."""

    def call(*more, slides=("3", "7"), task="bcnb-er"):
        body = f"return bag.features.mean(axis=0) if bag.slide_id not in {slides} else _large()"
        card = write_stranger(tmp_path / "stranger", body)
        code = card.parent / "encoder.py"
        if "_large():" not in (text := code.read_text()):
            code.write_text(text + "\ndef _large():\n    raise MemoryError('not enough')\n")
        return mbench(
            "run", "--encoder", "mean-pool", "--encoder", card, "--task", task, "--protocol",
            "linear-probe", "--jobs", "1", "--config", bcnb.config, "--results",
            tmp_path / "results", *more,
        )  # fmt: skip

    def records():
        found = ResultStore(tmp_path / "results").records()
        return {(record.encoder.name, record.task.id): record for record in found}

    call.records = records
    return call


def test_the_task_fails_by_name_and_the_encoder_is_not_lost(score):
    said = score()
    assert said.code == 1
    assert (
        "encoder stranger, slide 3: 8 patches do not fit into memory (MemoryError: not enough)"
        in (" ".join(said.err.split()))
    )
    assert (
        "stranger on bcnb-er@1: 2 slide(s) could not be encoded because memory ran out (3, 7)"
        in (" ".join(said.err.split()))
    )
    assert "--allow-partial scores the others" in said.err
    assert list(score.records()) == [("mean-pool", "bcnb-er")]


def test_with_allow_partial_the_others_are_scored_and_never_ranked_beside_the_rest(score):
    said = score("--allow-partial")
    assert said.code == 0, said.err
    records = score.records()
    whole, part = (records[name, "bcnb-er"] for name in ("mean-pool", "stranger"))
    assert (whole.inputs.n, part.inputs.n) == (40, 38)
    assert part.inputs.missing == {NOT_ENCODED: ("3", "7")}
    assert part.inputs.labels != whole.inputs.labels
    assert "scored on other data than the rest: bcnb-er" in said.out or "incomplete" in said.out
    # Folds are those of the whole cohort, less the two.
    tested = [fold.n_test for fold in part.folds]
    assert sum(tested) == 38
    assert all(0 <= fold.n_test - less <= 2 for fold, less in zip(whole.folds, tested, strict=True))
    again = score("--allow-partial")
    assert "0 computed, 2 already there" in again.err


def test_a_slide_that_fits_now_is_scored_with_resume_never(score):
    score("--allow-partial")
    said = score("--allow-partial", "--resume", "never", slides=())
    assert said.code == 0, said.err
    assert score.records()["stranger", "bcnb-er"].inputs.n == 40


def test_an_encoder_that_can_do_no_slide_fails(score):
    said = score(slides=tuple(str(n) for n in range(1, 41)))
    assert said.code == 1
    assert "no slide could be encoded because memory ran out" in said.err
    assert ("mean-pool", "bcnb-er") in score.records()
