"""Records: one JSON per encoder revision, task version and protocol, with all it was made from."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.card import Kind, Width
from madeleine_bench.specs.loader import Spec
from madeleine_bench.specs.metric import score_range
from madeleine_bench.types import board_name

Verification = Literal["none", "V0", "V1", "V2", "V3"]

Count = Annotated[int, Field(ge=0, le=10**9)]
_ROUNDING = 1e-9  # a mean or a quantile of numbers in a range may pass its end by this
_MOST_SPENT = 1e15  # seconds, bytes and parameters in the provenance
_NOT_HASHED = {"record_id", "provenance", "verification"}


class RecordEncoder(Spec):
    """Which encoder made the embeddings. `fingerprint` hashes its card, weights and code."""

    name: str
    revision: str
    title: str
    kind: Kind
    fingerprint: str
    training_cohorts: tuple[str, ...] | None


class RecordTask(Spec):
    """Which task was scored. `task_hash` covers all that moves its score."""

    id: str
    version: Count
    task_hash: str
    family: str
    cohort: str


class RecordFeatures(Spec):
    """Which patch features the encoder was given.

    Attributes:
        patch_encoder: name of the model that made them; None where nothing states it.
        content: hash of the bag, case, stain and site of every slide of the cohort that has a bag.
            The whole cohort is embedded, whichever of its tasks are scored, so the records of all
            its tasks share this hash, also those of a later run.
    """

    patch_encoder: str | None
    content: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RecordTraining(Spec):
    """What a record of an external task was trained on.

    `features` and `inputs.embeddings` of the record are those of the tested cohort; here are those
    of the training cohort.
    """

    task: str
    cohort: str
    features: RecordFeatures
    embeddings: str


class RecordInputs(Spec):
    """Content hashes of what went in, how many units were scored, and which were not, by reason."""

    embeddings: str
    labels: str
    splits: str
    n: Count = Field(gt=0)
    dim: Width
    missing: dict[str, tuple[str, ...]]


class MainScore(Spec):
    """The task's main metric.

    Attributes:
        ci95: its 95% confidence interval; None where there are too few cases for one.
        method: how the interval was made, or why there is none.
        rare_cases: test cases of the rarest class, or with an event; None in records that were
            made before they were counted.
    """

    metric: str
    value: float
    chance: FiniteFloat
    ci95: tuple[float, float] | None
    method: str
    rare_cases: int | None = Field(default=None, ge=0)


class RecordScores(Spec):
    """Scores as fractions (kappa may be below 0); a secondary one is None where undefined."""

    main: MainScore
    secondary: dict[str, float | None]


class RecordFold(Spec):
    """One fit: its key such as {"repeat": 0, "fold": 3}, its score, and how the fit went."""

    key: dict[str, Count]
    value: float
    n_train: Count
    n_test: Count
    converged: bool
    reason: str | None = None
    flag: str | None = None
    n_iter: Count | None = None
    diagnostics: dict[str, FiniteFloat] = Field(default_factory=dict)


class RecordPredictions(Spec):
    """The parquet file with one row per prediction; `path` is relative to the results folder."""

    path: str
    hash: str
    rows: Count


class Record(Spec):
    """One result. `record_id` hashes the content without provenance, so it knows no clock."""

    schema_version: Literal[1] = 1
    record_id: str
    resume_key: str
    source: Literal["phantom", "local"]
    variant: str = ""
    encoder: RecordEncoder
    task: RecordTask
    protocol: str
    scoring_version: Count
    features: RecordFeatures | None = None  # None: made before records named their features
    training: RecordTraining | None = Field(None, exclude_if=lambda x: x is None)
    inputs: RecordInputs
    scores: RecordScores
    folds: tuple[RecordFold, ...]
    predictions: RecordPredictions
    provenance: dict[str, Any]
    status: Literal["ok", "partly-failed", "failed"]
    verification: Verification = "none"

    @property
    def board(self) -> str:
        """The board it belongs to: "local", "phantom", or a phantom variant of its own."""
        return board_name(self.source, self.variant)

    @property
    def sides(self) -> dict[str, RecordFeatures | None]:
        """The features of the tested cohort, and of the one that an external task is trained on."""
        training = {self.training.cohort: self.training.features} if self.training else {}
        return {self.task.cohort: self.features, **training}

    @property
    def made(self) -> str:
        """When it was made, as ISO 8601 text; "" where it does not say."""
        return str(self.provenance.get("created", ""))

    @property
    def age(self) -> tuple[str, str]:
        """What the newest of several records is last by; equal times fall back on the id."""
        return self.made, self.record_id

    @model_validator(mode="after")
    def _content_agrees(self) -> Self:
        main = self.scores.main
        _check_range(main.metric, main.value, *(main.ci95 or ()))
        _check_range(main.metric, *(fold.value for fold in self.folds))
        for name, value in self.scores.secondary.items():
            _check_range(name, *(() if value is None else (value,)))
        if main.ci95 is not None and main.ci95[0] > main.ci95[1]:
            raise ValueError(f"'ci95' begins at {main.ci95[0]:g}, above its end {main.ci95[1]:g}")
        if not all(abs(number) <= _MOST_SPENT for number in _numbers(self.provenance)):
            raise ValueError(f"a number of 'provenance' is above {_MOST_SPENT:g} or is no number")
        if self.record_id != record_id(self.model_dump(mode="json")):
            raise ValueError("'record_id' is not the hash of the content: the record was altered")
        return self


def _check_range(metric: str, *values: float) -> None:
    """Raise ValueError for a value that the metric, such as auroc or auroc@k=5, cannot have."""
    low, high = score_range(metric.partition("@")[0])
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{metric}: a score is NaN or infinite")
    for value in values:
        if not low - _ROUNDING <= value <= high + _ROUNDING:
            raise ValueError(f"{metric} of {value:g} is outside [{low:g}, {high:g}]")


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers at any depth of a JSON value."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)


def record_id(content: dict[str, Any]) -> str:
    """Return the hash of a record's JSON content without provenance and verification.

    Records that were made before features were recorded, or rare cases counted, keep their id: what
    they do not have is not hashed.
    """
    left_out = _NOT_HASHED if content.get("features") else _NOT_HASHED | {"features"}
    kept = {key: value for key, value in content.items() if key not in left_out}
    scores = content.get("scores")
    if isinstance(scores, dict) and isinstance(main := scores.get("main"), dict):
        known = {key: v for key, v in main.items() if key != "rare_cases" or v is not None}
        kept["scores"] = {**scores, "main": known}
    return hash_json(kept)
