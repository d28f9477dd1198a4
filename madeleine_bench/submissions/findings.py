"""What a check of a submission found: which claim is false, what it says and what is so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["V0", "V1", "V2", "V3"]
LEVELS: tuple[Level, ...] = ("V0", "V1", "V2", "V3")
MEANING: dict[Level, str] = {
    "V0": "reported: well-formed and consistent in itself; the scores are the submitter's word",
    "V1": "recomputed: the scores are those of the submitted embeddings on our labels and splits",
    "V2": "spot-checked: some slides, encoded again from the weights, gave the submitted rows",
    "V3": "reproduced: every slide was encoded again and every score computed from that",
}


@dataclass(frozen=True)
class Finding:
    """One false claim.

    Attributes:
        level: the rung of the ladder that it breaks.
        where: the member of the bundle, or the cohort.
        field: what differs.
        claimed: what the bundle says.
        found: what is so.
        advice: what to do, or why it matters; may be "".
    """

    level: Level
    where: str
    field: str
    claimed: str
    found: str
    advice: str = ""

    @property
    def line(self) -> str:
        """The finding as one line."""
        text = f"{self.where}: {self.field}: claimed {self.claimed}, found {self.found}"
        return f"{text}. {self.advice}" if self.advice else text


def level_reached(asked: Level, findings: Sequence[Finding]) -> Level | None:
    """Return the highest rung below which nothing was found; None where V0 does not hold.

    Examples:
        >>> level_reached("V1", [])
        'V1'
        >>> level_reached("V3", [Finding("V2", "bcnb", "slide 1", "a", "b")])
        'V1'
    """
    broken = {finding.level for finding in findings}
    reached: Level | None = None
    for level in LEVELS[: LEVELS.index(asked) + 1]:
        if level in broken:
            break
        reached = level
    return reached
