"""Who is in a phantom cohort: cases, their sites, the slides dealt to them, and their labels.

Classes have exact counts, by rank of a latent; survival has its hazard.
"""

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
import pandas as pd

from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.cohort import PhantomSpec
from madeleine_bench.specs.task import DAYS_IN, ClassLabels, SurvivalLabels, TaskSpec

ROSTER_COLUMNS = ["slide_id", "case_id", "stain", "site"]


def make_roster(cohort_id: str, spec: PhantomSpec, seed: int) -> pd.DataFrame:
    """Return one row per slide, sorted by slide_id: slide_id, case_id, stain, site.

    The slides of each stain are dealt to the cases in turn, as cards are, going on where the stain
    before stopped, so that no case has two slides more than another.

    Raises:
        InputError: fewer slides than cases.
    """
    total = sum(spec.slides.values())
    if total < spec.cases:
        raise InputError(
            f"cohort {cohort_id} (tasks/cohorts/{cohort_id}.yaml): 'phantom.cases' is {spec.cases} "
            f"but 'phantom.slides' adds up to {total}; every case needs a slide"
        )
    digits = max(4, len(str(spec.cases)))
    cases = [f"{cohort_id}-phantom-{number:0{digits}d}" for number in range(1, spec.cases + 1)]
    sites = dict(zip(cases, deal_sites(cohort_id, spec, seed), strict=True))
    rows = []
    position = 0
    for stain, count in spec.slides.items():
        for turn in range(count):
            case = cases[(position + turn) % spec.cases]
            name = [case]
            if len(spec.slides) > 1:
                name.append(stain.replace("&", ""))
            if count > spec.cases:
                name.append(str(turn // spec.cases + 1))
            rows.append(("-".join(name), case, stain, sites[case]))
        position += count
    table = pd.DataFrame(rows, columns=ROSTER_COLUMNS)
    return table.sort_values("slide_id", ignore_index=True)


def deal_sites(cohort_id: str, spec: PhantomSpec, seed: int) -> list[str]:
    """Return the site of each case: a few big sites and a tail of small ones, none empty.

    The n-th site gets cases in proportion to 1/n, as the sizes of the sites of TCGA do roughly.

    Raises:
        InputError: more sites than cases.
    """
    if spec.sites > spec.cases:
        raise InputError(
            f"cohort {cohort_id} (tasks/cohorts/{cohort_id}.yaml): 'phantom.sites' is {spec.sites} "
            f"but there are {spec.cases} cases; give at most one site per case"
        )
    weights = 1.0 / np.arange(1, spec.sites + 1)
    spare = spec.cases - spec.sites
    edges = np.rint(np.cumsum(weights) / weights.sum() * spare).astype(int)
    sizes = 1 + np.diff(edges, prepend=0)
    digits = len(str(spec.sites))
    names = [f"site-{number:0{digits}d}" for number in range(1, spec.sites + 1)]
    order = rng_for("phantom", cohort_id, seed, "sites").permutation(spec.cases)
    return [str(site) for site in np.repeat(names, sizes)[order]]


LOG_HAZARD = 0.95  # per unit of the hazard latent, whose c-index is then about .75
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
    counts = task.counts.classes or {}
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
    events = task.counts.events or 0
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
    if task.counts.n > len(names):
        raise _too_many(task, f"'expected.n' is {task.counts.n}", len(names))
    order = rng_for("phantom", *key, "labelled", column).permutation(len(names))
    return [names[position] for position in order[: task.counts.n]]


def _too_many(task: TaskSpec, count: str, available: int) -> InputError:
    return InputError(
        f"task {task.id} (tasks/{task.id}.yaml): {count}, but the phantom of cohort "
        f"{task.cohort} has {available} cases with a slide of {', '.join(task.stains)}; "
        f"expected at most {available}: lower the count, or add slides to the phantom"
    )
