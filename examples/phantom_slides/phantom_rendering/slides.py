"""A small phantom cohort on disk, as a lab has it: slides, and a table of labels."""

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tifffile

from madeleine_bench.cli.console import LiveProgress
from madeleine_bench.errors import InputError, MbenchError
from madeleine_bench.files import sole_writer, write_text
from madeleine_bench.hashing import hash_code, hash_json
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.runner.workers import in_parallel
from madeleine_bench.slides.pictures import write_pyramid
from madeleine_bench.slides.reader import phantom_description
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.cohort import Columns
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.types import Progress
from phantom_rendering.render import RENDERED_STAINS, SectionRenderer

_JPEG_QUALITY = 85


@dataclass(frozen=True)
class PhantomSlides:
    """Where a rendered phantom cohort lies, and how many slides were drawn or already there."""

    slides: Path
    labels: Path
    drawn: int
    kept: int


@dataclass(frozen=True)
class _DrawJob:
    """One slide to draw, unless the file is there."""

    cohort: PhantomCohort
    slide_id: str
    path: Path
    mpp: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what the command line asks for; return 0, or the exit status of an error."""
    try:
        _draw_cohort(_parser().parse_args(arguments))
    except MbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python examples/phantom_slides",
        description="Draw slides of a phantom cohort as pyramidal TIFF, with their label table.",
        epilog="Example: python examples/phantom_slides acrobat --cases 24",
    )
    add = parser.add_argument
    add("cohort", help="cohort of an organ that is drawn (breast)")
    add("--cases", type=int, default=20, help="how many of its cases (default: 20)")
    add("--out", type=Path, help="folder; phantom-slides/<cohort> by default")
    add("--mpp", type=float, default=0.5, help="micrometres per pixel; 0.5 is a 20x scan")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes that draw")
    add("--catalogue", type=Path, help="folder of tasks instead of the shipped one")
    add("--phantom-signal", type=float, help="biology in the phantoms; 0 is the null phantom")
    add("--phantom-seed", type=int, help="seed of the phantoms")
    return parser


def _draw_cohort(options: argparse.Namespace) -> None:
    """Draw the slides of some cases, and say how they become bags."""
    name = options.cohort
    if options.jobs < 1:
        raise InputError(f"--jobs is {options.jobs}; expected 1 or more")
    catalogue = load_catalogue(options.catalogue)
    if name not in catalogue.cohorts:
        hint = did_you_mean(name, sorted(catalogue.cohorts))
        raise InputError(f"no cohort is called '{name}'{hint}")
    spec = catalogue.cohorts[name]
    cohort = PhantomCohort(
        spec,
        catalogue.tasks_of(name),
        signal=options.phantom_signal,
        seed=options.phantom_seed,
    )
    out = options.out or Path("phantom-slides") / name
    with LiveProgress() as progress:
        done = write_phantom_slides(
            cohort,
            spec.columns,
            options.cases,
            out,
            progress,
            mpp=options.mpp,
            workers=options.jobs,
        )
    print(
        f"PHANTOM slides of {name}: {done.drawn} drawn, {done.kept} already there, in "
        f"{done.slides}; labels in {done.labels}"
    )
    print(f"next: mbench features extract --slides {done.slides} --cohort {name}")


def write_phantom_slides(
    cohort: PhantomCohort,
    columns: Columns,
    cases: int,
    out: Path,
    progress: Progress,
    *,
    mpp: float = 0.5,
    workers: int = 1,
) -> PhantomSlides:
    """Draw the slides of some cases of a phantom as tiled TIFF, and write their label table.

    The cases are spread evenly over the cohort. A slide that is there already and would come out
    the same is kept, so an interrupted run goes on where it was.

    Args:
        cohort: the phantom; of its stains, those that can be drawn.
        columns: how the label table names its columns.
        cases: number of cases.
        out: folder; slides go to `slides/`, the table is `labels.csv`.
        progress: told of each slide.
        mpp: micrometres per pixel.
        workers: processes that draw.

    Raises:
        InputError: no such number of cases, slides of this organ are not drawn, or the folder
            cannot be written.
    """
    table = choose_cases(cohort.slides, cases)
    SectionRenderer(cohort, mpp)  # says now, not in a worker, what cannot be drawn
    folder = out / "slides"
    jobs = [  # absolute: a worker may stand in another folder
        _DrawJob(cohort, slide_id, folder.absolute() / f"{slide_id}.tif", mpp)
        for slide_id in table["slide_id"]
    ]
    with sole_writer(folder):
        write_text(out / "labels.csv", label_table(table, columns))
        progress.phase("slides", len(jobs))
        drawn = 0
        for slide_id, was_drawn in in_parallel(_draw, jobs, workers):
            drawn += was_drawn
            progress.advance(slide_id)
    return PhantomSlides(folder, out / "labels.csv", drawn, len(jobs) - drawn)


def choose_cases(slides: pd.DataFrame, cases: int) -> pd.DataFrame:
    """Return the rows of `cases` cases, spread evenly so that every stain and site is met.

    Raises:
        InputError: there are fewer cases, or the number is not positive.
    """
    drawable = slides[slides["stain"].isin(RENDERED_STAINS)]
    names = sorted(drawable["case_id"].unique())
    if not 1 <= cases <= len(names):
        raise InputError(f"--cases is {cases}; the phantom has 1 to {len(names)} cases to draw")
    kept = {names[number * len(names) // cases] for number in range(cases)}
    return drawable[drawable["case_id"].isin(kept)]


def label_table(table: pd.DataFrame, columns: Columns) -> str:
    """Return the label table as CSV, under the names that the cohort declares."""
    names = {
        "slide_id": columns.slide,
        "case_id": columns.case,
        "stain": columns.stain,
        "site": columns.site,
    }
    kept = [column for column in table.columns if names.get(column, column) is not None]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([names.get(column, column) for column in kept])
    writer.writerows(table[kept].itertuples(index=False))
    return out.getvalue()


def _draw(job: _DrawJob) -> tuple[str, bool]:
    """Draw one slide unless it is there; return its id and whether it was drawn."""
    description = _description(job)
    if _read_description(job.path) == description:
        return job.slide_id, False
    picture = SectionRenderer(job.cohort, job.mpp).render(job.slide_id)
    write_pyramid(
        job.path, picture, mpp=job.mpp, description=description, jpeg_quality=_JPEG_QUALITY
    )
    return job.slide_id, True


def _description(job: _DrawJob) -> str:
    """Return the text of the slide file, which also says what the pixels depend on."""
    code = hash_code([Path(__file__).parent])
    drawn = hash_json([code, job.cohort.content_key(job.slide_id), job.mpp, _JPEG_QUALITY])
    stain = job.cohort.row(job.slide_id)[1]
    kind = "-".join(filter(None, ["rendered", job.cohort.variant]))
    return phantom_description(
        kind,
        f"drawn, never seen by a microscope. Cohort {job.cohort.cohort_id}, slide {job.slide_id}, "
        f"stain {stain}, {job.mpp:g} micrometres per pixel; {drawn}",
    )


def _read_description(path: Path) -> str | None:
    """Return the ImageDescription of a TIFF file; None where there is no file, or no such text."""
    if not path.is_file():
        return None
    try:
        with tifffile.TiffFile(path) as file:
            return file.pages.first.description
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
        return None
