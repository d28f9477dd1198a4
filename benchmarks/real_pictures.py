"""Real pictures and one real slide in four formats, by the commands of docs/slide-formats.md.

Three questions, on data that a user has to fetch (`--data`, see docs/slide-formats.md):

formats   one Aperio slide as SVS, DICOM, JPEG TIFF and WebP TIFF. Are patches the same, and how far
          do features move that come from a file compressed a second time? Patches of 224 px at
          level 0, at the places that the SVS file gives; distance of pixels in grey levels, cosine
          of features (EfficientNet-Lite0), and whether a patch is nearest to itself.
kidney    28 fields of seven kidney biopsies in four stains (de Haan et al. 2021): slides, patches
          and the share of each field that is taken for tissue. All of a field is tissue or the
          gaps in it.
ucsb      58 fields of breast tissue on ten microarray slides (Bisque): a linear probe on the mean
          of patch features tells malignant from benign, microarrays kept whole.

    python benchmarks/real_pictures.py --data ../shared/data --work /tmp/real-pictures

Writes benchmarks/results/real_pictures.json: numbers only, as the pictures have no licence. Their
resolution is not stated: .5 micrometres a pixel stands for it (ucsb). Nothing is tuned here.
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from madeleine_bench.cli.main import main as mbench
from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore
from madeleine_bench.slides.patch_encoders import find_patch_encoder, load_patch_encoder
from madeleine_bench.slides.patches import PatchSettings, choose_patches, grid_coords, read_patches
from madeleine_bench.slides.reader import Slide

RESULTS = Path(__file__).resolve().parent / "results" / "real_pictures.json"
ENCODER = "efficientnet-lite0"
FORMATS = {
    "SVS": "CMU-1-Small-Region.svs",
    "DICOM": "dicom/1.2.826.0.1.3680043.8.498.35220404935377466417110411569853018212.dcm",
    "JPEG TIFF": "CMU-1-Small-Region.jpeg.tiff",
    "WebP TIFF": "CMU-1-Small-Region.webp.tiff",
}
FORMAT_MPP = 0.499
KIDNEY_MPP = 0.59
UCSB_MPP = 0.5
TASK = "ucsb-pictures-malignancy"


def run_command(*arguments: str) -> None:
    """Run `mbench` with arguments, in this process.

    Raises:
        SystemExit: it failed.
    """
    try:
        mbench(arguments)
    except SystemExit as end:
        if end.code:
            raise


def compare_formats(data: Path) -> list[dict[str, Any]]:
    """Return, for each format of one slide, how far its patches and features are from the SVS."""
    settings = PatchSettings(patch_px=224, mpp=0.5)
    encoder = load_patch_encoder(find_patch_encoder(ENCODER))
    chosen, pixels, features = {}, {}, {}
    for name, file in FORMATS.items():
        with Slide(data / file, force_mpp=FORMAT_MPP) as slide:
            chosen[name] = choose_patches(slide, settings)
            pixels[name] = read_patches(slide, chosen["SVS"], slice(None))
        features[name] = encoder.encode(pixels[name]).astype(np.float64)
    svs = features["SVS"]
    rows = []
    for name in FORMATS:
        cosine = np.sum(_unit(features[name]) * _unit(svs), axis=1)
        apart = np.linalg.norm(features[name][:, None] - svs, axis=2)
        rows.append(
            {
                "format": name,
                "same_places": bool(np.array_equal(chosen[name].coords, chosen["SVS"].coords)),
                "patches": len(pixels[name]),
                "mean_pixel_difference": _rounded(
                    np.abs(pixels[name].astype(np.int16) - pixels["SVS"]).mean()
                ),
                "median_cosine": _rounded(np.median(cosine)),
                "least_cosine": _rounded(cosine.min()),
                "nearest_to_itself": _rounded((apart.argmin(1) == np.arange(len(svs))).mean()),
            }
        )
    return rows


def extract(pictures: Path, mpp: float, work: Path) -> pd.DataFrame:
    """Convert and extract by the commands of the page; return the table of slides."""
    run_command(
        "slides", "convert", str(pictures), "--mpp", str(mpp), "--out", str(work / "slides"),
        "--overwrite",
    )  # fmt: skip
    run_command(
        "features", "extract", "--slides", str(work / "slides"), "--cohort", work.name,
        "--patch-mpp", str(mpp), "--out", str(work / "bags"),
    )  # fmt: skip
    return pd.read_csv(next((work / "bags").glob("*/features_*.csv")), index_col="slide_id")


def measure_kidney(data: Path, work: Path) -> list[dict[str, Any]]:
    """Return, for each stain, the patches of a field and the share of its grid that has tissue."""
    table = extract(data, KIDNEY_MPP, work)
    table["stain"] = [name.split("_")[1] for name in table.index]
    grid = []
    for name in table.index:
        with Slide(work / "slides" / f"{name}.tif") as slide:
            plan = slide.plan(256, KIDNEY_MPP)
            grid.append(len(grid_coords(slide, plan, 0)))
    table["grid"] = grid
    return [
        {
            "stain": str(stain),
            "fields": len(rows),
            "patches": int(rows["patches"].sum()),
            "grid": int(rows["grid"].sum()),
        }
        for stain, rows in table.groupby("stain")
    ]


def score_ucsb(data: Path, work: Path) -> dict[str, Any]:
    """Return the score of a linear probe, by `mbench run` and by a plain leave-one-array-out."""
    table = extract(data, UCSB_MPP, work)
    names = [re.match(r"(ytma\d+_\d+)_(benign|malignant)", name) for name in table.index]
    labels = pd.DataFrame(
        [match.groups() for match in names if match], table.index, ["array", "label"]
    )
    labels.to_csv(work / "labels.csv")
    features = next((work / "bags").glob(f"*/features_{ENCODER}"))
    config = work / "mbench.toml"
    config.unlink(missing_ok=True)
    run_command(
        "tasks", "new", "--id", TASK, "--cohort", work.name, "--labels", str(work / "labels.csv"),
        "--label", "label", "--positive", "malignant", "--case", "array", "--unit", "slide",
        "--features", str(features), "--config", str(config),
    )  # fmt: skip
    run_command(
        "run", "--encoder", "mean-pool", "--task", TASK, "--config", str(config),
        "--results", str(work / "results"),
    )  # fmt: skip
    (record,) = ResultStore(work / "results").records()
    bags = [read_bag_file(features / f"{name}.h5").features for name in labels.index]
    means = np.stack([bag.astype(np.float64).mean(axis=0) for bag in bags])
    is_malignant = (labels["label"] == "malignant").to_numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    plain = cross_val_predict(
        probe, means, is_malignant, groups=labels["array"], cv=LeaveOneGroupOut(),
        method="predict_proba",
    )[:, 1]  # fmt: skip
    return {
        "fields": len(labels),
        "malignant": int(is_malignant.sum()),
        "arrays": labels["array"].nunique(),
        "patches": int(table["patches"].sum()),
        "auroc": _rounded(record.scores.main.value),
        "folds": [_rounded(fold.value) for fold in record.folds],
        "plain_auroc": _rounded(roc_auc_score(is_malignant, plain)),
    }


def markdown_rows(results: Mapping[str, Any]) -> list[str]:
    """Return the tables and the sentence that docs/slide-formats.md shows, a line each."""
    ucsb = results["ucsb"]
    return [
        "| format | pixel difference | cosine, median | cosine, least | nearest to itself |",
        "|---|---|---|---|---|",
        *(
            f"| {row['format']} | {row['mean_pixel_difference']:.2f} | "
            f"{row['median_cosine']:.3f} | {row['least_cosine']:.3f} | "
            f"{row['nearest_to_itself']:.0%} |"
            for row in results["formats"]
        ),
        "| stain | fields | patches taken | patches of the grid |",
        "|---|---|---|---|",
        *(
            f"| {row['stain']} | {row['fields']} | {row['patches']} | {row['grid']} |"
            for row in results["kidney"]
        ),
        f"{ucsb['fields']} fields ({ucsb['malignant']} malignant) of {ucsb['arrays']} microarrays "
        f"give {ucsb['patches']} patches and a mean AUROC of {ucsb['auroc']:.3f} over five folds "
        f"that keep microarrays whole.",
        f"A plain logistic regression that leaves out one microarray at a time reaches "
        f"{ucsb['plain_auroc']:.3f} over all fields together.",
    ]


def main() -> None:
    """Answer the three questions and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of slides and bags")
    parser.add_argument("--results", type=Path, default=RESULTS)
    wanted = parser.parse_args()
    work = wanted.work
    kept = {
        **machine_provenance(),
        "patch_encoder": ENCODER,
        "formats": compare_formats(wanted.data / "wsi"),
        "kidney": measure_kidney(wanted.data / "ucla_kidney", work / "kidney-fields"),
        "ucsb": score_ucsb(wanted.data / "ucsb_pictures", work / "ucsb-pictures"),
    }
    write_text(wanted.results, json.dumps(kept, indent=1) + "\n")
    print("\n".join(markdown_rows(kept)))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _rounded(value: Any) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    main()
