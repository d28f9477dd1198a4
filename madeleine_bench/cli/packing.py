"""From the options of `mbench data pack` to a packed store, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import typer

from madeleine_bench.cli.console import LiveProgress
from madeleine_bench.data.bag_sources import PackedBags
from madeleine_bench.data.config import load_config
from madeleine_bench.data.local import LocalCohort, packed_folder
from madeleine_bench.data.packed import (
    DamagedStore,
    FeatureStore,
    PackedDtype,
    differences,
    open_store,
    pack_cohort,
    read_index,
)
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.runner.cohorts import PhantomChoice, open_cohort
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.workspace import SourceChoice, Workspace
from madeleine_bench.types import CohortData

SHOWN = 10


@dataclass(frozen=True)
class WantedStore:
    """What the user asked to pack, and where to; None is the default."""

    cohort: str
    out: Path | None
    dtype: PackedDtype
    shard_gb: float
    shard_folders: tuple[Path, ...]
    source: SourceChoice
    config: Path | None
    results: Path
    catalogue: Path | None
    phantom: PhantomChoice


def pack_bags(wanted: WantedStore) -> None:
    """Pack the bags of a cohort, and say where they lie.

    Raises:
        InputError: an option, the cohort or a folder cannot be used.
    """
    data = _data(wanted)
    path = _place(wanted, data)
    with LiveProgress() as progress:
        store = pack_cohort(
            data, path, progress,
            dtype=wanted.dtype,
            shard_bytes=round(wanted.shard_gb * 1e9),
            shard_folders=wanted.shard_folders,
        )  # fmt: skip
    if store.dtype != wanted.dtype:
        raise InputError(
            f"{path} is {store.dtype} and holds the numbers of cohort {wanted.cohort} as they are; "
            f"choose another folder with --out for {wanted.dtype}"
        )
    typer.echo(_described(store))
    typer.echo(f'in mbench.toml: features = "{path.absolute()}"')


def verify_store(wanted: WantedStore) -> None:
    """Check every slide of a packed store, and whether it is that of the cohort as it is now.

    Raises:
        InputError: there is no store.
        CheckFailed: it is damaged, or the cohort has changed since it was packed.
    """
    data = _data(wanted)
    path = _place(wanted, data)
    try:
        with LiveProgress() as progress:
            store = open_store(path, verify=True, progress=progress)
    except DamagedStore as error:
        raise CheckFailed(str(error)) from error
    if changed := list(islice(differences(read_index(path), data), SHOWN + 1)):
        raise CheckFailed(
            "\n".join(
                [
                    f"{path} is whole, and no more that of the cohort; mbench data pack "
                    f"{wanted.cohort} --out {path} packs it anew:",
                    *_shown(changed),
                ]
            )
        )
    typer.echo(f"{_described(store)}; every slide is what was packed, and what the cohort is now")


def _data(wanted: WantedStore) -> CohortData:
    catalogue, settings = load_catalogue(wanted.catalogue), load_config(wanted.config)
    settings.check(catalogue.cohorts, catalogue.tasks)
    if wanted.cohort not in catalogue.cohorts:
        hint = did_you_mean(wanted.cohort, sorted(catalogue.cohorts))
        raise InputError(f"no cohort is called '{wanted.cohort}'{hint}")
    workspace = Workspace(
        wanted.results,
        wanted.source,
        phantom_signal=wanted.phantom.signal,
        phantom_seed=wanted.phantom.seed,
    )
    return open_cohort(workspace, catalogue, wanted.cohort, settings).data


def _place(wanted: WantedStore, data: CohortData) -> Path:
    if wanted.out is not None:
        return wanted.out
    place = packed_folder(data, wanted.results)
    bags = data.bags if isinstance(data, LocalCohort) else None
    is_read_from = isinstance(bags, PackedBags) and bags.path == place
    # What run and pretrain pack by themselves, and look for there, is float16.
    if wanted.dtype == "float16" or is_read_from:
        return place
    return place.with_name(f"{place.name}-{wanted.dtype}")


def _described(store: FeatureStore) -> str:
    made_up = "PHANTOM " if store.source == "phantom" else ""
    count = len(store.shards)
    missing = f", {len(store.missing)} slides without a bag left out" if store.missing else ""
    return (
        f"{made_up}{store.cohort_id}: {len(store)} slides, {store.patches} patches x {store.dim} "
        f"{store.dtype} ({store.nbytes / 1e9:.3g} GB in {count} file{'s' * (count > 1)}) in "
        f"{store.path}{missing}"
    )


def _shown(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines[:SHOWN]] + ["  and more"] * (len(lines) > SHOWN)
