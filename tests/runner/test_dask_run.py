"""Whole runs on workers of dask: the records of one machine, whatever happens to workers."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from madeleine_bench.resources import resource_folder
from tests.runner.conftest import contents, files

DEADLINE_S = 300


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """The shipped tasks, all of them, on phantoms of few patches, with few draws."""
    folder = tmp_path_factory.mktemp("catalogue") / "tasks"
    shutil.copytree(resource_folder("tasks"), folder)
    for path in folder.glob("cohorts/*.yaml"):
        text = path.read_text()
        path.write_text(text.replace("phantom:\n", "phantom:\n  patches: [8, 16]\n"))
    path = folder / "protocols" / "few-shot-v1.yaml"
    text, found = re.subn(r"shots: .*\n  draws: 10", "shots: [1, 5]\n  draws: 3", path.read_text())
    assert found == 1
    path.write_text(text)
    for path in folder.glob("protocols/finetune-v1.yaml"):
        text = path.read_text()
        for key, value in {"epochs": 2, "min_steps": 0, "warmup_epochs": 1, "patches": 8}.items():
            text, found = re.subn(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.MULTILINE)
            assert found == 1
        path.write_text(text)
    return folder


def started(results, catalogue, *arguments):
    code = "from madeleine_bench.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "--source", "phantom", "--jobs", "2", "--catalogue",
         str(catalogue), "--results", str(results), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finished(process):
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    return said


ALL = ("--encoder", "mean-pool", "--encoder", "patch-count", "--task", "all")


@pytest.fixture(scope="module")
def local(catalogue, tmp_path_factory):
    """What processes of this machine make of all tasks."""
    results = tmp_path_factory.mktemp("local")
    finished(started(results, catalogue, *ALL))
    assert len({record["task"]["id"] for record in contents(results).values()}) == 21
    return results


def workers_of(process):
    """The worker processes of a run."""
    try:
        found = psutil.Process(process.pid).children(recursive=True)
        return [child for child in found if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def records_in(results):
    return len(list((results / "records").rglob("*.json")))


def wait_for(condition, process):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_all_tasks_are_scored_as_on_one_machine(local, catalogue, tmp_path):
    said = finished(started(tmp_path, catalogue, *ALL, "--executor", "dask"))
    assert "dask: 2 workers of this machine" in said
    assert contents(tmp_path) == contents(local)
    assert files(tmp_path) == files(local)
    again = finished(started(tmp_path, catalogue, *ALL, "--executor", "dask"))
    assert "0 computed" in again
    assert "dask:" not in again, "nothing to do opens no cluster"


@pytest.mark.slow
def test_workers_killed_halfway_cost_nothing(local, catalogue, tmp_path):
    whole = len(contents(local))
    process = started(tmp_path, catalogue, *ALL, "--executor", "dask")
    killed = set()
    for share in (0.1, 0.3, 0.6):
        wait_for(lambda share=share: records_in(tmp_path) >= share * whole, process)
        wait_for(lambda: len(workers_of(process)) >= 2, process)
        victim = workers_of(process)[0]
        victim.kill()
        killed.add(victim.pid)
    said = finished(process)
    assert len(killed) == 3
    assert f"{whole} computed, 0 already there, 0 failed" in said
    assert "Traceback" not in said
    assert contents(tmp_path) == contents(local)
    assert files(tmp_path) == files(local)


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_behind(local, catalogue, tmp_path):
    process = started(tmp_path, catalogue, *ALL, "--executor", "dask")
    wait_for(lambda: records_in(tmp_path) >= 3, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, said
    assert "the same command continues from there" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(family, timeout=30)[1] == []
    finished(started(tmp_path, catalogue, *ALL, "--executor", "dask"))
    assert contents(tmp_path) == contents(local)


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_behind(catalogue, tmp_path):
    process = started(tmp_path, catalogue, *ALL, "--executor", "dask")
    wait_for(lambda: records_in(tmp_path) >= 1, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=60)[1] == []


@pytest.mark.slow
def test_networks_are_trained_as_on_one_machine(catalogue, tmp_path):
    train = ("--encoder", "abmil", "--task", "aidpath-her2", "--protocol", "finetune/v1")
    made = {}
    for name, more in (("local", ()), ("dask", ("--executor", "dask"))):
        results = tmp_path / name
        finished(started(results, catalogue, *train, "--device", "cpu", *more))
        fits = sorted((results / "fits").rglob("*.safetensors"))
        made[name] = (contents(results), files(results), [path.read_bytes() for path in fits])
        assert len(fits) == 5
    assert made["local"] == made["dask"]
