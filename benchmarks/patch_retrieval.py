"""Does the local objective help to find the same tissue in another stain? On real sections.

Three blocks of real tissue: two mouse lung lesions (H&E, Ki67, CD31, proSPC, CC10 with 80
landmarks; H&E, CD31, proSPC with 78), and five registered serial sections whose stains are not
named (the same pixel is the same tissue; places of a grid serve as landmarks). One section asks
(H&E; of the serial ones the middle of the stack), another one is searched: the partner of each
landmark is ranked among all landmarks, 0 is first, 1 is last, chance .5. By cosine, each stain
centred. Every method but "plain" is trained on the pairs of the asking section with the *other*
stains of the block, and tested on a stain that it has not seen.

- plain: the patch features as they are;
- untrained: the token projector of Madeleine before training, random;
- contrast: trained by InfoNCE between regions of the block alone (8 regions around random patches
  in each step, the same regions in the other stain by the plan; a block has no other cases);
- published, corrected: contrast plus graph optimal transport of the tokens, both forms;
- start: the tokens of "aligned" before training;
- aligned: contrast plus `partner_pull` of the tokens by the plan;
- info-nce: the same with `partner_info_nce`, the local loss that was not chosen;
- shuffled: aligned, with the rows of the plan in random order, as a control.

    PYTHONPATH=. python benchmarks/patch_retrieval.py --data ../shared/data --work /tmp/patches

Writes benchmarks/results/patch_retrieval.{json,svg} and token_collapse.svg. Features and finished
runs are kept in --work, so that a second call continues. Some 20 minutes of one core. The settings
are the recipe's, but for the width (128, as tokens of four heads then have 512 dimensions).
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from benchmarks.lung_landmarks import normalised_ranks
from benchmarks.real_sections import ENCODER, Block, Floats, plan_row, read_blocks, training_plan
from madeleine_bench.embeddings.cloud import effective_rank
from madeleine_bench.figures import styled_svg
from madeleine_bench.files import write_text
from madeleine_bench.losses.aligned import partner_info_nce, partner_pull
from madeleine_bench.losses.cosine import info_nce
from madeleine_bench.losses.transport import graph_transport
from madeleine_bench.models.aligned_tokens import AlignedTokens, principal_directions
from madeleine_bench.models.madeleine import TOKEN_DIM, Madeleine, initialise
from madeleine_bench.pretrain.heldout import mean_token_cosine
from madeleine_bench.pretrain.presets import PRESETS
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for, seed_for

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)
TRAINED = ("contrast", "published", "corrected", "aligned", "info-nce", "shuffled")
METHODS = ("plain", "untrained", "start", *TRAINED)
RESAMPLES = 10_000
# Optimiser, warm-up, temperature and epochs are the recipe's defaults, those of the paper. One
# block is one step an epoch.
RECIPE = Recipe(name="patches", encoder="madeleine", cohort="acrobat")
WIDTH = 128
TOKENS = 128  # of a section in a step
TRANSPORTED = 64  # of them, by the published and the corrected objective
REGIONS = 8
CURVE_EVERY = 6  # steps


class Pairs:
    """The pairs that a run trains on, and the patches and regions of each step."""

    def __init__(self, block: Block, held_out: str, shuffled: bool, seed: int) -> None:
        self.rng = rng_for("patch-retrieval", block.name, held_out, seed)
        self.block, self.held_out = block, held_out
        self.sections = {s: v for s, v in block.sections.items() if s != held_out}
        self.asking, *self.others = self.sections
        self.features = {
            s: torch.from_numpy(np.asarray(v.features, np.float32))
            for s, v in self.sections.items()
        }
        self.plans, self.origin = {}, {}
        for stain in self.others:
            other = self.sections[stain]
            plan = training_plan(block, stain)
            # A patch without partner is in the region of the nearest one that has one.
            matched = np.flatnonzero(plan.sum(axis=0) > 0)
            near = matched[cdist(other.positions, other.positions[matched]).argmin(axis=1)]
            self.origin[stain] = plan.argmax(axis=0)[near]
            self.plans[stain] = self.rng.permutation(plan) if shuffled else plan

    def regions(self) -> NDArray[np.intp]:
        """Return the nearest of some random patches, for each patch of the asking section."""
        positions = self.sections[self.asking].positions
        centres = self.rng.choice(positions, REGIONS, replace=False)
        return cdist(positions, centres).argmin(axis=1)

    def draw(self) -> tuple[dict[str, NDArray[np.intp]], dict[str, NDArray[np.intp]]]:
        """Return rows and regions of the patches of a step, by section, sorted by region.

        Of the other sections partners of the asking section's patches first, then any.
        """
        region = self.regions()
        regions = {self.asking: region} | {s: region[self.origin[s]] for s in self.others}
        asked = self.rng.permutation(len(region))[:TOKENS]
        rows = {self.asking: asked}
        for stain, plan in self.plans.items():
            order = self.rng.permutation(plan.shape[1])
            is_partner = plan[asked].sum(axis=0)[order] > 0
            rows[stain] = order[np.argsort(~is_partner, kind="stable")][:TOKENS]
        for stain, drawn in rows.items():
            rows[stain] = drawn[np.argsort(regions[stain][drawn], kind="stable")]
        return rows, {s: regions[s][drawn] for s, drawn in rows.items()}


@cache
def start_directions(block: Block, held_out: str) -> Tensor:
    """Return principal directions of all sections but the held-out one, of unit mean variance."""
    rows = [v.features.astype(np.float64) for s, v in block.sections.items() if s != held_out]
    covariance = np.mean([np.cov(each.T, bias=True) for each in rows], axis=0)
    directions = principal_directions(covariance).double().numpy()
    variance = np.einsum("ij,jk,ik->", directions, covariance, directions)
    return torch.from_numpy((directions * (TOKEN_DIM / variance) ** 0.5).astype(np.float32))


class Learner:
    """Madeleine with the tokens of a method."""

    def __init__(self, pairs: Pairs, method: str, seed: int) -> None:
        size = RECIPE.model
        self.method = method
        self.aligned = None
        some = next(iter(pairs.features.values()))
        with torch.random.fork_rng():  # torch fills the layers from its global state first
            self.model = Madeleine(some.shape[1], WIDTH, size.heads, dropout=size.dropout)
            if method in ("start", "aligned", "info-nce", "shuffled"):
                directions = start_directions(pairs.block, pairs.held_out)
                self.aligned = AlignedTokens(directions, WIDTH * size.heads)
        initialise(self.model, seed_for("patch-retrieval", "start", seed))
        self.parameters = list(self.model.parameters())
        if self.aligned is not None:
            self.parameters += list(self.aligned.parameters())

    def project(self, patches: Tensor, slide_mean: Tensor, tokens: Tensor) -> Tensor:
        """Return tokens as the local objective compares them, patch x 128."""
        if self.aligned is None:
            return self.model.project_tokens(tokens)
        projected: Tensor = self.aligned(patches, slide_mean, tokens)
        return projected

    def local(self, first: Tensor, second: Tensor, plan: Tensor) -> Tensor:
        """Return the local loss of one pair of sections, token x 128 each."""
        if self.aligned is not None:
            loss = partner_info_nce if self.method == "info-nce" else partner_pull
            return loss(first[None], second[None], plan[None])
        drawn = [torch.randperm(len(side))[:TRANSPORTED] for side in (first, second)]
        published = self.method == "published"
        cost = graph_transport(first[None, drawn[0]], second[None, drawn[1]], published=published)
        return (cost.wasserstein + cost.gromov).sum()

    def loss(self, pairs: Pairs) -> Tensor:
        """Return the loss of one step: between regions, and of the tokens unless "contrast"."""
        rows, regions = pairs.draw()
        patches = {s: pairs.features[s][drawn] for s, drawn in rows.items()}
        bag = torch.cat(list(patches.values()))
        tokens, scores = self.model.embed_patches(bag)
        counts = np.stack([np.bincount(r, minlength=REGIONS) for r in regions.values()])
        embeddings = torch.zeros(counts.size, WIDTH)
        there = torch.from_numpy(np.flatnonzero(counts))
        lengths = counts[counts > 0].tolist()
        pooled = self.model.pool(tokens, scores, lengths, bag)
        embeddings = embeddings.index_copy(0, there, pooled).unflatten(0, counts.shape)
        split = dict(zip(rows, tokens.split(counts.sum(axis=1).tolist()), strict=True))
        total = torch.zeros(())
        for number, stain in enumerate(pairs.others, start=1):
            both = (counts[0] > 0) & (counts[number] > 0)
            first, second = embeddings[0][both], embeddings[number][both]
            total = total + info_nce(first, second, temperature=RECIPE.objective.temperature)
            if self.method != "contrast":
                sides = [
                    self.project(patches[s], pairs.features[s].mean(dim=0), split[s])
                    for s in (pairs.asking, stain)
                ]
                plan = pairs.plans[stain][np.ix_(rows[pairs.asking], rows[stain])]
                total = total + self.local(sides[0], sides[1], torch.from_numpy(plan))
        return total

    @torch.inference_mode()
    def tokens(self, features: Floats) -> tuple[Tensor, Tensor]:
        """Return tokens (patch x 512) and projected tokens (patch x 128) of a whole section."""
        patches = torch.from_numpy(np.asarray(features, np.float32))
        tokens, _ = self.model.embed_patches(patches)
        return tokens.flatten(1), self.project(patches, patches.mean(dim=0), tokens)


def collapse(projected: Tensor) -> list[float]:
    """Return the mean cosine between tokens, and their effective rank (1 where all are alike)."""
    unit = torch.nn.functional.normalize(projected.double(), dim=1)
    cosine = float(mean_token_cosine(unit[None])[0])
    return [round(cosine, 4), round(effective_rank(torch.linalg.svdvals(unit).numpy()), 2)]


def run(block: Block, held_out: str, method: str, seed: int) -> dict[str, Any]:
    """Train by a method without the held-out stain, and rank its landmarks."""
    pairs = Pairs(block, held_out, method == "shuffled", seed)
    learner = Learner(pairs, method, seed)
    model, asking = learner.model, block.sections[block.asking]
    adam = torch.optim.AdamW(learner.parameters, weight_decay=RECIPE.optimiser.weight_decay)
    curve = []
    steps = RECIPE.epochs if method in TRAINED else 0
    with torch.random.fork_rng():
        torch.manual_seed(seed_for("patch-retrieval", "dropout", seed))
        for step in range(steps + 1):
            if seed == SEEDS[0] and steps and step % CURVE_EVERY == 0:
                model.eval()
                curve.append([step, *collapse(learner.tokens(asking.features)[1])])
            if step == steps:
                break
            model.train()
            for group in adam.param_groups:
                group["lr"] = PRESETS["corrected"].learning_rate(step, 1, steps, RECIPE.optimiser)
            adam.zero_grad()
            learner.loss(pairs).backward()
            clip = RECIPE.optimiser.clip_norm or 1e9
            torch.nn.utils.clip_grad_norm_(learner.parameters, clip)
            adam.step()
    model.eval()
    sides = [learner.tokens(block.sections[s].places) for s in (block.asking, held_out)]
    wide, projected = (
        normalised_ranks(*(side[kind].double().numpy() for side in sides)) for kind in (0, 1)
    )
    found = [round(float(rank), 6) for rank in projected]
    result = {"ranks": found, "wide_ranks": [round(float(rank), 6) for rank in wide]}
    return result | {"collapse": collapse(sides[0][1]), "curve": curve}


def measure(block: Block, work: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the results of the runs of a block, by stain and method."""
    _, *searched = block.sections
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in SEEDS:
        for stain in searched:
            for method in METHODS[1:]:
                path = work / f"{block.name}-{stain}-{method}-{seed}.json"
                done = read_or_make(path, partial(run, block, stain, method, seed))
                runs.setdefault((stain, method), []).append(done)
    for stain in searched:
        sides = [block.sections[s].places.astype(np.float64) for s in (block.asking, stain)]
        runs[stain, "plain"] = [{"ranks": normalised_ranks(*sides).tolist()}]
    return runs


def read_or_make(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds; make and write it where there is none."""
    if not path.is_file():
        start = time.process_time()
        write_text(path, json.dumps(make()))
        print(path.stem, f"{time.process_time() - start:.1f} s", flush=True)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def interval(values: Sequence[Floats], name: str) -> list[float]:
    """Return mean and 95% interval of the mean of the blocks' means; landmarks are resampled."""
    means = []
    for number, each in enumerate(values):
        drawn = rng_for("patch-retrieval", name, number).integers(
            0, len(each), (RESAMPLES, len(each))
        )
        means.append(each[drawn].mean(axis=1))
    low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
    middle = float(np.mean([each.mean() for each in values]))
    return [round(float(number), 4) for number in (middle, low, high)]


def rows_of(
    blocks: Sequence[Block], found: Mapping[str, Mapping[tuple[str, str], list[dict[str, Any]]]]
) -> list[dict[str, Any]]:
    """Return a row for each method in each held-out stain, each block ("mean") and over all."""

    def ranks(name: str, stain: str, method: str, key: str = "ranks") -> Floats:
        runs = found[name]
        stains = [s for s, m in runs if m == "plain"] if stain == "mean" else [stain]
        each = [[one.get(key, one["ranks"]) for one in runs[s, method]] for s in stains]
        return np.mean([np.mean(one, axis=0) for one in each], axis=0)

    places = [(b.name, s, [b.name]) for b in blocks for s in (*list(b.sections)[1:], "mean")]
    places.append(("all", "mean", [b.name for b in blocks]))
    rows = []
    for name, stain, names in places:
        for method in METHODS:
            own = [ranks(n, stain, method) for n in names]
            row: dict[str, Any] = {"block": name, "stain": stain, "method": method}
            row["rank"] = interval(own, name)
            if method != "plain":
                plain = [ranks(n, stain, "plain") for n in names]
                row["less_plain"] = interval([a - b for a, b in zip(own, plain, strict=True)], name)
                if method == "aligned":
                    control = [ranks(n, stain, "shuffled") for n in names]
                    gaps = [a - b for a, b in zip(own, control, strict=True)]
                    row["less_shuffled"] = interval(gaps, name)
                wide = [ranks(n, stain, method, "wide_ranks") for n in names]
                base = [ranks(n, stain, "contrast", "wide_ranks") for n in names]
                gaps = [a - b for a, b in zip(wide, base, strict=True)]
                row["wide_less_contrast"] = interval(gaps, name)
                ends = [
                    one["collapse"]
                    for n in names
                    for (s, m), each in found[n].items()
                    if m == method and stain in (s, "mean")
                    for one in each
                ]
                row["token_cosine"], row["token_rank"] = np.mean(ends, axis=0).round(4).tolist()
            rows.append(row)
    return rows


def markdown_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table that docs/retrieval.md shows, a line each."""
    means = {(row["block"], row["method"]): row for row in rows if row["stain"] == "mean"}
    names = list(dict.fromkeys(block for block, _ in means))
    lines = [
        f"| method | {' | '.join(names[:-1])} | less plain, mean (95%) "
        "| token cosine | token rank |",
        "|---" * (len(names) + 3) + "|",
    ]
    for method in METHODS:
        cells = [f"{means[name, method]['rank'][0]:.3f}" for name in names[:-1]]
        row = means[names[-1], method]
        if method == "plain":
            cells += [""] * 3
        else:
            middle, low, high = row["less_plain"]
            cells.append(f"{middle:+.3f} ({low:+.3f} to {high:+.3f})")
            cells += [f"{row['token_cosine']:.4f}", f"{row['token_rank']:.1f}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    middle, low, high = means[names[-1], "aligned"]["less_shuffled"]
    return [*lines, "", f"aligned less shuffled: {middle:+.3f} ({low:+.3f} to {high:+.3f})"]


def plan_lines(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of map errors that docs/retrieval.md shows, a line each."""
    lines = [
        "| block | stain | patches | whole | asking section cut | searched section cut "
        "| features alone |",
        "|---" * 7 + "|",
    ]
    for row in plans:
        errors = [row[k] for k in ("whole", "asking_cut", "searched_cut", "features_alone")]
        cells = " | ".join(f"{error:.2f}" for error in errors)
        lines.append(f"| {row['block']} | {row['stain']} | {row['patches'][1]} | {cells} |")
    return lines


COLOURS = {
    "published": "#D55E00",
    "corrected": "#E69F00",
    "contrast": "#999999",
    "aligned": "#0072B2",
}


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return as SVG how each method's ranks differ from plain: a panel for each block."""
    table = pd.DataFrame(
        {
            "block": "mean of the blocks" if row["block"] == "all" else row["block"],
            "method": row["method"],
            **dict(zip(("gap", "low", "high"), row["less_plain"], strict=True)),
        }
        for row in rows
        if row["stain"] == "mean" and row["method"] != "plain"
    )
    step = 0.02
    ends = [np.floor(table["low"].min() / step) * step, np.ceil(table["high"].max() / step) * step]
    scale = alt.Scale(domain=[float(end) for end in ends], nice=False)
    panels = []
    for name, part in table.groupby("block", sort=False):
        base = alt.Chart(part).encode(y=alt.Y("method:N", sort=list(METHODS), title=None))
        zero = alt.Chart(pd.DataFrame({"gap": [0.0]})).mark_rule(color="#999999").encode(x="gap:Q")
        where = alt.X("low:Q", scale=scale, title="mean rank less that of plain features")
        bars = base.mark_rule(strokeWidth=2, color="#0072B2").encode(x=where, x2="high:Q")
        dots = base.mark_point(filled=True, size=60, opacity=1, color="#0072B2").encode(x="gap:Q")
        panels.append(
            alt.layer(zero, bars, dots).properties(width=300, height=190, title=str(name))
        )
    title = alt.Title(
        "Real sections: the same tissue found in a stain that training has not seen",
        subtitle="left of the line: better than plain features; 95% intervals over landmarks",
        anchor="start",
    )
    return styled_svg(alt.concat(*panels, columns=2, title=title, background="white", padding=12))


def collapse_figure(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Return as SVG the token cosine and the effective rank over the steps of training."""
    table = pd.DataFrame(
        {"method": method, "step": step, "cosine": cosine, "rank": rank}
        for method, curve in curves.items()
        for step, cosine, rank in curve
    )
    colour = alt.Color(
        "method:N",
        scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
        legend=alt.Legend(title=None, orient="bottom"),
    )
    panels = [
        alt.Chart(table)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="training step"),
            y=alt.Y(f"{field}:Q", title=label, scale=alt.Scale(zero=True)),
            color=colour,
        )
        .properties(width=300, height=220)
        for field, label in (
            ("cosine", "mean cosine between tokens of a slide"),
            ("rank", "effective rank of the tokens"),
        )
    ]
    title = alt.Title(
        "The published local objective makes all tokens of a slide alike",
        subtitle="H&E tokens of three real blocks; contrast: InfoNCE between regions alone",
        anchor="start",
    )
    return styled_svg(alt.hconcat(*panels, title=title, background="white", padding=12))


def main() -> None:
    """Extract, plan, train, rank, and write results and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--work", type=Path, required=True, help="folder of features and runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    wanted = parser.parse_args()
    wanted.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    blocks = read_blocks(wanted.data, wanted.work)
    plans = [
        read_or_make(
            wanted.work / f"{block.name}-{stain}-plan.json", partial(plan_row, block, stain)
        )
        for block in blocks
        for stain in list(block.sections)[1:]
    ]
    print("\n".join(plan_lines(plans)), flush=True)
    found = {block.name: measure(block, wanted.work) for block in blocks}
    rows = rows_of(blocks, found)
    curves = {
        method: np.mean(
            [
                runs[0]["curve"]
                for each in found.values()
                for (_, m), runs in each.items()
                if m == method
            ],
            axis=0,
        )
        .round(4)
        .tolist()
        for method in COLOURS
    }
    print("\n".join(markdown_rows(rows)))
    kept = {
        **machine_provenance(),
        "patch_encoder": ENCODER,
        "seeds": SEEDS,
        "steps": RECIPE.epochs,
        "tokens": TOKENS,
        "width": WIDTH,
        "learning_rate": RECIPE.optimiser.learning_rate,
        "chance": 0.5,
        "blocks": {block.name: block.title for block in blocks},
        "landmarks": {b.name: len(b.sections[b.asking].landmarks) for b in blocks},
        "plans": plans,
        "rows": rows,
        "curves": curves,
    }
    write_text(wanted.results / "patch_retrieval.json", json.dumps(kept, indent=1) + "\n")
    write_text(wanted.results / "patch_retrieval.svg", figure(rows))
    write_text(wanted.results / "token_collapse.svg", collapse_figure(curves))


if __name__ == "__main__":
    main()
