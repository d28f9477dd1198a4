"""Each cell of a suite against a baseline: same, noise, better, worse, or not to be compared.

Pure: records and stored predictions in, findings out. Nothing is run here.

Noise is a change of one encoder that the paired test on its task allows, the test of two encoders
(`stats.paired.paired_difference`): it counts the training cases, which the resampled test cases
alone do not. Two nearly equal sets of predictions have a nearly empty interval, so that a
difference of no consequence can be significant: below SMALLEST a change counts as noise whatever
its p-value (docs/regression.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import Field
from threadpoolctl import threadpool_limits

from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import newest_records
from madeleine_bench.leaderboard.sources import TOLERANCE, changed_score, stored_units
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.loader import Spec, parse_spec, read_yaml
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.record import Record, RecordScores
from madeleine_bench.specs.task import Identifier, TaskSpec
from madeleine_bench.stats.paired import PairedDifference, holm, paired_difference

SMALLEST, ALPHA, RESAMPLES = 0.005, 0.05, 1000
_STATUS = ("ok", "partly-failed", "failed")

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


class Explanation(Spec):
    """Why a score or a scorer changed. Another baseline is not excused.

    Attributes:
        baseline: record ids (of scorers: digests) of the baseline, 12 digits or more.
        verdict: the verdict that is explained.
        reason: why, in words.
    """

    baseline: tuple[IdStart, ...] = Field(min_length=1)
    verdict: Literal["improved", "regressed", "missing", "incomparable", "scorer-changed"]
    reason: str = Field(min_length=10)

    def covers(self, finding: "RegressionFinding") -> bool:
        """Return whether this explains a finding."""
        same = finding.verdict == self.verdict
        return same and finding.baseline_id.startswith(self.baseline)


class Explanations(Spec):
    """Every change that somebody has explained; the file may be absent."""

    explained: tuple[Explanation, ...] = ()


class SuiteCell(NamedTuple):
    """Name of an encoder, id of a task, versioned name of a protocol."""

    encoder: str
    task: str
    protocol: str


Verdict = Literal[  # the worst first
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
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
PASSING: frozenset[Verdict] = frozenset({"same", "noise", "new", "new-version"})
# What an explanation lets into a new baseline. A failure is repaired, never explained.
EXPLAINABLE: frozenset[Verdict] = frozenset(
    {"improved", "regressed", "missing", "incomparable", "scorer-changed"}
)


@dataclass(frozen=True)
class RegressionFinding:
    """What the gate says of one cell.

    Attributes:
        layer: "encoders" for a cell of the board, "scorers" for the golden values of a protocol.
        subject: the encoder; for scorers the protocol.
        case: task id and protocol; for scorers the type of labels.
        verdict: the word.
        why: the reason, for a person.
        baseline: main score in the baseline, None where there is none.
        baseline_id: record id (scorers: digest) in the baseline; explanations name it.
        current: main score now.
        current_id: its record id or digest.
        difference: current less baseline, where the two were compared.
        ci95: widened interval of the difference, where the paired bootstrap was needed.
        p_value: of the same, adjusted for the number of cells that were tested.
        explained: the reason that somebody gave, "" where nobody did.
    """

    layer: Literal["encoders", "scorers"]
    subject: str
    case: str
    verdict: Verdict
    why: str
    baseline: float | None = None
    baseline_id: str = ""
    current: float | None = None
    current_id: str = ""
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None
    explained: str = ""

    @property
    def passes(self) -> bool:
        """Whether the gate passes this cell; of what is explained, only an improvement does."""
        return self.verdict in PASSING or (self.verdict == "improved" and bool(self.explained))

    @property
    def name(self) -> str:
        """Layer, subject and case in one line."""
        return f"{self.layer[:-1]} {self.subject}: {self.case}"


@dataclass(frozen=True)
class RegressionCheck:
    """What is compared with what.

    Attributes:
        baseline: the committed results folder.
        current: the results folder that is judged.
        catalogue: the tasks as they are declared now.
        cells: what the suite asks for.
        board: the board of both.
        listed: record ids the baseline held when it was written, by cell.
        failures: why a cell could not be scored, by cell.
        since: ISO 8601 time; records of `current` made before it do not count.
    """

    baseline: ResultStore
    current: ResultStore
    catalogue: Catalogue
    cells: frozenset[SuiteCell]
    board: str
    listed: Mapping[SuiteCell, str] = field(default_factory=dict)
    failures: Mapping[SuiteCell, str] = field(default_factory=dict)
    since: str = ""


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


def compare(check: RegressionCheck) -> list[RegressionFinding]:
    """Return a finding for each cell of the suite and of the baseline, sorted by cell.

    Cells whose predictions changed are compared by the paired bootstrap, and their p-values are
    adjusted for their number.

    Raises:
        InputError: a record or its predictions are broken or were altered.
    """
    old = records_by_cell(check.baseline, check.board)
    new = records_by_cell(check.current, check.board, check.since, check.catalogue)
    findings: dict[SuiteCell, RegressionFinding] = {}
    changed: dict[SuiteCell, tuple[Record, Record]] = {}
    for cell in check.cells | old.keys() | check.listed.keys():
        before, now = old.get(cell), new.get(cell) if cell in check.cells else None
        if before is None or now is None:
            findings[cell] = _finding(cell, _without_records(check, cell, before, now), before, now)
        elif verdict := _from_records(before, now):
            findings[cell] = _finding(cell, verdict, before, now)
        else:
            changed[cell] = before, now
    findings |= _by_bootstrap(check, changed)
    return [findings[cell] for cell in sorted(findings)]


def close(one: float | None, other: float | None) -> bool:
    """Return whether two scores are the same; an undefined one is the same as another."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TOLERANCE


def _without_records(
    check: RegressionCheck, cell: SuiteCell, before: Record | None, now: Record | None
) -> tuple[Verdict, str]:
    """Return the verdict on a cell that lacks a record on one side."""
    if before is None and cell in check.listed:
        lost = check.listed[cell][:12]
        return (
            "missing",
            f"the baseline has lost its record {lost}; restore it from version control",
        )
    if cell not in check.cells:
        return "missing", "in the baseline, and the suite no longer asks for it"
    if now is None and cell in check.failures:
        return "failed", check.failures[cell]
    if now is None:
        return "missing", "the results hold no record of it"
    if now.status == "failed":
        return "failed", "no fit converged"
    return "new", "not in the baseline; renew the baseline"


def _from_records(before: Record, now: Record) -> tuple[Verdict, str] | None:
    """Return what the two records say by themselves; None if their predictions must be compared."""
    if verdict := _of_other_data(before, now):
        return verdict
    if _STATUS.index(now.status) > _STATUS.index(before.status):
        failed = [fold for fold in now.folds if not fold.converged]
        why = f"{len(failed)} of {len(now.folds)} fits failed, the first: {failed[0].reason}"
        return "failed", why
    same_predictions = before.predictions.hash == now.predictions.hash
    if _scores_agree(before.scores, now.scores):
        return "same", "equal predictions" if same_predictions else "equal scores"
    if same_predictions:
        why = "equal predictions, other scores: scoring changed without a new scoring version"
        return "scorer-changed", why
    return None


def _of_other_data(before: Record, now: Record) -> tuple[Verdict, str] | None:
    """Return why two records are not of the same question, or None."""
    was, is_ = before.task.version, now.task.version
    old, new = before.scoring_version, now.scoring_version
    if is_ < was or new < old:
        return "incomparable", f"older than the baseline, which has {before.task.id}@{was}"
    if is_ > was:
        return "new-version", f"{now.task.id}@{was} is now @{is_}; renew the baseline"
    sides = before.inputs, now.inputs
    moved = [name for name in ("labels", "splits") if len({getattr(s, name) for s in sides}) > 1]
    if moved or before.task.task_hash != now.task.task_hash:
        what = ", ".join(moved) or "the declaration of task or protocol"
        return "incomparable", f"{what} changed without a new version of {now.task.id}"
    if new > old:
        return "new-version", f"scoring version {old} is now {new}; renew the baseline"
    return None


def _scores_agree(before: RecordScores, now: RecordScores) -> bool:
    return (
        before.secondary.keys() == now.secondary.keys()
        and close(before.main.value, now.main.value)
        and all(close(before.secondary[name], now.secondary[name]) for name in before.secondary)
    )


def _by_bootstrap(
    check: RegressionCheck, changed: Mapping[SuiteCell, tuple[Record, Record]]
) -> dict[SuiteCell, RegressionFinding]:
    """Return the findings of cells whose predictions changed."""
    findings: dict[SuiteCell, RegressionFinding] = {}
    differences: dict[SuiteCell, PairedDifference] = {}
    for cell, (before, now) in changed.items():
        sides = (before, check.baseline), (now, check.current)
        units = [stored_units(record, store, check.catalogue) for record, store in sides]
        scores = [changed_score(each[0], one.score) for each, one in zip(sides, units, strict=True)]
        if why := scores[0] or scores[1]:
            why += ": scoring changed without a new scoring version"
            findings[cell] = _finding(cell, ("scorer-changed", why), before, now)
            continue
        rng = rng_for(f"{now.task.id}@{now.task.version}", now.protocol, "bootstrap")
        with threadpool_limits(1):
            differences[cell] = paired_difference(units[1], units[0], RESAMPLES, rng)
    adjusted = holm([one.p_value for one in differences.values()])
    for (cell, one), p_value in zip(differences.items(), adjusted, strict=True):
        finding = _finding(cell, _significance(one.difference, p_value), *changed[cell])
        findings[cell] = replace(finding, difference=one.difference, ci95=one.ci95, p_value=p_value)
    return findings


def _significance(difference: float, p_value: float) -> tuple[Verdict, str]:
    why = f"p {p_value:.3g} after Holm"
    if p_value >= ALPHA:
        return "noise", f"no more than noise: {why}"
    if abs(difference) < SMALLEST:
        return "noise", f"smaller than {SMALLEST}, the least that counts"
    return "improved" if difference > 0 else "regressed", why


def _finding(
    cell: SuiteCell, verdict: tuple[Verdict, str], before: Record | None, now: Record | None
) -> RegressionFinding:
    word, why = verdict
    if before is not None and now is not None:
        why += _encoder_note(before, now)
    case = f"{cell.task} {cell.protocol}"
    old, new = (
        (record.scores.main.value, record.record_id) if record else (None, "")
        for record in (before, now)
    )
    return RegressionFinding("encoders", cell.encoder, case, word, why, *old, *new)


def _encoder_note(before: Record, now: Record) -> str:
    was, is_ = before.encoder, now.encoder
    if was.revision != is_.revision:
        return f"; revision {was.revision} is now {is_.revision}"
    if was.fingerprint != is_.fingerprint:
        return f"; its code or weights changed and its card still says revision {is_.revision}"
    return ""


def _protocols(run: SuiteRun, task: TaskSpec, catalogue: Catalogue) -> list[ProtocolSpec]:
    """Return what `mbench run` scores a task under: of several protocols those that fit."""
    named = [catalogue.protocol(name) for name in run.protocols or task.protocols]
    fitting = [protocol for protocol in named if task.labels.type in protocol.labels]
    for protocol in fitting or named:
        if fault := misfit(task, protocol):
            raise InputError(f"the suite's run of {', '.join(run.tasks)}: {fault}")
    return fitting
