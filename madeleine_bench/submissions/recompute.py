"""V1: every claimed score again, from the submitted embeddings, our labels, splits and protocols.

The embeddings are laid into a scratch folder and scored by the very job that `mbench run` uses.
Which features they were made from stays the submitter's word.
"""

from dataclasses import dataclass
from pathlib import Path

from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.encoders.registry import EncoderEntry
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner import plan
from madeleine_bench.runner.run import EvaluateJob, run_evaluate_job
from madeleine_bench.runner.workers import in_parallel
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.bundle import Bundle, Claim
from madeleine_bench.submissions.claims import usable_task
from madeleine_bench.submissions.cohorts import OwnCohorts, VerifyRequest
from madeleine_bench.submissions.compare import compare_records, largest_difference
from madeleine_bench.submissions.findings import Finding
from madeleine_bench.submissions.text import plain
from madeleine_bench.types import Progress, Units

Cell = tuple[str, str]


@dataclass(frozen=True)
class Recomputed:
    """What came out.

    Attributes:
        records: recomputed records by (task id, protocol); their predictions lie in the scratch.
        units: labels and slides of each task, for the report.
        findings: what differs from the claims.
        equal: claims whose record came out the same to the last bit.
        largest: the largest difference of any score among the claims without a finding.
    """

    records: dict[Cell, Record]
    units: dict[str, Units]
    findings: list[Finding]
    equal: int
    largest: float


def recompute(
    bundle: Bundle,
    own: OwnCohorts,
    catalogue: Catalogue,
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> Recomputed:
    """Return the recomputed records of all claims that can be scored, and what differs.

    Raises:
        InputError: the verifier's labels or splits cannot be used.
    """
    records, units, failed = score_claims(bundle, own, catalogue, request, scratch, progress)
    findings: list[Finding] = []
    equal, largest = 0, 0.0
    for claim in bundle.claims:
        cell = _cell(claim)
        if cell in failed:
            findings.append(
                Finding("V1", claim.member, "score", f"{claim.record.scores.main.value:.6f}",
                        "not to be computed", failed[cell])
            )  # fmt: skip
        elif cell in records:
            differing = compare_records(claim.member, claim.record, records[cell])
            findings += differing
            equal += claim.record.record_id == records[cell].record_id
            if not differing:
                largest = max(largest, largest_difference(claim.record, records[cell]))
    return Recomputed(records, units, findings, equal, largest)


def score_claims(
    bundle: Bundle,
    own: OwnCohorts,
    catalogue: Catalogue,
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> tuple[dict[Cell, Record], dict[str, Units], dict[Cell, str]]:
    """Return for each claim its recomputed record, or the reason why there is none.

    The embeddings are those of the bundle, or files of the same name that lie in `scratch`.
    """
    jobs, units = _jobs(bundle, own, catalogue, request, scratch)
    failed: dict[Cell, str] = {}
    progress.phase("evaluate", len(jobs))
    of_task = {job.cell.assessment.task.name: job.cell.assessment.task.id for job in jobs}
    for outcome in in_parallel(run_evaluate_job, jobs, request.jobs):
        progress.advance(outcome.note)
        for (_, task_name), reason in outcome.failed.items():
            protocol = outcome.note.rsplit(" ", 1)[1]
            failed[of_task[task_name], protocol] = plain(str(reason), 400)
    records = {(r.task.id, r.protocol): r for r in ResultStore(scratch).records()}
    return records, units, failed


def _jobs(
    bundle: Bundle, own: OwnCohorts, catalogue: Catalogue, request: VerifyRequest, scratch: Path
) -> tuple[list[EvaluateJob], dict[str, Units]]:
    machine = {**machine_provenance(), "submission": {"sha256": bundle.sha256}}
    store = EmbeddingStore(scratch)
    entry = EncoderEntry(bundle.card, bundle.path, "submission")
    jobs: dict[Cell, EvaluateJob] = {}
    units: dict[str, Units] = {}
    for claim in bundle.claims:
        declared = usable_task(claim.record, catalogue)
        claimed = bundle.embeddings.get(claim.record.task.cohort)
        if declared is None or claimed is None or declared.cohort not in own.cohorts:
            continue  # said already, as a false claim
        cohort = own.cohorts[declared.cohort]
        task = cohort.task(declared)
        protocol = catalogue.protocols[claim.record.protocol]
        (assessment,) = plan.assess(cohort, task, [protocol], own.config, request.results)
        units[task.id] = assessment.units
        embeddings = claimed.embeddings
        path = store.path(bundle.manifest.board, bundle.card.name, task.cohort, embeddings.hash)
        if not path.is_file():
            store.write(path, embeddings.ids, embeddings.matrix)
        jobs[_cell(claim)] = EvaluateJob(
            results=scratch,
            cell=plan.Cell(entry, claim.record.encoder.fingerprint, assessment),
            embeddings=path,
            content=embeddings.hash,
            features=claim.record.features,
            source=cohort.data.source,
            variant=cohort.data.variant,
            machine=machine,
        )
    return sorted(jobs.values(), key=lambda job: -job.cost), units


def _cell(claim: Claim) -> Cell:
    return claim.record.task.id, claim.record.protocol
