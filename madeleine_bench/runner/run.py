"""One run, top to bottom: plan, embed or train, evaluate, report. Interrupt it anywhere."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from madeleine_bench.data.audit import some
from madeleine_bench.data.embedded_cohort import EmbeddedCohort
from madeleine_bench.data.external import join_rows, tested_units
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.contents import Content, content_of
from madeleine_bench.embeddings.given import Given
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.encoders.registry import EncoderEntry
from madeleine_bench.errors import InputError, MbenchError
from madeleine_bench.hashing import hash_array, hash_json
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.results import Evaluation
from madeleine_bench.protocols.scoring import SCORING_VERSION, score
from madeleine_bench.provenance import (
    blas_libraries,
    machine_provenance,
    peak_memory_mb,
    return_freed_memory,
)
from madeleine_bench.results.store import Place, ResultStore
from madeleine_bench.runner.embedding import Failures, Ready, ToEmbed, embed
from madeleine_bench.runner.failures import Failure, Outcome
from madeleine_bench.runner.plan import (
    NOT_ENCODED,
    Cell,
    Plan,
    Request,
    bags_to_embed,
    board_of,
    make_plan,
    resume_key,
    with_embeddings,
)
from madeleine_bench.runner.workers import Executor, LocalWorkers, open_executor
from madeleine_bench.specs.catalogue import embedded_name
from madeleine_bench.specs.record import (
    Record,
    RecordFeatures,
    RecordFold,
    RecordScores,
    RecordTraining,
)
from madeleine_bench.types import CohortData, Progress, Source, board_name

Contradictions = dict[str, list[tuple[Path, str]]]


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        plan: the cells it was to make, and the catalogue it ran on.
        boards: boards its records belong to.
        computed: records made.
        reused: records that were there already.
        failures: what failed and why: (encoder or cohort, reason).
    """

    plan: Plan = field(repr=False)
    boards: list[str]
    computed: int = 0
    reused: int = 0
    failures: list[tuple[str, Failure]] = field(default_factory=list)

    def add(self, failed: Failures, between: str = " on ") -> None:
        """Add what failed, by encoder and where, and the word between the two."""
        self.failures += [(between.join(place), why) for place, why in failed.items()]

    def on_its_features(self, record: Record) -> bool:
        """Return whether a record is of the features of this run, or of a cohort that is not."""
        known: dict[str, list[RecordFeatures]] = {}
        for key, cohort in self.plan.cohorts.items():
            known.setdefault(cohort.data.cohort_id, []).append(self.plan.features[key])
        return all(features in known.get(c, [features]) for c, features in record.sides.items())


@dataclass(frozen=True)
class EvaluateJob:
    """Score one encoder on one task under one protocol.

    Attributes:
        results: the results folder.
        cell: encoder and assessment.
        embeddings: the file of its embeddings, or the folder of its fits where the protocol trains
            networks.
        content: hash of what is in them.
        features: those of the cohort; None where a submission does not say.
        source: of the cohort.
        variant: of the cohort.
        machine: what the record says of this machine.
        training: of an external task the embeddings of the training cohort, and what the record
            says of it.
    """

    results: Path
    cell: Cell
    embeddings: Path
    content: str
    features: RecordFeatures | None
    source: Source
    variant: str
    machine: Mapping[str, Any]
    training: tuple[Path, RecordTraining] | None = None

    @property
    def place(self) -> Place:
        """Board, encoder, task, protocol and resume key of its record."""
        assessment, content = self.cell.assessment, self.content
        if self.training:
            content = hash_json([content, self.training[1].model_dump(mode="json")])
        board, key = board_name(self.source, self.variant), resume_key(content, assessment)
        name, protocol = self.cell.entry.card.name, assessment.protocol.name
        return board, name, assessment.task.name, protocol, key

    @property
    def cost(self) -> float:
        """A rough cost, so that long jobs start first."""
        assessment = self.cell.assessment
        weight = {"cox": 100.0, "few-shot": 3.0}.get(assessment.protocol.method.kind, 1.0)
        return weight * len(assessment.units.table)


def run(
    request: Request,
    progress: Progress,
    executor: Executor | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> RunReport:
    """Return the report of a run; its records lie in the results folder.

    Args:
        request: what is asked for.
        progress: told of each job.
        executor: where jobs run, in place of the one that the request chooses.
        on_record: called with each new record, such as to log it.

    Raises:
        InputError: the request cannot be carried out. Nothing has been computed then.
    """
    # A worker may stand in another folder.
    workspace = replace(request.workspace, results=request.workspace.results.absolute())
    request = replace(request, workspace=workspace)
    limit_s = request.time_limit_s
    opened = nullcontext(executor) if executor else open_executor(
        request.executor, request.scheduler, workspace.jobs, workspace.results, progress,
        apart=limit_s is not None,
    )  # fmt: skip
    with opened as workers:
        plan = make_plan(request)
        if request.resume != "never":
            for name, why in _refusals(contradictions(plan, workspace.results), request):
                raise InputError(f"encoder {name}: {why}")
        report = RunReport(plan, plan.boards)
        for note in plan.notes:
            progress.say(note)
        failed: Failures = {}
        if request.given:
            ready = _given_embeddings(plan, request.given, workspace.results)
        else:
            ready, failed = embed(
                to_embed(plan), workspace, progress,
                resume=request.resume, executor=workers, time_limit_s=limit_s,
            )  # fmt: skip
        report.add(failed)
        if any(cell.assessment.protocol.trains_networks for cell in plan.cells):
            from madeleine_bench.runner.training import train_networks  # a probe needs no torch

            trained, failed = train_networks(plan, request, workers, progress)
            ready |= trained
            report.add(failed, " ")
        jobs = list(_missing_records(plan, request, ready, report))
        jobs.sort(key=lambda job: -job.cost)
        progress.phase("evaluate", len(jobs))
        for outcome in workers.run(run_evaluate_job, jobs, _on_worker_death):
            report.add(outcome.failed)
            report.computed += not outcome.failed
            if on_record and outcome.record:
                on_record(outcome.record)
            progress.advance(outcome.note)
    return report


def to_embed(plan: Plan) -> list[ToEmbed]:
    """Return what is to be embedded, and by which encoders."""
    bags: dict[tuple[str, str], CohortData] = {}
    encoders: dict[tuple[str, str], dict[str, tuple[EncoderEntry, str]]] = {}
    for cell in plan.cells:
        assessment = cell.assessment
        for side in () if assessment.protocol.trains_networks else assessment.sides:
            cohort = plan.cohorts[assessment.key(side)]
            name, data = bags_to_embed(assessment, cohort.data, side)
            bags.setdefault((name, cohort.folder), data)
            of_bags = encoders.setdefault((name, cohort.folder), {})
            of_bags[cell.entry.card.name] = (cell.entry, cell.fingerprint)
    return [
        ToEmbed(name, data, tuple(encoders[name, folder].values()), folder)
        for (name, folder), data in bags.items()
    ]


def _given_embeddings(plan: Plan, given: Given, results: Path) -> Ready:
    """Write given embeddings where those of an encoder would lie, and its card, and return them."""
    given.write_card(results)
    store, ready, name = EmbeddingStore(results), {}, given.card.name
    for key, cohort in plan.cohorts.items():
        data = cohort.data
        assert isinstance(data, EmbeddedCohort)
        path = store.path(board_of(data), name, key, hash_array(data.ids, data.matrix))
        ready[name, key] = (path, store.write(path, data.ids, data.matrix))
    return ready


def _missing_records(
    plan: Plan, request: Request, ready: Ready, report: RunReport
) -> Iterator[EvaluateJob]:
    """Yield a job for each cell that can be scored and whose record is not there.

    An encoder that is not what its name and revision stand for here is not scored, unless its older
    records shall be replaced.
    """
    results = ResultStore(request.workspace.results)
    changed = contradictions(plan, results.folder, ready)
    if request.resume == "never":
        _retire(plan, results, changed)
        changed = {}
    report.failures += _refusals(changed, request)
    machine, store = machine_provenance(), EmbeddingStore(results.folder)
    for cell in plan.cells:
        assessment, name = cell.assessment, cell.entry.card.name
        data = plan.cohorts[assessment.key(assessment.task)].data
        trains = assessment.protocol.trains_networks
        source = ready.get(cell.name if trains else (name, assessment.embedded(assessment.task)))
        if source is None or name in changed:
            continue
        training, embedded = None, store.ids(source[0])
        if assessment.training:
            side = assessment.training[0]
            made = ready.get((name, assessment.embedded(side)))
            if made is None:
                continue
            about = RecordTraining(
                task=side.id, cohort=side.cohort, features=plan.features[assessment.key(side)],
                embeddings=made[1],
            )  # fmt: skip
            training, embedded = (made[0], about), embedded + store.ids(made[0])
        reduced = assessment if trains else with_embeddings(assessment, embedded)
        if reduced is not assessment:
            lost = reduced.units.missing[NOT_ENCODED]
            if not request.allow_partial:
                reason = (
                    f"{len(lost)} {assessment.task.unit}(s) {NOT_ENCODED} because memory ran out "
                    f"({some(lost)}); --allow-partial scores the others, and --resume never tries "
                    "again"
                )
                report.failures.append((f"{name} on {assessment.task.name}", Failure(reason)))
                continue
            cell = replace(cell, assessment=reduced)
        features = plan.features[assessment.key(assessment.task)]
        job = EvaluateJob(
            results.folder, cell, *source, features, data.source, data.variant, machine, training
        )
        if request.resume != "never" and results.find(job.place, features) is not None:
            report.reused += 1
        else:
            yield job


def contradictions(plan: Plan, folder: Path, ready: Ready | None = None) -> Contradictions:
    """Return by encoder the records that differ from this run, and what they differ in.

    Args:
        plan: of the run.
        folder: the results folder.
        ready: the embeddings there are; None compares cards alone.
    """
    contents: dict[str, dict[str, Content]] = {}  # once for all cells with the same bags
    sides = [(cell, task) for cell in plan.cells for task in cell.assessment.sides]
    for cell, task in sides:
        card, assessment = cell.entry.card, cell.assessment
        embedded, content, place = None, "", assessment.embedded(task)
        if ready is not None and not assessment.protocol.trains_networks:
            if (card.name, place) not in ready:
                continue
            embedded = embedded_name(task, assessment.protocol)
            content = ready[card.name, place][1]
        key = assessment.key(task)
        board, features = board_of(plan.cohorts[key].data), plan.features[key]
        contents.setdefault(card.name, {})[place] = Content(
            "this run", card, folder, board, embedded, features.content, content
        )
    differing: Contradictions = {}
    for name, by_bags in contents.items():
        for path, record in ResultStore(folder).located(name):
            before = content_of(record, path, folder, plan.catalogue)
            of_revision = (
                c for c in by_bags.values() if c.encoder.revision == before.encoder.revision
            )
            if difference := next(filter(None, (c.contradicts(before) for c in of_revision)), ""):
                differing.setdefault(name, []).append((path, difference))
    return differing


def _refusals(differing: Contradictions, request: Request) -> list[tuple[str, Failure]]:
    """Return for each encoder that the records contradict why it is not scored, and what to do."""
    refusals = []
    for name, records in differing.items():
        path, difference = records[0]
        more = f" and {len(records) - 1} more records" if len(records) > 1 else ""
        cure = "Give the changed embeddings another --revision" if request.given else (
            "Give the changed encoder a new 'revision' in its card, or run it "
            "with --resume never, which moves the older records of this name and revision to "
            f"{request.workspace.results / 'retired'}"
        )  # fmt: skip
        reason = (
            f"its name and revision stand for another encoder already: it differs in {difference} "
            f"from {path}{more}. {cure}"
        )
        refusals.append((name, Failure(reason, is_user_error=True)))
    return refusals


def _retire(plan: Plan, store: ResultStore, differing: Contradictions) -> None:
    """Move the records that contradict this run, and others of the same older code, out of sight.

    Raises:
        InputError: the results folder cannot be written.
    """
    cells = {cell.entry.card.name: cell for cell in plan.cells}
    for name, records in differing.items():
        card, fingerprint = cells[name].entry.card, cells[name].fingerprint
        contradicting = {path for path, _ in records}
        for path, record in list(store.located(name)):
            of_revision = record.encoder.revision == card.revision
            if path in contradicting or (of_revision and record.encoder.fingerprint != fingerprint):
                store.retire(path)


def run_evaluate_job(job: EvaluateJob) -> Outcome:
    """Fit, predict, score, and write predictions and record; say what failed."""
    started = time.perf_counter()
    task, protocol = job.cell.assessment.task, job.cell.assessment.protocol
    try:
        return_freed_memory()
        evaluation, dim, cost = _evaluated(job)
        return_freed_memory()
        scores, folds = score(task, protocol, evaluation.predictions, evaluation.fits, dim)
        return_freed_memory()
        store = ResultStore(job.results)
        content = _content(job, scores, folds, dim)
        content["predictions"] = store.write_predictions(job.place, evaluation.predictions)
        content["provenance"] = {
            **job.machine,
            **cost,
            "blas": blas_libraries(),
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_mb": peak_memory_mb(),
        }
        record = store.write_record(content)
    except MbenchError as error:
        return _outcome(job, Failure.of(error))
    return replace(_outcome(job), record=record)


def _on_worker_death(job: EvaluateJob, reason: str) -> Outcome:
    """Return the outcome of a job that ended its worker each time."""
    return _outcome(job, Failure(f"{job.cell.assessment.protocol.name}: {reason}"))


def _outcome(job: EvaluateJob, failure: Failure | None = None) -> Outcome:
    name, assessment = job.cell.entry.card.name, job.cell.assessment
    note = f"{name} {assessment.task.id} {assessment.protocol.name}"
    return Outcome(note, {(name, assessment.task.name): failure} if failure else {})


def _evaluated(job: EvaluateJob) -> tuple[Evaluation, int, dict[str, Any]]:
    """Return the evaluation, the width of what it started from, and what that had cost."""
    assessment = job.cell.assessment
    task, protocol, units = assessment.task, assessment.protocol, assessment.units
    if protocol.trains_networks:
        from madeleine_bench.finetuning.evaluation import collect, fit_path, read_fit

        evaluation = collect(job.embeddings, task, protocol, units, assessment.splits)
        paths = [fit_path(job.embeddings, report.key) for report in evaluation.fits]
        first = read_fit(paths[0])
        assert first is not None  # it was collected
        return evaluation, len(first.scale["centre"]), {"training": _training_cost(paths)}
    if job.training and assessment.training:
        trained = assessment.training[1]
        files = (job.embeddings, tested_units(units, trained)), (job.training[0], trained)
        rows = (
            unit_embeddings(read_embeddings(path), part, assessment.groups) for path, part in files
        )
        matrix = join_rows(units, trained, *rows)
    else:
        matrix = unit_embeddings(read_embeddings(job.embeddings), units, assessment.groups)
    evaluation = evaluate(task, protocol, matrix, units, assessment.splits)
    return evaluation, matrix.shape[1], {"encoding": _encoding_cost(job.embeddings)}


def _content(
    job: EvaluateJob, scores: RecordScores, folds: Sequence[RecordFold], dim: int
) -> dict[str, Any]:
    """Return what the record says, but for predictions and provenance."""
    assessment, card = job.cell.assessment, job.cell.entry.card
    task, units = assessment.task, assessment.units
    converged = [fold.converged for fold in folds]
    return {
        "resume_key": job.place[-1],
        "source": job.source,
        "variant": job.variant,
        "encoder": {
            **card.model_dump(include={"name", "revision", "title", "kind", "training_cohorts"}),
            "fingerprint": job.cell.fingerprint,
        },
        "task": {
            **task.model_dump(include={"id", "version", "family", "cohort"}),
            "task_hash": assessment.task_hash,
        },
        "protocol": assessment.protocol.name,
        "scoring_version": SCORING_VERSION,
        "features": job.features,
        **({"training": job.training[1]} if job.training else {}),
        "inputs": {
            "embeddings": job.content,
            "labels": units.hash,
            "splits": assessment.splits.hash,
            "n": len(units.table)
            - len(assessment.training[1].table if assessment.training else ()),
            "dim": dim,
            "missing": dict(sorted(units.missing.items())),
        },
        "scores": scores,
        "folds": folds,
        "status": "ok" if all(converged) else "partly-failed" if any(converged) else "failed",
    }


def _training_cost(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what fits cost: seconds in all, and on which devices; empty where nothing is known."""
    try:
        costs = [json.loads(path.with_suffix(".json").read_text("utf-8")) for path in paths]
        seconds, devices = zip(*costs, strict=True)
        return {"seconds": round(sum(seconds), 3), "devices": sorted(set(devices))}
    except (OSError, ValueError, TypeError):
        return {}


def _encoding_cost(embeddings: Path) -> dict[str, float | int | None]:
    """Return what is known of the cost of embeddings; empty where nothing is."""
    cost = EmbeddingStore(embeddings.parent).cost(embeddings)
    if cost is None or not cost.slides:
        return {}
    each = float(f"{cost.seconds / cost.slides:.3g}")
    return {"slides": cost.slides, "seconds_per_slide": each, "parameters": cost.parameters}


def check_determinism(request: Request, progress: Progress) -> tuple[int, list[str]]:
    """Return how many files were compared, and a line for each difference, of a run made again.

    Everything is made again: with one worker more, one thread more for each, and in new processes
    of this machine, whatever the executor was.

    Args:
        request: of the run, whose results are there.
        progress: told of each job.

    Raises:
        InputError: the request cannot be carried out.
    """
    workers = request.workspace.jobs + 1
    threads = max((os.cpu_count() or 1) // request.workspace.jobs, 1) + 1
    with tempfile.TemporaryDirectory(prefix="mbench-again-") as folder:
        again, before = Path(folder), request.workspace.results
        workspace = replace(request.workspace, results=again, jobs=workers)
        request = replace(
            request, workspace=workspace, resume="never", executor="local", scheduler=None
        )
        report = run(request, progress, LocalWorkers(workers, apart=True, threads=threads))
        lines = [f"{what}: failed when it was made again: {why}" for what, why in report.failures]
        made = [*again.glob("embeddings/**/*.safetensors"), *again.glob("predictions/**/*.parquet")]
        for path in sorted(made):
            first = before / path.relative_to(again)
            if not first.is_file() or first.read_bytes() != path.read_bytes():
                lines.append(f"{first}: not there, or of other bytes")
    return len(made), lines
