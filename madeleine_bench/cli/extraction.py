"""From the options of `mbench features extract` to an extraction, and what is said at its end."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.runner.workers import ExecutorKind, open_executor
from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.extraction import ExtractionSettings, SlideOutcome, extract
from madeleine_bench.slides.folder import SlideFolder, list_slides
from madeleine_bench.slides.patch_encoders import (
    find_patch_encoder,
    patch_fingerprint,
    shipped_patch_encoders,
)
from madeleine_bench.slides.patches import PatchSettings
from madeleine_bench.slides.slide_jobs import EncoderChoice, extract_by_jobs
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import did_you_mean

SHOWN_FAILURES = 10
_SAME_MPP = 0.05


@dataclass(frozen=True)
class WantedBags:
    """What the user asked to extract; None is the default."""

    slides: Path
    cohort: str
    patch_encoder: str
    out: Path | None
    patch_px: int
    patch_mpp: float | None
    magnification: float | None
    overlap_px: int
    min_tissue: float
    patches: Path | None
    mpp: float | None
    weights: Path | None
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "fp16", "bf16"]
    batch_size: int
    workers: int | None
    overwrite: bool
    catalogue: Path | None
    executor: ExecutorKind
    scheduler: str | None
    jobs: int | None


def extract_bags(wanted: WantedBags) -> None:
    """Extract the bags of a folder of slides, and say where they lie and what failed.

    Raises:
        InputError: an option, the slides or the patch encoder cannot be used.
        CheckFailed: a slide failed.
    """
    threads = default_workers() if wanted.executor == "local" else 1
    settings = ExtractionSettings(
        patches=PatchSettings(
            wanted.patch_px, _patch_mpp(wanted), wanted.overlap_px, wanted.min_tissue
        ),
        slide_mpp=wanted.mpp,
        patch_folder=wanted.patches,
        overwrite=wanted.overwrite,
        workers=wanted.workers if wanted.workers is not None else threads,
        batch=wanted.batch_size,
    )
    _check_name(wanted)
    entry = find_patch_encoder(wanted.patch_encoder)
    found = list_slides(wanted.slides)
    _say_what_is_left_out(found)
    _say_where_resolution_differs(entry.card, settings.patches)
    folder = BagFolder(
        wanted.out or Path("bags") / wanted.cohort, settings.patches, entry.card.name
    )
    key = patch_fingerprint(entry, wanted.weights)
    choice = EncoderChoice(entry, wanted.device, wanted.precision, wanted.weights)
    if wanted.executor == "local" and wanted.scheduler is None:
        encoder = choice.load(settings.workers)
        with LiveProgress() as progress:
            outcomes = extract(found.slides, encoder, key, folder, settings, progress)
    else:
        jobs = wanted.jobs or os.cpu_count() or 1
        with (
            LiveProgress() as progress,
            open_executor(
                wanted.executor, wanted.scheduler, jobs, folder.features, progress
            ) as executor,
        ):
            outcomes = extract_by_jobs(
                found.slides, choice, key, folder, settings, progress, executor.run
            )
    _say_outcomes(outcomes, folder, wanted.cohort)


def default_workers() -> int:
    """Return the usual number of workers: one for a core, at most eight."""
    return min(8, os.cpu_count() or 1)


def print_patch_encoders() -> None:
    """Print the patch encoders, and what each needs that does not ship."""
    rows = [
        [
            entry.card.name,
            str(entry.card.dim),
            "native" if entry.card.input_px is None else f"{entry.card.input_px} px",
            "any" if entry.card.mpp is None else f"{entry.card.mpp:g}",
            entry.card.needs,
            entry.card.title,
        ]
        for entry in shipped_patch_encoders().values()
    ]
    header = ["patch encoder", "dim", "input", "mpp", "needs", "title"]
    print_table(f"{len(rows)} patch encoders", header, rows)


def _patch_mpp(wanted: WantedBags) -> float:
    if wanted.magnification is None:
        return 1.0 if wanted.patch_mpp is None else wanted.patch_mpp
    if wanted.patch_mpp is not None:
        raise InputError("--patch-mpp and --magnification say the same; give one of them")
    if not 0.1 <= wanted.magnification <= 200:
        raise InputError(f"--magnification is {wanted.magnification}; expected such as 10 or 20")
    return 10.0 / wanted.magnification


def _check_name(wanted: WantedBags) -> None:
    """Refuse a cohort name that is no name; say where the catalogue does not know it."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", wanted.cohort):
        raise InputError(
            f"--cohort is '{wanted.cohort}'; a cohort is named in lower case, digits and hyphens"
        )
    known = sorted(load_catalogue(wanted.catalogue).cohorts)
    if wanted.cohort not in known:
        hint = did_you_mean(wanted.cohort, known)
        typer.echo(
            f"note: the catalogue has no cohort '{wanted.cohort}'{hint}. Bags are written; for "
            "mbench run to read them the cohort must be declared (CONTRIBUTING.md)",
            err=True,
        )


def _say_what_is_left_out(found: SlideFolder) -> None:
    if found.pictures:
        typer.echo(
            f"note: {len(found.pictures)} plain pictures are no slides and are left out, "
            f"{found.pictures[0].name} first; mbench slides convert makes slides of them",
            err=True,
        )


def _say_where_resolution_differs(card: PatchEncoderCard, patches: PatchSettings) -> None:
    if card.mpp is not None and abs(patches.mpp / card.mpp - 1.0) > _SAME_MPP:
        typer.echo(
            f"note: {card.name} was made for patches of {card.mpp:g} micrometres a pixel; you ask "
            f"for {patches.mpp:g} (--patch-mpp {card.mpp:g} is what its authors use)",
            err=True,
        )


def _say_outcomes(outcomes: Sequence[SlideOutcome], folder: BagFolder, cohort: str) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    patches = sum(outcome.patches for outcome in outcomes)
    typer.echo(f"{told}; {patches} patches; each slide: {folder.report}")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if len(failed) < len(outcomes):
        _say_how_to_use(folder, cohort)
    if failed:
        lines = [f"{one.slide_id}: {one.message}" for one in failed[:SHOWN_FAILURES]]
        more = len(failed) - len(lines)
        lines += [f"and {more} more; see {folder.report}"] if more else []
        raise CheckFailed(f"{len(failed)} of {len(outcomes)} slides failed\n" + "\n".join(lines))


def _say_how_to_use(folder: BagFolder, cohort: str) -> None:
    typer.echo(
        f"bags: {folder.features}\nfor mbench.toml:\n\n[cohorts.{cohort}]\n"
        f'features = "{folder.features.absolute()}"\nlabels = "YOUR LABEL TABLE"\n'
        f'patch_encoder = "{folder.patch_encoder}"\n'
    )
