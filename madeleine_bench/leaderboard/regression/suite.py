"""What a user declares of the gate: the cells it scores, and which changes are explained."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import newest_records
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.loader import Spec, parse_spec, read_yaml
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import Identifier, TaskSpec

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
        runs: tasks and protocols. Put the tasks of one cohort into one run, as each run embeds its
            cohort again.
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


class Explanations(Spec):
    """Every change that somebody has explained; the file may be absent."""

    explained: tuple[ExplainedCell, ...] = ()
    scorers: tuple[ExplainedScorer, ...] = ()


class SuiteCell(NamedTuple):
    """Name of an encoder, id of a task, versioned name of a protocol."""

    encoder: str
    task: str
    protocol: str


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


def cells_of(suite: SuiteSpec, catalogue: Catalogue) -> frozenset[SuiteCell]:
    """Return every cell a suite asks for.

    Raises:
        InputError: an encoder, task or protocol is unknown, or two encoders have one name.
    """
    names = [find_encoder(encoder).card.name for encoder in suite.encoders]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"suite {suite.id}: the encoder '{repeated[0]}' stands in it twice")
    return frozenset(
        SuiteCell(name, task.id, protocol.name)
        for run in suite.runs
        for task in catalogue.select(run.tasks)
        for protocol in _protocols(run, task, catalogue)
        for name in names
    )


def records_by_cell(
    store: ResultStore, board: str, since: str = "", catalogue: Catalogue | None = None
) -> dict[SuiteCell, Record]:
    """Return the newest record of each cell of a board; none that was made before `since`.

    With a catalogue, records of another version of a task than it declares do not count.

    Raises:
        InputError: a record is broken or was altered.
    """
    records = [r for r in store.records() if r.board == board and r.made >= since]
    if catalogue is not None:
        versions = {task.id: task.version for task in catalogue.tasks.values()}
        records = [r for r in records if versions.get(r.task.id) == r.task.version]
    return newest_records(records, lambda r: SuiteCell(r.encoder.name, r.task.id, r.protocol))


def newer_version(protocol: str, names: Iterable[str]) -> str | None:
    """Return the newest later version of a protocol among some names; None without one."""
    base, _, version = protocol.rpartition("/v")
    numbers = [int(n.rpartition("/v")[2]) for n in names if n.rpartition("/v")[0] == base]
    newest = max(numbers, default=0)
    return f"{base}/v{newest}" if newest > int(version) else None


def _protocols(run: SuiteRun, task: TaskSpec, catalogue: Catalogue) -> list[ProtocolSpec]:
    """Return what `mbench run` scores a task under: of several protocols those that fit."""
    named = [catalogue.protocol(name) for name in run.protocols or task.protocols]
    fitting = [protocol for protocol in named if task.labels.type in protocol.labels]
    for protocol in fitting or named:
        if fault := misfit(task, protocol):
            raise InputError(f"the suite's run of {', '.join(run.tasks)}: {fault}")
    return fitting
