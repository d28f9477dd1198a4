"""Checks of how much the number of patches matters: half of them taken away, and N read back."""

from dataclasses import dataclass

import numpy as np

from madeleine_bench.embeddings.doctor.checks import (
    CHECKS,
    COUNT_FAIL,
    COUNT_WARN,
    HALF_NORM_FAIL,
    HALF_NORM_WARN,
    RETRIEVAL_FAIL,
    RETRIEVAL_WARN,
    Finding,
    Verdict,
    graded,
)
from madeleine_bench.embeddings.doctor.geometry import equal_rows, unit_rows
from madeleine_bench.embeddings.doctor.readout import predicted_number
from madeleine_bench.embeddings.doctor.sample import LEAST_PATCHES, LEAST_SLIDES, Floats, Rows

_COMPONENTS = 3
# Bags that differ by less than this factor say nothing of what the number of patches does.
_LEAST_RANGE = 1.1


@dataclass(frozen=True)
class Halves:
    """Slides against their halves; the mean of the whole slides is subtracted from both.

    Attributes:
        own: cosine of each slide's half to the slide itself.
        best_other: the largest cosine of each half to another slide, (slide,).
        between: cosines of halves to all other slides.
    """

    own: Floats
    best_other: Floats
    between: Floats


def compare_halves(rows: Rows) -> Halves:
    """Return the cosines of halves to slides, of the slides that have a half.

    A slide with the same embedding as another is not held against it: duplicates are a finding
    of their own.
    """
    has_half = rows.has_half
    centre = rows.matrix.mean(axis=0)
    cosine = unit_rows(rows.half[has_half] - centre) @ unit_rows(rows.matrix - centre).T
    index = np.flatnonzero(has_half)
    same = equal_rows(rows.matrix)[has_half]
    others = np.where(same, -np.inf, cosine)
    own = cosine[np.arange(len(index)), index]
    return Halves(own, others.max(axis=1, initial=-np.inf), cosine[~same])


def patch_count_findings(rows: Rows) -> list[Finding]:
    """Return what the number of patches does to the embeddings; `rows` has several slides."""
    count = int(rows.has_half.sum())
    if count < LEAST_SLIDES:
        names = ("uses the patches", "half of the patches", "norm at half the patches")
        reason = (
            f"{count} slides have {LEAST_PATCHES} patches or more and a usable "
            f"embedding of half of them; {LEAST_SLIDES} are needed"
        )
        return [*(CHECKS[name].skipped(reason) for name in names), _count(rows)]
    return [_uses(rows), _half(rows), _half_norm(rows), _count(rows)]


def _uses(rows: Rows) -> Finding:
    whole, half = rows.matrix[rows.has_half], rows.half[rows.has_half]
    changed = int((whole != half).any(axis=1).sum())
    seen = f"{changed} of {len(whole)} slides change"
    return CHECKS["uses the patches"].finding("pass" if changed else "fail", seen, float(changed))


def _half(rows: Rows) -> Finding:
    check = CHECKS["half of the patches"]
    found = compare_halves(rows)
    if not len(found.between):
        return check.skipped("all embeddings are equal")
    share = float((found.own > found.best_other + 1e-9).mean())
    seen = (
        f"{share:.0%} of halves are nearest to their own slide (cosine {np.median(found.own):.2f}, "
        f"to the nearest other {np.median(found.best_other):.2f})"
    )
    verdict: Verdict = "pass"
    if share < RETRIEVAL_WARN:
        verdict = "fail" if share < RETRIEVAL_FAIL else "warn"
    return check.finding(verdict, seen, share)


def _half_norm(rows: Rows) -> Finding:
    check = CHECKS["norm at half the patches"]
    whole = np.linalg.norm(rows.matrix[rows.has_half], axis=1)
    half = np.linalg.norm(rows.half[rows.has_half], axis=1)
    there = (whole > 0.0) & (half > 0.0)
    if not there.any():
        return check.skipped("all embeddings are zero")
    ratio = float(np.median(half[there] / whole[there]))
    verdict = graded(max(ratio, 1.0 / ratio), HALF_NORM_WARN, HALF_NORM_FAIL)
    return check.finding(verdict, f"{ratio:.2f} of the norm of all patches", ratio)


def _count(rows: Rows) -> Finding:
    """The largest rank correlation of N with the norm, a component, or a probe of log N."""
    from scipy.stats import spearmanr

    check = CHECKS["patch count"]
    patches = np.array([slide.patches for slide in rows.slides], dtype=np.float64)
    if patches.max() < _LEAST_RANGE * patches.min():
        return check.skipped(f"all bags have about {int(np.median(patches))} patches")
    readings = {"norm": np.linalg.norm(rows.matrix, axis=1)}
    left, values, _ = np.linalg.svd(rows.matrix - rows.matrix.mean(axis=0), full_matrices=False)
    for k in range(min(_COMPONENTS, int((values > 1e-9 * values[0]).sum()))):
        readings[f"component {k + 1}"] = left[:, k]
    cases = [slide.case_id for slide in rows.slides]
    readings["probe"] = predicted_number(rows.matrix, np.log(patches), cases)
    found = {
        name: float(spearmanr(reading, patches).statistic)
        for name, reading in readings.items()
        if np.ptp(reading) > 1e-9 * np.max(np.abs(reading))
    }
    # A probe on held-out slides that runs backwards has learned nothing.
    found["probe"] = max(found.get("probe", 0.0), 0.0)
    name = max(found, key=lambda key: abs(found[key]))
    seen = f"rank correlation {found[name]:+.2f} ({name}); probe {found['probe']:+.2f}"
    return check.finding(graded(abs(found[name]), COUNT_WARN, COUNT_FAIL), seen, abs(found[name]))
