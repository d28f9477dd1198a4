"""What the doctor asks of an encoder: each check with its thresholds and what to look at.

The thresholds were set on the shipped encoders and on sabotaged ones (docs/doctor.md), never on
the labels of a task.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "skipped"]

CONSTANT_WARN, CONSTANT_FAIL = 0.05, 0.25
NORM_RATIO = 10.0
COSINE_WARN, COSINE_FAIL = 0.98, 0.999
RANK_SHARE_WARN, RANK_FAIL = 0.1, 2.0
DIFFERENCE = 1e-3
DRAW_WARN = 1e-2
DEVICE_WARN, DEVICE_FAIL = 1e-2, 1e-1
RETRIEVAL_WARN, RETRIEVAL_FAIL = 0.9, 0.5
HALF_NORM_WARN, HALF_NORM_FAIL = 1.25, 1.5
COUNT_WARN, COUNT_FAIL = 0.7, 0.95
SITE_P = 0.01


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: name of the check.
        verdict: "pass", "warn", "fail" or "skipped"; `found` then has the reason.
        found: what was seen, in words.
        threshold: what was asked, in words; empty where there is no number.
        look_at: where to look, or what to do, where the verdict is not "pass".
        number: the value that was held against the threshold; None where there is none.
    """

    check: str
    verdict: Verdict
    found: str
    threshold: str
    look_at: str
    number: float | None = None


@dataclass(frozen=True)
class Check:
    """One question to an encoder."""

    name: str
    threshold: str
    look_at: str

    def finding(self, verdict: Verdict, found: str, number: float | None = None) -> Finding:
        """Return what this check found."""
        return Finding(self.name, verdict, found, self.threshold, self.look_at, number)

    def skipped(self, reason: str) -> Finding:
        """Return that this check could not be made, and why."""
        return self.finding("skipped", reason)


def graded(value: float, warn: float, fail: float) -> Verdict:
    """Return the verdict on a value of which more is worse.

    Examples:
        >>> graded(0.5, 0.7, 0.9), graded(0.7, 0.7, 0.9), graded(1.0, 0.7, 0.9)
        ('pass', 'warn', 'fail')
    """
    if value >= fail:
        return "fail"
    return "warn" if value >= warn else "pass"


_ALL = (
    Check(
        "contract", "all of them",
        "run mbench encoders check on the card: it tries the encoder on small made-up bags",
    ),
    Check(
        "encodes every slide", "0 slides",
        "read the error, then call encode on that slide's bag alone",
    ),
    Check(
        "width", "one width, that of the card",
        "look for a shape that depends on the bag (a squeeze, a bag of one patch), or correct "
        "'dim' in the card",
    ),
    Check(
        "dtype", "float32 or float64",
        "return a float32 vector; half precision keeps three digits, and whole numbers or "
        "objects are refused by mbench run",
    ),
    Check(
        "finite", "0 slides",
        "look for a division by zero, a logarithm, or half-precision overflow on the slides named",
    ),
    Check(
        "constant dimensions", f"warn from {CONSTANT_WARN:.0%}, fail from {CONSTANT_FAIL:.0%}",
        "look for dead units, padding, or a part of the output that is never filled",
    ),
    Check(
        "scale", f"no zero vector; norms within {NORM_RATIO:g}x of their median",
        "look at the slides named: an empty attention, an unnormalised sum, or one damaged bag",
    ),
    Check(
        "mean cosine", f"warn from {COSINE_WARN:g}, fail from {COSINE_FAIL:g}",
        "all slides point the same way: look at the training loss (collapse), or subtract a "
        "common offset",
    ),
    Check(
        "effective rank",
        f"warn below {RANK_SHARE_WARN:.0%} of what is possible, fail below {RANK_FAIL:g}",
        "slides vary along few directions: look for collapse in training, or for one feature of "
        "a far larger scale than the others",
    ),
    Check(
        "duplicates", "0 slides",
        "different bags have equal embeddings: look for a cache with a wrong key, saturation, or "
        "an output that stands for a case or a site",
    ),
    Check(
        "determinism", "equal, where the card says deterministic",
        "look for dropout or batch norm left in training mode, random sampling of patches, or "
        "say deterministic: false in the card",
    ),
    Check(
        "order of patches", f"at most {DIFFERENCE:g} of the spread",
        "the order of patches in a file means nothing: look for positions, windows, a cut to the "
        "first patches, or a recurrent layer",
    ),
    Check(
        "order of slides", f"at most {DIFFERENCE:g} of the spread",
        "the encoder remembers the slides before: look for state kept on self, running "
        "statistics, or a cache",
    ),
    Check(
        "batch against single", f"at most {DIFFERENCE:g} of the spread",
        "look at padding and its mask in encode_batch: a slide must not depend on its batch",
    ),
    Check(
        "CPU against GPU", f"warn from {DEVICE_WARN:g} of the spread, fail from {DEVICE_FAIL:g}",
        "look at the precision on the GPU (bf16, TF32) and at what is left on the other device",
    ),
    Check(
        "uses the patches", "changes when half of the patches are taken away",
        "the embedding does not depend on which patches there are: it may read the slide id, the "
        "case, the site or the latents",
    ),
    Check(
        "half of the patches",
        f"warn below {RETRIEVAL_WARN:.0%}, fail below {RETRIEVAL_FAIL:.0%}",
        "half of a slide is nearer to other slides than to itself: look for attention on single "
        "patches, or embeddings that carry little but the number of patches",
    ),
    Check(
        "norm at half the patches",
        f"warn from {HALF_NORM_WARN:g}x either way, fail from {HALF_NORM_FAIL:g}x",
        "the embedding grows with the number of patches: look for a sum in place of a mean",
    ),
    Check(
        "patch count", f"warn from {COUNT_WARN:g}, fail from {COUNT_FAIL:g}",
        "the embedding says how much tissue was cut: look for sums, maxima or counts, and compare "
        "scores with the control patch-count",
    ),
    Check(
        "site", f"warn where p is at most {SITE_P:g}; never a failure",
        "H&E features carry the site (Howard et al. 2021): compare scores with the control "
        "site-only, and use site-preserved folds",
    ),
    Check(
        "stain", "a note, never a failure",
        "what a stain looks like is in the patches; it matters where stains are mixed in one task",
    ),
)  # fmt: skip

CHECKS: dict[str, Check] = {check.name: check for check in _ALL}
