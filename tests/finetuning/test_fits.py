"""One fit: what it learns, that it is the same every time, and how it fails."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.finetuning import training
from madeleine_bench.finetuning.evaluation import (
    fit,
    fit_path,
    read_fit,
    seeded_splits,
    torch_device,
    write_fit,
)
from madeleine_bench.metrics.classification import auroc, quadratic_kappa
from madeleine_bench.metrics.survival import harrell_c
from madeleine_bench.models.mil.base import BagOutput
from madeleine_bench.types import Split, Splits, Survival
from tests.finetuning.conftest import CATALOGUE

QUICK = {"epochs": 20, "min_steps": 0, "learning_rate": 1e-2, "batch": 4, "validation": 0.0}


def labels_of(world, split=0):
    table = world.units.table
    return table.iloc[world.splits.splits[split].test]


@pytest.mark.parametrize(
    "name",
    [
        "abmil",
        "clam-sb",
        "dsmil",
        "mean-mlp",
        "mean-pool",
        "max-pool",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ilra", "transmil", "untrained")),
    ],
)
def test_every_network_finds_the_class_that_patches_say(name, classes, encoder):
    changes = QUICK | ({"learning_rate": 1e-3} if name in ("ilra", "transmil", "untrained") else {})
    changes |= {"epochs": 60} if name in ("mean-pool", "max-pool") else {}
    made = fit(
        encoder(name), classes.bags, classes.request("bcnb-er", "finetune", **changes), "cpu"
    )
    report, columns = made.prediction.report, made.prediction.columns
    names = CATALOGUE.tasks["bcnb-er"].labels.classes
    assert list(columns) == [f"prob_{c}" for c in names]
    probability = np.stack(list(columns.values()), axis=1)
    assert probability.sum(axis=1) == pytest.approx(1.0)
    label = (labels_of(classes)["label"] == names[1]).to_numpy().astype(np.intp)
    assert report.converged
    assert (report.n_train, report.n_test) == (20, 20)
    assert auroc(label, probability) >= 0.8
    assert made.network


@pytest.mark.parametrize("protocol", ["finetune", "finetune-ordinal"])
def test_levels_are_learnt_with_and_without_their_order(protocol, levels, encoder):
    request = levels.request("mgh-breast-er-quant", protocol, **QUICK | {"epochs": 40})
    made = fit(encoder("mean-pool"), levels.bags, request, "cpu")
    probability = np.stack(list(made.prediction.columns.values()), axis=1)
    names = CATALOGUE.tasks["mgh-breast-er-quant"].labels.classes
    label = labels_of(levels)["label"].map(names.index).to_numpy()
    assert probability.shape == (30, 6)
    assert (probability >= 0).all()
    assert probability.sum(axis=1) == pytest.approx(1.0)
    assert quadratic_kappa(label, probability.argmax(axis=1), 6) > 0.5


@pytest.mark.parametrize("protocol", ["finetune", "finetune-discrete-time"])
def test_survival_is_learnt_by_either_loss(protocol, survivors, encoder):
    request = survivors.request(
        "tcga-breast-os", protocol, **QUICK | {"epochs": 40, "batch": 30, "learning_rate": 2e-2}
    )
    made = fit(encoder("mean-pool"), survivors.bags, request, "cpu")
    columns = made.prediction.columns
    rows = labels_of(survivors)
    outcome = Survival(rows["time_days"].to_numpy(float), rows["event"].to_numpy(bool))
    assert harrell_c(outcome, columns["risk"]) > 0.65
    assert columns["high_risk"].dtype == np.bool_
    days = [int(name.removeprefix("surv@")) for name in columns if name.startswith("surv@")]
    alive = np.stack([columns[f"surv@{day}"] for day in days], axis=1)
    assert len(days) > 3
    assert ((alive >= 0) & (alive <= 1)).all()
    assert (np.diff(alive, axis=1) <= 1e-12).all()
    safest, worst = columns["risk"].argmin(), columns["risk"].argmax()
    assert (alive[safest] >= alive[worst]).all()


def test_the_same_fit_gives_the_same_bytes_and_moves_no_global_state(classes, encoder, tmp_path):
    request = classes.request("bcnb-er", "finetune", epochs=3, min_steps=0, batch=4)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for name in ("one", "two"):
        write_fit(tmp_path / name, fit(encoder("abmil"), classes.bags, request, "cpu"))
    assert torch.rand(1) == expected
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_another_fold_or_seed_trains_another_network(classes, encoder):
    first, second = (
        fit(encoder("abmil"), classes.bags,
            classes.request("bcnb-er", "finetune", split, epochs=2, min_steps=0), "cpu")
        for split in (0, 1)
    )  # fmt: skip
    assert not np.array_equal(first.network["head.weight"], second.network["head.weight"])


def test_training_stops_early_and_keeps_the_best_weights(classes, encoder, monkeypatch):
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.8, 0.1])
    seen = []

    def told(trainer, _):
        seen.append({k: v.clone() for k, v in trainer.network.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(training.Trainer, "validation_loss", told)
    request = classes.request(
        "bcnb-er", "finetune", epochs=20, min_steps=0, patience=3, validation=0.25
    )
    made = fit(encoder("abmil"), classes.bags, request, "cpu")
    report = made.prediction.report
    assert report.n_iter == 5
    assert report.diagnostics["best_epoch"] == 2
    assert report.diagnostics["validation_loss"] == 0.5
    assert np.array_equal(made.network["head.weight"], seen[1]["head.weight"].numpy())


def test_declared_validation_units_stop_training_and_are_not_trained_on(
    classes, encoder, monkeypatch
):
    request = classes.request("bcnb-er", "finetune", epochs=2, min_steps=0, validation=0.25)
    split = request.split
    val, train = split.train[::4], np.setdiff1d(split.train, split.train[::4])
    request = replace(request, split=Split(split.key, train, split.test, val))
    used = []
    original = training.Trainer.train

    def told(trainer, train, validation, seed):
        used.append((train.tolist(), validation.tolist()))
        return original(trainer, train, validation, seed)

    monkeypatch.setattr(training.Trainer, "train", told)
    report = fit(encoder("abmil"), classes.bags, request, "cpu").prediction.report
    assert used == [(train.tolist(), val.tolist())]
    assert report.n_train == len(train)


def test_few_units_are_passed_over_more_often(classes, encoder):
    request = classes.request(
        "bcnb-er", "finetune", epochs=4, min_steps=30, batch=4, validation=0.0
    )
    report = fit(encoder("mean-pool"), classes.bags, request, "cpu").prediction.report
    assert report.n_iter == 8  # 5 steps a pass, 4 passes are 20 steps, two times that


def test_weights_of_a_card_are_gone_on_from_unless_it_starts_from_scratch(encoder):
    madeleine = encoder("madeleine")
    name = "embed.model.projector.weight"
    given = {"input_dim": 512, "outputs": 2, "organ": "breast", "seed": 1}
    started = madeleine.network(**given, from_weights=True).state_dict()
    again = madeleine.network(**given, from_weights=True).state_dict()
    anew = madeleine.network(**given, from_weights=False).state_dict()
    _, model = madeleine._models["breast"]
    assert torch.equal(started[name], model.projector.weight)
    assert all(torch.equal(started[k], again[k]) for k in started)
    assert not torch.equal(anew[name], model.projector.weight)
    assert anew[name].shape == started[name].shape


def test_fine_tuning_leaves_the_encoder_itself_alone(encoder):
    madeleine = encoder("madeleine")
    _, model = madeleine._models["breast"]
    before = model.projector.weight.clone()
    network = madeleine.network(input_dim=512, outputs=2, organ="breast", seed=1, from_weights=True)
    with torch.no_grad():
        network.embed.model.projector.weight.add_(1.0)
    assert torch.equal(model.projector.weight, before)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("madeleine-se", {}, "fine-tune a model without stain encodings"),
        ("madeleine", {"input_dim": 7}, "width 512, the bags have 7"),
        ("madeleine", {"organ": None}, "unknown organ"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(name, given, words, encoder):
    usual = {"input_dim": 512, "outputs": 2, "organ": "breast", "seed": 1, "from_weights": True}
    with pytest.raises(InputError, match=words):
        encoder(name).network(**usual | given)


def test_an_encoder_without_a_network_is_refused(classes, encoder):
    request = classes.request("bcnb-er", "finetune")
    with pytest.raises(InputError, match="patch-count has no network to fine-tune"):
        fit(encoder("patch-count"), classes.bags, request, "cpu")


class Stranger:
    """An encoder whose network does as it is told."""

    def __init__(self, card, forward):
        self.card, self.forward = card, forward

    def encode(self, bag):
        raise NotImplementedError

    def network(self, **_):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

        Network.forward = lambda network, patches, lengths: self.forward(network, lengths)
        return Network()


def not_finite(network, lengths):
    outputs = torch.zeros(len(lengths), 2) + network.weight
    return BagOutput(outputs if network.training else outputs / 0.0)


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda *_: 1 / 0, "its network raised ZeroDivisionError on bcnb-er"),
        (lambda *_: None, "its network raised AttributeError"),
        (lambda n, lengths: BagOutput(torch.zeros(len(lengths), 9) + n.weight), "raised"),
        (not_finite, "its outputs are not finite"),
    ],
)
def test_a_strangers_network_that_fails_is_named(forward, words, classes, encoder):
    stranger = Stranger(encoder("abmil").card, forward)
    request = classes.request("bcnb-er", "finetune", validation=0.0, epochs=2, min_steps=0)
    with pytest.raises(CheckFailed, match=words):
        fit(stranger, classes.bags, request, "cpu")


def test_one_class_in_train_is_a_failed_fit_with_its_reason(classes, encoder):
    label = classes.units.table["label"].to_numpy()
    label[classes.splits.splits[0].train] = label[0]
    made = fit(encoder("abmil"), classes.bags, classes.request("bcnb-er", "finetune"), "cpu")
    assert made.prediction.report.reason == "one class in train"
    assert not made.prediction.report.converged
    assert all((column == 0.5).all() for column in made.prediction.columns.values())
    assert not made.network


@pytest.mark.parametrize("protocol", ["finetune", "finetune-discrete-time"])
def test_no_event_in_train_is_a_failed_fit_with_its_reason(protocol, survivors, encoder):
    event = survivors.units.table["event"].to_numpy().copy()
    event[survivors.splits.splits[0].train] = False
    survivors.units.table["event"] = event
    made = fit(
        encoder("abmil"), survivors.bags, survivors.request("tcga-breast-os", protocol), "cpu"
    )
    assert made.prediction.report.reason == "no events in train"
    assert not made.prediction.columns["risk"].any()


def test_a_loss_that_is_no_number_ends_the_fit(classes, encoder):
    request = classes.request("bcnb-er", "finetune", learning_rate=1e30, warmup_epochs=0, epochs=5)
    made = fit(encoder("abmil"), classes.bags, request, "cpu")
    assert "the loss was nan" in made.prediction.report.reason
    assert np.isfinite(list(made.prediction.columns.values())).all()


def test_a_class_that_no_training_unit_has_weighs_nothing(levels, encoder):
    label = levels.units.table["label"].to_numpy()
    train = levels.splits.splits[0].train
    label[train[label[train] == "level-5"]] = "level-4"
    request = levels.request("mgh-breast-er-quant", "finetune", epochs=2, min_steps=0)
    report = fit(encoder("mean-pool"), levels.bags, request, "cpu").prediction.report
    assert report.converged


def test_seeds_are_repeats_of_their_own():
    protocol = CATALOGUE.protocol("finetune")
    three = protocol.model_copy(update={"method": protocol.method.model_copy(update={"seeds": 3})})
    splits = [Split((r, f), np.array([1, 0]), np.array([2])) for r in (0, 1) for f in (0, 1)]
    keys = [s.key for s in seeded_splits(three, Splits(("repeat", "fold"), splits, "h"))]
    assert keys == [(r, f) for r in range(6) for f in (0, 1)]
    few = CATALOGUE.protocol("finetune-few-shot")
    few = few.model_copy(update={"method": few.method.model_copy(update={"seeds": 2})})
    splits = [Split((k, d), np.array([0]), np.array([1])) for k in (5, 25) for d in (0, 1)]
    keys = [s.key for s in seeded_splits(few, Splits(("shots", "draw"), splits, "h"))]
    assert keys == [(k, d) for k in (5, 25) for d in range(4)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said():
    assert torch_device("auto").type == "cpu"
    with pytest.raises(InputError, match="torch sees no GPU"):
        torch_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_the_same(classes, encoder):
    request = classes.request("bcnb-er", "finetune", **QUICK)
    made = fit(encoder("abmil"), classes.bags, request, "cuda")
    probability = np.stack(list(made.prediction.columns.values()), axis=1)
    names = CATALOGUE.tasks["bcnb-er"].labels.classes
    label = (labels_of(classes)["label"] == names[1]).to_numpy().astype(np.intp)
    assert auroc(label, probability) >= 0.9


def test_a_fit_comes_back_from_its_file(classes, encoder, tmp_path):
    request = classes.request("bcnb-er", "finetune", epochs=2, min_steps=0)
    made = fit(encoder("abmil"), classes.bags, request, "cpu")
    path = fit_path(tmp_path, (0, 3))
    write_fit(path, made)
    found = read_fit(path)
    assert path.name == "0000-0003.safetensors"
    assert found.prediction.report == made.prediction.report
    for ours, theirs in (
        (found.network, made.network),
        (found.scale, made.scale),
        (found.prediction.columns, made.prediction.columns),
    ):
        assert list(ours) == list(theirs) or set(ours) == set(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert list(found.prediction.columns) == list(made.prediction.columns)


def test_a_damaged_fit_is_none(classes, encoder, tmp_path):
    request = classes.request("bcnb-er", "finetune", epochs=1, min_steps=0, warmup_epochs=0)
    path = tmp_path / "fit.safetensors"
    write_fit(path, fit(encoder("mean-pool"), classes.bags, request, "cpu"))
    whole = path.read_bytes()
    assert read_fit(path) is not None
    for broken in (b"", whole[:100], whole[:-1], b"\x80\x04pickle" + whole):
        path.write_bytes(broken)
        assert read_fit(path) is None
    assert read_fit(tmp_path / "absent") is None
    start = 8 + int.from_bytes(whole[:8], "little")  # the columns come first among the tensors
    flipped = bytearray(whole)
    flipped[start] ^= 1
    path.write_bytes(bytes(flipped))
    assert read_fit(path) is None
