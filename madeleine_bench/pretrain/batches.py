"""Batches of cases: which cases make a step, and which patches stand for their slides.

Every draw is seeded by what it is for (epoch, case, stain), not by what was drawn before. So a
slide's sample is the same whatever the batch size, the process that draws it, or an interruption.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.cases import CaseTable
from madeleine_bench.seeds import rng_for

Item = TypeVar("Item")
Positions = NDArray[np.int64]
Name = tuple[str | int, ...]
_LEAST_CASES = 2
_RESIDENT_SHARE = 0.8
_WAITING = 2


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; on a GPU without waiting for what it has to do."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class CaseBatch:
    """The slides of some cases, packed: no padding, absent stains take no room.

    Slides are ordered by case, then by stain. The rows of a slide are a random sample in random
    order, so its first k rows are a random sample too, and its two halves two random views.

    Attributes:
        patches: patch x dim, on the device and in the number type of the source.
        lengths: number of rows of each slide; the rows of a slide follow those of the one before.
        case: slide, int64, on the CPU: position of the slide's case in the batch.
        stain: slide, int64, on the CPU: position of its stain in the table's stains.
        cases: number of cases.
    """

    patches: Tensor = field(repr=False)
    lengths: tuple[int, ...]
    case: Tensor
    stain: Tensor
    cases: int


class HostSource:
    """Patches gathered from the memory-mapped store, slide by slide."""

    def __init__(
        self,
        store: FeatureStore,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Read from a store.

        Args:
            store: the packed cohort.
            device: where batches go.
            dtype: of a batch; None means float32 on the CPU, and that of the store elsewhere.
        """
        self.store = store
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        self.dtype = dtype or (torch.float32 if on_cpu else torch.float16)

    def draw(
        self, choices: Sequence[Sequence[int]], names: Sequence[Name], patches: int
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Return patch x dim, slide after slide, and the number of patches of each slide.

        Args:
            choices: slides of which one is drawn, each time.
            names: what each of these draws is for, from which its seed is made.
            patches: the most to take of a slide, without replacement, in random order.
        """
        lengths = self.store.lengths
        slides: list[int] = []
        rows: list[Positions] = []
        for choice, name in zip(choices, names, strict=True):
            rng = rng_for(*name)
            slide = choice[int(rng.integers(len(choice)))]
            count = int(lengths[slide])
            slides.append(slide)
            rows.append(rng.choice(count, min(patches, count), replace=False))
        return self.gather(slides, rows), tuple(map(len, rows))

    def gather(self, slides: Sequence[int], rows: Sequence[Positions]) -> Tensor:
        """Return patch x dim: of each slide the given rows (from 0 in that slide), in order."""
        bags = [self.store.bag(slide)[chosen] for slide, chosen in zip(slides, rows, strict=True)]
        batch = torch.from_numpy(np.concatenate(bags)).to(self.dtype)
        return on_device(batch, self.device)


class DeviceSource(HostSource):
    """All patches of the store resident on a device; a batch sends it row numbers alone."""

    def __init__(
        self,
        store: FeatureStore,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Copy the whole store to the device, a slide at a time.

        Args:
            store: the packed cohort.
            device: such as "cuda:0".
            dtype: of the resident patches and of batches; None means that of the store.
        """
        super().__init__(store, device, dtype or torch.float16)
        shape = (store.patches, store.dim)
        self.patches = torch.empty(shape, dtype=self.dtype, device=self.device)
        for slide in range(len(store)):
            self.patches[store.rows(slide)] = torch.from_numpy(np.array(store.bag(slide)))

    def gather(self, slides: Sequence[int], rows: Sequence[Positions]) -> Tensor:
        """Return patch x dim, as `HostSource.gather`."""
        begins = self.store.offsets[list(slides)]
        chosen = np.concatenate([begin + part for begin, part in zip(begins, rows, strict=True)])
        return self.patches.index_select(0, on_device(torch.from_numpy(chosen), self.device))


def choose_source(
    store: FeatureStore, device: torch.device | str, free_bytes: int | None = None
) -> HostSource:
    """Return a source for a device: resident on it where the store fits, else on the host.

    On the CPU the page cache holds what fits anyway.

    Args:
        store: the packed cohort.
        device: where batches go.
        free_bytes: memory of the device that the patches may use up to 80% of; None asks the
            device.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return HostSource(store, device)
    if free_bytes is None:
        free_bytes = torch.cuda.mem_get_info(device)[0]
    if store.nbytes <= _RESIDENT_SHARE * free_bytes:
        return DeviceSource(store, device)
    return HostSource(store, device)


def plan_epoch(
    n_cases: int, batch_cases: int, *, seed: int, epoch: int, world: int = 1
) -> list[Positions]:
    """Return the global batches of an epoch: arrays of case positions, every case at most once.

    The plan is the same for any number of processes, as long as the last batch has a case for
    each of them; a last batch of fewer, or of one case, is dropped.

    Raises:
        InputError: there are too few cases for a batch.
    """
    least = max(_LEAST_CASES, world)
    order = rng_for("pretrain-epoch", seed, epoch).permutation(n_cases).astype(np.int64)
    batches = [order[start : start + batch_cases] for start in range(0, n_cases, batch_cases)]
    batches = [batch for batch in batches if len(batch) >= least]
    if not batches:
        raise InputError(
            f"{min(n_cases, batch_cases)} cases a step; {world} processes need {least} or more"
        )
    return batches


def rank_share(batch: Positions, rank: int, world: int) -> Positions:
    """Return the cases of a global batch that one process works on: a contiguous part.

    Parts differ by one case at most, the larger ones first.
    """
    return np.array_split(batch, world)[rank]


def draw_batch(
    source: HostSource,
    table: CaseTable,
    positions: Sequence[int] | Positions,
    *,
    patches: int,
    seed: int,
    epoch: int,
    cases: int | None = None,
) -> CaseBatch:
    """Return the packed slides of some cases, a new sample of their patches each epoch.

    Where a case has several slides of a stain, one is drawn. All patches are taken of a slide
    that has no more than `patches`.

    Args:
        source: where the patches are.
        table: the cases.
        positions: of the cases in the table.
        patches: the most to take of a slide, without replacement.
        seed: of the recipe.
        epoch: of the sample.
        cases: the batch's number of cases, where it is to exceed the positions given: processes
            with one case less count one that has no slides, so that all have the same shape.
    """
    case, stain = [], []
    choices: list[tuple[int, ...]] = []
    names: list[Name] = []
    for number, position in enumerate(positions):
        for kind, choice in enumerate(table.slides[position]):
            if not choice:
                continue
            of = (table.case_ids[position], table.stains[kind])
            names.append(("pretrain-sample", seed, epoch, *of))
            choices.append(choice)
            case.append(number)
            stain.append(kind)
    drawn, lengths = source.draw(choices, names, patches)
    return CaseBatch(
        drawn,
        lengths,
        torch.tensor(case, dtype=torch.int64),
        torch.tensor(stain, dtype=torch.int64),
        cases or len(positions),
    )


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, made ahead by one background thread, at most 2 waiting.

    An exception of the maker is raised here, after the items made before it. The thread has ended
    when the iterator is exhausted or closed, as a `for` loop does that is left early.
    """
    iterator, end = iter(items), object()
    maker = ThreadPoolExecutor(1, "prefetch")
    try:
        waiting = deque(maker.submit(next, iterator, end) for _ in range(_WAITING + 1))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(maker.submit(next, iterator, end))
            yield cast("Item", item)
    finally:
        maker.shutdown(cancel_futures=True)
