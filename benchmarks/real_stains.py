"""The first pretraining on real stains, leave one case out: from pictures to bags, plans, scores.

Nine cases: seven human kidney biopsies in H&E, PAS, Masson (MT) and Jones (JMS), one field each
(de Haan et al. 2021), and two mouse lung lesions in H&E, CD31, proSPC, Ki67 and CC10 (CIMA, ANHIR;
lesion 1 in the first three). The five serial sections of patch_retrieval.py do not take part: their
stains are not named, and a stain that one case alone has is not in any loss.

For each case an encoder is trained on the eight others and tested on this one:

cases     Each H&E field of the kidney ranks the seven fields of a stain. The right one is first at
          rank 0, last at rank 1; chance .5. Embeddings are centred for each stain.
lung      Each of 80 (78) landmarks of H&E ranks the landmarks of another stain by the patches that
          lie nearest to them. The truth is marked by hand.
position  Each patch of an H&E field of the kidney ranks the patches of another stain; the partner
          lies at the same position, 40 micrometres away at most. This is no good truth, as the
          fields of a case are not registered; see the next.
registered  The same for those pairs of fields that a rotation and a shift of their white areas
          (lumens) register without doubt. This registration knows no features.

Methods: plain features (their mean), Intra-SSL, Madeleine with the presets "corrected" and
"aligned"; all weights are those of the epoch that `mbench pretrain` chooses on two held-out
training cases. "aligned, last epoch" are the weights at the end. Patches are compared by the tokens
of the local loss; Intra-SSL has none, its patch tokens take their place.

    PYTHONPATH=. python benchmarks/real_stains.py --data ../shared/data --work /tmp/real-stains

Writes benchmarks/results/real_stains.{json,svg}: numbers only, as the kidney pictures have no
licence. The recipe below was fixed before the first run, and nothing is tuned: a small model, few
patches and few epochs, so that one core is enough. One seed.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter, rotate
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from benchmarks.lung_landmarks import normalised_ranks
from benchmarks.real_pictures import run_command
from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.encoders.weights import read_weights
from madeleine_bench.figures import styled_svg
from madeleine_bench.files import write_text
from madeleine_bench.models.aligned import AlignedMadeleine
from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for

RESULTS = Path(__file__).resolve().parent / "results"
METHODS = ("plain", "intra-ssl", "corrected", "aligned", "aligned, last epoch")
KIDNEY = {"HE": "H&E", "PAS": "PAS", "MT": "trichrome", "JMS": "Jones"}
LUNG = {"He": "H&E", "CD31": "CD31", "proSPC": "proSPC", "Ki67": "Ki67", "Cc10": "CC10"}
KIDNEY_MPP, LUNG_MPP = 0.59, 3.48
LESION_1_SCALE = 1200 / 890  # its pictures are larger; landmarks of both are at ten times 3.48 um
KIDNEY_PATCHES = ("--patch-px", "128", "--patch-mpp", "0.59", "--overlap-px", "32")
LUNG_PATCHES = ("--patch-px", "64", "--patch-mpp", "3.48", "--overlap-px", "24")
NEAR_UM = 40.0
REDUCE = 8  # of the pictures that are registered
ANGLES = range(-20, 21, 4)
CLEAR = 2.0  # correlation of the best match over the best of any other place
RESAMPLES = 10_000
# Seed 1 holds out two cases of the kidney in every fold, the fewest that `mbench` allows; at seed 0
# the epoch would be chosen on cases that share no stain.
RECIPE = """\
name: real-stains
encoder: madeleine
cohort: {cohort}
model: {{width: 128, heads: 4}}
objective: {{preset: aligned, temperature: 0.02, tokens: 96, plan_cells: 250}}
patches: 128
batch_cases: 8
epochs: 40
optimiser: {{learning_rate: 3.0e-4, warmup_epochs: 4, final_learning_rate: 1.0e-6}}
precision: fp32
held_out_share: 0.01
seed: 1
"""
CHANGES = {
    "intra-ssl": ("encoder=intra-ssl", "objective.preset=corrected"),
    "corrected": ("objective.preset=corrected",),
    "aligned": (),
}

Floats = NDArray[np.float64]
Rows = tuple[NDArray[np.intp], NDArray[np.intp]]  # of partners: row i of one, row i of the other
Partners = dict[tuple[str, str, str], Rows]  # by measure, case and stain
Ranks = dict[tuple[str, str], Floats]  # of the queries of a case in a stain


def describe_slides(data: Path) -> pd.DataFrame:
    """Return slide, case and stain of the pictures, sorted by slide."""
    rows = []
    for path in data.joinpath("ucla_kidney").glob("*.jpeg"):
        case, stain, _ = path.stem.split("_")
        rows.append((path.stem, case, KIDNEY[stain]))
    for folder in ("lung_lesion_1", "multistain_lung"):
        for path in data.joinpath(folder).glob("*.jpg"):
            *_, case = parts = path.stem.split("-")
            rows.append((path.stem, case, next(LUNG[part] for part in parts if part in LUNG)))
    return pd.DataFrame(sorted(rows), columns=["slide_id", "case_id", "stain"])


def make_bags(data: Path, work: Path) -> pd.DataFrame:
    """Run the commands from pictures to bags, write table and configuration; return the table.

    What is there already is kept.
    """
    lung_1 = str(LUNG_MPP / LESION_1_SCALE)
    sources = {"ucla_kidney": ("kidney", str(KIDNEY_MPP)), "lung_lesion_1": ("lung", lung_1)}
    sources["multistain_lung"] = ("lung", str(LUNG_MPP))
    for folder, (organ, mpp) in sources.items():
        out = str(work / f"{organ}-slides")
        run_command(
            "slides", "convert", str(data / folder), "--mpp", mpp, "--out", out, "--overwrite"
        )
    for organ, patches in (("kidney", KIDNEY_PATCHES), ("lung", LUNG_PATCHES)):
        slides = ("--slides", str(work / f"{organ}-slides"), "--cohort", "real-stains")
        out = str(work / f"{organ}-bags")
        run_command("features", "extract", *slides, *patches, "--out", out, "--workers", "1")
        bags = work / "bags" / organ
        bags.parent.mkdir(exist_ok=True)
        if not bags.is_symlink():
            bags.symlink_to(next(Path(out).glob("*/features_*")).resolve())
    table = describe_slides(data)
    table.to_csv(work / "slides.csv", index=False)
    config = "".join(
        f'[cohorts.without-{case}]\nrole = "pretraining"\nfeatures = "bags"\n'
        f'labels = "slides.csv"\ncolumns = {{ stain = "stain" }}\n'
        f'exclude = {{ case_id = "{case}" }}\n'
        f"stains = {json.dumps(sorted(set(table['stain'])))}\n\n"
        for case in sorted(set(table["case_id"]))
    )
    write_text(work / "mbench.toml", config)
    return table


def train_folds(work: Path, cases: list[str]) -> None:
    """Run `mbench pretrain` for each case that is left out and each method; finished runs stay."""
    plans = work / "plans"
    plans.mkdir(exist_ok=True)
    for case in cases:
        store = work / "stores" / case
        recipe = work / f"{case}.yaml"
        write_text(recipe, RECIPE.format(cohort=f"without-{case}"))
        for method, changes in CHANGES.items():
            out = work / "runs" / case / method
            if (out / "run.json").is_file():
                continue
            if store.is_dir() and not (store / "plans").exists():
                (store / "plans").symlink_to(plans.resolve())  # the folds share most pairs
            sets = [word for change in changes for word in ("--set", change)]
            run_command(
                "pretrain", str(recipe), "--config", str(work / "mbench.toml"), "--source", "local",
                "--features", str(store), "--out", str(out), "--name", "trained", "--resume",
                "--device", "cpu", *sets,
            )  # fmt: skip


def load_model(work: Path, case: str, method: str) -> Madeleine | None:
    """Return the model of a fold in evaluation mode; None for plain features."""
    if method == "plain":
        return None
    preset, _, last = method.partition(", ")
    folder = work / "runs" / case / preset
    ((description, state),) = read_weights(folder / "trained.safetensors").values()
    if last:
        tensors = load_file(folder / "checkpoint.safetensors")
        state = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    return description.build(state)


@torch.inference_mode()
def embed(model: Madeleine | None, method: str, bag: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return the embedding of a slide and the tokens of its patches, patch x dim."""
    if model is None:
        return bag.mean(axis=0, dtype=np.float64), bag.astype(np.float64)
    patches = torch.from_numpy(bag)
    slide, tokens, _ = model(patches, (len(bag),))
    if isinstance(model, AlignedMadeleine):
        rows = model.aligned_tokens(patches, patches.mean(dim=0), tokens)
    else:
        rows = tokens.flatten(1) if method == "intra-ssl" else model.project_tokens(tokens)
    return slide[0].double().numpy(), rows.double().numpy()


def white_areas(path: Path) -> Floats:
    """Return lumens and gaps of a picture: small white areas against their surroundings."""
    darkest = np.asarray(Image.open(path).convert("RGB")).min(axis=-1)
    white = Image.fromarray((darkest > 190).astype(np.uint8) * 255)
    size = white.width // REDUCE, white.height // REDUCE
    share = np.asarray(white.resize(size, Image.Resampling.BOX), np.float64) / 255.0
    band: Floats = gaussian_filter(share, 0.7) - gaussian_filter(share, 8.0)
    return band


def register(first: Floats, second: Floats) -> tuple[float, float, Floats]:
    """Return by how much the best rotation and shift beats the others, its angle and its shift.

    Correlation of the overlap, which is 40% or more of the second picture. The first is rotated
    about its centre by the angle in degrees; the shift (y, x) is from centre to centre, in pixels.
    """
    found = []
    for angle in ANGLES:
        turned = rotate(first, angle, order=1)
        inside = (rotate(np.ones_like(first), angle, order=1) > 0.99).astype(np.float64)
        match = _correlations(turned, inside, second)
        place = np.unravel_index(match.argmax(), match.shape)
        shift = np.array(place) + 1 - (np.array(turned.shape) + np.array(second.shape)) / 2
        best = float(match[place])
        match[tuple(slice(max(0, p - 8), p + 9) for p in place)] = -1.0
        found.append((best, float(match.max()), float(angle), shift))
    best, other, angle, shift = max(found, key=lambda one: one[0])
    return best / other, angle, shift


def _correlations(turned: Floats, inside: Floats, second: Floats) -> Floats:
    """Return the correlation of the overlap at each shift; -1 where the overlap is small."""

    def sums(left: Floats, right: Floats) -> Floats:
        return np.asarray(fftconvolve(left, right[::-1, ::-1]), np.float64)

    ones, turned = np.ones_like(second), turned * inside
    count = np.maximum(sums(ones, inside), 1.0)
    mean_1, mean_2 = sums(second, inside) / count, sums(ones, turned) / count
    spread_1 = sums(second**2, inside) / count - mean_1**2
    spread_2 = sums(ones, turned**2) / count - mean_2**2
    joint = sums(second, turned) / count - mean_1 * mean_2
    match: Floats = joint / np.sqrt(np.maximum(spread_1 * spread_2, 1e-12))
    match[count < 0.4 * second.size] = -1.0
    return match


def moved(centres_px: Floats, sizes: tuple[Floats, Floats], angle: float, shift: Floats) -> Floats:
    """Return where centres (x, y) of the first picture lie in the second, both of these sizes."""
    turn = np.deg2rad(angle)
    x, y = (centres_px - sizes[0] / 2).T
    turned = np.stack([np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y])
    places: Floats = turned.T + sizes[1] / 2 + shift[::-1] * REDUCE
    return places


def nearest_rows(places: Floats, centres: Floats) -> NDArray[np.intp]:
    """Return the row of the nearest centre for each place."""
    return np.asarray(cKDTree(centres).query(places)[1], np.intp)


def match_places(first: Floats, second: Floats, most_px: float) -> Rows:
    """Return which rows of two sets of places are partners: each nearest to the other."""
    nearest, back = nearest_rows(first, second), nearest_rows(second, first)
    near = np.linalg.norm(first - second[nearest], axis=1) <= most_px
    rows = np.flatnonzero(near & (back[nearest] == np.arange(len(first))))
    return rows, nearest[rows]


def landmarks_px(data: Path, slide_id: str) -> Floats:
    """Return the landmarks of a lung section, landmark x 2, in pixels of its picture."""
    lesion_1 = slide_id.endswith("les1")
    folder, scale = ("lung_lesion_1", LESION_1_SCALE) if lesion_1 else ("multistain_lung", 1.0)
    (path,) = (p for p in (data / folder).glob(f"*{slide_id}.csv") if "_JB_" not in p.name)
    places: Floats = pd.read_csv(path)[["X", "Y"]].to_numpy(np.float64) / 10.0 * scale
    return places


def find_partners(
    data: Path, table: pd.DataFrame, centres: Mapping[str, Floats]
) -> tuple[Partners, list[dict[str, Any]]]:
    """Return the partner patches by (measure, case, stain), and the registration of each pair."""
    partners: Partners = {}
    registrations = []
    slides = {(case, stain): slide for slide, case, stain in table.itertuples(index=False)}
    for (case, stain), other in slides.items():
        he = slides[case, "H&E"]
        if stain == "H&E":
            continue
        if case.startswith("les"):
            first, second = (nearest_rows(landmarks_px(data, s), centres[s]) for s in (he, other))
            partners["lung", case, stain] = first, second
            continue
        most = NEAR_UM / KIDNEY_MPP
        partners["position", case, stain] = match_places(centres[he], centres[other], most)
        paths = [data / "ucla_kidney" / f"{name}.jpeg" for name in (he, other)]
        lead, angle, shift = register(*(white_areas(path) for path in paths))
        clear = lead >= CLEAR
        distance = float(np.linalg.norm(shift)) * REDUCE * KIDNEY_MPP
        registrations.append(
            {"case": case, "stain": stain, "lead": round(lead, 3), "clear": clear, "angle": angle,
             "shift_um": round(distance, 1)}
        )  # fmt: skip
        if clear:
            sizes = tuple(np.array(Image.open(path).size, np.float64) for path in paths)
            there = moved(centres[he], (sizes[0], sizes[1]), angle, shift)
            partners["registered", case, stain] = match_places(there, centres[other], most)
    return partners, registrations


def rank_everything(
    work: Path, table: pd.DataFrame, bags: Mapping[str, NDArray[np.float32]], partners: Partners
) -> dict[tuple[str, str], Ranks]:
    """Return the ranks by (measure, method): of the left-out case, by the model of its fold."""
    ranks: dict[tuple[str, str], Ranks] = {}
    slides = {(case, stain): slide for slide, case, stain in table.itertuples(index=False)}
    kidney = sorted({case for case, _ in slides if case.startswith("case")})
    for case in sorted(set(table["case_id"])):
        for method in METHODS:
            model = load_model(work, case, method)
            own = {
                stain: embed(model, method, bags[slide])[1]
                for (other, stain), slide in slides.items()
                if other == case
            }
            for measure, owner, stain in partners:
                if owner == case:
                    he, there = partners[measure, owner, stain]
                    found = normalised_ranks(own["H&E"][he], own[stain][there])
                    ranks.setdefault((measure, method), {})[case, stain] = found
            if case not in kidney:
                continue
            vectors = {
                stain: np.stack([embed(model, method, bags[slides[c, stain]])[0] for c in kidney])
                for stain in KIDNEY.values()
            }
            for stain in list(KIDNEY.values())[1:]:
                found = normalised_ranks(vectors["H&E"], vectors[stain])
                one = found[[kidney.index(case)]]
                ranks.setdefault(("cases", method), {})[case, stain] = one
    return ranks


def summarise(ranks: Mapping[tuple[str, str], Ranks]) -> list[dict[str, Any]]:
    """Return a row for each measure and method; see `resampled_means`."""
    rows = []
    for measure in dict.fromkeys(measure for measure, _ in ranks):
        plain = ranks[measure, "plain"]
        for method in METHODS:
            own = ranks[measure, method]
            means = resampled_means(measure, own)
            row = {
                "measure": measure,
                "method": method,
                "pairs": len(own),
                "queries": sum(map(len, own.values())),
                "first": round(_mean({pair: each == 0 for pair, each in own.items()}), 4),
                "rank": round(_mean(own), 4),
                "ci95": _interval(means),
            }
            if method != "plain":
                gap = {pair: each - plain[pair] for pair, each in own.items()}
                row["less_plain"] = round(_mean(gap), 4)
                row["less_plain_ci95"] = _interval(resampled_means(measure, gap))
            rows.append(row)
    return rows


def resampled_means(measure: str, values: Ranks) -> Floats:
    """Return bootstrap means over pairs of case and stain, RESAMPLES of them.

    Cases are resampled with all their stains, then the queries within each pair; on the lung, which
    has two blocks, landmarks alone are.
    """
    rng = rng_for("real-stains", measure)
    cases = sorted({case for case, _ in values})
    drawn = rng.integers(0, len(cases), (RESAMPLES, len(cases)))
    if measure == "lung":
        drawn = np.tile(np.arange(len(cases)), (RESAMPLES, 1))
    times = np.stack([(drawn == number).sum(axis=1) for number in range(len(cases))], axis=1)
    total, weight = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for (case, _), each in sorted(values.items()):
        inner = each[rng.integers(0, len(each), (RESAMPLES, len(each)))].mean(axis=1)
        count = times[:, cases.index(case)]
        total, weight = total + count * inner, weight + count
    means: Floats = total / weight
    return means


def describe_runs(work: Path, cases: list[str]) -> list[dict[str, Any]]:
    """Return the chosen epoch of each run, and its tokens at the end of training."""
    rows = []
    for case in cases:
        for method in CHANGES:
            folder = work / "runs" / case / method
            state = json.loads((folder / "run.json").read_text())["state"]
            last = pd.read_csv(folder / "log.csv").iloc[-1]
            rows.append(
                {"case": case, "method": method, "best_epoch": state["best_epoch"],
                 "token_cosine": round(float(last["held_out_token_cosine"]), 4),
                 "token_rank": round(float(last["held_out_token_rank"]), 1)}
            )  # fmt: skip
    return rows


TITLES = {
    "cases": "kidney: the right case",
    "lung": "lung: the landmark",
    "registered": "kidney, registered fields: the partner patch",
    "position": "kidney, all fields: the patch at the same position",
}


def markdown_rows(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table that docs/pretraining.md shows, a line each."""
    lines = [
        "| search for | method | ranked first | mean rank (95% interval) | less plain |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: [*TITLES].index(row["measure"])):
        low, high = row["ci95"]
        gap = ""
        if "less_plain" in row:
            gap = "{:+.3f} ({:+.3f} to {:+.3f})".format(row["less_plain"], *row["less_plain_ci95"])
        lines.append(
            f"| {TITLES[row['measure']]} | {row['method']} | {row['first']:.0%} | "
            f"{row['rank']:.3f} ({low:.3f} to {high:.3f}) | {gap} |"
        )
    return lines


def figure(rows: list[dict[str, Any]]) -> str:
    """Return the mean ranks as SVG: a panel for each measure, a dot with interval for a method."""
    panels = []
    for measure, title in TITLES.items():
        part = pd.DataFrame(
            {"method": r["method"], "rank": r["rank"], "low": r["ci95"][0], "high": r["ci95"][1]}
            for r in rows
            if r["measure"] == measure
        )
        base = alt.Chart(part).encode(y=alt.Y("method:N", sort=list(METHODS), title=None))
        scale = alt.Scale(domain=[0, 0.7])
        axis = alt.X("low:Q", scale=scale, title="mean normalised rank (lower is better)")
        chance = (
            alt.Chart(pd.DataFrame({"rank": [0.5]}))
            .mark_rule(strokeDash=[4, 4], color="#999999")
            .encode(x="rank:Q")
        )
        lines = base.mark_rule(strokeWidth=2, color="#0072B2").encode(x=axis, x2="high:Q")
        dots = base.mark_point(filled=True, size=70, opacity=1, color="#0072B2").encode(x="rank:Q")
        panel = alt.layer(chance, lines, dots)
        panels.append(
            panel.properties(width=340, height=130, title=alt.Title(title, anchor="start"))
        )
    heading = alt.Title(
        "Pretraining on real stains: what is found in the case that was left out",
        subtitle="0 is first, dashed: chance; 95% intervals",
        anchor="start",
        offset=14,
    )
    rows_of_panels = (alt.hconcat(*pair, spacing=50) for pair in (panels[:2], panels[2:]))
    grid = alt.vconcat(*rows_of_panels, title=heading)
    return styled_svg(
        grid.properties(
            background="white", padding={"left": 30, "right": 40, "top": 12, "bottom": 12}
        )
    )


def main() -> None:
    """Convert, extract, train, rank, and write results and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of bags and runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    wanted = parser.parse_args()
    wanted.work.mkdir(parents=True, exist_ok=True)
    table = make_bags(wanted.data, wanted.work)
    torch.set_num_threads(1)  # after the extraction, which sets its own
    cases = sorted(set(table["case_id"]))
    train_folds(wanted.work, cases)
    files = {path.stem: path for path in (wanted.work / "bags").glob("*/*.h5")}
    read = {slide: read_bag_file(files[slide]) for slide in table["slide_id"]}
    bags = {slide: bag.features.astype(np.float32) for slide, bag in read.items()}
    sides = {s: 128.0 if s.startswith("case") else 64.0 for s in bags}
    sides |= {s: 64.0 * LESION_1_SCALE for s in bags if s.endswith("les1")}
    centres = {s: np.asarray(bag.coords, np.float64) + sides[s] / 2 for s, bag in read.items()}
    partners, registrations = find_partners(wanted.data, table, centres)
    rows = summarise(rank_everything(wanted.work, table, bags, partners))
    kept = {
        **machine_provenance(),
        "recipe": RECIPE,
        "patches": {slide: len(bag) for slide, bag in bags.items()},
        "runs": describe_runs(wanted.work, cases),
        "registrations": registrations,
        "rows": rows,
    }
    write_text(wanted.results / "real_stains.json", json.dumps(kept, indent=1) + "\n")
    write_text(wanted.results / "real_stains.svg", figure(rows))
    print("\n".join(markdown_rows(rows)))


def _mean(values: Mapping[tuple[str, str], NDArray[Any]]) -> float:
    return float(np.mean([each.mean() for each in values.values()]))


def _interval(means: Floats) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(means, [0.025, 0.975])]


if __name__ == "__main__":
    main()
