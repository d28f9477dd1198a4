"""Made-up records of the shipped catalogue, for tests of the board."""

import numpy as np

from madeleine_bench.hashing import hash_json
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.record import Record, record_id

CATALOGUE = load_catalogue()
CORE = CATALOGUE.select(["all"])


def make_record(
    encoder, task, value, kind="encoder", source="phantom", variant="", data="h", **more
):
    content = {
        "resume_key": "k",
        "source": source,
        "variant": variant,
        "encoder": {
            "name": encoder, "revision": more.get("revision", "1"), "title": encoder, "kind": kind,
            "fingerprint": "f", "training_cohorts": more.get("training_cohorts", []),
        },
        "task": {
            "id": task.id, "version": more.get("version", task.version), "task_hash": data,
            "family": task.family, "cohort": task.cohort,
        },
        "protocol": more.get("protocol", task.protocols[0]),
        "scoring_version": 1,
        "features": more.get("features"),
        "inputs": {
            "embeddings": more.get("embeddings", "e"), "labels": "l", "splits": "s",
            "n": 10, "dim": 2, "missing": {},
        },
        "scores": {
            "main": {
                "metric": task.metric.name, "value": value,
                "chance": more.get("chance", task.metric.chance),
                "ci95": (value, value), "method": "m",
            },
            "secondary": {},
        },
        "folds": [],
        "predictions": {"path": "p", "hash": "h", "rows": 1},
        "provenance": {"created": more.get("created", "2026-01-01")},
        "status": "ok",
    }  # fmt: skip
    bare = Record.model_construct(**content, record_id="").model_dump(mode="json", warnings=False)
    full = {"schema_version": 1, **bare, "verification": more.get("verification", "none")}
    return Record.model_validate({**full, "record_id": record_id(full)})


def features(word, patch_encoder="conch"):
    """Return the features of a feature folder that goes by a word."""
    return {"patch_encoder": patch_encoder, "content": hash_json(word)}


def full_row(encoder, value, **more):
    return [make_record(encoder, task, value, **more) for task in CORE]


def draws_of(record):
    """Return made-up draws of a score: noise that the cohort shares, and the encoder's own."""
    shared = rng_for("cohort", record.task.cohort, record.task.id).standard_normal(50)
    own = rng_for("own", record.scores.main.value, record.task.id).standard_normal(50)
    return record.scores.main.value + 0.02 * shared + 0.01 * own


def varied_row(encoder, level, seed, **more):
    """Return a record for each core task, with scores that scatter about a level."""
    rng = rng_for("varied", seed)
    values = np.clip(level + 0.05 * rng.standard_normal(len(CORE)), 0.05, 0.95)
    return [
        make_record(encoder, task, float(v), **more) for task, v in zip(CORE, values, strict=True)
    ]
