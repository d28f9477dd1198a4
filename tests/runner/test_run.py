"""A run from end to end: reproducible to the byte, resumable, safe beside another."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.protocols.results import FitReport
from madeleine_bench.protocols.scoring import score
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.embedding import EmbedJob, run_embed_job
from madeleine_bench.runner.plan import Request, embeddings_key
from madeleine_bench.runner.run import run
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence
from tests.runner.conftest import RUN, contents, files, finish, request, start


class Quiet(Silence):
    """Progress that counts."""

    def __init__(self):
        self.jobs = {}

    def phase(self, name, total):
        self.jobs[name] = total


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of a run nobody disturbed."""
    results = tmp_path_factory.mktemp("undisturbed")
    finish(start(results))
    return results


def small(results, **more):
    choice = {"encoders": ("patch-count",), "tasks": ("aidpath-her2",), "source": "phantom"}
    return request(**{**choice, "results": results, **more})


def of_mean_pool(results, bcnb):
    workspace = Workspace(results, config=bcnb.config)
    return Request(("mean-pool",), ("bcnb-er",), ("linear-probe",), workspace)


def test_two_processes_and_two_workers_give_the_same_bytes(undisturbed, tmp_path):
    finish(start(tmp_path, jobs=2))
    assert contents(tmp_path) == contents(undisturbed)
    assert files(tmp_path) == files(undisturbed)


def test_a_corrected_stain_asks_for_new_embeddings():
    catalogue = load_catalogue()
    data = PhantomCohort(catalogue.cohorts["aidpath"], catalogue.tasks_of("aidpath"))
    ids = data.slides["slide_id"].tolist()
    before = embeddings_key("encoder", data, ids)
    assert before == embeddings_key("encoder", data, ids)
    data.slides = data.slides.assign(stain=["ER", *data.slides["stain"][1:]])
    assert before != embeddings_key("encoder", data, ids)


def test_threads_of_the_machine_do_not_matter(undisturbed, tmp_path, monkeypatch):
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "2")
    finish(start(tmp_path))
    assert files(tmp_path) == files(undisturbed)


def test_a_second_run_computes_nothing(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()}
    said = finish(start(undisturbed))
    assert "0 computed, 8 already there, 0 failed" in said
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()} == before


def test_which_tasks_run_together_does_not_matter(undisturbed, tmp_path):
    run(small(tmp_path), Quiet())
    alone = contents(tmp_path)
    together = contents(undisturbed)
    assert alone
    assert alone == {path: together[path] for path in alone}


def test_resume_never_computes_again(tmp_path):
    progress = Quiet()
    run(small(tmp_path), progress)
    first = contents(tmp_path)
    report = run(small(tmp_path, resume="never"), progress)
    assert (report.computed, report.reused) == (2, 0)
    assert contents(tmp_path) == first


def test_a_lost_part_is_made_again_and_equal(tmp_path):
    run(small(tmp_path), Quiet())
    records, made = contents(tmp_path), files(tmp_path)
    for folder in ("records", "predictions", "embeddings", "splits"):
        victim = next(p for p in sorted((tmp_path / folder).rglob("*")) if p.is_file())
        victim.unlink()
        run(small(tmp_path), Quiet())
        assert contents(tmp_path) == records
        assert files(tmp_path) == made


def test_truncated_embeddings_are_made_again(tmp_path):
    run(small(tmp_path), Quiet())
    made = files(tmp_path)
    victim = next((tmp_path / "embeddings").rglob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:10])
    run(small(tmp_path), Quiet())
    assert files(tmp_path) == made


def test_scores_are_a_pure_function_of_stored_predictions(undisturbed):
    catalogue = load_catalogue()
    store = ResultStore(undisturbed)
    for record in store.records():
        task, protocol = catalogue.tasks[record.task.id], catalogue.protocol(record.protocol)
        predictions = store.read_predictions(record)
        names = list(predictions.columns[:2])
        fits = [
            FitReport(
                key=(fold.key[names[0]], fold.key[names[1]]),
                n_train=fold.n_train,
                n_test=fold.n_test,
                converged=fold.converged,
                reason=fold.reason,
                n_iter=fold.n_iter,
                diagnostics=fold.diagnostics,
            )
            for fold in record.folds
        ]
        again, _ = score(task, protocol, predictions, tuple(fits), record.inputs.dim)
        assert again.main.value == record.scores.main.value
        assert again.main.ci95 == record.scores.main.ci95


def test_predictions_are_one_row_per_split_and_unit(undisturbed):
    store = ResultStore(undisturbed)
    for record in store.records():
        table = store.read_predictions(record)
        assert not table.isna().any(axis=None)
        keys = ["repeat", "fold"] if "repeat" in table else ["shots", "draw"]
        assert not table.duplicated([*keys, "unit_id"]).any()
        assert sum(fold.n_test for fold in record.folds) == len(table)


def test_another_seed_or_signal_is_another_board(tmp_path):
    run(small(tmp_path), Quiet())
    run(small(tmp_path, phantom_signal=0.0), Quiet())
    run(small(tmp_path, phantom_seed=3), Quiet())
    boards = {record.board for record in ResultStore(tmp_path).records()}
    assert boards == {"phantom", "phantom-signal-0", "phantom-seed-3"}


def changing_encoder(folder, method):
    """Write an encoder whose code is one of two, and return its card."""
    code = "from madeleine_bench.encoders import BaseEncoder\n"
    code += "class E(BaseEncoder):\n    def encode(self, bag):\n"
    code += f"        return bag.features[:, :3].{method}(axis=0)\n"
    (folder / "e.py").write_text(code)
    card = folder / "card.yaml"
    card.write_text(
        'name: mine\nrevision: "1"\ntitle: t\nimplementation: e.py:E\ntraining_cohorts: []\n'
        "licence: MIT\ndescription: d\n"
    )
    return card


def test_a_changed_encoder_is_embedded_again(tmp_path):
    card = changing_encoder(tmp_path, "mean")
    made = []
    for method, resume in (("mean", "only-missing"), ("max", "never")):
        changing_encoder(tmp_path, method)
        assert find_encoder(str(card)).card.name == "mine"
        process = start(tmp_path / "results", "--encoder", str(card), "--resume", resume)
        finish(process)
        made.append({p for p in files(tmp_path / "results") if "/mine/" in p})
    assert made[0] < made[1]


def test_an_encoder_changed_between_two_runs_of_one_process_is_loaded_again(tmp_path):
    """Before: the second run kept the embeddings of the former code under the new fingerprint."""
    card = changing_encoder(tmp_path, "mean")
    for method in ("mean", "max"):
        changing_encoder(tmp_path, method)
        run(small(tmp_path / "results", encoders=(str(card),)), Quiet())
    made = [data for path, data in files(tmp_path / "results").items() if "embeddings" in path]
    assert len(made) == 2
    assert made[0] != made[1]


def test_bags_unpacked_again_with_the_same_sizes_and_times_are_scored_as_they_are(bcnb, tmp_path):
    """Before: the second run printed the score of the former bags (.988 for .662)."""

    def scored(results):
        report = run(of_mean_pool(results, bcnb), Quiet())
        records = sorted(ResultStore(results).records(), key=lambda each: each.made)
        return report.computed, records[-1].scores.main.value

    assert scored(tmp_path / "r")[1] > 0.9
    for number in range(1, 41):
        path, rng = bcnb.bag(number), np.random.default_rng(number)
        before = path.stat()
        bcnb.write_bag(number, rng.standard_normal((5 + number % 4, 8), dtype=np.float32))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
    computed, value = scored(tmp_path / "r")
    assert computed == 1
    assert value < 0.8
    assert value == scored(tmp_path / "fresh")[1]


def test_local_bags_in_any_float_type_and_a_missing_one(bcnb, tmp_path):
    bcnb.bag(4).unlink()
    bcnb.write_bag(5, np.empty((0, 8), dtype=np.float32))
    report = run(of_mean_pool(tmp_path / "r", bcnb), Quiet())
    assert report.failures == []
    (record,) = ResultStore(tmp_path / "r").records()
    assert record.source == "local"
    assert (
        record.inputs.missing == {"no feature file": ("4", "5")}
        or sum(map(len, record.inputs.missing.values())) == 2
    )
    assert record.inputs.n == 38


def test_two_runs_into_the_same_folder_at_once(undisturbed, tmp_path):
    both = [start(tmp_path), start(tmp_path)]
    for process in both:
        finish(process)
    assert contents(tmp_path) == contents(undisturbed)
    assert files(tmp_path) == files(undisturbed)


def test_a_part_that_cannot_be_written_costs_its_encoder_alone(tmp_path):
    """Another process that joins the parts of one encoder removes their folder meanwhile."""
    catalogue = load_catalogue()
    cohort = PhantomCohort(catalogue.cohorts["aidpath"], catalogue.tasks_of("aidpath"))
    ids = tuple(cohort.slides["slide_id"][:2])
    (tmp_path / "taken").write_text("no folder")
    mean, count = find_encoder("mean-pool"), find_encoder("patch-count")
    parts = (mean, tmp_path / "taken" / "0.safetensors"), (count, tmp_path / "0.safetensors")
    outcome = run_embed_job(EmbedJob("aidpath", cohort.part(ids), ids, parts))
    assert list(outcome.failed) == [("mean-pool", "aidpath")]
    assert read_embeddings(tmp_path / "0.safetensors").ids == ids


def kill_and_rerun(results, undisturbed, moments):
    for moment in moments:
        process = start(results, jobs=2)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        assert process.stdout
        process.stdout.close()
        process.wait()
    finish(start(results))
    assert contents(results) == contents(undisturbed)
    assert {k: v for k, v in files(results).items() if not k.endswith(".tmp")} == files(undisturbed)


def test_killed_at_some_moments(undisturbed, tmp_path):
    kill_and_rerun(tmp_path, undisturbed, [1.5, 2.5, 3.5])


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc to see processes")
def test_workers_end_with_a_killed_run(tmp_path):
    def workers():
        found = []
        for status in Path("/proc").glob("[0-9]*/environ"):
            try:
                marked = mark.encode() in status.read_bytes()
            except OSError:
                continue
            if marked:
                found.append(status.parent.name)
        return found

    mark = f"MBENCH_TEST_RUN={tmp_path}"
    process = start(tmp_path, jobs=2, environment={"MBENCH_TEST_RUN": str(tmp_path)})
    deadline = time.monotonic() + 60
    while len(workers()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers()) >= 3
    os.kill(process.pid, signal.SIGKILL)
    assert process.stdout
    process.stdout.close()
    process.wait()
    deadline = time.monotonic() + 60
    while workers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert workers() == []


@pytest.mark.slow
def test_killed_at_20_random_moments_each_followed_by_a_rerun(undisturbed, tmp_path):
    began = time.monotonic()
    finish(start(tmp_path / "whole", jobs=2))
    whole = time.monotonic() - began
    moments = random.Random(20).choices(range(1000), k=20)
    for number, moment in enumerate(moments):
        kill_and_rerun(tmp_path / str(number), undisturbed, [whole * moment / 1000])


def test_interrupt_says_so_and_the_rerun_completes(undisturbed, tmp_path):
    process = start(tmp_path)
    while not (tmp_path / "embeddings").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    # On a busy machine it may have said all it had to say before the signal came.
    assert process.returncode == 130 or "8 computed" in said
    if process.returncode == 130:
        assert "continues from there" in said
        assert "Traceback" not in said
    finish(start(tmp_path))
    assert contents(tmp_path) == contents(undisturbed)


def test_records_name_what_made_them(undisturbed):
    for path in (undisturbed / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        provenance = record["provenance"]
        assert provenance["threads"] == 1
        assert provenance["packages"]["numpy"] == np.__version__
        assert provenance["packages"]["pandas"] == pd.__version__
        assert {"commit", "dirty", "cpu", "seconds", "peak_memory_mb", "blas"} <= set(provenance)
    assert RUN[0] == "run"
