"""Networks trained on tasks: those that are there are kept, the others are trained."""

from pathlib import Path

from madeleine_bench.data.packing import pack_cohort, packed_folder
from madeleine_bench.errors import InputError
from madeleine_bench.finetuning.evaluation import fit_path, read_fit, seeded_splits, torch_device
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.embedding import Failures, Ready
from madeleine_bench.runner.failures import Failure
from madeleine_bench.runner.jobs import FitJob, Outcome, run_fit_job
from madeleine_bench.runner.plan import (
    Cell,
    Plan,
    Request,
    board_of,
    fits_key,
    resume_key,
)
from madeleine_bench.runner.workers import Executor
from madeleine_bench.types import Progress


def train_networks(
    plan: Plan, request: Request, executor: Executor, progress: Progress
) -> tuple[Ready, Failures]:
    """Return folder and key of the fits of each cell that trains networks, and what failed.

    The bags of a cohort are packed first, as networks read them many times. Every fit is a file of
    its own, so a run that was cut off goes on with the fits that are not there.

    Raises:
        InputError: there is no GPU and one was asked for.
    """
    ready: Ready = {}
    failed: Failures = {}
    jobs: list[FitJob] = []
    stores: dict[str, Path] = {}
    for cell in plan.cells:
        if not cell.assessment.protocol.trains_networks:
            continue
        folder, key, todo = _missing(plan, cell, request)
        if todo and request.resume == "always":
            reason = f"{len(todo)} fits are missing, and --resume always"
            failed[cell.name] = Failure(reason, of_input=True)
            continue
        ready[cell.name] = (folder, key)
        cohort_id = cell.assessment.task.cohort
        if cohort_id not in stores:
            stores[cohort_id] = packed_folder(
                plan.cohorts[cohort_id].data, request.workspace.results
            )
        organ = plan.catalogue.cohorts[cohort_id].organ
        jobs += [
            FitJob(
                cell.entry, cell.assessment, split, folder, stores[cohort_id], organ, request.device
            )
            for split in todo
        ]
    if jobs and request.scheduler is None:
        torch_device(request.device)  # a wrong --device is said before anything is packed
    unpacked: dict[str, Failure] = {}
    for cohort_id, path in {job.assessment.task.cohort: job.features for job in jobs}.items():
        data = plan.cohorts[cohort_id].data
        try:
            pack_cohort(data, path, progress)
        except InputError as error:
            unpacked[cohort_id] = Failure.of(error)
    for cell in plan.cells:
        if cell.name in ready and cell.assessment.task.cohort in unpacked:
            failed[cell.name] = unpacked[cell.assessment.task.cohort]
    jobs = [job for job in jobs if job.assessment.task.cohort not in unpacked]
    jobs.sort(key=lambda job: -len(job.assessment.units.table))
    progress.phase("train", len(jobs))
    for outcome in executor.run(run_fit_job, jobs, _on_worker_death, gpu=request.device != "cpu"):
        failed.update(outcome.failed)
        progress.advance(outcome.note)
    return {name: found for name, found in ready.items() if name not in failed}, failed


def _on_worker_death(job: FitJob, reason: str) -> Outcome:
    name, assessment = job.entry.card.name, job.assessment
    place = (name, f"{assessment.task.name} {assessment.protocol.name}")
    split = f"{job.key[0]}/{job.key[1]}"
    return Outcome(
        f"{name} {assessment.task.id} {split}", {place: Failure(f"split {split}: {reason}")}
    )


def _missing(plan: Plan, cell: Cell, request: Request) -> tuple[Path, str, list[tuple[int, int]]]:
    """Return where the fits of a cell lie, the key they are of, and which are to be made."""
    assessment, data = cell.assessment, plan.cohorts[cell.assessment.task.cohort].data
    key = fits_key(cell.fingerprint, data, assessment)
    place = (board_of(data), cell.entry.card.name, assessment.task.name)
    slug = assessment.protocol.name.replace("/", "-")
    folder = request.workspace.results.joinpath("fits", *place, f"{slug}.{key[:16]}")
    splits = [split.key for split in seeded_splits(assessment.protocol, assessment.splits)]
    if request.resume == "never":
        return folder, key, splits
    record_key = resume_key(key, assessment)
    features = plan.features[assessment.task.cohort]
    store = ResultStore(request.workspace.results)
    if store.find(*place, assessment.protocol.name, record_key, features):
        return folder, key, []
    return folder, key, [split for split in splits if read_fit(fit_path(folder, split)) is None]
