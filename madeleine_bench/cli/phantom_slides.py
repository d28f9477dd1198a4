"""From the options of `mbench data phantom-slides` to drawn slides, and what to do with them."""

import os
from pathlib import Path

import typer

from madeleine_bench.cli.console import LiveProgress
from madeleine_bench.errors import InputError
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.runner.cohorts import PhantomChoice
from madeleine_bench.runner.phantom_slides import write_phantom_slides
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import did_you_mean


def draw_phantom_slides(
    cohort_id: str,
    cases: int,
    out: Path | None,
    mpp: float,
    jobs: int | None,
    folder: Path | None,
    choice: PhantomChoice,
) -> None:
    """Draw the slides of some cases, and say how they become bags.

    Raises:
        InputError: the cohort is unknown or not drawn, or the folder cannot be written.
    """
    catalogue = load_catalogue(folder)
    if cohort_id not in catalogue.cohorts:
        hint = did_you_mean(cohort_id, sorted(catalogue.cohorts))
        raise InputError(f"no cohort is called '{cohort_id}'{hint}")
    spec = catalogue.cohorts[cohort_id]
    cohort = PhantomCohort(
        spec, catalogue.tasks_of(cohort_id), signal=choice.signal, seed=choice.seed
    )
    where = out or Path("phantom-slides") / cohort_id
    with LiveProgress() as progress:
        done = write_phantom_slides(
            cohort,
            spec.columns,
            cases,
            where,
            progress,
            mpp=mpp,
            workers=jobs or os.cpu_count() or 1,
        )
    typer.echo(
        f"PHANTOM slides of {cohort_id}: {done.drawn} drawn, {done.kept} already there, in "
        f"{done.slides}; labels in {done.labels}"
    )
    typer.echo(f"next: mbench features extract --slides {done.slides} --cohort {cohort_id}")
