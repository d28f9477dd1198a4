"""A cohort of bags in memory, to be packed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag, Silence, Source

DIM = 5
STAINS = ("H&E", "ER", "H&E", "HER2")
Change = Callable[[str, dict[str, Any]], None]


@dataclass
class MadeCohort:
    """A cohort of bags in memory; implements `CohortData`. `change` alters a bag when read."""

    slides: pd.DataFrame
    change: Change = lambda slide_id, bag: None
    no_bag: frozenset[str] = frozenset()
    cohort_id: str = "toy"
    source: Source = "local"
    variant: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    def read_bag(self, slide_id: str) -> Bag:
        self.read.append(slide_id)
        number = int(slide_id[1:])
        features = rng_for("bag", slide_id).standard_normal((3 + number, DIM), np.float32)
        bag = {"features": features, "patch_encoder": "conch_v1"}
        self.change(slide_id, bag)
        return Bag(slide_id=slide_id, case_id=f"c{number // 2}", stain=STAINS[number], **bag)

    def content_key(self, slide_id: str) -> str:
        return self.keys.get(slide_id, f"key of {slide_id}")


def make_cohort(**options: Any) -> MadeCohort:
    rows = [
        {"slide_id": f"s{n}", "case_id": f"c{n // 2}", "stain": stain, "site": ""}
        for n, stain in enumerate(STAINS)
    ]
    return MadeCohort(pd.DataFrame(rows), **options)


def changing(name: str, **values: Any) -> Change:
    def change(slide_id: str, bag: dict[str, Any]) -> None:
        if slide_id == name:
            bag.update(values)

    return change


def poking(name: str, value: float) -> Change:
    def change(slide_id: str, bag: dict[str, Any]) -> None:
        if slide_id == name:
            bag["features"][1, 2] = value

    return change


def with_coords(slide_id: str, bag: dict[str, Any]) -> None:
    """Give every slide but the second coords, and all of them a geometry."""
    if slide_id != "s1":
        bag["coords"] = np.arange(2 * len(bag["features"]), dtype=np.int64).reshape(-1, 2)
    bag.update(magnification=20.0, patch_size=512, patch_size_level0=1024)


class Told(Silence):
    """Progress that remembers its phases, the slides of each, and what was said."""

    def __init__(self) -> None:
        self.phases: dict[str, list[str]] = {}
        self.said: list[str] = []

    def phase(self, name: str, total: int) -> None:
        self.last = self.phases.setdefault(name, [])

    def advance(self, note: str) -> None:
        self.last.append(note)

    def say(self, line: str) -> None:
        self.said.append(line)


def files(folder: Path) -> list[str]:
    """Names of what lies in a folder, hidden files left out."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def flip(path: Path, position: int) -> None:
    """Change one bit of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
