"""The Python face: score embeddings, run encoders on tasks, and read and compare results.

`import madeleine_bench as mb` offers these functions; docs/python.md shows them in use.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from madeleine_bench.data.arrays import (
    Indices,
    embedding_matrix,
    given_splits,
    matched,
    task_of_labels,
    units_of_labels,
)
from madeleine_bench.data.audit import require_clean
from madeleine_bench.data.bags import SUFFIXES, read_bag_file
from madeleine_bench.data.embedding_files import table_of_frame
from madeleine_bench.data.splits import drawn_splits, scheme_of
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.pairwise import EncoderComparison, compare_encoders
from madeleine_bench.protocols.evaluation import evaluate as evaluate_protocol
from madeleine_bench.protocols.scoring import score_with_units
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.embeddings_in_memory import assess_embeddings
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import RunReport
from madeleine_bench.runner.run import run as run_request
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.paired import PairedDifference, ScoredUnits, paired_difference
from madeleine_bench.types import Bag, Silence, Splits, Survival, Units

RESAMPLES = 1000


@dataclass(frozen=True, repr=False)
class Score:
    """How well embeddings predict labels.

    Attributes:
        metric: name of the main metric.
        value: mean over the test folds, 0 to 1 (kappa from -1).
        ci95: 95% confidence interval; None where there are too few cases, see `note`.
        chance: what a blind guess scores.
        secondary: the other metrics that fit the labels, by name; None where undefined.
        folds: one row for each fit: repeat, fold, value, n_train, n_test, converged, reason.
        predictions: one row for each test unit of each fit: out-of-sample predictions.
        protocol: versioned name of the protocol.
        note: how the interval was made, or why there is none.
    """

    metric: str
    value: float
    ci95: tuple[float, float] | None
    chance: float
    secondary: dict[str, float | None]
    folds: pd.DataFrame
    predictions: pd.DataFrame
    protocol: str
    note: str
    units: ScoredUnits = field(compare=False)

    def __repr__(self) -> str:
        """Return the score with its interval, and what it is of, in three lines."""
        low, high = self.ci95 or (None, None)
        interval = f"95% CI {low:.3f} to {high:.3f}" if self.ci95 else "no interval"
        cases = len(set(self.units.case))
        return (
            f"{self.metric} {self.value:.3f} ({interval}), chance {self.chance:.3f}\n"
            f"{self.protocol}, {len(self.folds)} fits, {len(self.units.unit)} units of {cases} "
            f"cases\n{self.note}"
        )


def evaluate(
    embeddings: ArrayLike | pd.DataFrame,
    labels: Sequence[Any] | NDArray[Any] | Survival,
    *,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    protocol: str | None = None,
    metric: str | None = None,
    classes: Sequence[str] | None = None,
    splits: Iterable[Sequence[Indices]] | None = None,
    folds: int = 5,
    repeats: int = 1,
) -> Score:
    """Return how well embeddings predict labels in cross-validation, with a confidence interval.

    The same input gives the same bytes.

    Args:
        embeddings: unit x dim; of a DataFrame the index names the units.
        labels: a class for each unit, or `mb.Survival` (time in days, event); numbers where the
            metric is one of numbers. A Series is matched to a DataFrame by its index.
        groups: patient of each unit; units of one patient are never on both sides of a split. None
            takes each unit as a patient of its own. A Series is matched as labels are.
        protocol: name or versioned name; None takes linear-probe, or cox for survival.
        metric: main metric; None takes auroc, or harrell-c for survival. r2, pearson and spearman
            take the labels as numbers.
        classes: class names in order; of two the last is the positive one. None sorts the labels.
        splits: (train, test) or (train, validation, test) positions of each fold; None draws
            folds that are stratified by class and keep patients whole.
        folds: how many are drawn.
        repeats: how often they are drawn.

    Raises:
        InputError: shapes differ, a number is not finite, a label is missing, there is one class
            only or no event, or splits share a patient.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat(["benign", "tumour"], 40)
        >>> evaluate(rng.normal(size=(80, 8)) + (labels == "tumour")[:, None], labels).value > 0.8
        True
    """
    matrix, ids = embedding_matrix(embeddings)
    labels, groups = matched(labels, embeddings, "labels"), matched(groups, embeddings, "groups")
    task = task_of_labels(labels, metric, classes, folds, repeats)
    order = np.argsort(ids, kind="stable")
    matrix, units = matrix[order], units_of_labels(labels, ids, groups, task, order)
    catalogue = Workspace().tasks()
    chosen = catalogue.protocol(protocol or task.protocols[0])
    if fault := misfit(task, chosen):
        raise InputError(fault)
    if splits is None:
        divided = drawn_splits(task, chosen, units)
    else:
        divided = given_splits(splits, order, len(matrix))
        require_clean(divided, units, scheme_of(task, chosen), "splits")
    return _scored(task, chosen, matrix, units, divided)


def _scored(
    task: TaskSpec, chosen: ProtocolSpec, matrix: NDArray[Any], units: Units, divided: Splits
) -> Score:
    evaluation = evaluate_protocol(task, chosen, matrix, units, divided)
    scores, fits, scored = score_with_units(
        task, chosen, evaluation.predictions, evaluation.fits, matrix.shape[1],
        f"{units.hash} {divided.hash}",
    )  # fmt: skip
    rows = [{**fit.key, **fit.model_dump(include=_FIT_COLUMNS)} for fit in fits]
    main = scores.main
    return Score(
        main.metric, main.value, main.ci95, main.chance, dict(scores.secondary),
        pd.DataFrame(rows), evaluation.predictions, chosen.name, main.method, scored,
    )  # fmt: skip


_FIT_COLUMNS = {"value", "n_train", "n_test", "converged", "reason"}


@dataclass(frozen=True, repr=False)
class Task:
    """A task of the catalogue with its labels and splits, before there are embeddings.

    Attributes:
        spec: what it declares.
        protocol: what it is scored by.
        units: what it scores, a row each: unit_id, case_id, site, and label or time_days and event.
        splits: the frozen splits of these units, as positions in `units`.
    """

    spec: TaskSpec
    protocol: ProtocolSpec
    units: pd.DataFrame
    splits: Splits
    _workspace: Workspace = field(compare=False)

    def __repr__(self) -> str:
        """Return what is scored by what."""
        units = f"{len(self.units)} {self.spec.unit}s"
        return f"{self.spec.name}: {units}, {self.protocol.name}, {len(self.splits)} splits"

    def evaluate(self, embeddings: pd.DataFrame, *, allow_partial: bool = False) -> Score:
        """Return how well embeddings predict the labels: the score `mbench evaluate` gives.

        Args:
            embeddings: a row each; the index holds ids of slides or, for tasks by case, of cases.
            allow_partial: score though under 90% of the labelled units have an embedding.

        Raises:
            InputError: ids or numbers cannot be used, or too few units have an embedding.
        """
        table = table_of_frame(embeddings, "slide", "embeddings")
        assessed, matrix = assess_embeddings(
            self._workspace, self.spec.declared_id, self.protocol.name, table,
            allow_partial=allow_partial,
        )  # fmt: skip
        return _scored(self.spec, self.protocol, matrix, assessed.units, assessed.splits)


def load_task(task_id: str, protocol: str | None = None, **workspace: Any) -> Task:
    """Return a task with its labels and splits, of your cohort in mbench.toml or built in.

    Args:
        task_id: such as "tcga-breast-er".
        protocol: name; None takes the first that the task declares.
        workspace: further fields of `mb.Workspace`: config, catalogue.

    Raises:
        InputError: there is no such task or protocol, or its cohort has no labels here.
    """
    place = Workspace(**workspace)
    whole, _ = assess_embeddings(place, task_id, protocol)
    return Task(whole.task, whole.protocol, whole.units.table, whole.splits, place)


@dataclass(frozen=True, repr=False)
class Results:
    """The records of results folders.

    Attributes:
        records: one for each encoder, task and protocol that was scored.
        folders: where they lie.
        catalogue: tasks, cohorts and protocols.
    """

    records: tuple[Record, ...]
    folders: tuple[Path, ...]
    catalogue: Catalogue

    def __repr__(self) -> str:
        """Return how many records there are, of what."""
        encoders = sorted({record.encoder.name for record in self.records})
        tasks = {record.task.id for record in self.records}
        return (
            f"{len(self.records)} records: {len(encoders)} encoders ({', '.join(encoders[:8])}) "
            f"on {len(tasks)} tasks"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each record, sorted by board, task, protocol and encoder."""
        rows = [
            {
                "board": record.board,
                "task": record.task.id,
                "protocol": record.protocol,
                "encoder": record.encoder.name,
                "features": record.features and record.features.patch_encoder,
                "metric": record.scores.main.metric,
                "value": record.scores.main.value,
                "ci95_low": (record.scores.main.ci95 or (None, None))[0],
                "ci95_high": (record.scores.main.ci95 or (None, None))[1],
                "n": record.inputs.n,
                "status": record.status,
                "record_id": record.record_id,
            }
            for record in self.records
        ]
        table = pd.DataFrame(rows)
        keys = ["board", "task", "protocol", "encoder", "record_id"]
        return table.sort_values(keys, ignore_index=True) if rows else table


def load_results(*folders: str | Path) -> Results:
    """Return the records of results folders; "results" where none is named.

    Raises:
        InputError: a folder is absent, or a record is broken or was altered.
    """
    paths = tuple(Path(folder) for folder in folders) or (Path("results"),)
    for path in paths:
        if not path.is_dir():
            raise InputError(f"no folder {path}; make one with mb.run(..., results={str(path)!r})")
    records = {r.record_id: r for path in paths for r in ResultStore(path).records()}
    return Results(tuple(records.values()), paths, Workspace().tasks())


def run(
    encoders: str | Sequence[str],
    tasks: str | Sequence[str] = "all",
    *,
    protocols: str | Sequence[str] = (),
    results: str | Path = "results",
    on_record: Callable[[Record], None] | None = None,
    **workspace: Any,
) -> RunReport:
    """Return the report of a run; as `mbench run`, its records lie in the results folder.

    Args:
        encoders: names, or paths of cards.
        tasks: ids, globs such as "bcnb-*", or "all".
        protocols: names; none takes those that each task declares.
        results: the results folder.
        on_record: called with each new record once it is written, such as to log it.
        workspace: further fields of `mb.Workspace`: source, config, catalogue, jobs.

    Raises:
        InputError: the request cannot be carried out.
    """
    place = Workspace(results=Path(results), **workspace)
    request = Request(_names(encoders), _names(tasks), _names(protocols), place)
    return run_request(request, Silence(), on_record=on_record)


def compare(
    first: "Score | str", second: "Score | str", **where: Any
) -> "PairedDifference | list[EncoderComparison]":
    """Return how two encoders differ, paired on the same cases.

    Args:
        first: a score of `mb.evaluate`, or the name of an encoder that was run.
        second: another, of the same labels and splits.
        where: of names: results (folder, "results"), tasks (ids or globs), protocol, board.

    Raises:
        InputError: the two are not of the same units and splits, or a name is unknown.
    """
    if isinstance(first, Score) and isinstance(second, Score):
        if first.units.splits != second.units.splits:
            raise InputError("the two scores are of different units, labels, patients or splits")
        rng = rng_for("compare", first.units.splits, first.protocol)
        return paired_difference(first.units, second.units, RESAMPLES, rng)
    if not isinstance(first, str) or not isinstance(second, str):
        raise InputError("mb.compare takes two scores of mb.evaluate, or two names of encoders")
    folder = Path(where.pop("results", "results"))
    names = _names(where.pop("tasks", ()))
    return compare_encoders([folder], Workspace().tasks(), first, second, names, **where)


def tasks() -> pd.DataFrame:
    """Return the tasks of the catalogue and of ./mbench.toml: a row each."""
    columns = {"id", "cohort", "family", "unit", "protocols", "status", "title"}
    return pd.DataFrame(
        [
            {**t.model_dump(include=columns), "labels": t.labels.type, "metric": t.metric.name}
            for t in Workspace().tasks().tasks.values()
        ]
    )


def load_bags(folder: str | Path, patch_encoder: str | None = None) -> Iterator[Bag]:
    """Yield the bag of each feature file of a folder, in the order of the names.

    The name of a file is the id of its slide, and of its case.

    Raises:
        InputError: there is no such folder or no feature file in it, or a file is broken.
    """
    paths = [path for path in sorted(Path(folder).glob("*")) if path.suffix in SUFFIXES]
    if not paths:
        raise InputError(f"{folder}: no feature files; expected {', '.join(SUFFIXES)}")
    for path in paths:
        file = read_bag_file(path, patch_encoder)
        yield Bag(
            slide_id=path.stem,
            case_id=path.stem,
            features=file.features,
            coords=file.coords,
            patch_encoder=patch_encoder or file.facts.patch_encoder,
            magnification=file.facts.magnification,
            patch_size=file.facts.patch_size,
            patch_size_level0=file.facts.patch_size_level0,
        )


def embed(encoder: str, bags: Iterable[Bag]) -> pd.DataFrame:
    """Return the embedding of each bag: a row each, the index its slide id.

    Args:
        encoder: name, or path of a card.
        bags: such as of `load_bags`.

    Raises:
        InputError: there is no such encoder, it does not take a bag, or there is no bag.
    """
    loaded = load_encoder(find_encoder(encoder))
    rows = {bag.slide_id: np.asarray(loaded.encode(bag), dtype=np.float32) for bag in bags}
    if not rows:
        raise InputError(
            "mb.embed: there are no bags; mb.load_bags yields each bag once, so call it again for "
            "each encoder, or keep the bags with list(...)"
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("slide_id")


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
