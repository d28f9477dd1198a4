"""Real tissue in five stains: from pictures to slides, tissue, patches and features, and landmarks.

One mouse lung lesion in five consecutive sections (H&E, Ki67, CD31, proSPC, CC10) with 80
landmarks, of which landmark i is the same tissue in every stain (CIMA data set, ANHIR challenge).
The whole path of `mbench` is taken: convert, extract, and a picture of the tissue found. Then,
for each landmark of H&E, the patch around its partner is ranked among the 80 patches of the other
stain by cosine similarity of features centred for each stain: 0 is first, 1 is last, chance .5.

    python benchmarks/lung_landmarks.py --data ../shared/data/multistain_lung

Writes benchmarks/results/lung_landmarks.{json,svg} and docs/lung_tissue.jpg. Nothing is tuned here.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from madeleine_bench.cli.main import main as mbench
from madeleine_bench.figures import styled_svg
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.patch_encoders import find_patch_encoder, load_patch_encoder
from madeleine_bench.slides.reader import Slide

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = Path(__file__).resolve().parents[1] / "docs"
STAINS = {"H&E": "He", "Ki67": "Ki67", "CD31": "CD31", "proSPC": "proSPC", "CC10": "Cc10"}
ENCODERS = ("efficientnet-lite0", "stain-texture")
MPP = 3.48  # scans of .174 micrometres a pixel, at 5%
PATCH_PX = 64
LANDMARK_SCALE = 10.0  # coordinates are of the picture at 50%
RESAMPLES = 10_000


def picture_of(data: Path, stain: str) -> Path:
    """Return the picture of a stain."""
    return next(data.glob(f"*-{STAINS[stain]}-*.jpg"))


def landmarks_of(data: Path, stain: str) -> NDArray[np.float64]:
    """Return the landmarks of a stain, landmark x 2 (x, y), in pixels of its picture."""
    path = next(data.glob(f"landmarks_PS_*-{STAINS[stain]}-*.csv"))
    return pd.read_csv(path)[["X", "Y"]].to_numpy(np.float64) / LANDMARK_SCALE


def normalised_ranks(
    queries: NDArray[np.floating], gallery: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return where gallery row i stands for query i: 0 first, 1 last, ties in the middle.

    Both are item x dim; each is centred, then compared by cosine.
    """
    query, key = (_unit(rows - rows.mean(axis=0)) for rows in (queries, gallery))
    similarity = query @ key.T
    own = np.diag(similarity)[:, None]
    better = (similarity > own).sum(axis=1)
    level = (similarity == own).sum(axis=1) - 1
    ranks: NDArray[np.float64] = (better + level / 2) / (len(gallery) - 1)
    return ranks


def landmark_features(data: Path, slides: Path, encoder_name: str) -> dict[str, NDArray[Any]]:
    """Return the features around the landmarks of each stain, landmark x dim."""
    encoder = load_patch_encoder(find_patch_encoder(encoder_name))
    features = {}
    for stain in STAINS:
        with Slide(slides / f"{picture_of(data, stain).stem}.tif") as slide:
            plan = slide.plan(PATCH_PX, MPP)
            corners = np.rint(landmarks_of(data, stain) - PATCH_PX / 2).astype(int)
            patches = np.stack([slide.read_patch(int(x), int(y), plan) for x, y in corners])
        features[stain] = encoder.encode(patches)
    return features


def row_of(encoder: str, stain: str, ranks: NDArray[np.float64]) -> dict[str, Any]:
    """Return what is kept of the ranks of one stain; the interval resamples landmarks."""
    rng = rng_for("lung-landmarks", encoder, stain)
    means = ranks[rng.integers(0, len(ranks), (RESAMPLES, len(ranks)))].mean(axis=1)
    return {
        "encoder": encoder,
        "stain": stain,
        "landmarks": len(ranks),
        "mean_normalised_rank": round(float(ranks.mean()), 4),
        "ci95": [round(float(q), 4) for q in np.quantile(means, [0.025, 0.975])],
        "first": round(float((ranks == 0).mean()), 4),
        "among_first_five": round(float((ranks <= 4 / (len(ranks) - 1)).mean()), 4),
        "ranks": [round(float(rank), 4) for rank in ranks],
    }


def run_commands(data: Path, work: Path) -> list[dict[str, Any]]:
    """Convert and extract by the command line; return what the report says of each slide."""
    pictures = [str(picture_of(data, stain)) for stain in STAINS]
    slides = ["--slides", str(work / "slides"), "--cohort", "mouse-lung"]
    patches = ["--patch-px", str(PATCH_PX), "--patch-mpp", str(MPP), "--out", str(work / "bags")]
    _run("slides", "convert", *pictures, "--mpp", str(MPP), "--out", str(work / "slides"))
    _run("features", "extract", *slides, *patches)
    report = next((work / "bags").glob("*/features_*.csv"))
    return pd.read_csv(report).drop(columns=["seconds", "message"]).to_dict("records")


def montage(data: Path, work: Path) -> bytes:
    """Return the tissue found in each stain, three in a row, as JPEG."""
    width, gap, heading, columns = 600, 10, 30, 3
    overlays = work / "bags" / "contours"
    scaled = {}
    for stain in STAINS:
        picture = Image.open(overlays / f"{picture_of(data, stain).stem}.png").convert("RGB")
        scaled[stain] = picture.resize((width, round(width * picture.height / picture.width)))
    height = max(picture.height for picture in scaled.values()) + heading
    rows = -(-len(scaled) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (stain, picture) in enumerate(scaled.items()):
        left, top = place % columns * (width + gap), place // columns * height
        draw.text((left + 4, top + 4), stain, fill="black", font=ImageFont.load_default(18))
        sheet.paste(picture, (left, top + heading))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=82)
    return out.getvalue()


def markdown_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table that docs/slides.md shows, a line each."""
    lines = ["| patch encoder | stain | mean rank (95% interval) | first |", "|---|---|---|---|"]
    for row in rows:
        low, high = row["ci95"]
        lines.append(
            f"| {row['encoder']} | {row['stain']} | {row['mean_normalised_rank']:.3f} "
            f"({low:.3f} to {high:.3f}) | {row['first']:.0%} |"
        )
    return lines


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the ranks as SVG: a panel a stain, the share of landmarks found within each rank."""
    table = pd.DataFrame(
        {
            "encoder": row["encoder"],
            "stain": f"{row['stain']} from H&E",
            "rank": rank,
            "share": share,
        }
        for row in rows
        for rank, share in zip(
            sorted(row["ranks"]), np.linspace(0, 1, len(row["ranks"])), strict=True
        )
    )
    base = alt.Chart(table).encode(
        x=alt.X(
            "rank:Q", title="normalised rank of the true partner", scale=alt.Scale(domain=[0, 1])
        ),
        y=alt.Y("share:Q", title="share of landmarks", axis=alt.Axis(format="%")),
    )
    lines = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
        color=alt.Color("encoder:N", scale=alt.Scale(range=["#0072B2", "#D55E00"]), title=None)
    )
    chance = (
        alt.Chart(pd.DataFrame({"rank": [0.0, 1.0], "share": [0.0, 1.0]}))
        .mark_line(strokeDash=[4, 4], color="#999999")
        .encode(x="rank:Q", y="share:Q")
    )
    panels = [
        alt.layer(chance, lines.transform_filter(alt.datum.stain == stain)).properties(
            width=190, height=190, title=stain
        )
        for stain in table["stain"].unique()
    ]
    title = alt.Title(
        "Real mouse lung: the same tissue found in another stain",
        subtitle="80 landmarks of H&E ranked among 80 patches of the other stain; dashed: chance",
        anchor="start",
    )
    return styled_svg(alt.hconcat(*panels, title=title, background="white", padding=12))


def main() -> None:
    """Run the commands, rank the landmarks, write results, figure and montage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    wanted = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        extraction = run_commands(wanted.data, work)
        write_bytes(wanted.docs / "lung_tissue.jpg", montage(wanted.data, work))
        for name in ENCODERS:
            features = landmark_features(wanted.data, work / "slides", name)
            for stain in list(STAINS)[1:]:
                rows.append(row_of(name, stain, normalised_ranks(features["H&E"], features[stain])))
    print("\n".join(markdown_rows(rows)))
    kept = {
        **machine_provenance(),
        "data": "CIMA lung lesion 29-041-Izd2-w35 les3, 5% scale, landmarks of annotator PS",
        "patch_px": PATCH_PX,
        "mpp": MPP,
        "chance": 0.5,
        "extraction": extraction,
        "rows": rows,
    }
    write_text(wanted.results / "lung_landmarks.json", json.dumps(kept, indent=1) + "\n")
    write_text(wanted.results / "lung_landmarks.svg", figure(rows))


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _run(*arguments: str) -> None:
    try:
        mbench(arguments)
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    main()
