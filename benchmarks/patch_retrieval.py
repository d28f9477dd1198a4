"""Does the local objective help to find the same tissue in another stain? On real sections.

Three blocks of real tissue: two mouse lung lesions (H&E, Ki67, CD31, proSPC, CC10 with 80 landmarks;
H&E, CD31, proSPC with 78), and five registered serial sections whose stains are not named (the same
pixel is the same tissue; places of a grid serve as landmarks). One section asks (H&E; of the serial
ones the middle of the stack), another one is searched: the partner of each landmark is ranked among
all landmarks, 0 is first, 1 is last, chance .5. By cosine, each stain centred. Every method but
"plain" is trained on the pairs of the asking section with the *other* stains of the block, and
tested on a stain that it has not seen.

- plain: the patch features as they are;
- untrained: the token projector of Madeleine before training, random;
- contrast: trained by InfoNCE between regions of the block alone (8 regions around random patches
  in each step, the same regions in the other stain by the plan; a block has no other cases);
- published, corrected: contrast plus graph optimal transport of the tokens, both forms;
- start: the tokens of "aligned" before training;
- aligned: contrast plus `partner_info_nce` of the tokens by the plan;
- pull: contrast plus `partner_pull`, the other local loss, which was not chosen;
- shuffled: aligned, with the rows of the plan shuffled within regions.

    PYTHONPATH=. python benchmarks/patch_retrieval.py --data ../shared/data --work /tmp/patches

Writes benchmarks/results/patch_retrieval.{json,svg} and token_collapse.svg. Features and finished
runs are kept in --work, so that a second call continues. Some 20 minutes of one core. The settings
are the recipe's, but for the width (128, as tokens of four heads then have 512 dimensions).
"""

import argparse
import json
import time
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
from scipy.interpolate import RBFInterpolator
from scipy.sparse import csr_array
from scipy.spatial import Delaunay
from scipy.spatial.distance import cdist
from torch import Tensor

from benchmarks.lung_landmarks import MPP, PATCH_PX, STAINS, normalised_ranks
from madeleine_bench.embeddings.cloud import effective_rank
from madeleine_bench.figures import styled_svg
from madeleine_bench.files import write_text
from madeleine_bench.losses.aligned import partner_info_nce, partner_pull
from madeleine_bench.losses.cosine import info_nce
from madeleine_bench.losses.plan import transport_plan
from madeleine_bench.losses.transport import graph_transport
from madeleine_bench.models.aligned_tokens import AlignedTokens, principal_directions
from madeleine_bench.models.madeleine import TOKEN_DIM, Madeleine, initialise
from madeleine_bench.pretrain.heldout import mean_token_cosine
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.pretrain.run import learning_rate_at
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for, seed_for
from madeleine_bench.slides.patch_encoders import find_patch_encoder, load_patch_encoder
from madeleine_bench.slides.patches import tissue_share
from madeleine_bench.slides.tissue import segment_tissue

RESULTS = Path(__file__).resolve().parent / "results"
ENCODER = "efficientnet-lite0"
SEEDS = (0, 1, 2)
TRAINED = ("contrast", "published", "corrected", "aligned", "pull", "shuffled")
METHODS = ("plain", "untrained", "start", *TRAINED)
RESAMPLES = 10_000
# Optimiser, warm-up, temperature and epochs are the recipe's defaults, those of the paper. One
# block is one step an epoch.
RECIPE = Recipe(name="patches", encoder="madeleine", cohort="acrobat")
WIDTH = 128
TOKENS = 160  # of a section in a step
TRANSPORTED = 64  # of them, by the published and the corrected objective
REGIONS = 8
CURVE_EVERY = 6  # steps
SERIAL_PX = 32
SERIAL_MPP = 4.0  # not stated; it sets the blur of the tissue mask alone

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Section:
    """One stain of a block; positions are in sides of a patch, centres.

    Attributes:
        features: of the patches of tissue, half a patch apart, patch x dim.
        positions: of them, patch x 2.
        places: features around the landmarks, row i the same tissue in all sections of a block.
        landmarks: their positions, landmark x 2.
    """

    features: Floats
    positions: Floats
    places: Floats
    landmarks: Floats


@dataclass(frozen=True)
class Block:
    """The sections of one piece of tissue; the first one asks."""

    name: str
    title: str
    sections: Mapping[str, Section]

    @property
    def asking(self) -> str:
        """The name of the section that asks."""
        return next(iter(self.sections))


def read_blocks(data: Path, work: Path) -> list[Block]:
    """Return the three blocks; features are computed where `work` does not have them."""
    lesion_1, lesion_3 = data / "lung_lesion_1", data / "multistain_lung"
    scale = 1200 / 890  # lesion 1 has larger pictures of the same scanner; landmarks are at 50%
    serial = sorted((data / "serial_ihc").glob("*.png"))
    names = [f"section {path.name[0]}" for path in serial]
    middle = names[len(names) // 2]
    pictures = dict(sorted(zip(names, serial, strict=True), key=lambda item: item[0] != middle))
    return [
        _lung("les3", "Mouse lung, lesion 3, from H&E", lesion_3, 1.0, work),
        _lung("les1", "Mouse lung, lesion 1, from H&E", lesion_1, scale, work),
        _block("serial", f"Serial sections, from {middle}", pictures, SERIAL_PX, SERIAL_MPP, {}, work),
    ]


def _lung(name: str, title: str, folder: Path, scale: float, work: Path) -> Block:
    """Return a lung lesion: the stains that have a picture."""
    pictures, landmarks = {}, {}
    for stain, word in STAINS.items():
        for path in folder.glob(f"*-{word}-*.jpg"):
            table = next(p for p in sorted(folder.glob(f"*-{word}-*.csv")) if "_JB_" not in p.name)
            pictures[stain] = path
            landmarks[stain] = pd.read_csv(table)[["X", "Y"]].to_numpy(np.float64) / 10.0 * scale
    return _block(name, title, pictures, round(PATCH_PX * scale), MPP / scale, landmarks, work)


def _block(
    name: str,
    title: str,
    pictures: Mapping[str, Path],
    px: int,
    mpp: float,
    landmarks: Mapping[str, Floats],
    work: Path,
) -> Block:
    """Return the sections of pictures; without landmarks, places of a grid that all have."""
    kept = work / f"{name}.npz"
    if not kept.is_file():
        encoder = load_patch_encoder(find_patch_encoder(ENCODER))
        read = {stain: np.asarray(Image.open(p).convert("RGB")) for stain, p in pictures.items()}
        coords = {stain: tissue_coords(picture, px, mpp) for stain, picture in read.items()}
        if not landmarks:
            grids = [{tuple(c) for c in each if not (c % px).any()} for each in coords.values()]
            shared = np.array(sorted(set.intersection(*grids))) + px / 2
            landmarks = dict.fromkeys(read, shared)
        arrays = {}
        for stain, picture in read.items():
            corners = np.rint(landmarks[stain] - px / 2).astype(int)
            arrays[f"{stain}/features"] = encoder.encode(cut(picture, coords[stain], px))
            arrays[f"{stain}/positions"] = coords[stain] / px + 0.5
            arrays[f"{stain}/places"] = encoder.encode(cut(picture, corners, px))
            arrays[f"{stain}/landmarks"] = landmarks[stain] / px
            print(name, stain, len(coords[stain]), "patches", flush=True)
        np.savez(kept, **arrays)
    with np.load(kept) as arrays:
        fields = Section.__dataclass_fields__
        sections = {s: Section(**{f: arrays[f"{s}/{f}"] for f in fields}) for s in pictures}
    return Block(name, title, sections)


def tissue_coords(picture: NDArray[np.uint8], px: int, mpp: float) -> NDArray[np.int32]:
    """Return the corners of patches, half a patch apart, of which half or more is tissue."""
    height, width = picture.shape[:2]
    corners = [
        (x, y)
        for y in range(0, height - px + 1, px // 2)
        for x in range(0, width - px + 1, px // 2)
    ]
    coords = np.array(corners, np.int32)
    share = tissue_share(segment_tissue(picture, mpp).mask, coords, px, (1.0, 1.0))
    return coords[share >= 0.5]


def cut(picture: NDArray[np.uint8], corners: NDArray[Any], px: int) -> NDArray[np.uint8]:
    """Return the patches at some corners (x, y), mirrored beyond the edge: patch x px x px x 3."""
    padded = np.pad(picture, ((px, px), (px, px), (0, 0)), mode="reflect")
    return np.stack([padded[y + px : y + 2 * px, x + px : x + 2 * px] for x, y in corners])


def map_error(
    plan: csr_array, asking: Section, searched: Section, kept: NDArray[np.bool_]
) -> float:
    """Return the median distance of partners from where the landmarks put them, in patch sides.

    Over the patches that the plan gives a partner, that lie among the landmarks, and whose true
    partner is in the searched section.

    Args:
        plan: kept patch of the asking section x patch of the searched section.
        asking: whole section.
        searched: section the plan was made for.
        kept: which patches of the asking section the plan has.
    """
    positions = asking.positions[kept]
    transform = RBFInterpolator(asking.landmarks, searched.landmarks, smoothing=1.0)
    truth = transform(positions)
    weight = plan.sum(axis=1)
    valid = (weight > 0) & (Delaunay(asking.landmarks).find_simplex(positions) >= 0)
    valid &= cdist(truth, searched.positions).min(axis=1) < 0.75
    partners = (plan @ searched.positions)[valid] / weight[valid, None]
    return float(np.median(np.linalg.norm(partners - truth[valid], axis=1)))


def plan_row(block: Block, stain: str) -> dict[str, Any]:
    """Return how far off the partners of a plan are: of whole sections, cut ones, features alone."""
    asking, searched = block.sections[block.asking], block.sections[stain]
    everything = np.full(len(asking.positions), True)
    right = asking.positions[:, 1] > np.quantile(asking.positions[:, 1], 0.3)
    left = searched.positions[:, 0] <= np.quantile(searched.positions[:, 0], 0.7)
    less = Section(
        searched.features[left], searched.positions[left], searched.places, searched.landmarks
    )
    row: dict[str, Any] = {"block": block.name, "stain": stain}
    row |= {"patches": [len(asking.positions), len(searched.positions)]}
    for name, rows, other, located in (
        ("whole", everything, searched, True),
        ("asking_cut", right, searched, True),
        ("searched_cut", everything, less, True),
        ("features_alone", everything, searched, False),
    ):
        places = (asking.positions[rows], other.positions) if located else (None, None)
        start = time.perf_counter()
        plan = transport_plan(asking.features[rows], other.features, *places)
        if name == "whole":
            row["seconds"] = round(time.perf_counter() - start, 2)
        row[name] = round(map_error(plan, asking, other, rows), 3)
    return row


class Pairs:
    """The pairs that a run trains on, and the patches and regions of each step."""

    def __init__(self, block: Block, held_out: str, shuffled: bool, seed: int) -> None:
        self.rng = rng_for("patch-retrieval", block.name, held_out, seed)
        self.sections = {s: v for s, v in block.sections.items() if s != held_out}
        self.asking, *self.others = self.sections
        self.features = {
            s: torch.from_numpy(np.asarray(v.features, np.float32))
            for s, v in self.sections.items()
        }
        first = self.sections[self.asking]
        self.plans, self.origin = {}, {}
        for stain in self.others:
            other = self.sections[stain]
            plan = transport_plan(
                first.features, other.features, first.positions, other.positions
            ).toarray()
            # A patch without partner is in the region of the nearest one that has one.
            matched = np.flatnonzero(plan.sum(axis=0))
            near = matched[cdist(other.positions, other.positions[matched]).argmin(axis=1)]
            self.origin[stain] = plan.argmax(axis=0)[near]
            self.plans[stain] = plan[self._order_within_regions()] if shuffled else plan

    def regions(self) -> NDArray[np.intp]:
        """Return the nearest of some random patches, for each patch of the asking section."""
        positions = self.sections[self.asking].positions
        centres = self.rng.choice(positions, REGIONS, replace=False)
        return cdist(positions, centres).argmin(axis=1)

    def _order_within_regions(self) -> NDArray[np.intp]:
        region = self.regions()
        order = np.arange(len(region))
        for number in range(REGIONS):
            rows = np.flatnonzero(region == number)
            order[rows] = self.rng.permutation(rows)
        return order

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


class Learner:
    """Madeleine with the tokens of a method."""

    def __init__(self, pairs: Pairs, method: str, seed: int) -> None:
        size = RECIPE.model
        self.method = method
        some = next(iter(pairs.features.values()))
        with torch.random.fork_rng():  # torch fills the layers from its global state first
            self.model = Madeleine(some.shape[1], WIDTH, size.heads, dropout=size.dropout)
        initialise(self.model, seed_for("patch-retrieval", "start", seed))
        self.parameters = list(self.model.parameters())
        self.aligned = None
        if method in ("start", "aligned", "pull", "shuffled"):
            rows = [f.double().numpy() for f in pairs.features.values()]
            covariance = np.mean([np.cov(f.T, bias=True) for f in rows], axis=0)
            directions = principal_directions(covariance).double().numpy()
            variance = np.einsum("ij,jk,ik->", directions, covariance, directions)
            scaled = torch.from_numpy((directions / variance**0.5).astype(np.float32))
            self.aligned = AlignedTokens(scaled, WIDTH * size.heads)
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
            loss = partner_pull if self.method == "pull" else partner_info_nce
            return loss(first[None], second[None], plan[None])
        drawn = [torch.randperm(len(side))[:TRANSPORTED] for side in (first, second)]
        published = self.method == "published"
        cost = graph_transport(first[None, drawn[0]], second[None, drawn[1]], published=published)
        return (cost.wasserstein + cost.gromov).sum()

    def loss(self, pairs: Pairs) -> Tensor:
        """Return the loss of one step: between regions, and of the tokens unless "contrast"."""
        rows, regions = pairs.draw()
        patches = {s: pairs.features[s][drawn] for s, drawn in rows.items()}
        tokens, scores = self.model.embed_patches(torch.cat(list(patches.values())))
        counts = np.stack([np.bincount(r, minlength=REGIONS) for r in regions.values()])
        embeddings = torch.zeros(counts.size, WIDTH)
        there = torch.from_numpy(np.flatnonzero(counts))
        pooled = self.model.pool(tokens, scores, counts[counts > 0].tolist())
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
                curve.append([step, *collapse(learner.model.eval() and learner.tokens(asking.features)[1])])
            if step == steps:
                break
            model.train()
            for group in adam.param_groups:
                group["lr"] = learning_rate_at(step, 1, steps, RECIPE.optimiser)
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
