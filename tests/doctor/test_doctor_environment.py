"""The environment: each check on facts of other machines, and the whole on this one."""

import importlib.metadata
import os
from pathlib import Path

import pytest

from madeleine_bench.embeddings.doctor import examine_environment
from madeleine_bench.embeddings.doctor.disk import (
    disk_findings,
    free_finding,
    nearest_folder,
    write_finding,
)
from madeleine_bench.embeddings.doctor.environment import (
    blas_finding,
    clock_finding,
    encoding_finding,
    openslide_finding,
    thread_finding,
    torch_finding,
    usable_cpus,
)
from madeleine_bench.embeddings.doctor.packages import (
    Demands,
    declared_demands,
    package_findings,
)
from madeleine_bench.errors import InputError


def packages(**demands):
    found = package_findings(Demands(where="pyproject.toml", **demands))
    return {each.check: each for each in found}


def test_this_environment_is_examined_whole_and_nothing_is_left(tmp_path):
    found = {each.check: each for each in examine_environment(tmp_path / "results")}
    assert {"Python", "packages", "torch", "threads", "BLAS"} < set(found)
    assert {"disk", "results folder", "OpenSlide", "encoding", "clock"} < set(found)
    assert all(each.found and each.look_at for each in found.values())
    assert found["Python"].verdict == "pass"
    assert "openblas" in found["BLAS"].found or "mkl" in found["BLAS"].found
    assert not list(tmp_path.iterdir())


def test_the_demands_are_those_of_pyproject_in_a_checkout():
    demands = declared_demands()
    assert demands.where == "pyproject.toml"
    assert any(line.startswith("torch>=") for line in demands.needed)
    assert "dask" in demands.extras


def test_elsewhere_they_are_those_of_the_installed_package(tmp_path):
    demands = declared_demands(tmp_path)
    assert demands.where == "its metadata"
    assert demands.python == ">=3.11"
    assert any(line.startswith("torch") for line in demands.needed)
    assert not any("extra ==" in line for line in demands.needed)
    assert all("dask" in line or "distributed" in line for line in demands.extras["dask"])
    assert packages(extras={"dask": demands.extras["dask"]})["extra dask"].verdict == "pass"


@pytest.mark.parametrize("text", ["", "not toml [", '[project]\nname = "another"\n'])
def test_a_pyproject_that_is_not_ours_is_passed_over(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text)
    assert declared_demands(tmp_path).where == "its metadata"


def test_without_pyproject_or_metadata_it_warns(tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", absent)
    found = {each.check: each for each in package_findings(declared_demands(tmp_path))}
    assert found["packages"].verdict == "warn"
    assert "pip install -e ." in found["packages"].look_at


def test_a_wrong_python_fails():
    assert packages(python="<3")["Python"].verdict == "fail"
    assert packages(python=">=3.11")["Python"].verdict == "pass"


def test_absent_and_wrong_packages_are_named():
    found = packages(needed=("numpy>=1.26", "numpy>=99", "no-such-package>=2"))["packages"]
    assert found.verdict == "fail"
    assert "no-such-package is not installed (asked for: >=2)" in found.found
    assert "(asked for: >=99)" in found.found
    other_system = "no-such-package; platform_system == 'Nowhere'"
    assert packages(needed=(other_system,))["packages"].verdict == "pass"


def test_an_extra_is_there_or_absent_or_of_another_version():
    extras = {"a": ("numpy>=1",), "b": ("no-such-package",), "c": ("numpy<1",), "dev": ("nope",)}
    found = packages(extras=extras)
    assert "extra dev" not in found
    verdicts = [found[f"extra {name}"].verdict for name in "abc"]
    assert verdicts == ["pass", "skipped", "warn"]
    assert "madeleine-bench[b]" in found["extra b"].look_at


@pytest.mark.parametrize(
    ("cuda", "gpus", "driver", "verdict", "words"),
    [
        (None, [], False, "pass", "built without CUDA, no GPU"),
        ("12.8", ["H200"], True, "pass", "GPU: H200"),
        ("12.8", [], True, "warn", "CUDA_VISIBLE_DEVICES"),
        (None, [], True, "warn", "install a CUDA build of torch"),
    ],
)
def test_a_gpu_that_torch_does_not_use_is_a_warning(cuda, gpus, driver, verdict, words):
    found = torch_finding(version="2.13.0", cuda=cuda, gpus=gpus, driver=driver)
    assert found.verdict == verdict
    assert words in found.found + found.look_at


@pytest.mark.parametrize(
    ("environ", "torch_threads", "verdict", "words"),
    [
        ({}, 4, "pass", "no variable set"),
        ({"OMP_NUM_THREADS": "1"}, 1, "pass", "OMP_NUM_THREADS=1"),
        ({"OMP_NUM_THREADS": "4,2"}, 4, "pass", "OMP_NUM_THREADS=4,2"),
        ({"MKL_NUM_THREADS": "64"}, 4, "warn", "more threads than CPUs: MKL_NUM_THREADS"),
        ({}, 64, "warn", "more threads than CPUs: torch"),
        ({"OPENBLAS_NUM_THREADS": "many"}, 4, "warn", "not a number from 1: OPENBLAS"),
        ({"OMP_NUM_THREADS": "0"}, 4, "warn", "not a number from 1: OMP"),
    ],
)
def test_more_threads_than_cpus_is_a_warning(environ, torch_threads, verdict, words):
    found = thread_finding(environ, 4, torch_threads)
    assert found.verdict == verdict
    assert words in found.found


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("", None), ("x y", None)],
)
def test_the_quota_of_a_container_counts(tmp_path, text, expected):
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert usable_cpus(quota) == (expected or usable_cpus(tmp_path / "absent"))


OPENBLAS = {"internal_api": "openblas", "version": "0.3"}


@pytest.mark.parametrize(
    ("libraries", "runtimes", "verdict"),
    [
        ([OPENBLAS], ["libgomp", "libgomp"], "pass"),
        ([OPENBLAS, {"internal_api": "openmp"}], ["libiomp", "libomp"], "warn"),
        ([{"internal_api": "openmp"}], ["libgomp"], "warn"),
    ],
)
def test_openmp_libraries_that_clash_and_a_missing_blas_warn(libraries, runtimes, verdict):
    assert blas_finding(libraries, runtimes).verdict == verdict


@pytest.mark.parametrize(("free", "verdict"), [(50.0, "pass"), (5.0, "warn"), (0.2, "fail")])
def test_a_full_disk(free, verdict):
    assert free_finding(Path("/x"), free).verdict == verdict


def test_the_nearest_folder_stands_for_one_that_is_not_there(tmp_path):
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").write_text("")
    assert nearest_folder(tmp_path / "file" / "b") == tmp_path
    assert [each.verdict for each in disk_findings(tmp_path / "a")][1] == "pass"


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

    monkeypatch.setattr("madeleine_bench.embeddings.doctor.disk.write_text", refuse)
    found = write_finding(tmp_path)
    assert found.verdict == "fail"
    assert "read-only" in found.found
    assert not list(tmp_path.iterdir())


def test_a_rename_that_does_not_take_fails(tmp_path, monkeypatch):
    def keep_the_first(path, text):
        if not path.exists():
            path.write_text(text)

    monkeypatch.setattr("madeleine_bench.embeddings.doctor.disk.write_text", keep_the_first)
    assert "kept its old content" in write_finding(tmp_path).found


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch):
    def refuse(folder):
        raise InputError("no locks available")

    monkeypatch.setattr("madeleine_bench.embeddings.doctor.disk.sole_writer", refuse)
    found = write_finding(tmp_path)
    assert found.verdict == "warn"
    assert "cannot be locked" in found.found


def test_a_disk_with_another_clock_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("madeleine_bench.embeddings.doctor.disk.time.time", lambda: 1.0)
    assert "s off" in write_finding(tmp_path).found


def test_openslide_that_cannot_be_loaded_is_a_warning(monkeypatch):
    assert openslide_finding().verdict == "pass"
    monkeypatch.setitem(__import__("sys").modules, "madeleine_bench.slides.reader", None)
    assert openslide_finding().verdict == "warn"


@pytest.mark.parametrize(
    ("files", "text", "screen", "verdict"),
    [
        ("utf-8", "UTF-8", "utf8", "pass"),
        ("utf-8", "utf-8", None, "pass"),
        ("ascii", "UTF-8", "utf-8", "warn"),
        ("utf-8", "cp1252", "utf-8", "warn"),
        ("utf-8", "utf-8", "latin-1", "warn"),
    ],
)
def test_an_encoding_that_is_not_utf8_is_a_warning(files, text, screen, verdict):
    assert encoding_finding(files, text, screen).verdict == verdict


@pytest.mark.parametrize(
    ("now", "installed", "verdict"),
    [(1.8e9, 1.7e9, "pass"), (0.0, 0.0, "warn"), (1.8e9, 1.8e9 + 3600, "warn")],
)
def test_a_clock_before_the_code_is_a_warning(now, installed, verdict):
    assert clock_finding(now, installed).verdict == verdict
