"""The words of the regression gate: what can be said of a cell, and what lets the gate pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal[
    "same",
    "noise",
    "improved",
    "regressed",
    "new",
    "new-version",
    "missing",
    "failed",
    "incomparable",
    "scorer-changed",
]
VERDICTS: tuple[Verdict, ...] = (
    "scorer-changed",
    "failed",
    "missing",
    "incomparable",
    "regressed",
    "improved",
    "new-version",
    "new",
    "noise",
    "same",
)
PASSING: frozenset[Verdict] = frozenset({"same", "noise", "new", "new-version"})
# What an explanation lets into a new baseline. A failure is mended, never explained.
EXPLAINABLE: frozenset[Verdict] = frozenset(
    {"improved", "regressed", "missing", "incomparable", "scorer-changed"}
)


@dataclass(frozen=True)
class Finding:
    """What the gate says of one cell.

    Attributes:
        layer: "encoders" for a cell of the board, "scorers" for the golden values of a protocol.
        subject: the encoder; for scorers the protocol.
        case: task id and protocol; for scorers the type of labels.
        verdict: the word.
        why: the reason, for a person.
        baseline: main score in the baseline, None where there is none.
        current: main score now.
        difference: current less baseline, where the two were compared.
        ci95: widened interval of the difference, where the paired bootstrap was needed.
        p_value: of the same, adjusted for the number of cells that were tested.
        baseline_id: record id (scorers: digest) in the baseline; explanations name it.
        current_id: the same of now.
        explained: the reason that somebody gave, "" where nobody did.
    """

    layer: Literal["encoders", "scorers"]
    subject: str
    case: str
    verdict: Verdict
    why: str
    baseline: float | None = None
    current: float | None = None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None
    baseline_id: str = ""
    current_id: str = ""
    explained: str = ""

    @property
    def passes(self) -> bool:
        """Whether the gate passes this cell; of what is explained, only an improvement does."""
        return self.verdict in PASSING or (self.verdict == "improved" and bool(self.explained))

    @property
    def name(self) -> str:
        """Layer, subject and case in one line."""
        return f"{self.layer[:-1]} {self.subject}: {self.case}"


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings with the worst first; within a verdict by name."""
    return tuple(sorted(findings, key=lambda f: (VERDICTS.index(f.verdict), f.name)))


def count_words(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each verdict, such as "2 regressed, 22 same"."""
    counts = [(word, sum(f.verdict == word for f in findings)) for word in VERDICTS]
    return ", ".join(f"{count} {word}" for word, count in counts if count)
