"""Labels of phantom cases: exact class counts by rank of a latent, and survival with its hazard."""

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np

from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.task import DAYS_IN, ClassLabels, SurvivalLabels, TaskSpec

LOG_HAZARD = (
    0.95  # log hazard per unit of the hazard latent; the latent's c-index is then about .75
)
MEDIAN_FOLLOW_UP_DAYS = 900  # as in the clinical tables of TCGA

Latents = Mapping[str, float]


def class_words(
    task: TaskSpec, labels: ClassLabels, latent: str, cases: Mapping[str, Latents], *key: str | int
) -> dict[str, str]:
    """Return the word of the label table for each case, "" where it has no label.

    Cases are ranked by the latent and the classes given out from low to high, each exactly as
    often as the task expects. Which cases have no label is left to chance.

    Raises:
        InputError: the task expects more labels than there are cases.
    """
    counts = task.expected.classes or {}
    chosen = choose(task, labels.column, cases, *key)
    ranked = sorted(chosen, key=lambda case: (cases[case][latent], case))
    first_word: dict[str, str] = {}
    for word, name in labels.map.items():
        first_word.setdefault(name, word)
    words = [first_word[name] for name in labels.classes for _ in range(counts[name])]
    given = dict(zip(ranked, words, strict=True))
    return {case: given.get(case, "") for case in cases}


def survival_words(
    task: TaskSpec,
    labels: SurvivalLabels,
    latent: str,
    cases: Mapping[str, Latents],
    *key: str | int,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the words for time (whole days, in the declared unit) and for event of each case.

    Both are "" without follow-up.

    Times to the event are exponential with log hazard LOG_HAZARD x latent. Times to censoring are
    uniform, independent of everything, and stretched so that exactly the expected number of events
    comes first: a case has its event when the ratio of the two times is among the smallest.

    Raises:
        InputError: the task expects more cases or events than there are.
    """
    chosen = sorted(choose(task, labels.time, cases, *key))
    events = task.expected.events or 0
    if events > len(chosen):
        raise _too_many(task, f"'expected.events' is {events}", len(chosen))
    draws = {case: rng_for("phantom", *key, "follow-up", case).random(2) for case in chosen}
    hazard = np.exp([LOG_HAZARD * cases[case][latent] for case in chosen])
    uniform = np.array([draws[case] for case in chosen]).reshape(-1, 2)
    to_event = -np.log1p(-uniform[:, 0]) / hazard
    to_censoring = 0.05 + uniform[:, 1]
    ratio = to_event / to_censoring
    has_event = np.zeros(len(chosen), dtype=bool)
    order = np.argsort(ratio, kind="stable")
    has_event[order[:events]] = True
    # The stretch lies between the last ratio with an event and the first without.
    around = ratio[order[max(events - 1, 0) : events + 1]]
    stretch = sqrt(around[0] * around[-1]) if len(around) else 1.0
    follow_up = np.minimum(to_event, stretch * to_censoring)
    days = np.maximum(np.rint(follow_up / np.median(follow_up) * MEDIAN_FOLLOW_UP_DAYS), 1)
    unit = DAYS_IN[labels.time_unit or "days"]
    times = {case: f"{day / unit:.12g}" for case, day in zip(chosen, days, strict=True)}
    words = {
        case: labels.event_value if event else labels.censored_value
        for case, event in zip(chosen, has_event, strict=True)
    }
    return ({c: times.get(c, "") for c in cases}, {c: words.get(c, "") for c in cases})


def choose(
    task: TaskSpec, column: str, cases: Mapping[str, Latents], *key: str | int
) -> Sequence[str]:
    """Return the cases that have a label: all, or as many as expected, chosen by chance.

    Raises:
        InputError: the task expects more labels than there are cases.
    """
    names = sorted(cases)
    if task.expected.n > len(names):
        raise _too_many(task, f"'expected.n' is {task.expected.n}", len(names))
    order = rng_for("phantom", *key, "labelled", column).permutation(len(names))
    return [names[position] for position in order[: task.expected.n]]


def _too_many(task: TaskSpec, found: str, available: int) -> InputError:
    return InputError(
        f"task {task.id} (tasks/{task.id}.yaml): {found}, but the phantom of cohort {task.cohort} "
        f"has {available} cases with a slide of {', '.join(task.stains)}; "
        f"expected at most {available}: lower the count, or add slides to the phantom"
    )
