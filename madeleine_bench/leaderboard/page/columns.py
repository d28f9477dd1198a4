"""The columns of a board's main table, each with the sentence that explains it."""

from dataclasses import dataclass
from typing import Any

from madeleine_bench.leaderboard.page.wording import words


@dataclass(frozen=True)
class Column:
    """One column: its key in addresses and CSV, its heading, what it means, shown at first or not.

    Attributes:
        about: id of the legend entry that explains it; family columns share one.
    """

    key: str
    head: str
    meaning: str
    shown: bool = True
    about: str = ""


_RANK = "Place by the mean; below it the 95% interval of the place on other cohorts."
_LETTERS = (
    "Two encoders share a letter exactly when neither is marked better than the other (signed "
    "ranks over tasks and resampled cases, both in the direction of the mean, Holm-corrected). A "
    "shared letter says that the tests found no difference, not that the encoders are equal."
)
_MEAN = (
    "Each score is first put on a scale where chance is 0 and perfect is 1; then the mean over the "
    "tasks of a family, then over families, so a family with many tasks weighs no more. Tasks with "
    "too few cases are shown and do not count."
)
_INTERVALS = (
    "95% confidence intervals of the mean. Thick, first line: for other patients of these same "
    "cohorts. Thin, second line: for other cohorts, as far as so few cohorts can say. The dashed "
    "line is the mean of the baseline of the same features."
)
_GAIN = (
    "The mean less that of mean-pool of the same features, on the same cases (paired), with both "
    "95% intervals: same cohorts first, other cohorts second."
)
_CONTAMINATION = (
    "Whether the encoder's own card lists a task's cohort among those it was trained on, counted "
    "over its scores. Unknown is not clean: the card does not say."
)
_VERIFICATION = (
    "The lowest level of its scores. Made here: encoded and scored by this installation. V0: "
    "reported, unranked. V1: scores recomputed from submitted embeddings; this cannot catch "
    "embeddings that encode the test labels. V2: some slides re-encoded from weights. V3: "
    "reproduced whole."
)
_SECONDS = "Seconds to encode one slide from its patch features, on the device its page names."

_BEFORE = (
    Column("rank", "Rank", _RANK),
    Column("encoder", "Encoder", "Name, kind, and why it has no rank where it has none."),
    Column("letters", "Letters", _LETTERS),
    Column("mean", "Mean", _MEAN),
    Column("intervals", "95% intervals", _INTERVALS),
    Column("gain", "Gain", _GAIN),
    Column(
        "mean_rank", "Mean rank", "Mean over tasks of its place among the ranked; 1 is the best."
    ),
    Column(
        "win_rate", "Win rate", "Share of duels won: every task against every other ranked encoder."
    ),
    Column("coverage", "Coverage", "Core tasks with a score, of all core tasks of the board."),
    Column("contamination", "Contamination", _CONTAMINATION),
    Column("verification", "Verification", _VERIFICATION),
)
_AFTER = (
    Column("parameters", "Parameters", "Number of weights of the slide encoder.", shown=False),
    Column("seconds", "Time per slide", _SECONDS, shown=False),
    Column("dim", "Dimension", "Length of the embedding of one slide or case.", shown=False),
    Column("kind", "Kind", "Encoder, baseline, or control (never ranked).", shown=False),
    Column("training", "Trained on", "Cohorts the card says it was trained on.", shown=False),
)
_FAMILY = "Mean chance-corrected score of one family; only for encoders with all its ranked tasks."


def columns_of(board: dict[str, Any]) -> list[Column]:
    """Return the columns of a board's main table, left to right."""
    families = [
        Column(f"family:{name}", words(name)[:1].upper() + words(name)[1:], _FAMILY, about="family")
        for name in board["families"]
    ]
    return [*_BEFORE, *families, *_AFTER]


def legend() -> list[Column]:
    """Return one entry for each kind of column, for the legend that needs no JavaScript."""
    return [*_BEFORE, Column("family", "Families", _FAMILY), *_AFTER]
