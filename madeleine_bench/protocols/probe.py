"""Linear probe and few-shot: one classifier for each split; they differ in splits alone."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.protocols.fits import FitReport, FoldPrediction
from madeleine_bench.protocols.logistic import fit_and_predict
from madeleine_bench.protocols.nearest_mean import nearest_means
from madeleine_bench.specs.protocol import FewShot, LinearProbe, LogisticRegression
from madeleine_bench.types import Split

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
