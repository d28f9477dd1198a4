"""The built site, and a scratch folder in which the commands of a page are run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.page_commands import ROOT
from tests.docs.small_catalogue import small_catalogue, write_wrapper
from tests.leaderboard.browser import running_chromium

SHELL_SECONDS = 600


@pytest.fixture(scope="session")
def built_site(tmp_path_factory) -> Path:
    """The site as CI builds it. A warning fails the build."""
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="session")
def small_mbench(tmp_path_factory) -> Path:
    """A folder for the PATH whose `mbench` has small phantoms."""
    folder = tmp_path_factory.mktemp("small")
    return write_wrapper(folder / "bin", small_catalogue(folder / "tasks"))


@pytest.fixture
def shell(small_mbench, tmp_path) -> Callable[..., None]:
    """Run a command line in the scratch folder as a reader would; it must end well."""
    path = os.pathsep.join(
        [str(small_mbench), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}

    script = "python examples/phantom_slides"
    small_script = f"{script} --catalogue {small_mbench.parent / 'tasks'}"

    def call(line: str, where: str = "", folder: Path = tmp_path, **more: str) -> str:
        line = line.replace(script, small_script)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=folder, env={**env, **more}, capture_output=True, text=True, timeout=SHELL_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{where}: {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    return call


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as running:
        yield running


@pytest.fixture
def my_encoder(tmp_path) -> Path:
    """The encoder that pages call my_encoder."""
    return Path(shutil.copytree(ROOT / "examples" / "median_encoder", tmp_path / "my_encoder"))
