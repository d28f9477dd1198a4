"""Is every score of the null phantom at chance, judged by what chance does to that very score."""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.labels import build_units
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import score
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.record import Record
from madeleine_bench.types import Units

NULL_BOARD = "phantom-signal-0"
NORMAL_95, NORMAL_999 = 1.959964, 3.290527
SHUFFLES, ENOUGH = 1_999, 10
OUTSIDE = 0.001


def distance_from_chance(record: Record) -> float | None:
    """Return how far a score is from chance, in standard errors; None without an interval."""
    main = record.scores.main
    if main.value == main.chance:
        return 0.0
    if main.ci95 is None:
        return None
    error = (main.ci95[1] - main.ci95[0]) / (2 * NORMAL_95)
    return (main.value - main.chance) / max(error, 1e-12)


def away_from_chance(records: Iterable[Record], results: Path) -> list[dict[str, Any]]:
    """Return each score outside its 99.9% interval around chance; the oracle is left out.

    A score outside it, or one of too few cases for an interval, is judged by a permutation test.
    """
    found = []
    for record in records:
        errors = distance_from_chance(record)
        inside = errors is not None and abs(errors) <= NORMAL_999
        if record.encoder.name == "oracle" or inside:
            continue
        p_value = permutation_p(record, results)
        found.append(
            {
                **named(record),
                "standard_errors": None if errors is None else round(errors, 2),
                "permutation_p": round(p_value, 4),
                "outside": p_value <= OUTSIDE,
            }
        )
    return found


def permutation_p(record: Record, results: Path) -> float:
    """Return the two-sided p-value of a score among those of shuffled labels (0-1).

    The same protocol scores the same embeddings. A normal approximation would not do: without
    signal a probe often predicts one class, so that many scores are exactly 0 and few are far out.
    Labels are shuffled until ENOUGH scores are as far from chance, at most SHUFFLES times.

    References:
        Besag and Clifford, Sequential Monte Carlo p-values, Biometrika 78 (1991).
    """
    catalogue = load_catalogue()
    task, protocol = catalogue.tasks[record.task.id], catalogue.protocol(record.protocol)
    units, matrix = null_units(catalogue, record, results)
    chance = task.metric.chance
    distance = abs(record.scores.main.value - chance)
    as_far = 0
    with tempfile.TemporaryDirectory() as scratch:
        for shuffle in range(SHUFFLES):
            mixed = shuffled(units, rng_for("shuffled labels", task.name, shuffle), shuffle)
            splits = frozen_splits(Path(scratch), task, protocol, mixed)
            evaluation = evaluate(task, protocol, matrix, mixed, splits)
            scores, _ = score(task, protocol, evaluation.predictions, evaluation.fits)
            as_far += abs(scores.main.value - chance) >= distance - 1e-9
            if as_far == ENOUGH:
                return as_far / (shuffle + 1)
    return (as_far + 1) / (SHUFFLES + 1)


def null_units(
    catalogue: Catalogue, record: Record, results: Path
) -> tuple[Units, NDArray[np.float64]]:
    """Return the units of a record of the null board and their embeddings, unit x dim.

    Raises:
        InputError: the embeddings that the record was made from are gone.
    """
    task = catalogue.tasks[record.task.id]
    cohort, tasks = catalogue.cohorts[task.cohort], catalogue.tasks_of(task.cohort)
    units = build_units(task, PhantomCohort(cohort, tasks, signal=0.0), "phantom")
    return units, unit_embeddings(read_embeddings(_embeddings_of(record, results)), units)


def shuffled(units: Units, rng: np.random.Generator, number: int) -> Units:
    """Return the units with their outcomes dealt out anew; `number` tells shuffles apart."""
    outcome = [name for name in ("label", "time_days", "event") if name in units.table]
    table = units.table.copy()
    table[outcome] = units.table[outcome].to_numpy()[rng.permutation(len(table))]
    table = table.astype(units.table.dtypes.to_dict())
    return replace(units, table=table, hash=hash_json([units.hash, number]))


def named(record: Record) -> dict[str, Any]:
    """Return which score a record holds, for a summary."""
    return {
        "encoder": record.encoder.name,
        "task": record.task.id,
        "protocol": record.protocol,
        "score": round(record.scores.main.value, 4),
    }


def _embeddings_of(record: Record, results: Path) -> Path:
    """Return the file a record was made from; a results folder may hold several revisions."""
    store = EmbeddingStore(results)
    folder = results / "embeddings" / record.board / record.encoder.name
    for path in sorted(folder.glob(f"{record.task.cohort}.*.safetensors")):
        if store.content_hash(path) == record.inputs.embeddings:
            return path
    raise InputError(
        f"{folder}: no embeddings of {record.task.cohort} with the hash of record "
        f"{record.record_id[:12]}; run the encoder again with --resume never"
    )
