"""A claimed record against the recomputed one: which field differs, and by how much."""

from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.claims import Finding
from madeleine_bench.submissions.parsing import plain

SCORE_TOLERANCE = 1e-6
_SHOWN_FIELDS = 8
_SHOWN_IDS = 3


def compare_records(member: str, claimed: Record, ours: Record) -> list[Finding]:
    """Return what of a claimed record differs from the recomputed one; [] where nothing does.

    Scores, intervals, secondary scores and folds may differ by 1e-6: two machines add in another
    order. Other task versions, labels, splits or scoring are named first, as they explain the rest.
    """
    if claimed.record_id == ours.record_id:
        return []
    if other_data := _other_data(member, claimed, ours):
        return [other_data]
    theirs, here = _numbers(claimed), _numbers(ours)
    gaps = differences(claimed, ours)
    differing = [field for field, gap in gaps.items() if gap > SCORE_TOLERANCE]
    findings = [
        Finding("V1", member, field, _text(theirs.get(field)), _text(here.get(field)))
        for field in differing[:_SHOWN_FIELDS]
    ]
    if (more := len(differing) - _SHOWN_FIELDS) > 0:
        findings.append(Finding("V1", member, f"{more} more fields", "other values", "see above"))
    return findings


def differences(claimed: Record, ours: Record) -> dict[str, float]:
    """Return by how much each number differs; infinity where one side alone has it."""
    theirs, here = _numbers(claimed), _numbers(ours)
    gaps = {}
    for field in {**here, **theirs}:
        one, other = theirs.get(field), here.get(field)
        absent = (field in theirs) != (field in here) or (one is None) != (other is None)
        gaps[field] = float("inf") if absent else abs((one or 0.0) - (other or 0.0))
    return gaps


def _numbers(record: Record) -> dict[str, float | None]:
    """Return every number that must agree, by the name that a reader knows it by."""
    main, inputs = record.scores.main, record.inputs
    low, high = main.ci95 or (None, None)
    numbers: dict[str, float | None] = {
        main.metric: main.value,
        "lower end of the interval": low,
        "upper end of the interval": high,
        **{f"secondary {plain(name, 60)}": v for name, v in record.scores.secondary.items()},
    }
    for fold in record.folds:
        key = plain(" ".join(f"{name} {number}" for name, number in sorted(fold.key.items())), 60)
        numbers[f"fold {key}"] = fold.value
        numbers[f"training size of {key}"] = fold.n_train
        numbers[f"test size of {key}"] = fold.n_test
    numbers |= {"units": inputs.n, "width": inputs.dim, "number of folds": len(record.folds)}
    return {**numbers, "number of predictions": record.predictions.rows}


def _other_data(member: str, claimed: Record, ours: Record) -> Finding | None:
    """Return the first fact of the data that differs; it explains other scores."""
    scores = (
        f"The claimed score is {claimed.scores.main.value:.6f}, with our data it is "
        f"{ours.scores.main.value:.6f}"
    )
    cohort, theirs, here = claimed.task.cohort, claimed.inputs, ours.inputs
    again = "Score it again with the current"
    for field, stated, actual, advice in (
        ("task version", claimed.task.version, ours.task.version, f"{again} catalogue"),
        (
            "scoring version", claimed.scoring_version, ours.scoring_version,
            f"{again} madeleine-bench",
        ),
        (
            f"labels of cohort {cohort}", theirs.labels, here.labels,
            f"{_coverage(claimed, ours)}. {scores}. The label tables differ, or other slides have "
            f"features: compare them (mbench data status {cohort})",
        ),
        (
            "splits", theirs.splits, here.splits,
            f"{scores}. Labels agree; check 'splits' in mbench.toml on both sides",
        ),
        (
            "task hash", claimed.task.task_hash, ours.task.task_hash,
            f"{scores}. Labels and splits agree, so the task's YAML or that of "
            f"{claimed.protocol} was changed without a new version, there or here",
        ),
    ):  # fmt: skip
        if stated != actual:
            field = f"{claimed.task.id}: {field}"
            return Finding("V1", member, field, str(stated)[:16], str(actual)[:16], advice)
    return None


def _coverage(claimed: Record, ours: Record) -> str:
    """Return how many units each side scored, and which ids it alone left out.

    The ids of the other side are a third party's text.
    """
    text = f"They scored {claimed.inputs.n} units, here are {ours.inputs.n}"
    theirs, here = (
        {unit for ids in record.inputs.missing.values() for unit in ids}
        for record in (claimed, ours)
    )
    for where, ids in (("there", sorted(theirs - here)), ("here", sorted(here - theirs))):
        if ids:
            named = ", ".join(plain(unit, 60) for unit in ids[:_SHOWN_IDS])
            text += f"; left out {where} alone: {len(ids)} ({named})"
    return text


def _text(value: float | None) -> str:
    return "no value" if value is None else f"{value:.9g}"
