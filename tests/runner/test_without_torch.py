"""A run of a probe needs no torch where its embeddings are there: importing it takes seconds."""

import subprocess
import sys

import pytest

CODE = """
import sys
from madeleine_bench.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
"""


def test_importing_a_run_imports_no_torch():
    code = "import madeleine_bench.runner.run, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_a_probe_of_kept_embeddings_imports_no_torch(mbench, tmp_path):
    arguments = ["run", "--encoder", "mean-pool", "--task", "aidpath-her2", "--source", "phantom",
                 "--jobs", "1", "--results", str(tmp_path)]  # fmt: skip
    assert mbench(*arguments, "--protocol", "few-shot").code == 0
    again = [*arguments, "--protocol", "linear-probe"]
    subprocess.run([sys.executable, "-c", CODE, *again], check=True, timeout=300)
