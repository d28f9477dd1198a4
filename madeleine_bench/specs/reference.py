"""What stands beside a board without being scored: published numbers, and what people decided."""

import datetime
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from madeleine_bench.errors import InputError
from madeleine_bench.specs.loader import Spec, did_you_mean, parse_spec, read_yaml
from madeleine_bench.specs.metric import MetricName
from madeleine_bench.specs.task import Identifier

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Shots = Annotated[int, Field(gt=0)]


class PublishedEncoder(Spec):
    """The published few-shot scores of one encoder, by task and number of shots."""

    encoder: str
    source: str
    scores: dict[Identifier, dict[Shots, Share]]


class PublishedScores(Spec):
    """One file of published scores, with the citation of each source it names."""

    metric: MetricName
    sources: dict[str, str]
    encoders: tuple[PublishedEncoder, ...]

    @model_validator(mode="after")
    def _sources_are_cited(self) -> Self:
        if unknown := sorted({e.source for e in self.encoders} - set(self.sources)):
            raise ValueError(f"'sources' does not cite {unknown}")
        return self


class Adjudication(Spec):
    """One decision about a row or the board."""

    date: datetime.date
    encoder: str | None
    task: Identifier | None
    decision: str
    reason: str
    by: str


class Adjudications(Spec):
    """The file leaderboard/adjudications.yaml."""

    adjudications: tuple[Adjudication, ...]


def read_published(folder: Path, tasks: Collection[str]) -> list[PublishedScores]:
    """Return the published scores of every YAML file of a folder, in the order of their names.

    Raises:
        InputError: a file is broken, or names a task that the catalogue does not have.
    """
    found = []
    for path in sorted(folder.glob("*.yaml")):
        scores = parse_spec(PublishedScores, read_yaml(path), path)
        for name in sorted({task for encoder in scores.encoders for task in encoder.scores}):
            if name not in tasks:
                raise InputError(
                    f"{path}: no task is called '{name}'{did_you_mean(name, sorted(tasks))}"
                )
        found.append(scores)
    return found


def read_adjudications(path: Path) -> tuple[Adjudication, ...]:
    """Return the decisions of a file.

    Raises:
        InputError: the file is absent or broken.
    """
    return parse_spec(Adjudications, read_yaml(path), path).adjudications
