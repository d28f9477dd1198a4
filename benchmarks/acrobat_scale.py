"""A made-up cohort as large as ACROBAT whose patches are made on the device and never leave it.

For timing alone: a patch is noise around a centre that belongs to its case and one that belongs to
its stain, so that there is something to align and nothing to learn about pathology.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from madeleine_bench.data.packed import FeatureStore, PackedSlide
from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.batches import DeviceSource, RegionSource
from madeleine_bench.pretrain.plans import Pair, Plans
from madeleine_bench.seeds import rng_for, seed_for

_SPREAD = 0.5  # of the logarithm of the number of patches of a slide
_HALVINGS = 50
_CENTRE = 0.5  # length of a centre in units of the noise, in each dimension


@dataclass(frozen=True)
class Scale:
    """How large the cohort is.

    Attributes:
        slides: of each stain, H&E first: as many as cases.
        dim: of a patch.
        mean_patches: of a slide.
        fewest: patches of a slide, at least.
        most: patches of a slide, at most.
    """

    slides: Mapping[str, int]
    dim: int
    mean_patches: float
    fewest: int
    most: int


ACROBAT = Scale(
    {"H&E": 1153, "ER": 844, "HER2": 534, "Ki67": 843, "PR": 837}, 512, 6000.0, 2048, 12000
)
TOY = Scale({"H&E": 31, "ER": 23, "HER2": 14, "Ki67": 22, "PR": 21}, 12, 40.0, 16, 80)


class MadeUpSource(DeviceSource):
    """Patches drawn on the device, slide by slide; sampled as those of a real store are."""

    def __init__(self, store: FeatureStore, device: torch.device, seed: int) -> None:
        """Make the patches.

        Args:
            store: what slides there are; its own features are not read.
            device: where the patches are made and stay.
            seed: of all patches.
        """
        self.store = store
        self.device = device
        self.patches = torch.empty((store.patches, store.dim), dtype=torch.float16, device=device)
        stream = torch.Generator(device).manual_seed(seed_for("patches", seed) % 2**63)
        of_case = _centres(store.case_ids, store.dim, seed)
        of_stain = _centres(store.stains, store.dim, seed)
        both = (of_case + of_stain).to(device)
        for index in range(len(store)):
            self.patches[store.rows(index)].normal_(generator=stream).add_(both[index])


class MadeUpPlans(Plans):
    """Plans that give each patch four partners about the same place of the other slide."""

    def read(self, pair: Pair) -> csr_array:
        """Return the plan of a pair, patch x patch."""
        rows, columns = (int(self.store.lengths[slide]) for slide in pair)
        first = np.arange(rows)[:, None] * columns // rows
        partners = ((first + np.arange(4)) % columns).ravel()
        begins = np.arange(0, 4 * rows + 1, 4)
        return csr_array((np.full(4 * rows, 0.25 / rows), partners, begins), shape=(rows, columns))


class MadeUpRegions(RegionSource):
    """Regions of slides whose patches lie on a square grid."""

    def __init__(self, plans: Plans, tokens: int, slides: Iterable[int]) -> None:
        """Lay out the slides; the arguments are those of `RegionSource`."""
        store = plans.store
        self.plans, self.tokens = MadeUpPlans(store, plans.cells), tokens
        self.means = np.zeros((len(store), store.dim), np.float32)
        self.places = {slide: _grid(int(store.lengths[slide])) for slide in slides}


def _grid(patches: int) -> NDArray[np.float64]:
    side = int(np.ceil(np.sqrt(patches)))
    return np.stack(np.divmod(np.arange(patches), side), axis=1).astype(np.float64)


def made_up_store(scale: Scale, seed: int) -> FeatureStore:
    """Return the slides of the cohort; its features have a shape and are all one zero.

    Every case has H&E and one to four other stains.

    Raises:
        InputError: the mean is outside the range of patches of a slide.
    """
    if not scale.fewest < scale.mean_patches < scale.most:
        raise InputError(
            f"{scale.mean_patches:g} patches a slide: expected a mean between {scale.fewest} and "
            f"{scale.most}"
        )
    table = _slides(scale, seed)
    lengths = _lengths(scale, rng_for("acrobat-scale", "patches", seed), len(table))
    return FeatureStore(
        path=Path("made-up"),
        cohort_id="acrobat-scale",
        source="made-up",
        variant="",
        content=f"made up with seed {seed}",
        missing=(),
        patch_encoder=None,
        dim=scale.dim,
        dtype="float16",
        parts=(),
        slides=[
            PackedSlide(f"{case}-{stain}", case, stain, int(length))
            for (case, stain), length in zip(table, lengths, strict=True)
        ],
        shards=(np.broadcast_to(np.float16(0.0), (int(lengths.sum()), scale.dim)),),
    )


def _slides(scale: Scale, seed: int) -> list[tuple[str, str]]:
    """Return case and stain of each slide, in the order of slide ids."""
    he, *others = scale.slides
    cases = scale.slides[he]
    rng = rng_for("acrobat-scale", "slides", seed)
    there = np.zeros((cases, len(others)), dtype=np.bool_)
    for column, stain in enumerate(others):
        there[rng.permutation(cases)[: scale.slides[stain]], column] = True
    _give_each_case_one(there, rng)
    table = [
        (f"case-{case:04d}", stain)
        for case in range(cases)
        for stain in (he, *(s for s, found in zip(others, there[case], strict=True) if found))
    ]
    return sorted(table, key=lambda row: f"{row[0]}-{row[1]}")


def _lengths(scale: Scale, rng: np.random.Generator, slides: int) -> NDArray[np.int64]:
    """Return the patches of each slide: log-normal, cut to the range, with the mean asked for."""
    drawn = np.exp(_SPREAD * rng.standard_normal(slides))
    low, high = scale.fewest / drawn.max(), scale.most / drawn.min()
    lengths = np.empty(slides, np.int64)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        lengths[:] = np.clip(np.rint(middle * drawn), scale.fewest, scale.most)
        low, high = (middle, high) if lengths.mean() < scale.mean_patches else (low, middle)
    return lengths


def _give_each_case_one(there: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Move a slide from a case with several to each case without any, stain by stain as before."""
    for case in np.flatnonzero(~there.any(axis=1)):
        giver = rng.choice(np.flatnonzero(there.sum(axis=1) > 1))
        column = rng.choice(np.flatnonzero(there[giver]))
        there[giver, column], there[case, column] = False, True


def _centres(names: tuple[str, ...], dim: int, seed: int) -> torch.Tensor:
    """Return the centre that belongs to each name, name x dim; equal names have equal ones."""
    found = {
        name: rng_for("centre", seed, name).standard_normal(dim) * _CENTRE
        for name in sorted(set(names))
    }
    return torch.from_numpy(np.stack([found[name] for name in names]).astype(np.float16))
