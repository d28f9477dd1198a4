"""How much of what a task has labels for is scored, and why the rest is left out."""

from collections.abc import Mapping

from madeleine_bench.data.audit import AuditFinding, refuse_errors
from madeleine_bench.data.labels import NO_FILE
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import CohortData, Units

LEAST_SHARE = 0.9  # of the labelled units: with features for fewer, `mbench run` stops
EMPTY_BAG = "empty bag"
_SHOWN = 3
_ADVICE = (
    "Look at 'features' in mbench.toml and at the slide ids (mbench data status), or score the "
    "rest: mbench run --allow-partial"
)


def left_out(task: TaskSpec, data: CohortData, units: Units) -> dict[str, tuple[str, ...]]:
    """Return by reason what a task does not score, an empty bag told from a file that is missing.

    Records count both as one reason (`Units.missing`).
    """
    reasons = dict(units.missing)
    without = reasons.pop(NO_FILE, ())
    if isinstance(data, LocalCohort):
        key = "case_id" if task.unit == "case" else "slide_id"
        slides = data.slides[data.slides["stain"].isin(task.stains)]
        filed = set(slides.loc[slides["slide_id"].isin(list(data.files)), key])
        reasons[EMPTY_BAG] = tuple(unit for unit in without if unit in filed)
        without = tuple(unit for unit in without if unit not in filed)
    reasons[NO_FILE] = without
    return {reason: ids for reason, ids in sorted(reasons.items()) if ids}


def some_left_out(reasons: Mapping[str, tuple[str, ...]]) -> str:
    """Return reasons with the number and the first of what they leave out; "" where nothing is."""
    return "; ".join(
        f"{reason}: {len(ids)} ({', '.join(ids[:_SHOWN])}{', ...' * (len(ids) > _SHOWN)})"
        for reason, ids in reasons.items()
    )


def coverage_line(task: TaskSpec, data: CohortData, units: Units) -> str:
    """Return how many units of a task are scored, of how many, and why the others are not."""
    there = data.slides[data.slides["stain"].isin(task.stains)]
    total = there["case_id"].nunique() if task.unit == "case" else len(there)
    reasons = some_left_out(left_out(task, data, units))
    return f"{task.id}: {len(units.table)} of {total} {task.unit}s scored" + (
        f"; left out: {reasons}" if reasons else ""
    )


def audit_coverage(task: TaskSpec, data: CohortData, units: Units) -> list[AuditFinding]:
    """Return that labelled units have no features: an error below `LEAST_SHARE`, else a warning.

    Units without a label do not count. A phantom is never in error.
    """
    labelled = len(units.table) + len(units.missing.get(NO_FILE, ()))
    share = len(units.table) / labelled
    if share == 1.0:
        return []
    reasons = left_out(task, data, units)
    absent = {reason: reasons[reason] for reason in (NO_FILE, EMPTY_BAG) if reason in reasons}
    message = (
        f"{len(units.table)} of {labelled} {task.unit}s with a label have features "
        f"({100 * share:.0f}%; {100 * LEAST_SHARE:.0f}% or more are expected): "
        f"{some_left_out(absent)}"
    )
    wrong = share < LEAST_SHARE and data.source == "local"
    return [AuditFinding("error" if wrong else "warning", "partial", message, _ADVICE)]


def require_coverage(task: TaskSpec, data: CohortData, units: Units) -> None:
    """Check that enough of the labelled units of a task have features.

    Raises:
        InputError: fewer than `LEAST_SHARE` have; the message says why and names the first ones.
    """
    refuse_errors(audit_coverage(task, data, units), task.name, f". {_ADVICE}")
