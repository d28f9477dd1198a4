"""Networks trained on tasks: those that are there are kept, the others are trained."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from madeleine_bench.data.packed import open_store
from madeleine_bench.data.packing import pack_cohort, packed_folder
from madeleine_bench.errors import InputError, MbenchError
from madeleine_bench.files import write_text
from madeleine_bench.finetuning.evaluation import (
    Device,
    FitRequest,
    fit,
    fit_path,
    read_fit,
    seeded_splits,
    torch_device,
    write_fit,
)
from madeleine_bench.finetuning.unit_bags import UnitBags
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.cohorts import board_of
from madeleine_bench.runner.embedding import Failures, Ready, loaded_encoder
from madeleine_bench.runner.failures import Failure, Outcome
from madeleine_bench.runner.plan import Cell, Plan, Request, fits_key, resume_key
from madeleine_bench.runner.workers import Executor
from madeleine_bench.types import Progress


@dataclass(frozen=True)
class FitJob:
    """Train the network of one encoder on one split of a task, and keep what it predicts."""

    cell: Cell
    key: tuple[int, int]
    folder: Path
    features: Path
    organ: str | None
    device: Device


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
    for cell in plan.cells:
        if not cell.assessment.protocol.trains_networks:
            continue
        folder, key, todo = _missing(plan, cell, request)
        ready[cell.name] = (folder, key)
        cohort = plan.cohorts[_cohort(cell)]
        features = packed_folder(cohort.data, request.workspace.results, cohort.folder)
        organ = plan.catalogue.cohorts[cohort.data.cohort_id].organ
        jobs += [FitJob(cell, split, folder, features, organ, request.device) for split in todo]
    if jobs and request.scheduler is None:
        torch_device(request.device)  # a wrong --device is said before anything is packed
    for key, path in {_cohort(job.cell): job.features for job in jobs}.items():
        try:
            pack_cohort(plan.cohorts[key].data, path, progress)
        except InputError as error:
            of_cohort = [c.name for c in plan.cells if _cohort(c) == key]
            failed |= {name: Failure.of(error) for name in of_cohort if name in ready}
    jobs = [job for job in jobs if job.cell.name not in failed]
    jobs.sort(key=lambda job: -len(job.cell.assessment.units.table))
    progress.phase("train", len(jobs))
    gpu = request.device != "cpu"
    for outcome in executor.run(run_fit_job, jobs, _on_worker_death, gpu=gpu):
        failed.update(outcome.failed)
        progress.advance(outcome.note)
    return {name: fits for name, fits in ready.items() if name not in failed}, failed


def _cohort(cell: Cell) -> str:
    return cell.assessment.key(cell.assessment.task)


def _missing(plan: Plan, cell: Cell, request: Request) -> tuple[Path, str, list[tuple[int, int]]]:
    """Return where the fits of a cell lie, the key they are of, and which are to be made."""
    assessment, data = cell.assessment, plan.cohorts[_cohort(cell)].data
    results = request.workspace.results
    key = fits_key(cell.fingerprint, data, assessment)
    place = (board_of(data), cell.entry.card.name, assessment.task.name)
    slug = assessment.protocol.name.replace("/", "-")
    folder = results.joinpath("fits", *place, f"{slug}.{key[:16]}")
    splits = [split.key for split in seeded_splits(assessment.protocol, assessment.splits)]
    if request.resume == "never":
        return folder, key, splits
    record_key = resume_key(key, assessment)
    features = plan.features[_cohort(cell)]
    if ResultStore(results).find((*place, assessment.protocol.name, record_key), features):
        return folder, key, []
    return folder, key, [split for split in splits if read_fit(fit_path(folder, split)) is None]


def run_fit_job(job: FitJob) -> Outcome:
    """Train, predict, and write the fit; say what failed."""
    started = time.perf_counter()
    assessment = job.cell.assessment
    task, protocol, units = assessment.task, assessment.protocol, assessment.units
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            splits = seeded_splits(protocol, assessment.splits)
            split = next(split for split in splits if split.key == job.key)
            bags = UnitBags(open_store(job.features), units)
            request = FitRequest(task, protocol, units, split, job.organ)
            trained = fit(loaded_encoder(job.cell.entry), bags, request, job.device)
            path = fit_path(job.folder, job.key)
            seconds = round(time.perf_counter() - started, 3)
            device = torch_device(job.device).type
            write_text(path.with_suffix(".json"), json.dumps([seconds, device]) + "\n")
            write_fit(path, trained)
    except MbenchError as error:
        return _outcome(job, Failure.of(error))
    finally:
        torch.set_num_threads(threads)
    return _outcome(job)


def _on_worker_death(job: FitJob, reason: str) -> Outcome:
    return _outcome(job, Failure(f"split {job.key[0]}/{job.key[1]}: {reason}"))


def _outcome(job: FitJob, failure: Failure | None = None) -> Outcome:
    cell = job.cell
    note = f"{cell.name[0]} {cell.assessment.task.id} {job.key[0]}/{job.key[1]}"
    return Outcome(note, {cell.name: failure} if failure else {})
