"""The golden arrays, and tokens to measure distances between."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "madeleine_golden.npz"


@pytest.fixture(scope="session")
def golden():
    """Every array of the reference implementation, as float64 tensors."""
    if not GOLDEN.is_file():
        pytest.skip(f"golden numbers absent: no file {GOLDEN}")
    with np.load(GOLDEN) as arrays:
        return {
            name: torch.from_numpy(arrays[name])
            for name in arrays.files
            if name.startswith(("nce", "got"))
        }


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on several threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the largest expected entry."""
    assert found.shape == expected.shape
    return float((found.detach() - expected).abs().max() / expected.abs().max())
