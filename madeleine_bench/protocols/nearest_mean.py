"""The nearest class mean: few-shot classification without a penalty.

References:
    Wang et al., SimpleShot: Revisiting nearest-neighbor classification for few-shot learning,
    arXiv 1911.04623 (2019): embeddings centred, then scaled to length 1 ("CL2N").
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.protocols.logistic import ClassFit, class_fit, failed_fit
from madeleine_bench.protocols.scaling import fit_scaler
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
