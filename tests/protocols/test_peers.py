"""The peers' protocols against plain calls of scikit-learn and scikit-survival on the same splits.

The settings are those that the peers publish, written out here; the protocols are the shipped files
and the splits are drawn by the shipped code. A protocol of classes that follows a peer is added by
one line in `PUBLISHED`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.util import Surv

from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Split, Splits, Units

CATALOGUE = load_catalogue()
TASKS = ("bcnb-er", "bcnb-aln", "aidpath-ki67")
N_UNITS, DIM = 240, 48

Matrix = NDArray[np.float64]


def patho_bench_linprobe() -> LogisticRegression:
    return LogisticRegression(C=0.5, max_iter=10_000, class_weight="balanced", random_state=0)


def madeleine_fewshot() -> LogisticRegression:
    return LogisticRegression(C=1, max_iter=10_000, random_state=0)


PUBLISHED: dict[str, Callable[[], Any]] = {
    "patho-bench-linprobe/v1": patho_bench_linprobe,
    "madeleine-fewshot/v2": madeleine_fewshot,
}
ALPHAS = {f"patho-bench-coxnet-{name}/v1": value for name, value in
          (("001", 0.01), ("002", 0.02), ("007", 0.07))}  # fmt: skip


def units_of(columns: dict[str, NDArray[Any]]) -> Units:
    ids = [f"slide-{number:03d}" for number in range(N_UNITS)]
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", **columns})
    return Units(table, {name: (name,) for name in ids}, {}, "0123456789abcdef")


def classes_of(task_id: str) -> tuple[Matrix, Units]:
    """Embeddings and labels; classes are unequal, and apart along one direction."""
    rng = np.random.default_rng(len(task_id))
    names = CATALOGUE.tasks[task_id].labels.classes  # type: ignore[union-attr]
    index = np.minimum(rng.integers(0, len(names) + 1, N_UNITS), len(names) - 1)
    embeddings = rng.normal(size=(N_UNITS, DIM)) * rng.uniform(0.2, 3.0, DIM)
    embeddings[:, 0] += index
    return embeddings, units_of({"label": np.array(names, dtype=object)[index]})


@pytest.mark.parametrize("task_id", TASKS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_probabilities_are_those_of_scikit_learn(name: str, task_id: str, tmp_path: Path) -> None:
    task, protocol = CATALOGUE.tasks[task_id], CATALOGUE.protocols[name]
    embeddings, units = classes_of(task_id)
    splits = frozen_splits(tmp_path, task, protocol, units)
    found = evaluate(task, protocol, embeddings, units, splits)
    label = units.table["label"].to_numpy(dtype=str)
    for split, rows in parts(found.predictions, splits):
        model = PUBLISHED[name]().fit(embeddings[split.train], label[split.train])
        theirs = pd.DataFrame(model.predict_proba(embeddings[split.test]), columns=model.classes_)
        ours = rows[[f"prob_{name}" for name in theirs]].to_numpy()
        assert np.abs(ours - theirs.to_numpy()).max() < 1e-6
    assert all(fit.converged for fit in found.fits)


@pytest.mark.parametrize("task_id", ["bcnb-er", "aidpath-ki67"])
def test_titans_probe_is_a_plain_search_on_validation_units(task_id: str, tmp_path: Path) -> None:
    """45 values of C, the one of the least log loss on validation rows, and no fit after that."""
    task, protocol = CATALOGUE.tasks[task_id], CATALOGUE.protocols["titan-linprobe/v1"]
    embeddings, units = classes_of(task_id)
    embeddings /= 10.0  # so that neither end of the grid is chosen
    drawn = frozen_splits(tmp_path, task, protocol, units)
    split = drawn.splits[0]
    order = np.random.default_rng(0).permutation(split.train)
    split = Split(split.key, np.sort(order[40:]), split.test, np.sort(order[:40]))
    found = evaluate(
        task, protocol, embeddings, units, Splits(drawn.key_names, [split], drawn.hash)
    )
    label = units.table["label"].to_numpy(dtype=str)
    least, chosen = np.inf, None
    for value in np.logspace(np.log10(10e-6), np.log10(10e5), num=45):
        model = LogisticRegression(C=value, max_iter=500, random_state=0)
        model.fit(embeddings[split.train], label[split.train])
        probability = model.predict_proba(embeddings[split.val])
        loss = log_loss(label[split.val], probability, labels=model.classes_)
        if loss < least:
            least, chosen = loss, model
    assert chosen is not None
    theirs = pd.DataFrame(chosen.predict_proba(embeddings[split.test]), columns=chosen.classes_)
    ours = found.predictions[[f"prob_{name}" for name in theirs]].to_numpy()
    assert np.abs(ours - theirs.to_numpy()).max() < 1e-6
    assert found.fits[0].diagnostics["C"] == pytest.approx(chosen.C)
    assert 1e-5 < chosen.C < 1e6


@pytest.mark.parametrize("name", ALPHAS)
def test_risks_are_those_of_scikit_survival_after_a_constant(name: str, tmp_path: Path) -> None:
    """scikit-survival's risk is of embeddings as they are, ours of those less the fold's mean."""
    rng = np.random.default_rng(7)
    embeddings = 0.3 * rng.normal(size=(N_UNITS, DIM)) + 1.0
    death = rng.exponential(500 * np.exp(-2 * embeddings[:, 0]))
    leave = rng.uniform(50, 1500, N_UNITS)
    days, event = np.ceil(np.minimum(death, leave)), death < leave
    units = units_of({"time_days": days, "event": event})
    task, protocol = CATALOGUE.tasks["tcga-breast-os"], CATALOGUE.protocols[name]
    plain = task.splits.model_copy(update={"scheme": "case-stratified"})  # the cohort has no sites
    task = task.model_copy(update={"splits": plain})
    splits = frozen_splits(tmp_path, task, protocol, units)
    found = evaluate(task, protocol, embeddings, units, splits)
    target = Surv.from_arrays(event=event, time=days)
    for split, rows in parts(found.predictions, splits):
        model = CoxnetSurvivalAnalysis(alphas=[ALPHAS[name]], l1_ratio=0.5, max_iter=100_000)
        model.fit(embeddings[split.train], target[split.train])
        apart = rows["risk"].to_numpy() - model.predict(embeddings[split.test])
        assert np.ptp(apart) < 1e-4
        assert np.ptp(rows["risk"]) > 0.05  # not the model without an effect


def test_the_three_penalties_are_three_results(tmp_path: Path) -> None:
    """One protocol held alpha .07 alone; Patho-Bench ships .01 and .02 as well."""
    declared = {p.name: p.method for p in CATALOGUE.select_protocols(["patho-bench-coxnet-*"])}
    assert {name: method.alphas for name, method in declared.items()} == {
        name: (alpha,) for name, alpha in ALPHAS.items()
    }  # type: ignore[union-attr]


@pytest.fixture
def numpy_state() -> Iterator[None]:
    """MADELEINE's script seeds NumPy's own generator; the state before it comes back."""
    before = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(before)  # noqa: NPY002


@pytest.mark.usefixtures("numpy_state")
@pytest.mark.parametrize("task_id", ["bcnb-er", "bcnb-aln"])
def test_the_draws_are_those_of_madeleine(task_id: str, tmp_path: Path) -> None:
    """Version 1 drew by a rule of our own: no draw was one of the script."""
    task, protocol = CATALOGUE.tasks[task_id], CATALOGUE.protocols["madeleine-fewshot/v2"]
    units = classes_of(task_id)[1]
    names = list(task.labels.classes)  # type: ignore[union-attr]
    table = units.table.assign(code=[names.index(label) for label in units.table["label"]])
    splits = frozen_splits(tmp_path, task, protocol, units)
    assert [split.key for split in splits] == [(k, draw) for k in (1, 10, 25) for draw in range(10)]
    for split in splits:
        shots, draw = split.key
        np.random.seed(draw)  # noqa: NPY002
        drawn: list[str] = []
        for code in range(len(names)):
            drawn += table[table["code"] == code].sample(shots)["unit_id"].tolist()
        rest = table[~table["unit_id"].isin(drawn)]["unit_id"].tolist()
        assert table["unit_id"][split.train].tolist() == sorted(drawn)
        assert table["unit_id"][split.test].tolist() == rest


def parts(predictions: pd.DataFrame, splits: Splits) -> Iterator[tuple[Split, pd.DataFrame]]:
    """Yield each split and its rows of the predictions, which are in the order of unit ids."""
    by_key = dict(iter(predictions.groupby(list(splits.key_names))))
    for split in splits:
        yield split, by_key[split.key]
