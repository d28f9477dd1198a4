"""The UCSB breast cohort from the copy of its table beside the checkout."""

from pathlib import Path

import numpy as np
import pandas as pd

from madeleine_bench.data.ucsb import write_ucsb

UCSB = Path(__file__).parents[2] / "shared" / "data" / "ucsb_breast" / "ucsb_breast.npz"


def write_local_ucsb(folder: Path) -> Path | None:
    """Return the folder of the bags, written as `fetch_ucsb` writes them; None without a copy."""
    if not UCSB.is_file():
        return None
    with np.load(UCSB) as arrays:
        table = pd.DataFrame(arrays["features"])
        table.insert(0, "label", arrays["label"])
        table.insert(1, "bag", arrays["bag"])
    return write_ucsb(table, folder)
