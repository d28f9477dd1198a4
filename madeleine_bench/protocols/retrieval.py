"""Retrieval: each test unit asks for the most similar training units, of which nothing is learnt.

The gallery of a split is its training units. Cases never cross folds, so no unit finds another one
of its own case.

References:
    Cover and Hart, Nearest neighbor pattern classification, IEEE Trans. Inf. Theory 13 (1967).
    Chen et al., Fast and scalable search of whole-slide images via self-supervised deep learning,
    Nature Biomedical Engineering 6 (2022) 1420-1434: top-k and majority-vote accuracy of slides.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.metrics.retrieval import (
    average_precision,
    average_precision_at,
    hit_at,
    majority_class,
    ranked_neighbours,
    vote_counts,
    vote_hit,
)
from madeleine_bench.protocols.results import FitReport, FoldPrediction
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.protocols.scorers import Fold, require_columns
from madeleine_bench.specs.protocol import Retrieval
from madeleine_bench.types import Split

# What the class that wins a tied vote gets on top of its share, so that the likeliest class is the
# voted one. A share is at least 1 / vote, so no order of unequal shares changes.
TIE_BREAK = 2.0**-30


def retrieval(
    method: Retrieval,
    embeddings: NDArray[np.float64],
    label: NDArray[np.intp],
    classes: tuple[str, ...],
    splits: list[Split],
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each split: prob_<class>, hit@<k> and average_precision.

    prob_<class> is the share of the class among the `vote` nearest training units; of equal shares
    that of the nearest of these classes is larger by 2^-30. hit@<k> is 1 where one of the k nearest
    is of the query's class; average_precision is of the whole gallery, ranked. A method may ask for
    vote_hit@<k> as well, and for average_precision@<k> in place of it (`specs.protocol.Retrieval`).
    Fewer training units than k: all are taken. A class absent from the training units has hits and
    precision 0.

    Nothing is fitted, so every split has converged; `reason` says where embeddings are constant, or
    have no direction, and neighbours are merely the first by unit id.

    Args:
        method: the declared protocol.
        embeddings: unit x dim, in the order of unit ids, which breaks ties.
        label: (unit,) class indices.
        classes: class names in order.
        splits: positions to search in and to search from.
    """
    for split in splits:
        train, test = embeddings[split.train], embeddings[split.test]
        scaler = fit_scaler(train, method.scale)
        if method.scale == "z-score":
            train, test = scaler.apply(train), scaler.apply(test)
        reach = len(train) if method.precision == "gallery" else max(*method.top, method.vote)
        order = ranked_neighbours(test, train, reach, similarity=method.similarity).indices
        neighbour_class, query_class = label[split.train][order], label[split.test]
        columns = _measured(method, neighbour_class, query_class, classes)
        odd = _oddity(method, scaler.constant, train, test)
        missing = [name for c, name in enumerate(classes) if c not in label[split.train]]
        if odd is None and missing:
            odd = f"absent from train: {', '.join(missing)}"
        yield FoldPrediction(FitReport(split.key, len(train), len(test), True, odd), columns)


def _measured(
    method: Retrieval,
    neighbour_class: NDArray[np.intp],
    query_class: NDArray[np.intp],
    classes: tuple[str, ...],
) -> dict[str, NDArray[np.float64]]:
    """Return the columns of `retrieval` for ranked neighbours, query x neighbour."""
    relevant = neighbour_class == query_class[:, None]
    share = vote_shares(neighbour_class[:, : method.vote], len(classes))
    columns = {f"prob_{name}": share[:, c] for c, name in enumerate(classes)}
    columns |= {f"hit@{k}": hit_at(relevant, k).astype(np.float64) for k in method.top}
    if method.vote_ties == "hit":
        for k in method.top:
            right = vote_hit(neighbour_class[:, :k], query_class, len(classes))
            columns[f"vote_hit@{k}"] = right.astype(np.float64)
    if method.precision == "gallery":
        columns["average_precision"] = average_precision(relevant)
    else:
        for k in method.top:
            columns[f"average_precision@{k}"] = average_precision_at(relevant, k)
    return columns


def vote_shares(neighbour_class: NDArray[np.intp], n_classes: int) -> NDArray[np.float64]:
    """Return query x class, the share of each class among a query's neighbours; rows add up to 1.

    Where classes tie for the most votes, that of the nearest of their units is larger by 2^-30.

    Args:
        neighbour_class: query x neighbour, class indices, nearest first.
        n_classes: number of classes.
    """
    counts = vote_counts(neighbour_class, n_classes)
    share: NDArray[np.float64] = counts / neighbour_class.shape[1]
    tied = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) > 1
    winner = majority_class(neighbour_class, n_classes)
    share[tied, winner[tied]] += TIE_BREAK
    share[tied] /= 1.0 + TIE_BREAK
    return share


def _oddity(
    method: Retrieval, constant: bool, train: NDArray[np.float64], test: NDArray[np.float64]
) -> str | None:
    """Return why likeness says nothing of some units, or None where it does of all."""
    if constant:
        return "the embeddings are constant on the training rows"
    if method.similarity == "l2":
        return None
    blank = sum(int((~rows.any(axis=1)).sum()) for rows in (train, test))
    return f"zero once scaled, and so like nothing: {blank} units" if blank else None


def retrieval_scores(
    method: Retrieval,
    classes: tuple[str, ...],
    predictions: pd.DataFrame,
    folds: list[Fold],
    where: str,
) -> dict[str, float]:
    """Return top-<k>-accuracy, vote-accuracy and mean-average-precision, each the mean over folds.

    All lie in [0, 1], higher is better. They are means over test units, so what chance gives
    depends on how common the classes are; all encoders on a task share it. A method that counts
    votes or precision at each k of `top` has vote-accuracy@k=<k> or mean-average-precision@k=<k>.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    shares = [f"prob_{name}" for name in classes]
    columns = {f"top-{k}-accuracy": f"hit@{k}" for k in method.top}
    if method.vote_ties == "hit":
        columns |= {f"vote-accuracy@k={k}": f"vote_hit@{k}" for k in method.top}
    if method.precision == "gallery":
        columns["mean-average-precision"] = "average_precision"
    else:
        columns |= {f"mean-average-precision@k={k}": f"average_precision@{k}" for k in method.top}
    require_columns(predictions, ["label", *shares, *columns.values()], where)
    values = {name: predictions[column].to_numpy() for name, column in columns.items()}
    if method.vote_ties == "nearest":
        voted = np.array(classes, dtype=object)[predictions[shares].to_numpy().argmax(axis=1)]
        values["vote-accuracy"] = voted == predictions["label"].to_numpy(dtype=object)
    return {
        name: float(np.mean([value[fold.rows].mean() for fold in folds]))
        for name, value in values.items()
    }
