"""The values that travel between parts: a bag, right-censored survival, task units and splits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Source = Literal["phantom", "local"]


def board_name(source: Source, variant: str) -> str:
    """Return the board that scores of a source belong to: the source, and its variant if any.

    Examples:
        >>> board_name("phantom", "signal-0")
        'phantom-signal-0'
    """
    return f"{source}-{variant}" if variant else source


@dataclass(frozen=True)
class Bag:
    """The patch features of one slide, with what is known of the slide.

    Attributes:
        slide_id: id of the slide, unique in its cohort.
        case_id: id of the case (patient).
        features: patch x dim, float16 or float32, finite.
        stain: a word of the vocabulary, such as "H&E".
        coords: patch x 2, level-0 pixels (x, y) of the upper left corner, or None.
        site: where the case was treated, or None.
        patch_encoder: name of the model that made the features, or None (unknown).
        organ: "breast" or "kidney", the organ of the cohort, or None (unknown).
        magnification: objective power of the patches, such as 20, or None (not stated).
        patch_size: side of a patch in pixels at that magnification, or None (not stated).
        patch_size_level0: side of a patch in level-0 pixels, or None (not stated).
        latents: the hidden causes of a phantom slide; None for a real one.
    """

    slide_id: str
    case_id: str
    features: NDArray[Any]
    stain: str = "H&E"
    coords: NDArray[Any] | None = None
    site: str | None = None
    patch_encoder: str | None = None
    organ: str | None = None
    magnification: float | None = None
    patch_size: int | None = None
    patch_size_level0: int | None = None
    latents: Mapping[str, float] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Survival:
    """Right-censored follow-up; time and event travel together so they cannot be swapped.

    Attributes:
        time_days: float64, days from diagnosis to event or censoring, >= 0.
        event: bool, True where the event was observed, False where censored.
    """

    time_days: NDArray[np.float64]
    event: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Check shapes and dtypes once, so that no caller has to.

        Raises:
            ValueError: shapes differ, a dtype is wrong, or a time is negative or not finite.
        """
        if self.time_days.shape != self.event.shape or self.time_days.ndim != 1:
            raise ValueError("time_days and event must be one-dimensional and of equal length")
        if self.event.dtype != np.bool_ or self.time_days.dtype != np.float64:
            raise ValueError("event must be bool and time_days float64")
        if not np.isfinite(self.time_days).all() or (self.time_days < 0).any():
            raise ValueError("time_days must be finite and not negative")

    def __len__(self) -> int:
        """Return the number of subjects."""
        return len(self.time_days)

    def take(self, rows: NDArray[Any]) -> "Survival":
        """Return the subjects at the given positions (or boolean mask)."""
        return Survival(self.time_days[rows], self.event[rows])


@dataclass(frozen=True)
class Units:
    """What a task scores: one row per slide or case that has a label, sorted by `unit_id`.

    Attributes:
        table: columns unit_id, case_id, site (str, "" where unknown), and either
            `label` (class name, str) or `time_days` (float64) and `event` (bool).
        slides: for each unit_id the slide ids whose embeddings are averaged.
        missing: for each reason ("no label: 'Equivocal'", "no feature file") the ids left out.
        hash: content hash of table and slides.
    """

    table: pd.DataFrame
    slides: Mapping[str, tuple[str, ...]]
    missing: Mapping[str, tuple[str, ...]]
    hash: str


@dataclass(frozen=True)
class Split:
    """One fit: positions (into the unit table) to train on and to test on, disjoint.

    `key` is (repeat, fold) for folds and (shots, draw) for few-shot draws. `val` are validation
    units, which choose a penalty and are not trained on; often there are none.
    """

    key: tuple[int, int]
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    val: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))


@dataclass(frozen=True)
class Splits:
    """Every split of one task, as frozen to a file.

    Attributes:
        key_names: ("repeat", "fold") or ("shots", "draw").
        splits: the splits in the order of their keys.
        hash: content hash of the file's bytes.
    """

    key_names: tuple[str, str]
    splits: Sequence[Split]
    hash: str

    def __iter__(self) -> Iterator[Split]:
        """Iterate over the splits in the order of their keys."""
        return iter(self.splits)

    def __len__(self) -> int:
        """Return the number of splits."""
        return len(self.splits)


class CohortData(Protocol):
    """A cohort that can be read: the one shape that local files and phantoms share.

    Attributes:
        cohort_id: id of the cohort YAML.
        source: "local" or "phantom".
        variant: "" or what sets a phantom apart from the default one, such as "signal-0".
        slides: one row per slide, sorted by slide_id; columns slide_id, case_id, stain, site
            (all str) and the raw label columns (str, "" where empty).
    """

    cohort_id: str
    source: Source
    variant: str
    slides: pd.DataFrame

    @property
    def no_bag(self) -> frozenset[str]:
        """Slide ids of the table that have no readable feature file."""

    def read_bag(self, slide_id: str) -> Bag:
        """Return the bag of one slide.

        Raises:
            InputError: the file is broken; the message names it.
        """

    def content_key(self, slide_id: str) -> str:
        """Return a hash that changes when the bag of the slide changes."""

    def part(self, slide_ids: Sequence[str]) -> "CohortData":
        """Return the cohort with some of its slides alone: small, to be sent to a worker."""


def rows_of(slides: pd.DataFrame, slide_ids: Sequence[str]) -> pd.DataFrame:
    """Return the rows of some slides of a table that is sorted by slide_id.

    The time it takes hardly grows with the table.

    Raises:
        KeyError: the table has no such slide, or is not sorted.
    """
    wanted = np.array(sorted(slide_ids), dtype=object)
    ids = slides["slide_id"].to_numpy(dtype=object)
    places = np.minimum(ids.searchsorted(wanted), len(ids) - 1)
    if (absent := ids[places] != wanted).any():
        raise KeyError(str(wanted[absent][0]))
    return slides.iloc[places]


class Progress(Protocol):
    """Told what is going on; the terminal draws it, tests ignore it."""

    def phase(self, name: str, total: int) -> None:
        """Begin a phase of `total` jobs."""

    def advance(self, note: str) -> None:
        """Say that one job of the phase has ended."""

    def note(self, text: str) -> None:
        """Say how far the job at hand has come."""

    def say(self, line: str) -> None:
        """Leave a line that stays when the bar moves on."""


class Silence:
    """Progress that says nothing: of processes that do not speak, of scripts and tests."""

    def phase(self, *words: Any) -> None:
        """Say nothing."""

    advance = note = say = phase
