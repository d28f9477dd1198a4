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
from madeleine_bench.pretrain.plans import Plans, pairs_of, patch_side
from madeleine_bench.seeds import rng_for

Item = TypeVar("Item")
Positions = NDArray[np.int64]
Name = tuple[str | int, ...]
Slides = tuple[int, ...]
_LEAST_CASES = 2
_RESIDENT_SHARE = 0.8
_WAITING = 2


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; on a GPU without waiting for what it has to do."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Regions:
    """Patches of corresponding regions: of each slide of a batch as many as of any other.

    Attributes:
        patches: slide x token x dim, as the patches of the batch.
        means: slide x dim, float32: the mean patch of each slide.
        partners: slide x token x token, float32: the mass that the plan moves between a token of
            the H&E slide of the case (row) and a token of the slide (column), 1 in all for a token
            whose partners are all there; zeros for the H&E slide itself.
        places: slide x token x 2, float64, on the CPU: positions in sides of a patch; NaN where
            there are none.
    """

    patches: Tensor = field(repr=False)
    means: Tensor = field(repr=False)
    partners: Tensor = field(repr=False)
    places: Tensor = field(repr=False)


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
        regions: patches of corresponding regions, for the preset "aligned".
    """

    patches: Tensor = field(repr=False)
    lengths: tuple[int, ...]
    case: Tensor
    stain: Tensor
    cases: int
    regions: Regions | None = field(default=None, repr=False)


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
    ) -> tuple[Tensor, tuple[int, ...], list[int]]:
        """Return patch x dim, slide after slide, the patches of each slide, and the slides drawn.

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
        return self.gather(slides, rows), tuple(map(len, rows)), slides

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


class RegionSource:
    """Draws regions of an H&E slide and, by the plans, the patches that are their partners."""

    def __init__(self, plans: Plans, tokens: int, slides: Iterable[int]) -> None:
        """Read what is needed of each slide.

        Args:
            plans: of the pairs of the cohort.
            tokens: patches of a region.
            slides: those that will be drawn.
        """
        self.plans, self.tokens = plans, tokens
        store = plans.store
        self.means = np.zeros((len(store), store.dim), np.float32)
        self.places: dict[int, NDArray[np.float64]] = {}
        for slide in slides:
            self.means[slide] = store.bag(slide).mean(axis=0, dtype=np.float64)
            positions = store.positions_um(slide)
            if positions is not None:
                self.places[slide] = positions / patch_side(positions)

    def draw(
        self,
        source: HostSource,
        slides: Sequence[int],
        stains: Sequence[int],
        names: Sequence[Name],
    ) -> Regions:
        """Return the regions of slides that lie by case and then by stain, H&E first.

        The region of an H&E slide is a patch drawn at random and those nearest to it; a slide
        without positions gives patches drawn at random. Of the other slides it is the patches to
        which the plan moves most of that region. A smaller slide repeats its patches in turn.

        Args:
            source: gathers the patches.
            slides: as positions in the store.
            stains: of each slide; 0 is H&E.
            names: what each slide was drawn for.
        """
        shape = (len(slides), self.tokens)
        rows: list[Positions] = []
        partners = np.zeros((*shape, self.tokens), np.float32)
        places = np.full((*shape, 2), np.nan)
        he, region = -1, np.empty(0, np.int64)
        for number, (slide, stain, name) in enumerate(zip(slides, stains, names, strict=True)):
            if stain == 0:
                he, region = slide, self._region(slide, rng_for("region", *name))
                chosen = region
            else:
                plan = self.plans.read((he, slide))[region]
                weight = np.ones(plan.shape[0]) @ plan
                order = np.argsort(-weight, kind="stable")[: self.tokens].astype(np.int64)
                chosen = np.resize(order, self.tokens)
                partners[number] = plan[:, chosen].toarray() * self.plans.store.lengths[he]
            rows.append(chosen)
            if slide in self.places:
                places[number] = self.places[slide][chosen]
        patches = torch.unflatten(source.gather(slides, rows), 0, shape)
        device = patches.device
        return Regions(
            patches,
            on_device(torch.from_numpy(self.means[list(slides)]), device),
            on_device(torch.from_numpy(partners), device),
            torch.from_numpy(places),
        )

    def _region(self, slide: int, rng: np.random.Generator) -> Positions:
        count = int(self.plans.store.lengths[slide])
        if slide in self.places:
            places = self.places[slide]
            distance = np.square(places - places[rng.integers(count)]).sum(axis=1)
            order = np.argsort(distance, kind="stable")
        else:
            order = rng.permutation(count)
        return np.resize(order[: self.tokens].astype(np.int64), self.tokens)


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
    regions: RegionSource | None = None,
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
        regions: draws corresponding regions besides; a slide is then drawn among those that are
            paired with the H&E slide drawn.
    """
    case, stain = [], []
    choices: list[tuple[int, ...]] = []
    names: list[Name] = []
    for number, position in enumerate(positions):
        of_case: Sequence[Slides] = table.slides[position]
        first = ("pretrain-sample", seed, epoch, table.case_ids[position])
        if regions is not None:
            of_case = _paired(of_case, (*first, table.stains[0]))
        for kind, choice in enumerate(of_case):
            if not choice:
                continue
            names.append((*first, table.stains[kind]))
            choices.append(choice)
            case.append(number)
            stain.append(kind)
    drawn, lengths, slides = source.draw(choices, names, patches)
    return CaseBatch(
        drawn,
        lengths,
        torch.tensor(case, dtype=torch.int64),
        torch.tensor(stain, dtype=torch.int64),
        cases or len(positions),
        None if regions is None else regions.draw(source, slides, stain, names),
    )


def _paired(slides: Sequence[Slides], name: Name) -> list[Slides]:
    """Return by stain the slides that are paired with the H&E slide that `name` draws."""
    he = slides[0][int(rng_for(*name).integers(len(slides[0])))]
    partners = {other for first, other in pairs_of(slides) if first == he}
    return [slides[0], *(tuple(s for s in choice if s in partners) for choice in slides[1:])]


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
