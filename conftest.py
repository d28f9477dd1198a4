"""What must be so before any test is collected: how Triton runs, and where it is not installed."""

import os
import shutil
from importlib.util import find_spec

# Triton reads this when it is first imported. Its interpreter runs the kernels on a CPU.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Collecting the doctests of a module imports it.
collect_ignore = [] if find_spec("triton") else ["madeleine_bench/losses/ipot_kernels.py"]
