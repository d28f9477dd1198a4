"""Transport plans between the H&E slides and the other slides of a case, made once and kept.

A plan says which patches of two slides are partners (`losses.plan`). It does not depend on the
model, so it is computed before training and kept beside the packed bags, in a file named by the
content of both bags:

    <packed store>/plans/<hash>.npz   data, indices, indptr, shape of a sparse matrix (patch of the
                                      H&E slide x patch of the other slide); partners, map_error
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, replacing
from madeleine_bench.hashing import hash_json
from madeleine_bench.losses.plan import transport_plan
from madeleine_bench.pretrain.cases import CaseTable
from madeleine_bench.types import Progress

VERSION = 1  # of the computation; every plan is computed again when it changes
_FITS = 5
_SHOWN = 5
Pair = tuple[int, int]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plans:
    """The plans of a cohort.

    Attributes:
        store: the packed cohort.
        cells: patches of a slide that a plan tells apart; see `losses.plan`.
    """

    store: FeatureStore
    cells: int
    _cache: dict[Pair, csr_array] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """Where the plans lie."""
        return self.store.path / "plans"

    def path(self, pair: Pair) -> Path:
        """Return the file of a pair, which may not be there yet."""
        sides = [self.store.slides[slide].sha256 for slide in pair]
        return self.folder / f"{hash_json([VERSION, self.cells, *sides])[:32]}.npz"

    def read(self, pair: Pair) -> csr_array:
        """Return the plan of a pair of slides: patch of the first x patch of the second.

        Raises:
            InputError: there is none, or its file is damaged.
        """
        if pair not in self._cache:
            *parts, shape = self._load(pair, "data", "indices", "indptr", "shape")
            self._cache[pair] = csr_array(tuple(parts), shape=tuple(shape))
        return self._cache[pair]

    def quality(self, pairs: Iterable[Pair]) -> Floats:
        """Return partners and map error of some plans, pair x 2; see `plan_quality`.

        Raises:
            InputError: as `read`.
        """
        rows = [self._load(pair, "partners", "map_error") for pair in pairs]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def prepare(self, pairs: Sequence[Pair], progress: Progress) -> None:
        """Compute the plans that are not there yet; a run that was stopped goes on from there.

        Raises:
            InputError: the folder cannot be written.
        """
        missing = [pair for pair in pairs if not self.path(pair).is_file()]
        if not missing:
            return
        progress.phase(f"plans {self.store.cohort_id}", len(missing))
        # With one thread of BLAS for each plan the digits do not depend on the number of cores.
        with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as threads:
            for (_, other), _ in zip(missing, threads.map(self._compute, missing), strict=True):
                progress.advance(self.store.slide_ids[other])

    def _compute(self, pair: Pair) -> None:
        store = self.store
        features = [store.bag(slide).astype(np.float64) for slide in pair]
        positions = [store.positions_um(slide) for slide in pair]
        plan = transport_plan(*features, *positions, most=self.cells)
        partners, map_error = plan_quality(plan, *positions)
        with replacing(self.path(pair)) as temporary, temporary.open("wb") as file:
            np.savez(
                file, data=plan.data.astype(np.float32), indices=plan.indices.astype(np.int32),
                indptr=plan.indptr.astype(np.int64), shape=np.array(plan.shape),
                partners=partners, map_error=map_error,
            )  # fmt: skip

    def _load(self, pair: Pair, *names: str) -> list[NDArray[Any]]:
        """Return some arrays of the file of a pair."""
        path = self.path(pair)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return [arrays[name] for name in names]
        except (OSError, LookupError, ValueError, EOFError, BadZipFile) as error:
            check_readable(path, error)
            raise InputError(
                f"{path} is damaged ({error}). Remove it; mbench pretrain computes it again"
            ) from error


def plan_quality(
    plan: csr_array, first: Floats | None, second: Floats | None
) -> tuple[float, float]:
    """Return how many partners a patch has, and how far the plan is from a smooth map.

    The first is the mean over patches, weighted by their mass, of exp(entropy) of a row. The second
    is the median distance, in sides of a patch, between the mean position of the partners of a
    patch and an affine map of its own position, fitted to the nearer half of the patches; NaN
    without positions.

    Args:
        plan: patch x patch.
        first: positions of its rows, patch x 2, or None.
        second: positions of its columns.
    """
    mass: Floats = plan @ np.ones(plan.shape[1])
    used = np.flatnonzero(mass > 0.5 * mass.mean())
    if not len(used):
        return float("nan"), float("nan")
    coo = plan.tocoo()
    share = coo.data / np.maximum(mass[coo.coords[0]], np.finfo(np.float64).tiny)
    entropy = np.bincount(
        coo.coords[0], -share * np.log(np.maximum(share, 1e-300)), minlength=len(mass)
    )
    partners = float(np.average(np.exp(entropy), weights=mass))
    if first is None or second is None or len(used) < 2 * _FITS:
        return partners, float("nan")
    reached = (plan @ second)[used] / mass[used, None]
    design = np.column_stack([first[used], np.ones(len(used))])
    near = np.arange(len(used))
    for _ in range(_FITS):
        affine = np.linalg.lstsq(design[near], reached[near], rcond=None)[0]
        error = np.linalg.norm(reached - design @ affine, axis=1)
        near = np.argsort(error, kind="stable")[: (len(used) + 1) // 2]
    return partners, float(np.median(error)) / patch_side(second)


def patch_side(positions: Floats) -> float:
    """Return the side of a patch: the median distance to the next one."""
    distance = np.asarray(cKDTree(positions).query(positions, k=2)[0])[:, 1]
    return float(np.median(distance[distance > 0.0])) if distance.any() else 1.0


def pairs_of(slides: Sequence[Sequence[int]]) -> list[Pair]:
    """Return the pairs of H&E slide and other slide that a case is trained on, sorted.

    Where a case has several slides of a stain, they are paired in turn, so that each slide is in a
    pair and not every pair needs a plan.

    Args:
        slides: of the case by stain, H&E first.

    Examples:
        >>> pairs_of([[0, 1], [2, 3, 4], [5], []])
        [(0, 2), (0, 4), (0, 5), (1, 3), (1, 5)]
    """
    he, *others = slides
    pairs = (
        (he[k % len(he)], other[k % len(other)])
        for other in others
        if other
        for k in range(max(len(he), len(other)))
    )
    return sorted(set(pairs))


def prepare_plans(table: CaseTable, plans: Plans, progress: Progress) -> None:
    """Make the plans of all cases and say how good they are.

    Raises:
        InputError: the folder cannot be written, or a plan is damaged.
    """
    pairs = [pair for slides in table.slides for pair in pairs_of(slides)]
    plans.prepare(pairs, progress)
    partners, errors = plans.quality(pairs).T
    lost = sorted({s for pair in pairs for s in pair if plans.store.positions_um(s) is None})
    text = f"{len(pairs)} plans: {np.nanmedian(partners):.1f} partners a patch"
    if not np.isnan(errors).all():
        text += f", map error {np.nanmedian(errors):.2f} patch sides (medians)"
    progress.say(text)
    if lost:
        names = ", ".join(plans.store.slide_ids[s] for s in lost[:_SHOWN])
        progress.say(
            f"warning: {len(lost)} slides have no coordinates in level-0 pixels ({names}"
            f"{', ...' * (len(lost) > _SHOWN)}). Their partners are found by features alone "
            "(alpha 0), which places them several patches off; extract their features with "
            "coordinates"
        )
