"""What a linear probe reads out of embeddings on cases it has not seen: a word, or a number.

References:
    Howard, Dolezal, Kochanny et al., The Impact of Site-Specific Digital Histology Signatures on
    Deep Learning Model Accuracy and Bias, Nature Communications 12, 4423, 2021: H&E slides of a
    site look alike, and networks learn the site.
    Phipson and Smyth, Permutation P-values Should Never Be Zero, SAGMB 9(1), 2010.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.doctor.checks import CHECKS, SITE_P, Finding
from madeleine_bench.embeddings.doctor.sample import Floats, Rows
from madeleine_bench.seeds import rng_for

FOLDS = 5
PERMUTATIONS = 499
LEAST_CASES = 5


@dataclass(frozen=True)
class Readout:
    """How well a word is read out.

    Attributes:
        accuracy: balanced accuracy over all held-out slides, 0 to 1.
        words: how many there are; chance is one over that.
        p_value: share of permutations, with the observed one, that do as well.
        slides: how many slides took part.
    """

    accuracy: float
    words: int
    p_value: float
    slides: int


def readout_findings(rows: Rows) -> list[Finding]:
    """Return whether embeddings say the site (a warning) and the stain (a note) of a slide."""
    site, stain = CHECKS["site"], CHECKS["stain"]
    cases = [slide.case_id for slide in rows.slides]
    findings = []
    for check, words in (
        (site, [slide.site for slide in rows.slides]),
        (stain, [slide.stain for slide in rows.slides]),
    ):
        found = read_word(rows.matrix, words, cases)
        if isinstance(found, str):
            findings.append(check.skipped(found))
            continue
        seen = (
            f"balanced accuracy {found.accuracy:.2f}, chance {1 / found.words:.2f}, "
            f"p {found.p_value:.3f} ({found.words} {check.name}s, {found.slides} slides)"
        )
        warned = check is site and found.p_value <= SITE_P
        findings.append(check.finding("warn" if warned else "pass", seen, found.p_value))
    return findings


def read_word(matrix: Floats, words: Sequence[str], cases: Sequence[str]) -> Readout | str:
    """Return how well a linear discriminant tells the words of slides, or why it was not tried.

    Folds keep cases whole and do not look at the words, so permuting the words gives an exact
    test: over cases where each has one word, over slides otherwise. The discriminant has equal
    priors and the total covariance, shrunk half-way to a sphere.

    Args:
        matrix: slide x dim.
        words: of each slide; "" is unknown and left out, as are words of few cases.
        cases: of each slide.
    """
    pairs = sorted({(word, case) for word, case in zip(words, cases, strict=True) if word})
    held = Counter(word for word, _ in pairs)
    names = sorted(word for word, count in held.items() if count >= LEAST_CASES)
    if len(names) < 2:
        known = f"{len(held)} known" if held else "none known"
        return f"needs two with {LEAST_CASES} cases each; found {len(names)} ({known})"
    kept = [row for row, word in enumerate(words) if word in names]
    label = np.array([names.index(words[row]) for row in kept])
    own_cases = [cases[row] for row in kept]
    folds = list(_folds(matrix[kept], own_cases))
    observed = _balanced_accuracy(folds, label, len(names))
    rng = rng_for("doctor", "permutations")
    as_good = 0
    for _ in range(PERMUTATIONS):
        drawn = _permuted(label, own_cases, rng)
        as_good += _balanced_accuracy(folds, drawn, len(names)) >= observed - 1e-12
    return Readout(observed, len(names), (1 + as_good) / (1 + PERMUTATIONS), len(kept))


def predicted_number(matrix: Floats, values: Floats, cases: Sequence[str]) -> Floats:
    """Return a ridge regression's prediction for each slide from slides of other cases, (slide,).

    Args:
        matrix: slide x dim.
        values: the number to predict, (slide,).
        cases: of each slide.
    """
    predicted = np.zeros(len(values))
    for fold in _folds(matrix, cases):
        own = values[fold.train]
        # With a whitened covariance S + cI, ridge weights are the covariance with the values.
        weights = fold.z_train.T @ (own - own.mean()) / len(own)
        predicted[fold.test] = own.mean() + fold.z_test @ weights
    return predicted


@dataclass(frozen=True)
class _Fold:
    """Positions to train and to test on, and their whitened embeddings."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    z_train: Floats
    z_test: Floats


def _folds(matrix: Floats, cases: Sequence[str]) -> Iterator[_Fold]:
    """Yield folds that keep cases whole; cases are dealt at random, the same way each time."""
    names = sorted(set(cases))
    dealt = rng_for("doctor", "folds", len(names)).permutation(len(names)) % FOLDS
    fold_of = dict(zip(names, dealt.tolist(), strict=True))
    own = np.array([fold_of[case] for case in cases])
    for fold in range(min(FOLDS, len(names))):
        train, test = np.flatnonzero(own != fold), np.flatnonzero(own == fold)
        if len(train):
            yield _Fold(train, test, *_whitened(matrix[train], matrix[test]))


def _whitened(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Return both, z-scored and then whitened by the training covariance plus its mean variance."""
    centre, deviation = train.mean(axis=0), train.std(axis=0)
    # A dimension that is constant up to rounding says nothing, and must not be blown up.
    there = deviation > 1e-9 * max(float(np.max(np.abs(train))), 1e-300)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=there)
    first, second = (train - centre) * scale, (test - centre) * scale
    _, values, axes = np.linalg.svd(first, full_matrices=False)
    variance = values**2 / len(train)
    kept = variance > 1e-12 * max(float(variance.max(initial=0.0)), 1e-300)
    if not kept.any():
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    shrunk = variance[kept] + variance[kept].mean()
    turn = axes[kept].T / np.sqrt(shrunk)
    return first @ turn, second @ turn


def _balanced_accuracy(folds: Sequence[_Fold], label: NDArray[np.intp], words: int) -> float:
    """Return the mean over words of the share of its held-out slides that are told right."""
    right = np.zeros(len(label), dtype=bool)
    for fold in folds:
        own = np.eye(words)[label[fold.train]]
        count = own.sum(axis=0)
        means = (own.T @ fold.z_train) / np.maximum(count, 1.0)[:, None]
        score = fold.z_test @ means.T - 0.5 * np.sum(means**2, axis=1)
        score[:, count == 0.0] = -np.inf
        right[fold.test] = score.argmax(axis=1) == label[fold.test]
    return float(np.mean([right[label == word].mean() for word in range(words)]))


def _permuted(
    label: NDArray[np.intp], cases: Sequence[str], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the labels dealt anew: to whole cases where each has one label."""
    names, index = np.unique(np.array(cases), return_inverse=True)
    of_case = np.zeros(len(names), dtype=np.intp)
    of_case[index] = label
    if (of_case[index] == label).all():
        return rng.permutation(of_case)[index]
    return rng.permutation(label)
