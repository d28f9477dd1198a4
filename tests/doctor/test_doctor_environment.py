"""The environment: each check on facts of other machines, and the whole on this one."""

import os
import re
from pathlib import Path

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.runner import environment
from madeleine_bench.runner.environment import (
    examine_environment,
    free_finding,
    nearest_folder,
    openslide_finding,
    package_finding,
    thread_finding,
    torch_finding,
    write_finding,
)


def test_this_environment_is_examined_whole_and_nothing_is_left(tmp_path):
    found = {each.check: each for each in examine_environment(tmp_path / "results")}
    assert {"packages", "torch", "threads"} < set(found)
    assert {"disk", "results folder", "OpenSlide"} < set(found)
    assert all(each.found and each.advice for each in found.values())
    assert "openblas" in found["threads"].found or "mkl" in found["threads"].found
    assert not list(tmp_path.iterdir())


def test_the_demands_are_those_of_the_installed_package(tmp_path):
    found = {each.check: each for each in examine_environment(tmp_path)}
    assert found["packages"].threshold == "its metadata"
    needed = re.match(r"(\d+) packages as asked for", found["packages"].found)
    assert needed is not None
    assert int(needed[1]) > 20


def test_absent_and_wrong_packages_are_named():
    found = package_finding(["numpy>=1.26", "numpy>=99", "no-such-package>=2"])
    assert found.verdict == "fail"
    assert "no-such-package is not installed (asked for: >=2)" in found.found
    assert "(asked for: >=99)" in found.found
    other_system = "no-such-package; platform_system == 'Nowhere'"
    of_an_extra = "no-such-package; extra == 'a'"
    assert package_finding([other_system, of_an_extra]).verdict == "pass"


@pytest.mark.parametrize(
    ("cuda", "gpus", "driver", "verdict", "words"),
    [
        (None, [], None, "pass", "built without CUDA, no GPU"),
        ("12.8", ["H200"], "nvidia-smi", "pass", "GPU: H200"),
        ("12.8", [], "nvidia-smi", "warn", "CUDA_VISIBLE_DEVICES"),
        (None, [], "nvidia-smi", "warn", "install a CUDA build of torch"),
    ],
)
def test_a_gpu_that_torch_does_not_use_is_a_warning(cuda, gpus, driver, verdict, words):
    found = torch_finding("2.13.0", cuda, gpus, driver)
    assert found.verdict == verdict
    assert words in found.found + found.advice


def pool(prefix, threads=4):
    return {"user_api": "any", "prefix": prefix, "num_threads": threads}


@pytest.mark.parametrize(
    ("libraries", "verdict", "words"),
    [
        ([pool("libopenblas"), pool("libgomp"), pool("libgomp")], "pass", "libgomp 4, libopenblas"),
        ([pool("libopenblas", 64), pool("libgomp")], "warn", "libopenblas 64"),
        ([pool("libgomp", 64), pool("libgomp")], "warn", "libgomp 64"),
    ],
)
def test_more_threads_than_cpus_warn(libraries, verdict, words):
    found = thread_finding(libraries, 4)
    assert found.verdict == verdict
    assert words in found.found


@pytest.mark.parametrize(("free", "verdict"), [(50.0, "pass"), (5.0, "warn"), (0.2, "fail")])
def test_a_full_disk(free, verdict):
    assert free_finding(Path("/x"), free).verdict == verdict


def test_the_nearest_folder_stands_for_one_that_is_not_there(tmp_path):
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").write_text("")
    assert nearest_folder(tmp_path / "file" / "b") == tmp_path
    assert write_finding(nearest_folder(tmp_path / "a")).verdict == "pass"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_fails_for_real(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert write_finding(tmp_path).verdict == "fail"
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_written_fails(tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError("cannot write: read-only file system")

    monkeypatch.setattr(environment, "write_text", refuse)
    found = write_finding(tmp_path)
    assert found.verdict == "fail"
    assert "read-only" in found.found
    assert not list(tmp_path.iterdir())


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch):
    def refuse(folder):
        raise InputError("no locks available")

    monkeypatch.setattr(environment, "sole_writer", refuse)
    found = write_finding(tmp_path)
    assert found.verdict == "warn"
    assert "no locks" in found.found


def test_openslide_that_cannot_be_loaded_is_a_warning(monkeypatch):
    assert openslide_finding().verdict == "pass"
    monkeypatch.setitem(__import__("sys").modules, "madeleine_bench.slides.reader", None)
    assert openslide_finding().verdict == "warn"
