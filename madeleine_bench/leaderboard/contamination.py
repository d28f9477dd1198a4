"""Has an encoder seen the slides it is judged on: its training cohorts against a task's cohort."""

from collections.abc import Sequence
from typing import Literal

Contamination = Literal["clean", "contaminated", "unknown"]


def contamination(training_cohorts: Sequence[str] | None, cohort: str) -> Contamination:
    """Return whether an encoder was trained on the cohort of a task, by its own card.

    Unknown is not clean: a card with `training_cohorts: null` says that nobody knows.

    Args:
        training_cohorts: ids of the cohorts it was trained on; None where unknown.
        cohort: id of the cohort that is scored.

    Examples:
        >>> [contamination(c, "bcnb") for c in ((), ("acrobat",), ("bcnb",), None)]
        ['clean', 'clean', 'contaminated', 'unknown']
    """
    if training_cohorts is None:
        return "unknown"
    return "contaminated" if cohort in training_cohorts else "clean"
