import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.batches import (
    DeviceSource,
    HostSource,
    choose_source,
    draw_batch,
    plan_epoch,
    prefetch,
    rank_share,
)
from madeleine_bench.pretrain.cases import CaseTable, build_cases
from madeleine_bench.seeds import rng_for
from tests.pretrain.stores import DIM, make_breast, make_store

STORE = make_breast(12)
TABLE = build_cases(STORE, min_patches=2, unusable="refuse", encoder="madeleine")


def draw(positions, source=None, table=TABLE, **options):
    options = {"patches": 14, "seed": 0, "epoch": 0, **options}
    return draw_batch(source or HostSource(STORE), table, positions, **options)


@pytest.fixture(params=["host", "device"])
def source(request):
    """The store read from files, and resident as on a GPU."""
    return HostSource(STORE) if request.param == "host" else DeviceSource(STORE, "cpu")


def slides_of(batch) -> dict[tuple[int, int], list[float]]:
    """Rows of the store by (case in the batch, stain)."""
    parts = batch.patches[:, 0].float().split(list(batch.lengths))
    keys = zip(batch.case.tolist(), batch.stain.tolist(), strict=True)
    return {key: part.tolist() for key, part in zip(keys, parts, strict=True)}


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_a_batch_is_packed_by_case_then_stain() -> None:
    batch = draw([4, 1, 6])
    assert batch.case.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert batch.stain.tolist() == [0, 1, 0, 1, 2, 0, 1]
    assert batch.cases == 3
    # The bags have 15, 12 and 17 patches.
    assert batch.lengths == (14, 14, 12, 12, 12, 14, 14)
    assert batch.patches.shape == (sum(batch.lengths), DIM)
    assert batch.patches.dtype == torch.float32
    assert batch.case.dtype == batch.stain.dtype == torch.int64


def test_patches_are_of_the_slide_and_none_comes_twice(source) -> None:
    for (number, stain), rows in slides_of(draw([4, 1, 6], source)).items():
        slide = TABLE.slides[[4, 1, 6][number]][stain][0]
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(range(STORE.rows(slide).start, STORE.rows(slide).stop))
        assert rows != sorted(rows)


def test_a_small_bag_is_taken_whole(source) -> None:
    rows = slides_of(draw([1], source))[0, 0]
    slide = STORE.rows(TABLE.slides[1][0][0])
    assert sorted(rows) == list(range(slide.start, slide.stop))


def test_a_sample_depends_on_nothing_but_case_stain_epoch_and_seed(source) -> None:
    together, alone = slides_of(draw([4, 1, 6], source)), slides_of(draw([6], source))
    assert alone[0, 0] == together[2, 0]
    assert alone[0, 1] == together[2, 1]
    # Other cases of the table play no part either.
    assert slides_of(draw([1], source, table=TABLE.take([4, 6])))[0, 1] == together[2, 1]
    assert alone[0, 0] != slides_of(draw([6], source, epoch=1))[0, 0]
    assert alone[0, 0] != slides_of(draw([6], source, seed=1))[0, 0]
    first, second = alone[0, 0], alone[0, 1]
    assert [row - min(first) for row in first] != [row - min(second) for row in second]


def test_every_patch_is_drawn_alike(source) -> None:
    start = STORE.rows(TABLE.slides[9][0][0]).start
    counts = np.zeros(20)
    for epoch in range(300):
        rows = slides_of(draw([9], source, patches=5, epoch=epoch))[0, 0]
        counts[np.array(rows, int) - start] += 1
    # 75 draws of each of the 20 patches on average, 7.5 in standard deviation.
    assert abs(counts - 75).max() < 5 * 7.5


@pytest.mark.parametrize("kind", [HostSource, lambda store: DeviceSource(store, "cpu")])
def test_one_of_several_slides_is_drawn(kind) -> None:
    slides = [("a", "c1", "H&E", 5), ("b", "c1", "ER", 5), ("c", "c1", "ER", 6)]
    store = make_store(slides)
    table = build_cases(store, min_patches=2, unusable="refuse", encoder="madeleine")
    seen = {draw([0], kind(store), table, epoch=epoch).lengths for epoch in range(20)}
    assert seen == {(5, 5), (5, 6)}


def test_numpy_draws(source) -> None:
    """The shipped weights were trained on these very rows."""
    for (number, stain), rows in slides_of(draw([4, 1, 6], source, epoch=3)).items():
        case = [4, 1, 6][number]
        (slide,) = TABLE.slides[case][stain]
        name = (TABLE.case_ids[case], TABLE.stains[stain])
        rng = rng_for("pretrain-sample", 0, 3, *name)
        assert rng.integers(1) == 0
        count = int(STORE.lengths[slide])
        expected = rng.choice(count, min(14, count), replace=False) + STORE.rows(slide).start
        assert rows == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sources_draw_from_the_same_patches(dtype: torch.dtype) -> None:
    host, resident = (
        draw([3, 8, 5], source)
        for source in (HostSource(STORE, dtype=dtype), DeviceSource(STORE, "cpu", dtype))
    )
    assert host.patches.dtype == resident.patches.dtype == dtype
    assert host.lengths == resident.lengths
    for name in ("case", "stain", "cases"):
        assert np.array_equal(getattr(host, name), getattr(resident, name))
    assert torch.equal(host.patches, resident.patches)


def test_choice_of_source(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_source(STORE, "cpu"), HostSource)
    bytes_needed = STORE.nbytes
    # "meta" stands in for a device that is not the CPU: shapes without memory.
    for free, kind in ((bytes_needed / 0.79, DeviceSource), (bytes_needed / 0.81, HostSource)):
        assert type(choose_source(STORE, "meta", int(free))) is kind


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", [HostSource, DeviceSource])
def test_a_gpu_has_the_patches_of_a_cpu(kind) -> None:
    here, there = (
        draw([3, 8, 5], kind(STORE, device, torch.float16)).patches for device in ("cpu", "cuda")
    )
    assert there.device.type == "cuda"
    assert torch.equal(here, there.cpu())


@given(
    cases=st.integers(2, 40),
    batch_cases=st.integers(2, 12),
    world=st.integers(1, 3),
    epoch=st.integers(0, 5),
)
def test_plan_of_an_epoch(cases: int, batch_cases: int, world: int, epoch: int) -> None:
    batch_cases = max(batch_cases, world)
    if cases < world:
        return
    plan = plan_epoch(cases, batch_cases, seed=0, epoch=epoch, world=world)
    used = np.concatenate(plan)
    assert len(set(used.tolist())) == len(used)
    assert set(used.tolist()) <= set(range(cases))
    assert all(max(world, 2) <= len(batch) <= batch_cases for batch in plan)
    assert all(len(batch) == batch_cases for batch in plan[:-1])
    # No more is lost than a remainder that cannot be shared out.
    assert cases - len(used) < max(world, 2)
    again = plan_epoch(cases, batch_cases, seed=0, epoch=epoch, world=world)
    assert all((a == b).all() for a, b in zip(plan, again, strict=True))
    shares = [rank_share(plan[-1], rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(shares), plan[-1])
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_epochs_and_seeds_differ() -> None:
    plans = [plan_epoch(30, 30, seed=s, epoch=e)[0].tolist() for s, e in ((0, 0), (0, 1), (1, 0))]
    assert plans[0] != plans[1] != plans[2] != plans[0]
    assert sorted(plans[0]) == list(range(30))


def test_one_process_and_two_work_on_the_same_global_batches() -> None:
    one, two = (plan_epoch(21, 6, seed=0, epoch=2, world=world) for world in (1, 2))
    assert len(one[-1]) == 3
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_plans_that_cannot_be() -> None:
    with pytest.raises(InputError, match="1 cases a step"):
        plan_epoch(1, 4, seed=0, epoch=0)
    with pytest.raises(InputError, match="need 3 or more"):
        plan_epoch(2, 6, seed=0, epoch=0, world=3)


def test_prefetch_yields_all_in_order() -> None:
    assert list(prefetch(range(7))) == list(range(7))
    assert list(prefetch([])) == []
    assert not prefetch_threads()


def test_prefetch_works_ahead_but_not_far() -> None:
    made = []

    def make():
        for number in range(50):
            made.append(number)
            yield number

    items = prefetch(make())
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    # One was taken, two wait, and one more waits for room.
    assert made == [0, 1, 2, 3]
    items.close()
    assert not prefetch_threads()


def test_prefetch_hands_on_exceptions_after_what_was_made() -> None:
    def make():
        yield 1
        yield 2
        raise InputError("the third is broken")

    seen = []
    with pytest.raises(InputError, match="the third is broken"):
        seen.extend(prefetch(make()))
    items = prefetch(make())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(InputError, match="the third is broken"):
        next(items)
    assert not prefetch_threads()


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_prefetch_leaves_no_thread_behind(taken: int) -> None:
    for number in prefetch(range(1000)):
        if number + 1 == taken:
            break
    assert not prefetch_threads()

    def fail() -> None:
        for number in prefetch(range(1000)):
            if number + 1 == taken:
                raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        fail()
    assert not prefetch_threads()


def test_take_keeps_what_was_left_out() -> None:
    table = CaseTable(("a", "b"), ("H&E",), (((0,),), ((1,),)), {"reason": ("x",)})
    assert table.take([1]) == CaseTable(("b",), ("H&E",), (((1,),),), {"reason": ("x",)})
