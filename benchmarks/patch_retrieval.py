"""Does the local objective help to find the same tissue in another stain? On real sections.

Two sets of real sections of one piece of tissue each: the mouse lung lesion of lung_landmarks.py
(H&E, Ki67, CD31, proSPC, CC10; 80 landmarks), and five registered serial sections whose stains are
not named (the same pixel is the same tissue). One section asks (H&E; of the serial ones the middle
of the stack), the others are searched. For each searched stain a token projector is trained on the
pairs of the asking section with the three *other* ones, then the partner of each landmark (of each
place of a grid) in the stain it has never seen is ranked among all: 0 is first, 1 is last, chance
.5. Three methods, all by cosine, each stain centred:

- plain: the patch features as they are;
- untrained: projected tokens of the model before training;
- trained: projected tokens after it.

What is trained: the whole model up to the token projector, by graph optimal transport (Wasserstein
plus Gromov-Wasserstein, preset "corrected") of the tokens of each of the three pairs; nothing says
which patches belong together. One piece of tissue is one case, so that the global objective
(InfoNCE between cases) has no negative, is 0 and has no gradient: global plus local is local alone.

    PYTHONPATH=. python benchmarks/patch_retrieval.py --data ../shared/data

Writes benchmarks/results/patch_retrieval.{json,svg}; some 20 minutes of one core. The settings
below were fixed before the first run and nothing was tuned on any stain.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.lung_landmarks import (
    STAINS,
    landmark_features,
    normalised_ranks,
    picture_of,
    run_commands,
)
from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.figures import styled_svg
from madeleine_bench.files import write_text
from madeleine_bench.losses.transport import graph_transport
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.heldout import mean_token_cosine
from madeleine_bench.pretrain.presets import PRESETS
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for, seed_for
from madeleine_bench.slides.patch_encoders import find_patch_encoder, load_patch_encoder

RESULTS = Path(__file__).resolve().parent / "results"
ENCODER = "efficientnet-lite0"
SEEDS = (0, 1, 2)
METHODS = ("plain", "untrained", "trained")
RESAMPLES = 10_000
# Model, optimiser, warm-up and epochs are the recipe's defaults, those of the paper. One case is
# one step an epoch. The recipe transports 256 tokens; these sections have 59 to 122 patches, so 64.
RECIPE = Recipe(name="patches", encoder="madeleine", cohort="acrobat")
TOKENS = 64
# Serial sections are pictures of 504 x 512 pixels: a grid of patches of 32 px, those that are
# tissue in half of their pixels or more in all five (a pixel whose darkest channel is below 215).
GRID_PX = 32
TISSUE_BELOW = 215


@dataclass(frozen=True)
class Sections:
    """Features of the sections of one piece of tissue; the first name is the section that asks.

    Attributes:
        title: what it is.
        patches: for each section patch x dim, what is trained on.
        places: for each section place x dim, row i the same tissue in every one.
    """

    title: str
    patches: Mapping[str, NDArray[np.float32]]
    places: Mapping[str, NDArray[np.float32]]


def lung_sections(data: Path, work: Path) -> Sections:
    """Return the lung lesion: all patches of tissue, and those around the landmarks."""
    run_commands(data, work)
    bags = {path.stem: path for path in (work / "bags").rglob("*.h5")}
    patches = {
        stain: read_bag_file(bags[picture_of(data, stain).stem]).features.astype(np.float32)
        for stain in STAINS
    }
    places = landmark_features(data, work / "slides", ENCODER)
    return Sections("Mouse lung, from H&E", patches, places)


def serial_sections(data: Path) -> Sections:
    """Return the serial sections, the middle of the stack first; patches and places are one."""
    paths = sorted(data.glob("*.png"))
    names = [f"section {path.name[0]}" for path in paths]
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    cut = [_cut(picture) for picture in pictures]
    tissue = [(c.min(axis=-1) < TISSUE_BELOW).mean(axis=(1, 2)) >= 0.5 for c in cut]
    kept = np.all(tissue, axis=0)
    encoder = load_patch_encoder(find_patch_encoder(ENCODER))
    features = {name: encoder.encode(c[kept]) for name, c in zip(names, cut, strict=True)}
    middle = names[len(names) // 2]
    ordered = {name: features[name] for name in sorted(names, key=lambda name: name != middle)}
    return Sections(f"Serial sections, from {middle}", ordered, ordered)


def train(patches: Mapping[str, NDArray[np.float32]], seed: int) -> tuple[Madeleine, list[float]]:
    """Return a model trained on the pairs of the first section with the others, and its losses."""
    model = untrained(next(iter(patches.values())).shape[1], seed)
    rng = rng_for("patch-retrieval", "tokens", seed)
    adam = torch.optim.AdamW(model.parameters(), weight_decay=RECIPE.optimiser.weight_decay)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(seed_for("patch-retrieval", "dropout", seed))
        model.train()
        for step in range(RECIPE.epochs):
            for group in adam.param_groups:
                group["lr"] = PRESETS["corrected"].learning_rate(
                    step, 1, RECIPE.epochs, RECIPE.optimiser
                )
            drawn = [rows[rng.permutation(len(rows))[:TOKENS]] for rows in patches.values()]
            first, *others = project(model, torch.from_numpy(np.stack(drawn)))
            cost = graph_transport(first.expand(len(others), -1, -1), torch.stack(others))
            loss = (cost.wasserstein + cost.gromov).mean()
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.optimiser.clip_norm or 1e9)
            adam.step()
            losses.append(loss.item())
    return model.eval(), losses


def untrained(input_dim: int, seed: int) -> Madeleine:
    """Return the model as training finds it."""
    size = RECIPE.model
    with torch.random.fork_rng():  # torch fills the layers from its global state first
        model = Madeleine(input_dim, size.width, size.heads, dropout=size.dropout)
    initialise(model, seed_for("patch-retrieval", "start", seed))
    return model.eval()


def project(model: Madeleine, patches: torch.Tensor) -> torch.Tensor:
    """Return section x token x 128 from section x patch x dim."""
    tokens, _ = model.embed_patches(patches.flatten(0, 1))
    return model.project_tokens(tokens).unflatten(0, patches.shape[:2])


@torch.inference_mode()
def ranks_of(
    model: Madeleine, asking: NDArray[np.float32], searched: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """Return the normalised ranks of places by projected tokens, and the mean cosine of tokens.

    The cosine is over pairs of tokens of one section, then over both sections; near 1 is collapse.
    """
    both = project(model, torch.from_numpy(np.stack([asking, searched])))
    first, second = both.double().numpy()
    return normalised_ranks(first, second), float(mean_token_cosine(both.double()).mean())


def measure(sections: Sections) -> list[dict[str, Any]]:
    """Return a row for each held-out stain and method, then for each method the mean over them."""
    asking, *searched = sections.places
    ranks: dict[tuple[str, str], NDArray[np.float64]] = {}
    training: dict[tuple[str, str], dict[str, Any]] = {}
    for stain in searched:
        seen = {name: rows for name, rows in sections.patches.items() if name != stain}
        pair = sections.places[asking], sections.places[stain]
        ranks[stain, "plain"] = normalised_ranks(*(rows.astype(np.float64) for rows in pair))
        found: dict[str, list[Any]] = {"untrained": [], "trained": []}
        losses = []
        for seed in SEEDS:
            found["untrained"].append(ranks_of(untrained(pair[0].shape[1], seed), *pair))
            model, loss = train(seen, seed)
            losses.append(loss)
            found["trained"].append(ranks_of(model, *pair))
            print(sections.title, stain, seed, f"loss {loss[0]:.4f} to {loss[-1]:.4f}", flush=True)
        for method, each in found.items():
            ranks[stain, method] = np.mean([one for one, _ in each], axis=0)
            training[stain, method] = {"token_cosine": [round(c, 4) for _, c in each]}
        ends = [[round(loss[0], 4), round(loss[-1], 4)] for loss in losses]
        training[stain, "trained"] |= {"loss_first_last": ends, "trained_on": list(seen)}
    for method in METHODS:
        ranks["mean", method] = np.mean([ranks[stain, method] for stain in searched], axis=0)
    return [
        row_of(sections, stain, method, ranks) | training.get((stain, method), {})
        for stain in (*searched, "mean")
        for method in METHODS
    ]


def row_of(
    sections: Sections,
    stain: str,
    method: str,
    ranks: Mapping[tuple[str, str], NDArray[np.float64]],
) -> dict[str, Any]:
    """Return what is kept of the ranks of one stain by one method; intervals resample places.

    `ranks` are means over seeds; of the stain "mean" also over stains, place by place.
    """
    own, plain = ranks[stain, method], ranks[stain, "plain"]
    places = len(own)
    drawn = rng_for("patch-retrieval", sections.title).integers(0, places, (RESAMPLES, places))
    row: dict[str, Any] = {
        "sections": sections.title,
        "stain": stain,
        "method": method,
        "places": places,
        "mean_normalised_rank": round(float(own.mean()), 4),
        "ci95": _interval(own[drawn].mean(axis=1)),
    }
    if method != "plain":
        gap = own - plain
        row["less_plain"] = round(float(gap.mean()), 4)
        row["less_plain_ci95"] = _interval(gap[drawn].mean(axis=1))
    return row


def markdown_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table that docs/retrieval.md shows, a line each."""
    lines = [
        "| sections | held-out stain | plain features | untrained projector | trained | trained "
        "less plain |",
        "|---|---|---|---|---|---|",
    ]
    for plain, before, after in zip(*(rows[i :: len(METHODS)] for i in range(3)), strict=True):
        cells = [
            f"{row['mean_normalised_rank']:.3f} ({row['ci95'][0]:.3f} to {row['ci95'][1]:.3f})"
            for row in (plain, before, after)
        ]
        low, high = after["less_plain_ci95"]
        gap = f"{after['less_plain']:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {plain['sections']} | {plain['stain']} | {' | '.join(cells)} | {gap} |")
    return lines


def collapse_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what training did to loss and tokens, as docs/retrieval.md says it."""
    held_out = [row for row in rows if row["stain"] != "mean"]
    cosine = {
        method: [c for row in held_out if row["method"] == method for c in row["token_cosine"]]
        for method in ("untrained", "trained")
    }
    ends = np.array([e for row in held_out for e in row.get("loss_first_last", [])])
    return (
        f"Over the {len(ends)} runs the loss fell from {ends[:, 0].mean():.3f} to "
        f"{ends[:, 1].mean():.4f} on average, and the mean cosine between the tokens of a "
        f"section rose from {np.mean(cosine['untrained']):.2f} to "
        f"{np.mean(cosine['trained']):.4f}."
    )


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean ranks as SVG: a panel for each set of sections, a dot for each method."""
    table = pd.DataFrame(
        {
            "sections": row["sections"],
            "stain": "mean of the four" if row["stain"] == "mean" else row["stain"],
            "method": row["method"],
            "rank": row["mean_normalised_rank"],
            "low": row["ci95"][0],
            "high": row["ci95"][1],
        }
        for row in rows
    )
    high = float(max(0.52, np.ceil(table["high"].max() * 20) / 20))
    panels = []
    for title, part in table.groupby("sections", sort=False):
        colour = alt.Color(
            "method:N",
            sort=list(METHODS),
            scale=alt.Scale(domain=list(METHODS), range=["#0072B2", "#999999", "#D55E00"]),
            legend=alt.Legend(title=None, orient="bottom"),
        )
        base = alt.Chart(part).encode(
            y=alt.Y(
                "stain:N",
                sort=list(part["stain"].unique()),
                title=None,
                scale=alt.Scale(paddingInner=0.4),
            ),
            yOffset=alt.YOffset("method:N", sort=list(METHODS)),
            color=colour,
        )
        where = alt.Scale(domain=[0, high])
        lines = base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", scale=where, title="mean normalised rank of the same tissue"),
            x2="high:Q",
        )
        dots = base.mark_point(filled=True, size=60, opacity=1).encode(x="rank:Q")
        chance = (
            alt.Chart(pd.DataFrame({"rank": [0.5]}))
            .mark_rule(strokeDash=[4, 4], color="#999999")
            .encode(x="rank:Q")
        )
        panels.append(
            alt.layer(chance, lines, dots).properties(width=330, height=230, title=str(title))
        )
    title = alt.Title(
        "Real sections: the same tissue found in a stain that training has not seen",
        subtitle="0 is first, dashed: chance; 95% intervals over places; three seeds",
        anchor="start",
    )
    return styled_svg(alt.hconcat(*panels, title=title, background="white", padding=12))


def main() -> None:
    """Extract, train, rank, and write results and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of both sets of pictures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = [
            lung_sections(wanted.data / "multistain_lung", Path(folder)),
            serial_sections(wanted.data / "serial_ihc"),
        ]
    torch.set_num_threads(1)  # after the extraction, which sets its own
    rows = [row for sections in sets for row in measure(sections)]
    print("\n".join(markdown_rows(rows)))
    kept = {
        **machine_provenance(),
        "patch_encoder": ENCODER,
        "seeds": SEEDS,
        "steps": RECIPE.epochs,
        "tokens": TOKENS,
        "learning_rate": RECIPE.optimiser.learning_rate,
        "chance": 0.5,
        "patches": {s.title: {n: len(rows) for n, rows in s.patches.items()} for s in sets},
        "rows": rows,
    }
    write_text(wanted.results / "patch_retrieval.json", json.dumps(kept, indent=1) + "\n")
    write_text(wanted.results / "patch_retrieval.svg", figure(rows))


def _cut(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the whole patches of a grid from the upper left corner, patch x px x px x 3."""
    down, across = (side // GRID_PX for side in picture.shape[:2])
    grid = picture[: down * GRID_PX, : across * GRID_PX]
    parts = grid.reshape(down, GRID_PX, across, GRID_PX, 3).swapaxes(1, 2)
    return np.ascontiguousarray(parts.reshape(-1, GRID_PX, GRID_PX, 3))


def _interval(means: NDArray[np.float64]) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(means, [0.025, 0.975])]


if __name__ == "__main__":
    main()
