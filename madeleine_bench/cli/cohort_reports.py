"""What `mbench data` prints: where cohorts come from, what is wrong, what was fetched."""

import fnmatch
from pathlib import Path

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.data.bags import BagLayout
from madeleine_bench.data.config import Config, load_config
from madeleine_bench.data.coverage import left_out, some_left_out
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort, match_notes, verify_cohort
from madeleine_bench.data.ucsb import fetch_ucsb
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.runner.cohorts import OpenCohort, PhantomChoice, SourceChoice, open_cohort
from madeleine_bench.runner.plan import board_of
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import TaskSpec


def print_status(
    pattern: str, source: SourceChoice, config: Path | None, results: Path, folder: Path | None
) -> None:
    """Print a row for each cohort and one for each of its tasks; problems are said in place.

    Raises:
        InputError: no cohort matches, or the configuration is broken.
    """
    catalogue, settings = _load(folder, config)
    rows: list[list[str]] = []
    notes: list[str] = []
    broken: list[str] = []
    for cohort_id in _matching(pattern, list(catalogue.cohorts)):
        spec = catalogue.cohorts[cohort_id]
        if spec.phantom is None and cohort_id not in settings.cohorts:
            rows.append([cohort_id, "absent", f"0/{spec.slides}", f"to get it: {spec.access.how}"])
            continue
        try:
            cohort = open_cohort(
                catalogue, cohort_id, source, settings, results / "cache", PhantomChoice()
            )
            slides = len(cohort.data.slides)
            with_bag = slides - len(cohort.data.no_bag)
            note = f"{slides} slides in {cohort.where}, {spec.slides} declared"
            board = board_of(cohort.data)
            rows.append([cohort_id, board, f"{with_bag}/{slides}", note])
            rows.extend(_task_row(task, cohort, broken) for task in cohort.tasks)
            notes += match_notes(cohort.data)
        except InputError as error:
            broken.append(f"{cohort_id}: {error}")
            rows.append([cohort_id, "broken", "", "see below"])
    print_table("", ["cohort / task", "board", "bags", "what there is"], rows)
    for note in notes:
        typer.echo(note)
    if broken:
        raise InputError("\n".join(broken))


def verify_cohorts(
    pattern: str, config: Path | None, results: Path, folder: Path | None, full: bool
) -> None:
    """Open every file of the configured cohorts and print what is wrong.

    Raises:
        InputError: nothing that matches is configured.
        CheckFailed: a file is in error.
    """
    catalogue, settings = _load(folder, config)
    local = [name for name, entry in settings.cohorts.items() if entry.features != "phantom"]
    if not local:
        where = settings.path or "mbench.toml (there is none here)"
        raise InputError(f"no cohort of files is configured in {where}; see docs/data.md")
    rows: list[list[str]] = []
    errors = 0
    for cohort_id in _matching(pattern, local):
        spec = catalogue.cohorts[cohort_id]
        data = LocalCohort(spec, settings.cohorts[cohort_id], results / "cache")
        with LiveProgress() as progress:
            progress.phase("verify", len(data.files))
            findings = verify_cohort(data, progress.advance, full=full)
        errors += sum(finding.level == "error" for finding in findings)
        rows += [[f.level, cohort_id, f.slide_id, str(f.path or ""), f.message] for f in findings]
        typer.echo(f"{cohort_id}: {len(data.files)} files opened, {len(findings)} findings")
        for note in match_notes(data):
            typer.echo(note)
    if rows:
        print_table("", ["level", "cohort", "slide", "file", "finding"], rows)
    if errors:
        raise CheckFailed(f"{errors} files are in error")


def fetch_cohort(cohort_id: str, into: Path, layout: BagLayout, wheel: Path | None) -> None:
    """Fetch a cohort into its own folder and say how to run it.

    Raises:
        InputError: it cannot be fetched or written.
    """
    paths = fetch_ucsb(into / cohort_id, layout, wheel)
    typer.echo(
        f"{cohort_id}: bags in {paths.features}, labels in {paths.labels}. Run it with:\n"
        f"mbench run --encoder mean-pool --task ucsb-breast-malignancy --config {paths.config}"
    )


def _load(folder: Path | None, config: Path | None) -> tuple[Catalogue, Config]:
    catalogue = load_catalogue(folder)
    settings = load_config(config)
    settings.check(catalogue.cohorts, catalogue.tasks)
    return catalogue, settings


def _matching(pattern: str, known: list[str]) -> list[str]:
    found = [name for name in sorted(known) if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise InputError(f"no cohort here is called '{pattern}'{did_you_mean(pattern, known)}")
    return found


def _task_row(task: TaskSpec, cohort: OpenCohort, broken: list[str]) -> list[str]:
    try:
        units = build_units(task, cohort.data, cohort.where)
    except InputError as error:
        broken.append(f"{task.id}: {error}")
        return [f"  {task.id}", "", "", "broken: see below"]
    if "label" in units.table:
        counts = units.table["label"].value_counts()
        names = getattr(task.labels, "classes", ())
        what = ", ".join(f"{name} {counts.get(name, 0)}" for name in names)
    else:
        what = f"events {int(units.table['event'].sum())}"
    missing = some_left_out(left_out(task, cohort.data, units))
    text = f"{len(units.table)} {task.unit}s: {what}" + (
        f"; left out: {missing}" if missing else ""
    )
    return [f"  {task.id}", "", "", text]
