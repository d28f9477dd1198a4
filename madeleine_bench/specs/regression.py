"""The regression gate's own files: what is scored, and which changes somebody has explained."""

import fnmatch
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from madeleine_bench.specs.loader import Spec, parse_spec, read_yaml
from madeleine_bench.specs.task import Identifier

IdStart = Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]


class SuiteRun(Spec):
    """Tasks that are scored under the same protocols.

    Attributes:
        tasks: ids, globs or "all".
        protocols: versioned names; empty means those each task declares.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    protocols: tuple[str, ...] = ()


class SuiteSpec(Spec):
    """What the gate scores: every encoder on every run.

    Attributes:
        id: name of the suite.
        title: one line for the report.
        source: "phantom", or "local" for files that mbench.toml names.
        encoders: names, or paths of cards relative to the suite.
        runs: tasks and protocols. Put the tasks of one cohort into one run: each run embeds anew.
    """

    id: Identifier
    title: str
    source: Literal["phantom", "local"] = "phantom"
    encoders: tuple[str, ...] = Field(min_length=1)
    runs: tuple[SuiteRun, ...] = Field(min_length=1)


class ExplainedCell(Spec):
    """Why the score of an encoder moved, and from which records.

    Attributes:
        encoder: its name.
        task: id of a task, or a glob.
        protocol: versioned name, or a glob.
        verdict: the verdict that is explained.
        baseline: record ids of the baseline, 12 digits or more. Another baseline is not excused.
        at_most: largest difference that is excused; None excuses any.
        reason: why, in words.
    """

    encoder: str
    task: str
    protocol: str = "*"
    verdict: Literal["improved", "regressed", "missing", "incomparable"]
    baseline: tuple[IdStart, ...] = Field(min_length=1)
    at_most: float | None = Field(None, gt=0)
    reason: str = Field(min_length=10)

    def covers(
        self, encoder: str, task: str, protocol: str, verdict: str, record: str, difference: float
    ) -> bool:
        """Return whether this explains a verdict on a cell whose baseline has the given id."""
        return (
            self.encoder == encoder
            and fnmatch.fnmatchcase(task, self.task)
            and fnmatch.fnmatchcase(protocol, self.protocol)
            and self.verdict == verdict
            and any(record.startswith(start) for start in self.baseline)
            and (self.at_most is None or abs(difference) <= self.at_most)
        )


class ExplainedScorer(Spec):
    """Why a protocol predicts or scores otherwise, and from which golden values.

    Attributes:
        protocol: versioned name, or a glob.
        baseline: digests of the golden values, 12 digits or more.
        reason: why, in words.
    """

    protocol: str
    baseline: tuple[IdStart, ...] = Field(min_length=1)
    reason: str = Field(min_length=10)

    def covers(self, protocol: str, digest: str) -> bool:
        """Return whether this explains a change from the golden values with the given digest."""
        return fnmatch.fnmatchcase(protocol, self.protocol) and any(
            digest.startswith(start) for start in self.baseline
        )


class Explanations(Spec):
    """Every change that somebody has explained; the file may be absent."""

    explained: tuple[ExplainedCell, ...] = ()
    scorers: tuple[ExplainedScorer, ...] = ()


def read_suite(path: Path) -> SuiteSpec:
    """Return the suite of a YAML file; the paths of its cards are resolved against the file.

    Raises:
        InputError: the file is absent or broken.
    """
    suite = parse_spec(SuiteSpec, read_yaml(path), path)
    encoders = tuple(
        str((path.parent / name).resolve()) if name.endswith((".yaml", ".yml")) else name
        for name in suite.encoders
    )
    return suite.model_copy(update={"encoders": encoders})


def read_explanations(path: Path) -> Explanations:
    """Return the explanations of a YAML file; none where there is no file.

    Raises:
        InputError: the file is broken.
    """
    if not path.is_file():
        return Explanations()
    return parse_spec(Explanations, read_yaml(path), path)
