"""A run that trains networks: reproducible to the byte, resumable fit by fit, and on the board."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.resources import resource_folder
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.failures import Failure
from madeleine_bench.runner.plan import make_plan
from madeleine_bench.runner.run import run
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Silence
from tests.runner.conftest import contents, files, request

QUICK = {"epochs": 2, "min_steps": 0, "warmup_epochs": 1, "patches": 64}


class Counting(Silence):
    """Progress that remembers how many jobs each phase had."""

    def __init__(self):
        self.jobs = {}

    def phase(self, name, total):
        self.jobs[name] = total


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """The shipped catalogue with fine-tuning made short."""
    folder = tmp_path_factory.mktemp("catalogue") / "tasks"
    shutil.copytree(resource_folder("tasks"), folder)
    for path in folder.glob("protocols/finetune*.yaml"):
        text = path.read_text()
        for key, value in QUICK.items():
            text, found = re.subn(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.MULTILINE)
            assert found == 1
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def request_of(catalogue):
    def make(results, **more):
        choice = {
            "encoders": ("abmil", "mean-pool"), "tasks": ("aidpath-her2",),
            "protocols": ("finetune",), "source": "phantom", "catalogue": catalogue,
        }  # fmt: skip
        return request(**{**choice, "results": results, **more})

    return make


@pytest.fixture(scope="module")
def undisturbed(request_of, tmp_path_factory):
    results = tmp_path_factory.mktemp("finetuned")
    report = run(request_of(results), Silence())
    assert not report.failures
    return results


def fits(results: Path) -> dict[str, bytes]:
    return {
        path.relative_to(results).as_posix(): path.read_bytes()
        for path in sorted((results / "fits").rglob("*.safetensors"))
    }


def test_records_say_what_was_trained(undisturbed):
    records = list(ResultStore(undisturbed).records())
    assert [r.encoder.name for r in records] == ["abmil", "mean-pool"]
    assert [r.encoder.kind for r in records] == ["supervised", "baseline"]
    for record in records:
        assert record.protocol == "finetune/v1"
        assert len(record.folds) == 5
        assert all(fold.converged and fold.n_iter == 2 for fold in record.folds)
        assert record.inputs.dim == 512
        assert record.provenance["training"]["devices"]
        assert record.provenance["training"]["seconds"] > 0
        shown = set(ResultStore(undisturbed).read_predictions(record).columns)
        assert {"unit_id", "label", "prob_low", "prob_high"} <= shown
    assert len(fits(undisturbed)) == 10


def test_another_folder_with_two_workers_holds_the_same_bytes(undisturbed, request_of, tmp_path):
    run(request_of(tmp_path, jobs=2), Silence())
    assert fits(tmp_path) == fits(undisturbed)
    assert contents(tmp_path) == contents(undisturbed)
    assert files(tmp_path) == files(undisturbed)


def test_a_second_run_trains_nothing(undisturbed, request_of):
    progress = Counting()
    report = run(request_of(undisturbed), progress)
    assert progress.jobs == {"embed": 0, "train": 0, "evaluate": 0}
    assert (report.computed, report.reused) == (0, 2)


def test_fits_that_are_lost_or_damaged_are_trained_again(undisturbed, request_of, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "records")
    first, second = sorted((tmp_path / "r" / "fits").rglob("*.safetensors"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-9])
    progress = Counting()
    run(request_of(tmp_path / "r"), progress)
    assert progress.jobs["train"] == 2
    assert fits(tmp_path / "r") == fits(undisturbed)
    assert contents(tmp_path / "r") == contents(undisturbed)


def test_a_supervised_encoder_is_fine_tuned_where_no_protocol_is_asked_for(request_of, tmp_path):
    plan = make_plan(request_of(tmp_path, protocols=()))
    asked = {(cell.entry.card.name, cell.assessment.protocol.name) for cell in plan.cells}
    declared = load_catalogue().tasks["aidpath-her2"].protocols
    assert asked == {("abmil", "finetune/v1"), *(("mean-pool", name) for name in declared)}


def test_a_supervised_encoder_under_a_probe_is_refused(request_of, tmp_path):
    with pytest.raises(InputError, match="abmil is supervised, so that linear-probe/v2 finds no"):
        make_plan(request_of(tmp_path, protocols=("linear-probe",)))


def test_an_encoder_that_cannot_be_fine_tuned_fails_alone(request_of, tmp_path):
    report = run(
        request_of(tmp_path, encoders=("mean-pool", "madeleine-se", "patch-count")), Silence()
    )
    assert report.computed == 1
    said = {what: why.reason for what, why in report.failures}
    assert "without stain encodings" in said["madeleine-se aidpath-her2@1 finetune/v1"]
    assert "no network to fine-tune" in said["patch-count aidpath-her2@1 finetune/v1"]


def test_seeds_and_shots_run_to_records(catalogue, request_of, tmp_path):
    folder = tmp_path / "tasks"
    shutil.copytree(catalogue, folder)
    path = folder / "protocols" / "finetune-few-shot-v1.yaml"
    path.write_text(path.read_text().replace("  seeds: 1", "  seeds: 2"))
    report = run(
        request_of(
            tmp_path / "r", encoders=("mean-pool",), protocols=("finetune-few-shot",),
            catalogue=folder,
        ),
        Silence(),
    )  # fmt: skip
    assert not report.failures
    (record,) = ResultStore(tmp_path / "r").records()
    assert len(record.folds) == 20  # shots of the cohort, 5 draws, 2 seeds
    assert {"quadratic-kappa@k=1", "quadratic-kappa@k=5"} <= set(record.scores.secondary)


def test_the_primary_board_holds_supervised_encoders_beside_the_others(
    undisturbed, request_of, tmp_path
):
    shutil.copytree(undisturbed, tmp_path / "r")
    run(request_of(tmp_path / "r", encoders=("max-pool",), protocols=("linear-probe",)), Silence())
    store, catalogue = ResultStore(tmp_path / "r"), load_catalogue()
    (board,) = build_boards(store.records(), catalogue)
    found = {c.label: c.cells["aidpath-her2"].record.protocol for c in board.columns}
    assert found == {"abmil": "finetune/v1", "max-pool": "linear-probe/v2"}
    assert all(c.cells["aidpath-her2"].comparable for c in board.columns)
    (tuned,) = build_boards(store.records(), catalogue, "finetune/v1")
    assert {c.label for c in tuned.columns} == {"abmil", "mean-pool"}
    assert tuned.core == 21
    (probed,) = build_boards(store.records(), catalogue, "linear-probe/v2")
    assert probed.core == 20


def test_bags_that_cannot_be_packed_fail_their_cohort_alone(request_of, tmp_path, monkeypatch):
    def too_large(*_):
        raise InputError("slide 'x': its largest feature is 1e+06")

    monkeypatch.setattr("madeleine_bench.runner.training.pack_cohort", too_large)
    report = run(
        request_of(tmp_path, encoders=("mean-pool",), protocols=("finetune", "linear-probe")),
        Silence(),
    )
    assert report.computed == 1
    assert report.failures == [
        (
            "mean-pool aidpath-her2@1 finetune/v1",
            Failure("slide 'x': its largest feature is 1e+06", is_user_error=True),
        )
    ]


def test_a_changed_protocol_trains_anew(undisturbed, request_of, catalogue, tmp_path):
    folder = tmp_path / "tasks"
    shutil.copytree(catalogue, folder)
    path = folder / "protocols" / "finetune-v1.yaml"
    path.write_text(path.read_text().replace("  batch: 16", "  batch: 4"))
    plans = [make_plan(request_of(undisturbed, catalogue=where)) for where in (catalogue, folder)]
    hashes = [{cell.assessment.task_hash for cell in plan.cells} for plan in plans]
    assert not hashes[0] & hashes[1]


@pytest.mark.parametrize("protocol", ["linear-probe-early", "linear-probe-per-stain"])
def test_fusions_of_slides_run_to_records(protocol, request_of, tmp_path):
    """On a task by slide a fusion changes nothing."""
    for name in ("linear-probe", protocol):
        report = run(request_of(tmp_path, encoders=("mean-pool",), protocols=(name,)), Silence())
        assert not report.failures
    scores = {
        json.loads(path.read_text())["scores"]["main"]["value"]
        for path in (tmp_path / "records").rglob("*.json")
    }
    assert len(scores) == 1


def test_tasks_that_no_asked_protocol_scores_are_left_out_and_named(request_of, tmp_path):
    tasks = ("aidpath-her2", "tcga-breast-os")
    plan = make_plan(request_of(tmp_path, tasks=tasks, protocols=("retrieval",),
                                encoders=("mean-pool",)))  # fmt: skip
    assert {cell.assessment.task.id for cell in plan.cells} == {"aidpath-her2"}
    assert list(plan.cohorts) == ["aidpath"]
    note, scored = plan.notes
    assert scored.startswith("aidpath-her2: 25 of 25 slides scored")
    assert note.startswith("left out: protocol retrieval/v1 scores binary")
    assert "those of tcga-breast-os are survival" in note
    with pytest.raises(InputError, match="--protocol: protocol retrieval/v1 scores binary"):
        make_plan(request_of(tmp_path, tasks=tasks[1:], protocols=("retrieval",),
                             encoders=("mean-pool",)))  # fmt: skip
    both = make_plan(request_of(tmp_path, tasks=tasks, protocols=("retrieval", "cox"),
                                encoders=("mean-pool",)))  # fmt: skip
    assert len(both.cells) == 2
    assert [note.split(":")[0] for note in both.notes] == list(tasks)


def test_of_protocols_asked_for_by_a_glob_those_that_fit_are_run(request_of, tmp_path):
    asked = request_of(tmp_path, tasks=("aidpath-her2", "tcga-breast-os"),
                       protocols=("patho-bench-*",), encoders=("mean-pool",))  # fmt: skip
    plan = make_plan(asked)
    cells = {(c.assessment.task.id, c.assessment.protocol.name) for c in plan.cells}
    coxnet = {("tcga-breast-os", f"patho-bench-coxnet-{a}/v1") for a in ("001", "002", "007")}
    others = {("aidpath-her2", f"patho-bench-{name}/v1") for name in ("linprobe", "retrieval")}
    assert cells == coxnet | others
    assert not any(note.startswith("left out") for note in plan.notes)
    with pytest.raises(InputError, match=r"no protocol matches 'patho-bnch-\*'; did you mean"):
        make_plan(replace(asked, protocols=("patho-bnch-*",)))
