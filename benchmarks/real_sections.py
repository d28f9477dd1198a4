"""Blocks of real tissue in several stains, with landmarks: features, positions, plans between them.

Two mouse lung lesions (CIMA data set, ANHIR challenge) and five registered serial sections. Patches
of tissue lie half a patch apart, so that each section has some 300 to 560.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import RBFInterpolator
from scipy.sparse import csr_array
from scipy.spatial import Delaunay
from scipy.spatial.distance import cdist

from benchmarks.lung_landmarks import MPP, PATCH_PX, STAINS
from madeleine_bench.losses.plan import transport_plan
from madeleine_bench.slides.patch_encoders import find_patch_encoder, load_patch_encoder
from madeleine_bench.slides.patches import tissue_share
from madeleine_bench.slides.tissue import segment_tissue

ENCODER = "efficientnet-lite0"
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


@dataclass(frozen=True, eq=False)
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
        _block(
            "serial", f"Serial sections, from {middle}", pictures, SERIAL_PX, SERIAL_MPP, {}, work
        ),
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
    """Return the map errors of plans: of whole sections, of cut ones, by features alone."""
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
        plan = transport_plan(asking.features[rows], other.features, *places, blur=0.0)
        if name == "whole":
            row["seconds"] = round(time.perf_counter() - start, 2)
        row[name] = round(map_error(plan, asking, other, rows), 3)
    return row


@cache
def training_plan(block: Block, stain: str) -> Floats:
    """Return the plan that is trained on, patch of the asking section x patch of the other one."""
    first, other = block.sections[block.asking], block.sections[stain]
    given = first.features, other.features, first.positions, other.positions
    return transport_plan(*given).toarray()
