"""One door: embeddings, units and splits in; predictions and fit reports out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.cox import cox
from madeleine_bench.protocols.multilabel import CLASSES, fit_columns
from madeleine_bench.protocols.probe import probe
from madeleine_bench.protocols.regression import ridge_regression
from madeleine_bench.protocols.results import Evaluation, FitReport, FoldPrediction
from madeleine_bench.protocols.retrieval import retrieval
from madeleine_bench.protocols.ridge import inner_folds
from madeleine_bench.protocols.scorers import class_index, survival_of
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.protocol import (
    Cox,
    FineTune,
    Grid,
    LogisticRegression,
    ProtocolSpec,
    Retrieval,
    RidgeRegression,
)
from madeleine_bench.specs.task import ClassLabels, MultiLabels, TaskSpec
from madeleine_bench.types import Split, Splits, Units

__all__ = ["Evaluation", "FitReport", "evaluate"]


def evaluate(
    task: TaskSpec,
    protocol: ProtocolSpec,
    embeddings: NDArray[np.floating],
    units: Units,
    splits: Splits,
) -> Evaluation:
    """Return the predictions of a protocol on a task and a report of each fit.

    The same input gives the same bytes: one thread, inner folds seeded by task and split, rows by
    (key, unit_id) whatever order the units come in.

    Args:
        task: the task.
        protocol: a protocol that scores the task's type of labels.
        embeddings: unit x dim, in the order of `units.table`; computed with in float64.
        units: the labelled units.
        splits: what to train and test on.

    Raises:
        InputError: the embeddings are not finite or do not match the units, a label is unknown,
            a split does not fit the units, the protocol does not fit the task, or it trains
            networks and so does not start from embeddings.
    """
    where = f"task {task.name}, protocol {protocol.name}"
    matrix, table, ordered = _canonical(embeddings, units, splits, where)
    if task.labels.type not in protocol.labels:
        raise InputError(
            f"{where}: the protocol scores {', '.join(protocol.labels)} labels, those of the task "
            f"are {task.labels.type}; name one of {', '.join(task.protocols)}"
        )
    method = protocol.method
    if isinstance(method, FineTune):
        raise InputError(
            f"{where}: the protocol trains a network on bags, it does not start from embeddings; "
            "name a protocol that does (linear-probe, few-shot, retrieval, cox), or train with "
            "mbench run"
        )
    cases = table["case_id"].to_numpy(dtype=str)

    def inner(split: Split, strata: NDArray[np.intp], folds: int) -> NDArray[np.intp]:
        """Return the inner folds of a split: the same for every encoder."""
        rng = rng_for(task.id, task.version, "inner folds", *split.key)
        return inner_folds(cases[split.train], strata[split.train], folds, rng)

    refit = task.splits.refit == "train+val" and any(len(split.val) for split in ordered)
    with threadpool_limits(1):
        if isinstance(method, RidgeRegression):
            value = table["value"].to_numpy(dtype=np.float64)
            exact = matrix.astype(np.float64, copy=False)

            def fits(method: Any, splits: list[Split]) -> Iterator[FoldPrediction]:
                return ridge_regression(method, exact, value, splits, inner)

            shown = ["value"]
        elif isinstance(task.labels, MultiLabels):
            shown = [f"label_{name}" for name in task.labels.columns]
            words = {name: table[f"label_{name}"].to_numpy(object) for name in task.labels.columns}

            def fit_one(label: NDArray[np.intp], parts: list[Split]) -> Iterator[FoldPrediction]:
                def fits(method: Any, splits: list[Split]) -> Iterator[FoldPrediction]:
                    return probe(method, matrix, label, CLASSES, splits, inner)

                return _refitted(method, parts, fits) if refit else fits(method, parts)

            columns = fit_columns(words, ordered, fit_one)
            return collected(table, ordered, columns, splits.key_names, shown)
        elif isinstance(method, Cox):
            survival = survival_of(table, where)
            exact = matrix.astype(np.float64, copy=False)

            def fits(method: Any, splits: list[Split]) -> Iterator[FoldPrediction]:
                return cox(method, exact, survival, splits, inner)

            shown = ["time_days", "event"]
        else:
            assert isinstance(task.labels, ClassLabels)
            label = class_index(table, task.labels.classes, where)
            classes = task.labels.classes

            def fits(method: Any, splits: list[Split]) -> Iterator[FoldPrediction]:
                if isinstance(method, Retrieval):
                    exact = matrix.astype(np.float64, copy=False)
                    return retrieval(method, exact, label, classes, splits)
                return probe(method, matrix, label, classes, splits, inner)

            shown = ["label"]
        folds = _refitted(method, ordered, fits) if refit else fits(method, ordered)
        return collected(table, ordered, folds, splits.key_names, shown)


def _refitted(
    method: Any,
    splits: Sequence[Split],
    fits: Callable[[Any, list[Split]], Iterator[FoldPrediction]],
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each split after a fit on its training and validation units.

    The validation units choose the penalty first, where there is one to choose.
    """
    for split in splits:
        (first,) = fits(method, [split])
        chosen = first.report.diagnostics
        both = np.sort(np.concatenate([split.train, split.val]))
        (again,) = fits(_at_penalty(method, chosen), [Split(split.key, both, split.test)])
        report = replace(again.report, diagnostics={**chosen, **again.report.diagnostics})
        yield FoldPrediction(report, again.columns)


def _at_penalty(method: Any, chosen: Mapping[str, float]) -> Any:
    """Return a method with the chosen penalty in place of its grid."""
    if isinstance(method, RidgeRegression):
        return method.model_copy(update={"alphas": chosen["alpha"]})
    if isinstance(method, Cox) and isinstance(method.alphas, Grid):
        # Without an effect chosen, the largest penalty is the nearest to it.
        alpha = chosen.get("alpha", method.alphas.values[-1])
        return method.model_copy(update={"alphas": (alpha,), "inner_folds": None})
    model = getattr(method, "model", None)
    if isinstance(model, LogisticRegression) and isinstance(model.C, Grid):
        fixed = {"C": chosen["C"], "choice": None, "inner_folds": None}
        return method.model_copy(update={"model": model.model_copy(update=fixed)})
    return method


def _canonical(
    embeddings: NDArray[np.floating], units: Units, splits: Splits, where: str
) -> tuple[NDArray[np.floating], pd.DataFrame, list[Split]]:
    """Return matrix, table and splits in the order of unit_id, checked."""
    matrix = np.asarray(embeddings)
    if matrix.dtype != np.float32:  # which float64 holds exactly, and is the half of
        matrix = matrix.astype(np.float64, copy=False)
    n_units = len(units.table)
    if matrix.ndim != 2 or len(matrix) != n_units or not matrix.size:
        raise InputError(
            f"{where}: the embeddings have shape {matrix.shape}, expected ({n_units}, dim): one "
            "row for each unit of the task; embed the cohort again (mbench run --resume never)"
        )
    ids = units.table["unit_id"].to_numpy(dtype=object)
    # NaN is the least and the largest of a row that holds it.
    ends = np.stack([matrix.min(axis=1), matrix.max(axis=1)])
    if (broken := ~np.isfinite(ends).all(axis=0)).any():
        row = int(np.flatnonzero(broken)[0])
        raise InputError(
            f"{where}: {int(broken.sum())} of {n_units} embeddings hold NaN or infinity, the first "
            f"in row {row} (unit '{ids[row]}'); an encoder must return finite numbers"
        )
    order = np.argsort(ids, kind="stable")
    if (repeated := ids[order][1:] == ids[order][:-1]).any():
        name = ids[order][int(np.flatnonzero(repeated)[0])]
        raise InputError(f"{where}: unit '{name}' occurs twice in the unit table")
    if not len(splits):
        raise InputError(f"{where}: there are no splits")
    place = np.empty(n_units, dtype=np.intp)
    place[order] = np.arange(n_units)
    ordered = [_placed(split, place, where) for split in splits]
    if (order != np.arange(n_units)).any():
        matrix = matrix[order]
    return matrix, units.table.iloc[order], sorted(ordered, key=lambda split: split.key)


def _placed(split: Split, place: NDArray[np.intp], where: str) -> Split:
    """Return a split with its positions translated and sorted."""
    both = np.concatenate([split.train, split.val, split.test])
    if not len(split.train) or not len(split.test):
        raise InputError(f"{where}: split {split.key} trains or tests on nothing")
    if both.min() < 0 or both.max() >= len(place) or len(np.unique(both)) < len(both):
        raise InputError(
            f"{where}: split {split.key} names a unit twice or one of {len(place)} that does not "
            "exist; the splits belong to another unit table"
        )
    train, test, val = (np.sort(place[part]) for part in (split.train, split.test, split.val))
    return Split(split.key, train, test, val)


def collected(
    table: pd.DataFrame,
    splits: Sequence[Split],
    folds: Iterable[FoldPrediction],
    key_names: tuple[str, str],
    shown: list[str],
) -> Evaluation:
    """Return what was predicted for all splits as one table, and the report of each fit.

    Positions are sorted, so rows come out sorted.

    Args:
        table: the unit table.
        splits: sorted by key, at least one; each tests on sorted positions into `table`.
        folds: what was predicted for each split.
        key_names: the names of the two parts of a key.
        shown: label columns to show beside the predictions.
    """
    rows = np.concatenate([split.test for split in splits])
    keys = np.repeat([split.key for split in splits], [len(split.test) for split in splits], axis=0)
    columns: dict[str, NDArray[Any]] = dict(zip(key_names, keys.T, strict=True))
    columns |= {name: table[name].to_numpy()[rows] for name in ["unit_id", "case_id", *shown]}
    folds = list(folds)
    columns |= {
        name: np.concatenate([fold.columns[name] for fold in folds]) for name in folds[0].columns
    }
    return Evaluation(pd.DataFrame(columns), tuple(fold.report for fold in folds))
