"""Linear probe and few-shot: a logistic regression for each split; they differ in splits alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.protocols.fits import FitReport, FoldPrediction
from madeleine_bench.protocols.logistic import fit_and_predict
from madeleine_bench.specs.protocol import FewShot, LinearProbe
from madeleine_bench.types import Split


def probe(
    method: LinearProbe | FewShot,
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    classes: tuple[str, ...],
    splits: list[Split],
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each split: columns prob_<class> in the order of the classes.

    Args:
        method: the declared protocol.
        embeddings: unit x dim.
        label: (unit,) class indices.
        classes: class names in order.
        splits: positions to train and to test on.
    """
    fits = fit_and_predict(method.model, embeddings, label, classes, splits)
    for split, fit in zip(splits, fits, strict=True):
        diagnostics = {} if fit.residual is None else {"residual": fit.residual}
        report = FitReport(
            key=split.key,
            n_train=len(split.train),
            n_test=len(split.test),
            converged=fit.converged,
            reason=fit.reason,
            n_iter=fit.n_iter,
            diagnostics={k: v for k, v in diagnostics.items() if np.isfinite(v)},
        )
        columns = {f"prob_{name}": fit.probability[:, c] for c, name in enumerate(classes)}
        yield FoldPrediction(report, columns)
