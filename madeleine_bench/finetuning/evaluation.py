"""Fine-tuning as a protocol: each fold times each seed is a fit, all fits are one evaluation."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from madeleine_bench.encoders.base import SlideEncoder, TrainableEncoder
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_bytes
from madeleine_bench.finetuning.objectives import (
    ClassObjective,
    CoxObjective,
    DiscreteTimeObjective,
    LevelObjective,
    Objective,
)
from madeleine_bench.finetuning.training import Trained, Trainer, keep_for_validation
from madeleine_bench.finetuning.unit_bags import UnitBags
from madeleine_bench.hashing import hash_array, hash_json
from madeleine_bench.protocols.cox import evaluation_days
from madeleine_bench.protocols.evaluation import collected
from madeleine_bench.protocols.results import Evaluation, FitReport, FoldPrediction
from madeleine_bench.protocols.scaling import Scaler
from madeleine_bench.protocols.scorers import class_index, survival_of
from madeleine_bench.seeds import rng_for, seed_for
from madeleine_bench.specs.protocol import FineTune, ProtocolSpec
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.types import Split, Splits, Units

_KEY = "mbench-fit"  # the only one: safetensors writes several keys in an order that changes
_COLUMN, _NETWORK, _SCALE = "column/", "network/", "scale/"


@dataclass(frozen=True)
class Fit:
    """One trained network.

    Attributes:
        prediction: the columns of the test units, and the report.
        network: parameters and buffers by name; empty where the fit failed.
        scale: "centre" and "factor" of the patches, each (dim,).
    """

    prediction: FoldPrediction
    network: Mapping[str, NDArray[Any]]
    scale: Mapping[str, NDArray[Any]]


def fit_path(folder: Path, key: tuple[int, int]) -> Path:
    """Return where the fit of a key lies."""
    return folder / f"{key[0]:04d}-{key[1]:04d}.safetensors"


def write_fit(path: Path, fit: Fit) -> None:
    """Write a fit, the same bytes for the same fit.

    Raises:
        InputError: the folder cannot be written.
    """
    columns = fit.prediction.columns
    parts = {_COLUMN: columns, _NETWORK: fit.network, _SCALE: fit.scale}
    tensors = {
        f"{prefix}{name}": np.ascontiguousarray(values)
        for prefix, part in parts.items()
        for name, values in part.items()
    }
    report = asdict(fit.prediction.report)
    about = {"report": report, "columns": list(columns), "hash": _hash(fit.prediction)}
    write_bytes(path, save(dict(sorted(tensors.items())), {_KEY: json.dumps(about)}))


def read_fit(path: Path) -> Fit | None:
    """Return a fit, or None where there is none, or one that is damaged: it is made again then."""
    try:
        with safe_open(path, framework="numpy") as handle:
            about = json.loads(handle.metadata()[_KEY])
            tensors = {name: handle.get_tensor(name) for name in list(handle.keys())}
        report = about["report"]
        report["key"] = (int(report["key"][0]), int(report["key"][1]))
        columns = {name: tensors[f"{_COLUMN}{name}"] for name in about["columns"]}
        prediction = FoldPrediction(FitReport(**report), columns)
        if _hash(prediction) != about["hash"]:
            return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError):
        return None
    return Fit(prediction, _under(tensors, _NETWORK), _under(tensors, _SCALE))


def _under(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _hash(prediction: FoldPrediction) -> str:
    columns = [[name, hash_array([], values)] for name, values in prediction.columns.items()]
    return hash_json([asdict(prediction.report), columns])


Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class FitRequest:
    """One split to train and test on, once.

    Attributes:
        task: the task; its name seeds the draws.
        protocol: a finetune protocol.
        units: the units of the task, sorted.
        split: key, training and test positions; the key counts seeds as repeats.
        organ: of the cohort.
    """

    task: TaskSpec
    protocol: ProtocolSpec
    units: Units
    split: Split
    organ: str | None


def method_of(protocol: ProtocolSpec) -> FineTune:
    """Return the finetune method of a protocol that is one."""
    assert isinstance(protocol.method, FineTune)
    return protocol.method


def seeded_splits(protocol: ProtocolSpec, splits: Splits) -> Splits:
    """Return the splits with every seed as a repeat of its own.

    With S seeds, seed s of (repeat r, fold f) is (r S + s, f); of (k shots, draw d), (k, d S + s).
    """
    seeds = method_of(protocol).seeds
    few_shot = protocol.shot_plan is not None
    found = []
    for split in splits:
        first, second = split.key
        for seed in range(seeds):
            key = (first, second * seeds + seed) if few_shot else (first * seeds + seed, second)
            parts = (np.sort(part) for part in (split.train, split.test, split.val))
            found.append(Split(key, *parts))
    return Splits(splits.key_names, tuple(sorted(found, key=lambda split: split.key)), splits.hash)


def fit(encoder: SlideEncoder, bags: UnitBags, request: FitRequest, device: Device) -> Fit:
    """Return a trained network with its predictions; a training that fails predicts a constant.

    Patches of a network that starts from scratch are z-scored by the training units; those of one
    that goes on from weights stay as these weights have learnt them.

    Raises:
        InputError: the encoder has no network, its network does not take these patches, or a GPU
            was asked for and there is none.
    """
    method, split = method_of(request.protocol), request.split
    if not isinstance(encoder, TrainableEncoder):
        raise InputError(
            f"encoder {encoder.card.name} has no network to fine-tune: it needs the method "
            "network(...), see madeleine_bench.encoders.base.TrainableEncoder"
        )
    target = torch_device(device)
    seed = seed_for(request.task.name, request.protocol.name, *split.key)
    table = request.units.table
    stratum = table["label" if "label" in table else "event"].to_numpy(dtype=object)
    train, validation = keep_for_validation(
        split.train,
        table["case_id"].to_numpy(dtype=object),
        stratum,
        method.validation,
        rng_for(request.task.name, request.protocol.name, *split.key, "validation"),
    )
    if len(split.val):
        train, validation = split.train, split.val
    objective = _objective(request, train)
    from_weights = method.start == "weights" and encoder.card.weights is not None
    try:
        with torch.random.fork_rng(devices=[]):  # torch fills layers as they are made
            network = encoder.network(
                input_dim=bags.dim,
                outputs=objective.outputs,
                organ=request.organ,
                seed=seed,
                from_weights=from_weights,
            )
        unscaled = Scaler(np.zeros(bags.dim, np.float32), np.ones(bags.dim, np.float32))
        scale = unscaled if from_weights else bags.scale(train.tolist())
        trainer = Trainer(network, bags, scale, objective, method, target)
        fault = _fault(request, train)
        trained = (
            Trained(0, 0, 0.0, None, fault) if fault else trainer.train(train, validation, seed)
        )
        # Of the training and of the test units; zeros where training failed.
        logits = [
            trainer.predict(rows)
            if trained.reason is None
            else torch.zeros(len(rows), objective.outputs)
            for rows in (split.train, split.test)
        ]
        if not all(each.isfinite().all() for each in logits):
            raise ValueError("its outputs are not finite, though its loss was")
    except InputError:
        raise
    except Exception as error:  # a third-party network may raise anything; so may a full GPU
        raise CheckFailed(
            f"encoder {encoder.card.name}: its network raised {type(error).__name__} on "
            f"{request.task.id}: {error}"
        ) from error
    state = {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
    diagnostics = {
        "best_epoch": float(trained.best_epoch),
        "train_loss": trained.train_loss,
        "validation_units": float(len(validation)),
    }
    if trained.validation_loss is not None:
        diagnostics["validation_loss"] = trained.validation_loss
    report = FitReport(
        key=split.key,
        n_train=len(split.train),
        n_test=len(split.test),
        converged=trained.reason is None,
        reason=trained.reason,
        n_iter=trained.epochs,
        diagnostics=diagnostics,
    )
    return Fit(
        FoldPrediction(report, objective.columns(logits[0], logits[1], split.train)),
        state if trained.reason is None else {},
        {"centre": scale.centre, "factor": scale.factor},
    )


def collect(
    folder: Path, task: TaskSpec, protocol: ProtocolSpec, units: Units, splits: Splits
) -> Evaluation:
    """Return the evaluation that the fits of a folder make up.

    Raises:
        InputError: a fit is absent or damaged.
    """
    seeded = seeded_splits(protocol, splits)
    folds = []
    for split in seeded:
        found = read_fit(fit_path(folder, split.key))
        if found is None:
            raise InputError(
                f"{fit_path(folder, split.key)}: the fit is gone or damaged; run again"
            )
        folds.append(found.prediction)
    shown = ["label"] if isinstance(task.labels, ClassLabels) else ["time_days", "event"]
    return collected(units.table, seeded.splits, folds, seeded.key_names, shown)


def torch_device(device: Device) -> torch.device:
    """Return the device to compute on; "auto" is the GPU where there is one.

    Raises:
        InputError: "cuda" was asked for and there is none.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise InputError("--device cuda: torch sees no GPU here; leave the option out, or say cpu")
    return torch.device("cuda" if there and device != "cpu" else "cpu")


def _objective(request: FitRequest, train: NDArray[np.intp]) -> Objective:
    """Return the declared objective."""
    task, method, table = request.task, method_of(request.protocol), request.units.table
    where = f"task {task.name}, protocol {request.protocol.name}"
    if isinstance(task.labels, ClassLabels):
        label = class_index(table, task.labels.classes, where)
        if task.labels.type == "ordered" and method.ordered == "conditional":
            return LevelObjective(label, task.labels.classes)
        balance = train if method.class_weight == "balanced" else None
        return ClassObjective(label, task.labels.classes, balance)
    survival = survival_of(table, where)
    days = evaluation_days(survival)
    # Without an event in training the baseline alone; intervals need events.
    if method.bins is None or not survival.event[train].any():
        return CoxObjective(survival, days)
    return DiscreteTimeObjective(survival, days, train, method.bins)


def _fault(request: FitRequest, train: NDArray[np.intp]) -> str | None:
    """Return why there is nothing to learn from the training units, or None."""
    table = request.units.table
    if "label" in table:
        held = table["label"].to_numpy(dtype=object)[train]
        return "one class in train" if len(set(held)) < 2 else None
    return None if table["event"].to_numpy()[train].any() else "no events in train"
