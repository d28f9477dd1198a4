"""What embeddings of slides show as a cloud: collapse, duplicates, the number of patches, the site.

References:
    Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, EUSIPCO 2007.
    Howard, Dolezal, Kochanny et al., The Impact of Site-Specific Digital Histology Signatures on
    Deep Learning Model Accuracy and Bias, Nature Communications 12, 4423, 2021: H&E slides of a
    site look alike, and networks learn the site.
    Phipson and Smyth, Permutation P-values Should Never Be Zero, SAGMB 9(1), 2010.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.encoders.contract import CHECKS, NORM_RATIO, Finding, Floats, Verdict
from madeleine_bench.seeds import rng_for

LEAST_SLIDES = 8
LEAST_CASES = 5
FOLDS = 5
PERMUTATIONS = 499
SITE_P = 0.01
# Differences below this share of the largest value are float32 rounding.
_ROUNDING = 1e-6
_COMPONENTS = 3
# Bags that differ by less than this factor say nothing of what the number of patches does.
_LEAST_RANGE = 1.1


@dataclass(frozen=True)
class Rows:
    """The slides whose embedding is usable: a finite vector, as wide as most are.

    Attributes:
        slides: slide_id, case_id, site, stain, patches and content of each.
        matrix: slide x dim.
        half: of half of the patches, slide x dim; NaN in the rows of slides without a usable half.
    """

    slides: pd.DataFrame
    matrix: Floats
    half: Floats

    @property
    def has_half(self) -> NDArray[np.bool_]:
        """Which slides have a usable half, (slide,)."""
        return np.array(np.isfinite(self.half).all(axis=1))


class Readout(NamedTuple):
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


def cloud_findings(rows: Rows) -> Iterator[Finding]:
    """Yield what is wrong with the embeddings as a cloud; `rows` has several slides."""
    matrix = rows.matrix
    largest = float(np.max(np.abs(matrix)))
    dead = np.ptp(matrix, axis=0) <= _ROUNDING * largest
    share = float(dead.mean())
    seen = f"{int(dead.sum())} of {len(dead)} dimensions ({share:.0%})"
    yield CHECKS["constant dimensions"].graded(share, seen)
    yield _scale(rows)
    if matrix.shape[1] == 1:  # every vector has the same direction
        yield CHECKS["mean cosine"].skipped("the embedding is a single number")
    else:
        mean = float(cosines(matrix).mean())
        yield CHECKS["mean cosine"].graded(mean, f"{mean:.4f}")
    rank, most = effective_rank(singular_values(matrix)), min(len(matrix) - 1, matrix.shape[1])
    verdict: Verdict = "fail" if rank < 2.0 else "warn" if rank < 0.1 * most else "pass"
    yield CHECKS["effective rank"].finding(verdict, f"{rank:.1f} of {most} possible", rank)
    yield _duplicates(rows)
    yield from _half_findings(rows)
    yield _patch_count(rows)
    yield _readout("site", rows)
    yield _readout("stain", rows)


def named(ids: Iterable[str], most: int = 3) -> str:
    """Return the first few ids and how many more there are.

    Examples:
        >>> named(["a", "b"]), named(["a", "b", "c", "d", "e"])
        ('a, b', 'a, b, c and 2 more')
    """
    names = list(ids)
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def singular_values(matrix: Floats) -> Floats:
    """Return the singular values of the centred matrix, largest first; zeros where rows are equal.

    Args:
        matrix: slide x dim, finite.
    """
    centred = matrix - matrix.mean(axis=0)
    if np.max(np.abs(centred)) <= _ROUNDING * np.max(np.abs(matrix)):
        centred = np.zeros_like(centred)
    return np.linalg.svd(centred, compute_uv=False)


def effective_rank(values: Floats) -> float:
    """Return the effective rank of a matrix from its singular values: 1 to their number.

        p_i = s_i / sum s,   erank = exp(-sum p_i ln p_i)

    0 where all singular values are 0.

    Examples:
        >>> import numpy as np
        >>> effective_rank(np.array([2.0, 2.0, 2.0, 0.0])), effective_rank(np.zeros(3))
        (3.0, 0.0)
    """
    from scipy.stats import entropy

    return round(float(np.exp(entropy(values))), 12) if values.any() else 0.0


def cosines(matrix: Floats) -> Floats:
    """Return the cosine of each pair of different rows, (pair,); a zero row has cosine 0."""
    from sklearn.preprocessing import normalize

    unit = normalize(matrix)
    return np.asarray((unit @ unit.T)[np.triu_indices(len(unit), k=1)])


def equal_rows(matrix: Floats) -> NDArray[np.bool_]:
    """Return which rows are equal to which up to float32 rounding, slide x slide."""
    from scipy.spatial.distance import cdist

    return cdist(matrix, matrix, "chebyshev") <= _ROUNDING * float(np.max(np.abs(matrix)))


def compare_halves(rows: Rows) -> tuple[Floats, Floats]:
    """Return cosines of halves: to their own slide, and the largest to another slide, (slide,).

    The mean of the whole slides is subtracted from both. A slide with the same embedding as another
    is not held against it: duplicates are a finding of their own.
    """
    from sklearn.preprocessing import normalize

    index = np.flatnonzero(rows.has_half)
    centre = rows.matrix.mean(axis=0)
    cosine = normalize(rows.half[index] - centre) @ normalize(rows.matrix - centre).T
    equal = equal_rows(rows.matrix)[index]
    nearest = np.where(equal, -np.inf, cosine).max(axis=1, initial=-np.inf)
    return cosine[np.arange(len(index)), index], nearest


def read_word(matrix: Floats, words: Sequence[str], cases: Sequence[str]) -> Readout | str:
    """Return how well a linear discriminant tells the words of slides, or why it was not tried.

    Folds keep cases whole and do not look at the words, so permuting the words gives an exact
    test: over cases where each has one word, over slides otherwise. The discriminant has equal
    priors and the total covariance, shrunk half-way to a sphere: so it is a ridge regression of
    the indicator of each word, divided by its share.

    Args:
        matrix: slide x dim.
        words: of each slide; "" is unknown and left out, as are words of few cases.
        cases: of each slide.
    """
    counts = Counter(word for word, _ in set(zip(words, cases, strict=True)) if word)
    names = sorted(word for word, count in counts.items() if count >= LEAST_CASES)
    if len(names) < 2:
        others = f"{len(counts)} known" if counts else "none known"
        return f"needs two with {LEAST_CASES} cases each; found {len(names)} ({others})"
    rows = [row for row, word in enumerate(words) if word in names]
    label = np.array([names.index(words[row]) for row in rows])
    kept_cases = [cases[row] for row in rows]
    rng = rng_for("doctor", "permutations")
    labels = np.array([label, *(_permuted(label, kept_cases, rng) for _ in range(PERMUTATIONS))]).T
    member = np.eye(len(names))[labels]  # slide x draw x word
    right = np.zeros(labels.shape, dtype=bool)
    for train, test in _folds(kept_cases).split():
        inside = member[train]
        count = np.maximum(inside.sum(axis=0), 1.0)
        ridge = _ridge(matrix[rows])
        ridge.fit(matrix[rows][train], (inside * len(train) / count).reshape(len(train), -1))
        score = (ridge.predict(matrix[rows]) - 1.0).reshape(member.shape)
        # Half of what a mean gives for itself: equal priors put the border between two means.
        score -= 0.5 * (score[train] * inside).sum(axis=0) / count
        right[test] = score[test].argmax(axis=2) == labels[test]
    accuracy = ((right[:, :, None] * member).sum(axis=0) / member.sum(axis=0)).mean(axis=1)
    p_value = float((accuracy >= accuracy[0] - 1e-12).mean())
    return Readout(float(accuracy[0]), len(names), p_value, len(rows))


def predicted_number(matrix: Floats, values: Floats, cases: Sequence[str]) -> Floats:
    """Return a ridge regression's prediction for each slide from slides of other cases, (slide,).

    Args:
        matrix: slide x dim.
        values: the number to predict, (slide,).
        cases: of each slide.
    """
    from sklearn.model_selection import cross_val_predict

    if len(set(cases)) == 1:
        return np.zeros(len(values))
    return np.asarray(cross_val_predict(_ridge(matrix), matrix, values, cv=_folds(cases)))


def _ridge(matrix: Floats) -> Any:
    """Return a ridge regression on z-scores; the penalty is the mean variance of what varies."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(alpha=matrix.size / min(matrix.shape)))


def _folds(cases: Sequence[str]) -> Any:
    """Return a splitter that keeps cases whole and deals them at random, always the same way."""
    from sklearn.model_selection import PredefinedSplit

    names, index = np.unique(np.array(cases), return_inverse=True)
    fold_of = rng_for("doctor", "folds", len(names)).permutation(len(names)) % FOLDS
    return PredefinedSplit(fold_of[index])


def _scale(rows: Rows) -> Finding:
    check = CHECKS["scale"]
    norms = np.linalg.norm(rows.matrix, axis=1)
    median = float(np.median(norms))
    seen = f"norms {norms.min():.3g} to {norms.max():.3g}, median {median:.3g}"
    if (zero := norms == 0.0).any():
        seen += f"; all zeros on {zero.sum()} slides ({named(rows.slides['slide_id'][zero])})"
        return check.finding("fail", seen)
    ratio = np.maximum(norms / median, median / norms)
    if (odd := ratio > NORM_RATIO).any():
        seen += f"; {odd.sum()} slides stand apart ({named(rows.slides['slide_id'][odd])})"
    return check.finding("warn" if odd.any() else "pass", seen, float(ratio.max()))


def _duplicates(rows: Rows) -> Finding:
    """A pair whose bags are equal too is the data's fault, which is a warning."""
    check = CHECKS["duplicates"]
    ids, content = rows.slides["slide_id"], rows.slides["content"].to_numpy()
    same_bag = content[:, None] == content[None, :]
    odd = (equal_rows(rows.matrix) & ~same_bag).any(axis=1)
    if odd.any():
        seen = f"{odd.sum()} of {len(odd)} slides share an embedding ({named(ids[odd])})"
        return check.finding("fail", seen, float(odd.sum()))
    twice = same_bag.sum(axis=1) > 1
    if twice.any():
        seen = f"none, but {twice.sum()} slides have equal bags ({named(ids[twice])})"
        return check.finding("warn", f"{seen}: the same features under several ids", 0.0)
    return check.finding("pass", "none", 0.0)


def _half_findings(rows: Rows) -> Iterator[Finding]:
    """Yield what half of the patches changes: anything at all, the nearest slide, the norm."""
    uses, nearest, norm = (
        CHECKS[name]
        for name in ("uses the patches", "half of the patches", "norm at half the patches")
    )
    whole, half = rows.matrix[rows.has_half], rows.half[rows.has_half]
    if len(whole) < LEAST_SLIDES:
        reason = (
            f"{len(whole)} slides have 4 patches or more and a usable embedding of half of them; "
            f"{LEAST_SLIDES} are needed"
        )
        yield from (check.skipped(reason) for check in (uses, nearest, norm))
        return
    changed = int((whole != half).any(axis=1).sum())
    seen = f"{changed} of {len(whole)} slides change"
    yield uses.finding("pass" if changed else "fail", seen, float(changed))
    same, other = compare_halves(rows)
    if np.isfinite(other).any():
        share = float((same > other + 1e-9).mean())
        verdict: Verdict = "fail" if share < 0.5 else "warn" if share < 0.9 else "pass"
        seen = (
            f"{share:.0%} of halves are nearest to their own slide (cosine {np.median(same):.2f}, "
            f"to the nearest other {np.median(other):.2f})"
        )
        yield nearest.finding(verdict, seen, share)
    else:
        yield nearest.skipped("all embeddings are equal")
    norms = np.linalg.norm(whole, axis=1), np.linalg.norm(half, axis=1)
    there = (norms[0] > 0.0) & (norms[1] > 0.0)
    if there.any():
        ratio = float(np.median(norms[1][there] / norms[0][there]))
        seen = f"{ratio:.2f} of the norm of all patches"
        yield norm.graded(max(ratio, 1.0 / ratio), seen, ratio)
    else:
        yield norm.skipped("all embeddings are zero")


def _patch_count(rows: Rows) -> Finding:
    """The largest rank correlation of N with the norm, a component, or a probe of log N."""
    from scipy.stats import spearmanr

    check = CHECKS["patch count"]
    patches = rows.slides["patches"].to_numpy(dtype=np.float64)
    if patches.max() < _LEAST_RANGE * patches.min():
        return check.skipped(f"all bags have about {int(np.median(patches))} patches")
    readings = {"norm": np.linalg.norm(rows.matrix, axis=1)}
    left, values, _ = np.linalg.svd(rows.matrix - rows.matrix.mean(axis=0), full_matrices=False)
    for k in range(min(_COMPONENTS, int((values > 1e-9 * values[0]).sum()))):
        readings[f"component {k + 1}"] = left[:, k]
    cases = list(rows.slides["case_id"])
    readings["probe"] = predicted_number(rows.matrix, np.log(patches), cases)
    correlations = {
        name: float(spearmanr(reading, patches).statistic)
        for name, reading in readings.items()
        if np.ptp(reading) > 1e-9 * np.max(np.abs(reading))
    }
    # A probe on held-out slides that runs backwards has learned nothing.
    probe = correlations["probe"] = max(correlations.get("probe", 0.0), 0.0)
    name = max(correlations, key=lambda key: abs(correlations[key]))
    seen = f"rank correlation {correlations[name]:+.2f} ({name}); probe {probe:+.2f}"
    return check.graded(abs(correlations[name]), seen)


def _readout(name: str, rows: Rows) -> Finding:
    """A site that is read out is a warning, a stain a note."""
    readout = read_word(rows.matrix, list(rows.slides[name]), list(rows.slides["case_id"]))
    if isinstance(readout, str):
        return CHECKS[name].skipped(readout)
    seen = (
        f"balanced accuracy {readout.accuracy:.2f}, chance {1 / readout.words:.2f}, "
        f"p {readout.p_value:.3f} ({readout.words} {name}s, {readout.slides} slides)"
    )
    verdict: Verdict = "warn" if name == "site" and readout.p_value <= SITE_P else "pass"
    return CHECKS[name].finding(verdict, seen, readout.p_value)


def _permuted(
    label: NDArray[np.intp], cases: Sequence[str], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the labels dealt again: to whole cases where each has one label."""
    names, index = np.unique(np.array(cases), return_inverse=True)
    of_case = np.zeros(len(names), dtype=np.intp)
    of_case[index] = label
    if (of_case[index] == label).all():
        return rng.permutation(of_case)[index]
    return rng.permutation(label)
