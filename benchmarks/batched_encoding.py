"""Bags through Madeleine one at a time against several packed into one call, on a CPU thread.

Why `mbench run` encodes one bag at a time on a CPU: beyond some dozens of patches a batch of bags
leaves the cache, and is slower than its bags alone. A batch here has no padding (bags are packed),
so sorting bags by length would change nothing. The architecture is that of the shipped weights.

    python -m benchmarks.batched_encoding
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from madeleine_bench.files import write_text
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for

RESULTS = Path(__file__).resolve().parent / "results"
PATCHES = (16, 64, 256, 1024, 4096)
DIM, WIDTH, HEADS = 512, 128, 4


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    wanted = parser.parse_args()
    sizes, largest, repeats = ((4, 8), 64, 1) if wanted.quick else (PATCHES, 16384, 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [measure(patches, largest, repeats) for patches in sizes]
    finally:
        torch.set_num_threads(threads)
    found = {
        **machine_provenance(),
        "torch_threads": 1,
        "load_before": round(os.getloadavg()[0], 2),
        "baseline": "one bag a call",
        "rows": rows,
    }
    write_text(wanted.out / "batched_encoding.json", json.dumps(found, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def measure(patches: int, largest: int, repeats: int) -> dict[str, Any]:
    """Return milliseconds a bag, one a call and packed, for bags of so many patches.

    Args:
        patches: of each bag.
        largest: patches of a batch, at most.
        repeats: of either way in turn; medians count.
    """
    model = Madeleine(DIM, WIDTH, HEADS).eval()
    initialise(model, 0)
    count = max(2, min(64, largest // patches))
    rng = rng_for("batched-encoding", patches)
    bags = [torch.from_numpy(rng.normal(size=(patches, DIM)).astype(np.float32))] * count
    single, packed = [], []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            alone = torch.stack([model.encode(bag) for bag in bags])
            middle = time.perf_counter()
            together = model(torch.cat(bags), [patches] * count)[0]
            single.append(middle - began)
            packed.append(time.perf_counter() - middle)
    single_ms, packed_ms = (1e3 * median(times[1:]) / count for times in (single, packed))
    return {
        "patches": patches,
        "bags_a_batch": count,
        "one_a_call_ms": float(f"{single_ms:.3g}"),
        "packed_ms": float(f"{packed_ms:.3g}"),
        "times_faster": float(f"{single_ms / packed_ms:.3g}"),
        "largest_difference": float(f"{float((alone - together).abs().max()):.2g}"),
    }


if __name__ == "__main__":
    main()
