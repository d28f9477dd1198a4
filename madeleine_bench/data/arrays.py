"""Arrays in memory as what a protocol takes: a task, its units and their splits."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from madeleine_bench.data.splits import FOLD_KEYS
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.task import FITTING, ContinuousLabels, TaskSpec, canonical_word
from madeleine_bench.types import Split, Splits, Survival, Units

Indices = Sequence[int] | NDArray[np.integer[Any]]


def embedding_matrix(embeddings: ArrayLike | pd.DataFrame) -> tuple[NDArray[Any], NDArray[np.str_]]:
    """Return unit x dim, and the ids of the units.

    Raises:
        InputError: the embeddings are not unit x dim, or an id stands twice.
    """
    matrix = np.asarray(embeddings)
    if matrix.ndim != 2 or not matrix.size or not np.issubdtype(matrix.dtype, np.number):
        raise InputError(
            f"embeddings have shape {matrix.shape} and dtype {matrix.dtype}; expected unit x dim, "
            "numbers"
        )
    if isinstance(embeddings, pd.DataFrame):
        ids = embeddings.index.astype(str).to_numpy(dtype=str)
        if len(set(ids)) < len(ids):
            twice = ids[pd.Index(ids).duplicated()][0]
            raise InputError(f"embeddings: '{twice}' occurs twice in the index")
        return matrix, ids
    width = len(str(len(matrix)))
    return matrix, np.array([f"{row:0{width}d}" for row in range(len(matrix))])


def matched(values: Any, embeddings: Any, what: str) -> Any:
    """Return labels or groups in the order of the embeddings.

    A Series beside a DataFrame is matched by its index, unless that only counts its rows.

    Raises:
        InputError: a unit occurs twice in the index, or is missing.
    """
    if not isinstance(values, pd.Series) or not isinstance(embeddings, pd.DataFrame):
        return values
    if isinstance(values.index, pd.RangeIndex):
        return values
    if values.index.has_duplicates:
        twice = values.index[values.index.duplicated()][0]
        raise InputError(f"{what}: '{twice}' occurs twice in the index")
    if len(absent := embeddings.index.difference(values.index)):
        raise InputError(
            f"{what}: '{absent[0]}' of the embeddings is not in the index; use ids of units as "
            f"the index, or pass {what} in the order of the embeddings with .to_numpy()"
        )
    return values.loc[embeddings.index]


def _words(values: Any, what: str) -> list[str]:
    """Return labels or groups as words.

    Raises:
        InputError: one is missing.
    """
    words = ["" if pd.isna(value) else canonical_word(value) for value in values]
    if "" in words:
        raise InputError(
            f"{what}: row {words.index('')} is empty; leave such units out of the embeddings, "
            "labels and groups"
        )
    return words


def task_of_labels(
    labels: Any, metric: str | None, classes: Sequence[str] | None, folds: int, repeats: int
) -> TaskSpec:
    """Return the task of predicting labels.

    Raises:
        InputError: labels, classes, metric, folds or repeats do not make a task.
    """
    declared: dict[str, Any] = {
        "id": "own", "cohort": "own", "stains": ["H&E"], "unit": "slide",
        "splits": {"scheme": "case-stratified", "folds": folds, "repeats": repeats},
    }  # fmt: skip
    if isinstance(labels, Survival):
        words = {"event_value": 1, "censored_value": 0, "time_unit": "days"}
        declared["labels"] = {"type": "survival", "time": "time", "event": "event", **words}
    elif metric in ("r2", "pearson", "spearman"):
        declared["labels"] = {"type": "continuous", "column": "value"}
    else:
        names = list(classes or sorted(set(_words(labels, "labels")), key=_by_number))
        kind = "binary" if len(names) == 2 else "multiclass"
        kind = "ordered" if metric == "quadratic-kappa" else kind
        if len(names) < 2:
            raise InputError(f"labels are of one class only: {', '.join(names) or 'none'}")
        declared["labels"] = {"type": kind, "column": "label", "classes": names}
    fitting, _ = FITTING[declared["labels"]["type"]]
    declared["metric"] = {"name": metric or fitting[0]}
    declared["secondary"] = [n for n in fitting if n != declared["metric"]["name"]]
    try:
        return TaskSpec.model_validate(declared)
    except ValueError as error:
        raise InputError(f"mb.evaluate: {error}") from error


def _by_number(word: str) -> tuple[float, str]:
    try:
        return float(word), word
    except ValueError:
        return np.inf, word


def units_of_labels(
    labels: Any, ids: NDArray[np.str_], groups: Any, task: TaskSpec, order: NDArray[np.intp]
) -> Units:
    """Return the units in the order of their ids.

    Raises:
        InputError: counts differ, a label or group is missing, or a label is of no class.
    """
    cases = ids if groups is None else np.array(_words(groups, "groups"))
    for what, count in (("labels", len(labels)), ("groups", len(cases))):
        if count != len(ids):
            raise InputError(f"{len(ids)} embeddings and {count} {what}: expected as many")
    table = pd.DataFrame({"unit_id": ids, "case_id": cases, "site": ""}, dtype=object)
    if isinstance(labels, Survival):
        table["time_days"], table["event"] = labels.time_days, labels.event
        if not labels.event.any():
            raise InputError("labels: there is no event")
    elif isinstance(task.labels, ContinuousLabels):
        table["value"] = _numbers(labels)
    else:
        table["label"] = _words(labels, "labels")
        known = task.labels.classes  # type: ignore[union-attr]
        if len(rows := np.flatnonzero(~table["label"].isin(known))):
            raise InputError(
                f"labels: row {rows[0]} is '{table['label'][rows[0]]}', which is none of the "
                f"classes {', '.join(known)}"
            )
    table = table.iloc[order].reset_index(drop=True)
    return Units(table, {unit: (unit,) for unit in ids}, {}, hash_json(table.to_dict("list")))


def _numbers(labels: Any) -> NDArray[np.float64]:
    """Return labels as numbers that are finite and not all equal."""
    try:
        values = np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels: {error}; r2, pearson and spearman take numbers") from error
    if not np.isfinite(values).all() or np.ptp(values) == 0.0:
        row = int(np.flatnonzero(~np.isfinite(values)).min(initial=0))
        raise InputError(f"labels: row {row} is {values[row]}; expected finite, different numbers")
    return values


def given_splits(
    given: Iterable[Sequence[Indices]], order: NDArray[np.intp], n_units: int
) -> Splits:
    """Return splits of positions, translated to the sorted units.

    Raises:
        InputError: a fold is not of two or three parts, or holds values that are not positions.
    """
    place = np.empty(n_units, dtype=np.intp)
    place[order] = np.arange(n_units)
    splits = []
    for fold, parts in enumerate(given):
        if len(parts) not in (2, 3):
            raise InputError(f"splits: fold {fold} has {len(parts)} parts; expected (train, test)")
        rows = [np.asarray(part) for part in parts]
        for part in rows:
            within = not part.size or 0 <= part.min() <= part.max() < n_units
            if part.dtype.kind not in "iu" or not within:
                raise InputError(
                    f"splits: fold {fold} holds values that are not positions from 0 to "
                    f"{n_units - 1}"
                )
        train, *val, test = (np.sort(place[part]) for part in rows)
        splits.append(Split((0, fold), train, test, *val))
    keys = [[part.tolist() for part in (s.train, s.val, s.test)] for s in splits]
    return Splits(FOLD_KEYS, splits, hash_json(keys))
