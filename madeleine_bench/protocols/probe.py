"""Linear probe and few-shot: one classifier for each split; they differ in splits alone."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.protocols.logistic import ClassFit, class_fit, failed_fit, fit_and_predict
from madeleine_bench.protocols.results import FitReport, FoldPrediction
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.specs.protocol import FewShot, LinearProbe, LogisticRegression
from madeleine_bench.types import Split


def nearest_means(
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    classes: tuple[str, ...],
    splits: Sequence[Split],
) -> Iterator[ClassFit]:
    """Yield the class shares of each split's test units by their distance to the class means.

    The share of a class falls with exp(-squared distance): the class with the nearest mean has the
    largest share, and for two classes shares rank units by the difference of the two squared
    distances. They rank and classify; they are no calibrated probabilities.

    Args:
        embeddings: unit x dim.
        label: (unit,) class indices.
        classes: class names in order.
        splits: positions to train and to test on.
    """
    for split in splits:
        train = embeddings[split.train].astype(np.float64)
        scaler = fit_scaler(train, "common")  # lengths are then far from overflow
        if len(present := np.unique(label[split.train])) < 2:
            reason = f"one class in train: '{classes[present[0]]}'"
            yield failed_fit(len(split.test), len(classes), reason)
            continue
        rows = _unit_length(scaler.apply(train))
        means = np.stack([rows[label[split.train] == c].mean(axis=0) for c in present])
        test = _unit_length(scaler.apply(embeddings[split.test].astype(np.float64)))
        # |x - m|^2 without |x|^2, which is the same for all classes. A matrix product may round a
        # row by where it stands; equal rows must tie.
        margin = 2.0 * np.einsum("ud,cd->uc", test, means) - np.square(means).sum(axis=1)
        share = np.exp(margin - margin.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        yield class_fit(share, present.tolist(), classes, constant=scaler.constant)


def _unit_length(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows of length 1; a row of zeros stays one."""
    length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    scaled: NDArray[np.float64] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return scaled


# The inner fold of each training unit of a split: of strata of all units, and how many folds.
InnerFolds = Callable[[Split, NDArray[np.intp], int], NDArray[np.intp]]


def probe(
    method: LinearProbe | FewShot,
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    classes: tuple[str, ...],
    splits: list[Split],
    inner: InnerFolds,
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each split: columns prob_<class> in the order of the classes.

    Args:
        method: the declared protocol.
        embeddings: unit x dim.
        label: (unit,) class indices.
        classes: class names in order.
        splits: positions to train, to validate and to test on.
        inner: divides the training units where a penalty is chosen.
    """
    model = method.model
    if isinstance(model, LogisticRegression):
        fits = fit_and_predict(
            model,
            embeddings,
            label,
            classes,
            splits,
            lambda split: inner(split, label, model.inner_folds or 2),
        )
    else:
        fits = nearest_means(embeddings, label, classes, splits)
    for split, fit in zip(splits, fits, strict=True):
        report = FitReport(
            key=split.key,
            n_train=len(split.train),
            n_test=len(split.test),
            converged=fit.converged,
            reason=fit.reason,
            n_iter=fit.n_iter,
            diagnostics={k: v for k, v in fit.diagnostics.items() if np.isfinite(v)},
        )
        columns = {f"prob_{name}": fit.probability[:, c] for c, name in enumerate(classes)}
        yield FoldPrediction(report, columns)
