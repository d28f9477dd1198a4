"""A results folder with made-up survival records: predictions that know a little."""

import numpy as np
import pandas as pd

from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from tests.leaderboard.records import CATALOGUE, make_record

OS = CATALOGUE.tasks["tcga-breast-os"]
DAYS = (300, 600, 900)


def predictions(seed=0, n=120, repeats=1, skill=1.0, folds=3):
    """Return out-of-fold predictions of n cases: risks about the truth, whole-day follow-up."""
    rng = rng_for("survival records", seed)
    hazard = 0.7 * rng.standard_normal(n)
    event_at = rng.exponential(900 * np.exp(-hazard))
    censored_at = rng.exponential(1800, n)
    tables = []
    for repeat in range(repeats):
        risk = skill * hazard + 0.3 * rng.standard_normal(n)
        table = {
            "unit_id": [f"case-{i:03}" for i in range(n)],
            "case_id": [f"case-{i:03}" for i in range(n)],
            "repeat": repeat,
            "fold": np.arange(n) % folds,
            "time_days": np.ceil(np.minimum(event_at, censored_at)),
            "event": event_at <= censored_at,
            "risk": risk,
            "high_risk": risk > np.median(risk),
        }
        table |= {f"surv@{day}": np.exp(-day / 900 * np.exp(risk)) for day in DAYS}
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def keep(folder, encoder, table, value=0.6, **more):
    """Write predictions and their record into a results folder; return the record."""
    store = ResultStore(folder)
    bare = make_record(encoder, OS, value, **more)
    where = (bare.board, encoder, OS.name, bare.protocol, "k")
    content = bare.model_dump(mode="json", exclude={"record_id", "schema_version"})
    written = store.write_predictions(where, table).model_dump()
    return store.write_record({**content, "predictions": written})
