"""`import madeleine_bench as mb`: its names are there, and no network library is loaded for it."""

import subprocess
import sys

import pytest

import madeleine_bench as mb


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    made = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(made.stdout.split())


@pytest.mark.parametrize("name", mb.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(mb, name).__doc__
    assert name in dir(mb)


def test_the_public_names_are_sorted_and_about_twenty():
    assert mb.__all__ == sorted(mb.__all__)
    assert 15 <= len(mb.__all__) <= 25


def test_a_name_that_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mb.nothing  # noqa: B018


def test_the_import_loads_nothing_that_takes_long():
    loaded = modules_after("import madeleine_bench as mb\nmb.__version__, dir(mb)")
    assert not {"torch", "pandas", "sklearn", "pydantic"} & loaded


def test_a_run_of_a_probe_loads_no_torch(tmp_path):
    arguments = [
        "run", "--encoder", "mean-pool", "--task", "aidpath-her2", "--source", "phantom",
        "--protocol", "linear-probe", "--jobs", "1", "--results", str(tmp_path),
    ]  # fmt: skip
    code = f"""
from madeleine_bench.cli.main import main
sys.stdout = sys.stderr
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
sys.stdout = sys.__stdout__
"""
    loaded = modules_after(code)
    assert "madeleine_bench.runner.run" in loaded
    assert "torch" not in loaded
