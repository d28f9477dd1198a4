"""Where records, predictions, boards and draws of scores come from: results folders.

The standard deviation of the draws of a score, or of a difference of two, is its standard error:
cases are drawn by the Bayesian bootstrap, the same for all tasks of a cohort and all encoders, and
spread about the score by the factor of `stats.intervals`. The draws of training cases of a few-shot
protocol are resampled beside them. A score takes up to a second and depends on nothing but the
predictions, the cohort's case ids, the task and the width of the embeddings, all of which the
record's id covers; so draws are kept in the cache of the results folder:

    cache/board/<record id>.v<version>.npy     (resample,) float64
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.embeddings.contents import content_of, require_one_content
from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes
from madeleine_bench.leaderboard.aggregate import Board, Track, build_boards
from madeleine_bench.protocols.scoring import scored_units
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.loader import did_you_mean, parse_spec, read_yaml
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.bootstrap import bayesian_case_weights
from madeleine_bench.stats.paired import ScoredUnits

RESAMPLES = 1000
# Machines differ in the last digits: scores that differ by less are the same.
TOLERANCE = 1e-6
# Changes whenever the same record would give other draws.
_VERSION = 4


class Sources:
    """The records of several results folders; a record that lies in two counts once.

    Attributes:
        folders: the results folders.
        catalogue: the catalogue of the tasks.
        records: in the order of the folders and of their paths.
        stores: the results folder of each record, by record id.
    """

    def __init__(self, folders: Sequence[Path], catalogue: Catalogue) -> None:
        """Read the records; each name and revision of an encoder stands for one content.

        Raises:
            InputError: a folder is absent, a record is broken or was altered, or one encoder's name
                and revision stand for two contents; the message names two records.
        """
        self.folders = folders
        self._weights = cache(bayesian_case_weights)  # the tasks of a cohort share them
        self.stores: dict[str, ResultStore] = {}
        paths: dict[str, Path] = {}
        self.records: list[Record] = []
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"no folder {folder}; make one with mbench run --results {folder}")
            store = ResultStore(folder)
            for path, record in store.located():
                if record.record_id not in self.stores:
                    self.stores[record.record_id] = store
                    paths[record.record_id] = path
                    self.records.append(record)
        self.catalogue = catalogue.with_external(record.task.id for record in self.records)
        require_one_content(
            content_of(r, paths[r.record_id], self.stores[r.record_id].folder, self.catalogue)
            for r in self.records
        )

    def boards(
        self,
        protocols: Sequence[str | None],
        name: str | None = None,
        tracks: Sequence[Track | None] = (None,),
    ) -> list[Board]:
        """Return the boards of each protocol (id or glob), real data first, then by track.

        Args:
            protocols: None stands for each task's first protocol.
            name: return the boards of this name alone.
            tracks: the tasks that encoders are ranked on; None shows every task on one board.

        Raises:
            InputError: there are no records, or none under a protocol, or no such protocol or name.
        """
        boards: list[Board] = []
        folders = ", ".join(map(str, self.folders))
        for protocol in protocols:
            versions: list[str | None] = [None]
            if protocol:
                versions = [each.name for each in self.catalogue.select_protocols([protocol])]
            more = [
                board
                for version in versions
                for track in tracks
                for board in build_boards(self.records, self.catalogue, version, track)
            ]
            if protocol and not more:
                raise InputError(f"no records under {protocol} in {folders}")
            boards += more
        if not boards:
            kind = f"track {tracks[0]}" if tracks[0] and len(tracks) == 1 else "this"
            raise InputError(f"no records for {kind} in {folders}; make some with mbench run")
        titles = [board.name for board in boards]
        if name is not None and name not in titles:
            raise InputError(f"no board is called '{name}'{did_you_mean(name, titles)}")
        return [board for board in boards if name in (None, board.name)]

    def predictions(self, record: Record) -> pd.DataFrame:
        """Return the predictions a record was scored from.

        Raises:
            InputError: they are gone or were altered.
        """
        return self.stores[record.record_id].read_predictions(record)

    def units(self, record: Record) -> ScoredUnits:
        """Return the stored predictions of a record, ready to be scored.

        Raises:
            InputError: they are gone or were altered.
        """
        return stored_units(record, self.stores[record.record_id], self.catalogue)

    def card(self, record: Record) -> EncoderCard | None:
        """Return the card of a record's encoder: one that ships, or one that was submitted.

        Raises:
            InputError: a submitted card is broken.
        """
        name, revision = record.encoder.name, record.encoder.revision
        path = self.stores[record.record_id].folder / "cards" / record.board
        path /= f"{name}@{revision}.yaml"
        if path.is_file():
            return parse_spec(EncoderCard, read_yaml(path), path)
        try:
            shipped = find_encoder(name).card
        except InputError:
            return None
        return shipped if shipped.revision == revision else None

    def draws(self, record: Record) -> NDArray[np.float64]:
        """Return the main score of a record in each resample, (resample,).

        All records share the weights of a case.

        Raises:
            InputError: the predictions are gone, were altered, or do not give the record's score.
        """
        store = self.stores[record.record_id]
        path = store.folder / "cache" / "board" / f"{record.record_id}.v{_VERSION}.npy"
        draws = _read(path)
        if draws is None:
            draws = self._draw(record)
            out = io.BytesIO()
            np.save(out, draws, allow_pickle=False)
            write_bytes(path, out.getvalue())
        return draws

    def _draw(self, record: Record) -> NDArray[np.float64]:
        task = self.catalogue.tasks[record.task.id]
        units = self.units(record)
        with threadpool_limits(1):
            value = units.score
            if fault := changed_score(record, value):
                raise InputError(f"{fault}; run the task again with --resume never")
            draws = units.scores(self._weights(task.cohort, units.case, RESAMPLES))
        return value + units.design.bayesian_factor * (draws - value) + _between_draws(task, units)


def stored_units(record: Record, store: ResultStore, catalogue: Catalogue) -> ScoredUnits:
    """Return the stored predictions of a record, ready to be scored.

    Raises:
        InputError: they are gone or were altered.
    """
    where = f"{store.folder}: {predictions_name(record)}"
    protocol = catalogue.protocol(record.protocol)
    first, second = protocol.key_names
    trained = {(fold.key[first], fold.key[second]): fold.n_train for fold in record.folds}
    return scored_units(
        catalogue.tasks[record.task.id], protocol, store.read_predictions(record),
        record.task.task_hash, where, record.inputs.dim, trained,
    )  # fmt: skip


def changed_score(record: Record, value: float) -> str:
    """Return what is odd where stored predictions no longer give the score of their record."""
    if abs(value - record.scores.main.value) <= TOLERANCE:
        return ""
    name, then = predictions_name(record), record.scores.main.value
    return f"{name} score {value:.6f} now, the record says {then:.6f}"


def predictions_name(record: Record) -> str:
    """Return what errors call the predictions of a record."""
    return f"predictions of {record.encoder.name} on {record.task.id} under {record.protocol}"


def _between_draws(task: TaskSpec, units: ScoredUnits) -> NDArray[np.float64]:
    """Return (resample,) by how much the score moves when draws of training cases are resampled.

    The same draws for all encoders; their deviation is unbiased for the mean over draws.
    """
    scores = np.array(units.draw_scores)
    if len(scores) < 2:
        return np.zeros(RESAMPLES)
    n = len(scores)
    rng = rng_for("draws of training cases", task.name)
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES)
    factor = units.design.training_factor * np.sqrt(n / (n - 1.0))
    moved: NDArray[np.float64] = factor * (counts / n - 1.0 / n) @ scores
    return moved


def _read(path: Path) -> NDArray[np.float64] | None:
    """Return draws from the cache; None where they are absent or not what was written."""
    try:
        draws = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = draws.shape == (RESAMPLES,) and draws.dtype == np.float64 and np.isfinite(draws).all()
    return draws if sound else None
