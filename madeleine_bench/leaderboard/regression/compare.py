"""Each cell of a suite against a baseline: same, noise, better, worse, or not to be compared.

Pure: records and stored predictions in, findings out. Nothing is run here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from threadpoolctl import threadpool_limits

from madeleine_bench.leaderboard.regression import noise
from madeleine_bench.leaderboard.regression.suite import Cell, newest_records, successor
from madeleine_bench.leaderboard.regression.verdicts import EXPLAINABLE, Finding, Verdict
from madeleine_bench.protocols.scoring import scored_units
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.record import Record, RecordScores
from madeleine_bench.specs.regression import Explanations
from madeleine_bench.stats.paired import (
    PairedDifference,
    ScoredUnits,
    holm,
    paired_difference,
)

# Scores agree to this between machines; what differs by less is the same score.
TOLERANCE = 1e-6
_STATUS = ("ok", "partly-failed", "failed")


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        baseline: the committed results folder.
        current: the results folder that is judged.
        catalogue: the tasks as they are declared now.
        cells: what the suite asks for.
        board: the board of both.
        listed: record ids the baseline held when it was written, by cell.
        failures: why a cell could not be scored, by cell.
        since: ISO 8601 time; records of `current` made before it do not count.
    """

    baseline: ResultStore
    current: ResultStore
    catalogue: Catalogue
    cells: frozenset[Cell]
    board: str
    listed: Mapping[Cell, str] = field(default_factory=dict)
    failures: Mapping[Cell, str] = field(default_factory=dict)
    since: str = ""


def compare(asked: Comparison) -> tuple[Finding, ...]:
    """Return a finding for each cell of the suite and of the baseline, sorted by cell.

    Cells whose predictions changed are compared by the paired bootstrap (`noise`), and their
    p-values are adjusted for their number.

    Raises:
        InputError: a record or its predictions are broken or were altered.
    """
    old = newest_records(asked.baseline, asked.board)
    new = newest_records(asked.current, asked.board, asked.since, asked.catalogue)
    findings: dict[Cell, Finding] = {}
    moved: list[Cell] = []
    for cell in sorted(asked.cells | old.keys() | asked.listed.keys()):
        found = _without_records(asked, cell, old, new)
        if found is None:
            found = _from_records(cell, old[cell], new[cell])
        if found is None:
            moved.append(cell)
        else:
            findings[cell] = found
    findings |= _by_bootstrap(asked, {cell: (old[cell], new[cell]) for cell in moved})
    return tuple(findings[cell] for cell in sorted(findings))


def explain(
    findings: Sequence[Finding], explanations: Explanations, cells: frozenset[Cell]
) -> tuple[Finding, ...]:
    """Return the findings with the reasons that somebody gave.

    A cell that the suite asks for and that has no record cannot be explained.
    """
    explained = []
    for finding in findings:
        reason = ""
        if finding.layer == "encoders" and finding.verdict in EXPLAINABLE:
            cell = Cell(finding.subject, *finding.case.split(" "))
            about = (*cell, finding.verdict, finding.baseline_id, finding.difference or 0.0)
            if finding.verdict != "missing" or cell not in cells:
                reason = next((e.reason for e in explanations.explained if e.covers(*about)), "")
        elif finding.verdict in EXPLAINABLE:
            about_scorer = (finding.subject, finding.baseline_id)
            reason = next((e.reason for e in explanations.scorers if e.covers(*about_scorer)), "")
        explained.append(replace(finding, explained=reason))
    return tuple(explained)


def stale(explanations: Explanations, findings: Sequence[Finding]) -> list[str]:
    """Return a line for each explanation that explains nothing any more."""
    used = {(f.subject, f.explained) for f in findings if f.explained}
    lines = [
        f"{e.verdict} {e.encoder} {e.task}: {e.reason}"
        for e in explanations.explained
        if (e.encoder, e.reason) not in used
    ]
    reasons = {f.explained for f in findings if f.layer == "scorers"}
    return lines + [
        f"scorer-changed {e.protocol}: {e.reason}"
        for e in explanations.scorers
        if e.reason not in reasons
    ]


def _without_records(
    asked: Comparison, cell: Cell, old: Mapping[Cell, Record], new: Mapping[Cell, Record]
) -> Finding | None:
    """Return the finding of a cell that lacks a record on one side; None if it lacks none."""
    before, now = old.get(cell), new.get(cell)
    if before is None and (lost := asked.listed.get(cell)) is not None:
        why = f"the baseline has lost its record {lost[:12]}; restore it from version control"
        return _finding(cell, "missing", why, None, now)
    if cell not in asked.cells:
        if (newer := successor(cell, asked.cells)) is not None:
            why = f"replaced by {newer.protocol}; renew the baseline"
            return _finding(cell, "new-version", why, before, None)
        why = "in the baseline, and the suite no longer asks for it"
        return _finding(cell, "missing", why, before, None)
    if now is None:
        if cell in asked.failures:
            return _finding(cell, "failed", asked.failures[cell], before, None)
        return _finding(cell, "missing", "the results hold no record of it", before, None)
    if before is None:
        if now.status == "failed":
            return _finding(cell, "failed", "no fit converged", None, now)
        return _finding(cell, "new", "not in the baseline; renew the baseline", None, now)
    return None


def _from_records(cell: Cell, before: Record, now: Record) -> Finding | None:
    """Return what the two records say by themselves; None if their predictions must be compared."""
    if (other := _other_data(before, now)) is not None:
        return _finding(cell, *other, before, now)
    if _STATUS.index(now.status) > _STATUS.index(before.status):
        failed = [fold for fold in now.folds if not fold.converged]
        why = f"{len(failed)} of {len(now.folds)} fits failed, the first: {failed[0].reason}"
        return _finding(cell, "failed", why, before, now)
    equal = _scores_agree(before.scores, now.scores)
    if before.predictions.hash == now.predictions.hash:
        if equal:
            return _finding(cell, "same", "equal predictions", before, now)
        why = "equal predictions, other scores: scoring changed without a new scoring version"
        return _finding(cell, "scorer-changed", why, before, now)
    return _finding(cell, "same", "equal scores", before, now) if equal else None


def _other_data(before: Record, now: Record) -> tuple[Verdict, str] | None:
    """Return why two records are not of the same question, or None."""
    parts = [
        (name, getattr(before.inputs, name) != getattr(now.inputs, name))
        for name in ("labels", "splits")
    ]
    moved = [name for name, differs in parts if differs]
    if before.task.task_hash != now.task.task_hash:
        moved = moved or ["the declaration of task or protocol"]
    was, is_ = before.task.version, now.task.version
    if is_ < was or now.scoring_version < before.scoring_version:
        return "incomparable", f"older than the baseline, which has {before.task.id}@{was}"
    if moved and is_ == was:
        why = f"{', '.join(moved)} changed without a new version of {now.task.id}"
        return "incomparable", why
    if is_ > was:
        return "new-version", f"{now.task.id}@{was} is now @{is_}; renew the baseline"
    if now.scoring_version > before.scoring_version:
        change = f"{before.scoring_version} is now {now.scoring_version}"
        return "new-version", f"scoring version {change}; renew the baseline"
    return None


def _scores_agree(before: RecordScores, now: RecordScores) -> bool:
    if before.secondary.keys() != now.secondary.keys():
        return False
    pairs: list[tuple[float | None, float | None]] = [(before.main.value, now.main.value)]
    pairs += [(before.secondary[name], now.secondary[name]) for name in before.secondary]
    return all(
        one == other or (one is not None and other is not None and abs(one - other) <= TOLERANCE)
        for one, other in pairs
    )


def _by_bootstrap(
    asked: Comparison, moved: Mapping[Cell, tuple[Record, Record]]
) -> dict[Cell, Finding]:
    """Return the findings of cells whose predictions changed."""
    findings: dict[Cell, Finding] = {}
    changes: dict[Cell, PairedDifference] = {}
    for cell, (before, now) in moved.items():
        theirs = _scored(asked, asked.baseline, before)
        ours = _scored(asked, asked.current, now)
        if (why := _rescored(before, theirs) or _rescored(now, ours)) is not None:
            findings[cell] = _finding(cell, "scorer-changed", why, before, now)
            continue
        rng = rng_for(f"{now.task.id}@{now.task.version}", now.protocol, "bootstrap")
        with threadpool_limits(1):
            changes[cell] = paired_difference(ours, theirs, noise.RESAMPLES, rng)
    adjusted = holm([changes[cell].p_value for cell in changes])
    for (cell, change), p_value in zip(changes.items(), adjusted, strict=True):
        findings[cell] = _judged(cell, *moved[cell], change, p_value)
    return findings


def _scored(asked: Comparison, store: ResultStore, record: Record) -> ScoredUnits:
    where = f"{store.folder}: predictions of record {record.record_id[:12]}"
    task = asked.catalogue.tasks[record.task.id]
    protocol = asked.catalogue.protocol(record.protocol)
    predictions = store.read_predictions(record)
    dim = record.inputs.dim
    return scored_units(task, protocol, predictions, record.task.task_hash, where, dim)


def _rescored(record: Record, units: ScoredUnits) -> str | None:
    """Return what is odd if stored predictions no longer give the score of their record."""
    value = units.score
    if abs(value - record.scores.main.value) <= TOLERANCE:
        return None
    return (
        f"the predictions of record {record.record_id[:12]} score {value:.6f} now and scored "
        f"{record.scores.main.value:.6f} then: scoring changed without a new scoring version"
    )


def _judged(
    cell: Cell, before: Record, now: Record, change: PairedDifference, p_value: float
) -> Finding:
    verdict: Verdict = "improved" if change.difference > 0 else "regressed"
    why = f"p {p_value:.3g} after Holm"
    if p_value >= noise.ALPHA:
        verdict, why = "noise", f"no more than noise: {why}"
    elif abs(change.difference) < noise.SMALLEST:
        verdict, why = "noise", f"smaller than {noise.SMALLEST}, the least that counts"
    found = _finding(cell, verdict, why, before, now)
    return replace(found, difference=change.difference, ci95=change.ci95, p_value=p_value)


def _finding(
    cell: Cell, verdict: Verdict, why: str, before: Record | None, now: Record | None
) -> Finding:
    if before is not None and now is not None and (note := _encoder_note(before, now)):
        why = f"{why}; {note}"
    return Finding(
        layer="encoders",
        subject=cell.encoder,
        case=cell.case,
        verdict=verdict,
        why=why,
        baseline=None if before is None else before.scores.main.value,
        current=None if now is None else now.scores.main.value,
        baseline_id="" if before is None else before.record_id,
        current_id="" if now is None else now.record_id,
    )


def _encoder_note(before: Record, now: Record) -> str:
    was, is_ = before.encoder, now.encoder
    if was.revision != is_.revision:
        return f"revision {was.revision} is now {is_.revision}"
    if was.fingerprint != is_.fingerprint:
        return f"its code or weights changed and its card still says revision {is_.revision}"
    return ""
