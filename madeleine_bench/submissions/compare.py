"""A claimed record against the recomputed one: which field differs, and by how much."""

from collections.abc import Iterator, Mapping

from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.findings import Finding
from madeleine_bench.submissions.text import plain

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
    if found := list(_other_data(member, claimed, ours)):
        return found
    differing = [
        (field, said, so)
        for field, said, so in _fields(claimed, ours)
        if said is None or so is None or abs(said - so) > SCORE_TOLERANCE
    ]
    if not differing:
        return list(_other_facts(member, claimed, ours))
    found = [
        Finding("V1", member, field, _number(said), _number(so))
        for field, said, so in differing[:_SHOWN_FIELDS]
    ]
    if (more := len(differing) - _SHOWN_FIELDS) > 0:
        found.append(Finding("V1", member, f"{more} more fields", "other values", "see above"))
    return found


def largest_difference(claimed: Record, ours: Record) -> float:
    """Return the largest absolute difference of any score; infinite where one has no value."""
    gaps = [
        float("inf") if said is None or so is None else abs(said - so)
        for _, said, so in _fields(claimed, ours)
    ]
    return max(gaps, default=0.0)


def _other_data(member: str, claimed: Record, ours: Record) -> Iterator[Finding]:
    task = f"{claimed.task.id}: "
    scores = (
        f"The claimed score is {claimed.scores.main.value:.6f}, with our data it is "
        f"{ours.scores.main.value:.6f}"
    )
    if claimed.task.version != ours.task.version:
        yield Finding(
            "V1", member, f"{task}task version", str(claimed.task.version),
            str(ours.task.version), "Score it again with the current catalogue",
        )  # fmt: skip
        return
    if claimed.scoring_version != ours.scoring_version:
        yield Finding(
            "V1", member, f"{task}scoring version", str(claimed.scoring_version),
            str(ours.scoring_version), "Score it again with the current madeleine-bench",
        )  # fmt: skip
        return
    theirs, own = claimed.inputs, ours.inputs
    if theirs.labels != own.labels:
        yield Finding(
            "V1", member, f"{task}labels of cohort {claimed.task.cohort}", theirs.labels[:16],
            own.labels[:16], f"{_coverage(claimed, ours)}. {scores}. The label tables differ, or "
            f"other slides have features: compare them (mbench data status {claimed.task.cohort})",
        )  # fmt: skip
    elif theirs.splits != own.splits:
        yield Finding(
            "V1", member, f"{task}splits", theirs.splits[:16], own.splits[:16],
            f"{scores}. Labels agree; check 'splits' in mbench.toml on both sides",
        )  # fmt: skip
    elif claimed.task.task_hash != ours.task.task_hash:
        yield Finding(
            "V1", member, f"{task}task hash", claimed.task.task_hash[:16],
            ours.task.task_hash[:16], f"{scores}. Labels and splits agree, so the task's YAML or "
            f"that of {claimed.protocol} was changed without a new version, there or here",
        )  # fmt: skip


def _coverage(claimed: Record, ours: Record) -> str:
    """Return how many units each side scored, and which ids each left out that the other did not.

    The ids of the other side are a stranger's text.
    """
    theirs, own = (
        {unit for ids in record.inputs.missing.values() for unit in ids}
        for record in (claimed, ours)
    )
    parts = [f"They scored {claimed.inputs.n} units, here are {ours.inputs.n}"]
    for what, ids in (
        ("left out there alone", theirs - own),
        ("left out here alone", own - theirs),
    ):
        if ids:
            named = ", ".join(plain(unit, 60) for unit in sorted(ids)[:_SHOWN_IDS])
            parts.append(f"{what}: {len(ids)} ({named})")
    return "; ".join(parts)


def _fields(claimed: Record, ours: Record) -> Iterator[tuple[str, float | None, float | None]]:
    """Yield every number that must agree: its name, as claimed, and as recomputed."""
    said, so = claimed.scores, ours.scores
    yield f"{so.main.metric}", said.main.value, so.main.value
    if said.main.ci95 is not None or so.main.ci95 is not None:
        ends = zip(said.main.ci95 or (None, None), so.main.ci95 or (None, None), strict=True)
        for name, (one, other) in zip(("lower", "upper"), ends, strict=True):
            yield f"{name} end of the interval", one, other
    for name in sorted({*said.secondary, *so.secondary}):
        one, other = said.secondary.get(name), so.secondary.get(name)
        if not (one is None and other is None and name in said.secondary and name in so.secondary):
            yield plain(name, 60), one, other
    folds, own = _folds(claimed), _folds(ours)
    for key in sorted({*folds, *own}):
        yield f"fold {plain(key, 60)}", folds.get(key), own.get(key)


def _folds(record: Record) -> Mapping[str, float]:
    return {
        " ".join(f"{name} {number}" for name, number in sorted(fold.key.items())): fold.value
        for fold in record.folds
    }


def _other_facts(member: str, claimed: Record, ours: Record) -> Iterator[Finding]:
    """Yield facts beside the scores that differ: how much was fitted on, and how much predicted."""
    for field, said, so in (
        ("units", claimed.inputs.n, ours.inputs.n),
        ("width", claimed.inputs.dim, ours.inputs.dim),
        ("number of predictions", claimed.predictions.rows, ours.predictions.rows),
        ("number of folds", len(claimed.folds), len(ours.folds)),
        *(
            (f"size of fold {number}", (one.n_train, one.n_test), (other.n_train, other.n_test))
            for number, (one, other) in enumerate(zip(claimed.folds, ours.folds, strict=False))
        ),
    ):
        if said != so:
            yield Finding("V1", member, field, plain(str(said)), plain(str(so)))
            return


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.9g}"
