"""External validation: units of two cohorts in one table, one to train on and one to test.

A patient of both cohorts would be trained on and tested, so that cases, slides and feature files
that the cohorts share are refused.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.audit import some
from madeleine_bench.data.audit_cohort import equal_slides
from madeleine_bench.data.ids import look_alikes
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.splits import FOLD_KEYS
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.types import CohortData, Split, Splits, Units

Side = tuple[TaskSpec, CohortData, Units]


def join_units(tested: Side, trained: Side) -> Units:
    """Return the units of both sides as one table, sorted by unit_id; missing are those to test.

    Args:
        tested: task with the user's label words, cohort and units of the tested side.
        trained: the same of the training side.

    Raises:
        InputError: the classes differ, or the sides share a case, a slide or a feature file.
    """
    _require_same_classes(tested[0], trained[0])
    _require_apart(tested, trained)
    (_, _, ours), (_, _, theirs) = tested, trained
    table = pd.concat([ours.table, theirs.table]).sort_values("unit_id", ignore_index=True)
    content = hash_json({"tested": ours.hash, "trained": theirs.hash})
    return Units(table, {**ours.slides, **theirs.slides}, ours.missing, content)


def external_splits(units: Units, trained: Units, draws: Splits | None = None) -> Splits:
    """Return splits that train on one side of joined units and test on all of the other.

    Args:
        units: of both sides.
        trained: of the training side.
        draws: few-shot draws of the training side; None trains on all of it, once.
    """
    # Both tables are sorted by unit_id.
    rows = np.flatnonzero(units.table["unit_id"].isin(trained.table["unit_id"]))
    test = np.setdiff1d(np.arange(len(units.table)), rows)
    if draws is None:
        content = hash_json(["external", units.hash])
        return Splits(FOLD_KEYS, [Split((0, 0), rows, test)], content)
    splits = [Split(draw.key, rows[draw.train], test) for draw in draws]
    return Splits(draws.key_names, splits, hash_json(["external", units.hash, draws.hash]))


def join_rows(
    units: Units, trained: Units, tested_rows: NDArray[Any], trained_rows: NDArray[Any]
) -> NDArray[Any]:
    """Return the rows of both sides, unit x dim, in the order of the joined units.

    Raises:
        InputError: the rows of the two sides differ in width.
    """
    widths = tested_rows.shape[1], trained_rows.shape[1]
    if widths[0] != widths[1]:
        raise InputError(
            f"the embeddings of the tested cohort have {widths[0]} dimensions and those of the "
            f"training cohort {widths[1]}; extract both cohorts with the same patch encoder"
        )
    is_trained = units.table["unit_id"].isin(trained.table["unit_id"])
    order = np.argsort(np.argsort(is_trained, kind="stable"))
    rows: NDArray[Any] = np.concatenate([tested_rows, trained_rows])[order]
    return rows


def tested_units(units: Units, trained: Units) -> Units:
    """Return those of joined units that are tested."""
    is_trained = units.table["unit_id"].isin(trained.table["unit_id"])
    return replace(units, table=units.table[~is_trained].reset_index(drop=True))


def _require_same_classes(tested: TaskSpec, trained: TaskSpec) -> None:
    ours, theirs = tested.labels, trained.labels
    if not isinstance(ours, ClassLabels) or not isinstance(theirs, ClassLabels):
        return
    if ours.classes != theirs.classes:
        raise InputError(
            f"{tested.id}: the classes differ: {', '.join(ours.classes)} in {tested.cohort}, and "
            f"{', '.join(theirs.classes)} in {trained.id}. The two need the same classes in the "
            "same order: name them alike in the tasks, and say with 'map' which words are which"
        )


def _require_apart(tested: Side, trained: Side) -> None:
    (task, data, ours), (_, other, theirs) = tested, trained
    exact = all(
        isinstance(each, LocalCohort) and each.entry.ids == "exact" for each in (data, other)
    )
    for what in ("case", "slide", "unit"):
        ids, other_ids = _ids(ours, what), _ids(theirs, what)
        alike = [] if exact else look_alikes(ids | other_ids, cases=what == "case")
        shared = [f"{each} is in both" for each in sorted(ids & other_ids)]
        shared += [
            f"{one} of the first may be {twin} of the second"
            for group in alike
            for one in sorted(ids.intersection(group))
            for twin in sorted(other_ids.intersection(group) - {one})
        ]
        if shared:
            raise InputError(
                f"{task.id}: {data.cohort_id} and {other.cohort_id} share {len(shared)} {what}s: "
                f"{some(shared)}. What is trained on cannot be tested: remove the rows from the "
                f"label table of one cohort; or, where they are different {what}s, give them other "
                'ids (where they only look alike: ids = "exact" under both [cohorts] of '
                "mbench.toml)"
            )
    if isinstance(data, LocalCohort) and isinstance(other, LocalCohort):
        slides = _ids(ours, "slide")
        for group in equal_slides((data, slides), (other, _ids(theirs, "slide"))):
            mine, twins = slides.intersection(group), set(group) - slides
            if mine and twins:
                raise InputError(
                    f"{task.id}: slide '{min(mine)}' of {data.cohort_id} and slide '{min(twins)}' "
                    f"of {other.cohort_id} have the same content; remove one of them"
                )


def _ids(units: Units, what: str) -> set[str]:
    if what == "slide":
        return {slide for unit in units.table["unit_id"] for slide in units.slides[unit]}
    return set(units.table[f"{what}_id"])
