"""Cohorts and tasks made by hand, so that these tests do not depend on the catalogue."""

from typing import Any

import numpy as np

from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.specs.cohort import COHORT_FACTS, CohortSpec
from madeleine_bench.specs.task import FACTS, TaskSpec

KNOWN = {"status": "reconstructed", "source": "made up for a test"}


def make_cohort(
    slides: dict[str, int],
    cases: int,
    *,
    organ: str = "breast",
    cohort: str = "toy",
    **phantom: Any,
) -> CohortSpec:
    labels = {"er": "er", "pr": "pr", "her2": "her2", "grade": "grade", "days": "hazard"}
    declared = {"organ": organ, "slides": slides, "cases": cases, "patches": (30, 60)}
    return CohortSpec.model_validate(
        {
            "id": cohort,
            "version": 1,
            "title": "toy",
            "organ": organ,
            "role": "downstream",
            "slides": sum(slides.values()),
            "cases": cases,
            "stains": list(slides),
            "access": {"status": "open", "how": "none needed"},
            "licence": "none",
            "citation": "none",
            "provenance": dict.fromkeys(COHORT_FACTS, KNOWN),
            "phantom": {**declared, "labels": labels, **phantom},
        }
    )


def make_task(
    labels: dict[str, Any],
    expected: dict[str, Any],
    *,
    name: str = "toy-task",
    stains: tuple[str, ...] = ("H&E",),
    cohort: str = "toy",
) -> TaskSpec:
    metrics = {"survival": ("harrell-c", 0.5), "ordered": ("quadratic-kappa", 0.0)}
    metric, chance = metrics.get(labels["type"], ("auroc", 0.5))
    return TaskSpec.model_validate(
        {
            "id": name,
            "version": 1,
            "title": "toy",
            "family": "molecular-status",
            "cohort": cohort,
            "unit": "slide",
            "stains": stains,
            "labels": labels,
            "splits": {"scheme": "case-stratified"},
            "metric": {"name": metric, "chance": chance},
            "protocols": ["linear-probe/v2"],
            "expected": expected,
            "provenance": dict.fromkeys(FACTS, KNOWN),
            "citation": "none",
            "licence": "none",
        }
    )


def make_status(column: str, negative: int, positive: int, **more: Any) -> TaskSpec:
    labels = {
        "type": "binary",
        "column": column,
        "classes": ["negative", "positive"],
        "map": {"0": "negative", "1": "positive", "yes": "positive"},
    }
    counts = {"negative": negative, "positive": positive}
    more.setdefault("name", f"toy-{column}")
    return make_task(labels, {"n": negative + positive, "classes": counts}, **more)


def make_survival(n: int, events: int) -> TaskSpec:
    labels = {
        "type": "survival",
        "time": "days",
        "event": "died",
        "event_value": "dead",
        "censored_value": "alive",
    }
    return make_task(labels, {"n": n, "events": events}, name="toy-os")


def pooled(cohort: PhantomCohort) -> np.ndarray:
    """Mean-pooled slides, slide x DIM."""
    bags = (cohort.read_bag(slide) for slide in cohort.slides["slide_id"])
    return np.stack([bag.features.mean(axis=0, dtype=np.float64) for bag in bags])
