"""Features and tables in the layouts of TRIDENT, CLAM and STAMP, as bring-your-data.md has them."""

from pathlib import Path

import numpy as np
import pandas as pd

from madeleine_bench.seeds import rng_for
from tests.tool_bags import BagLayout, write_bag_file

SLIDES = 40
_FOLDERS: dict[BagLayout, tuple[str, str]] = {
    "trident": ("trident_job/20x_256px_0px_overlap/features_conch_v1", "conch_v1"),
    "clam": ("clam/h5_files", "resnet50"),
    "stamp": ("stamp/ctranspath", "ctranspath"),
}


def write_layouts(folder: Path) -> None:
    """Write the same 40 made-up slides in each layout, and the tables of each tool."""
    rows = [_row(number) for number in range(1, SLIDES + 1)]
    for layout, (inside, encoder) in _FOLDERS.items():
        for row in rows:
            features = _features(row)
            coords = np.zeros((len(features), 2), dtype=np.int64)
            path = folder / inside / f"{row['slide_id']}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bag_file(path, features, coords, layout=layout, patch_encoder=encoder, mpp=0.5)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "labels.csv", index=False)
    # STAMP: one row a patient, and which files are whose; here two slides each.
    patient = [f"P{(number - 1) // 2:02d}" for number in table["slide_id"]]
    files = pd.DataFrame({"PATIENT": patient, "FILENAME": [f"{n}.h5" for n in table["slide_id"]]})
    files.to_csv(folder / "slide.csv", index=False)
    clini = table.drop(columns="slide_id").assign(PATIENT=patient).groupby("PATIENT").first()
    clini.to_csv(folder / "clini.csv")


def _row(number: int) -> dict[str, object]:
    patient = (number - 1) // 2
    er, other = int(patient % 3 == 0), patient % 2
    return {
        "slide_id": number, "er": er, "pr": other, "her2": other, "ki67_binary": 1 - other,
        "ALN_status": "N0" if other else "N+(1-2)",
    }  # fmt: skip


def _features(row: dict[str, object]) -> np.ndarray:
    rng = rng_for("tool layouts", str(row["slide_id"]))
    features = rng.standard_normal((12, 16), dtype=np.float32)
    features[:, 0] += 2.0 * float(str(row["er"]))
    return features
