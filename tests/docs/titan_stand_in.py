"""A stand-in for TRIDENT with one network in place of TITAN, and bags as TRIDENT leaves them."""

from pathlib import Path

import numpy as np

from madeleine_bench.seeds import rng_for
from tests.tool_bags import write_bag_file

_WIDTH, _PATCHES, _SIDE_PX0 = 768, 6, 1024
_LOAD = f"""\
import torch


class Titan(torch.nn.Module):
    precision = torch.float16

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones({_WIDTH}))

    def forward(self, batch, device="cuda"):
        features = batch["features"]
        assert features.shape[::2] == (1, {_WIDTH}), features.shape
        assert batch["coords"].shape == (1, features.shape[1], 2), batch["coords"].shape
        assert type(batch["attributes"]["patch_size_level0"]) is int, batch["attributes"]
        return self.scale * features.mean(1)


def encoder_factory(name, pretrained=True, freeze=True):
    assert (name, pretrained, freeze) == ("titan", True, True)
    return Titan()
"""


def write_trident(folder: Path) -> Path:
    """Write the package, and return the folder for PYTHONPATH."""
    inside = folder / "trident" / "slide_encoder_models"
    inside.mkdir(parents=True)
    (folder / "trident" / "__init__.py").touch()
    (inside / "__init__.py").touch()
    (inside / "load.py").write_text(_LOAD)
    return folder


def write_titan_bags(
    folder: Path, slides: int, *, patch_encoder: str, magnification: int, patch_size: int
) -> None:
    """Write `1.h5` and so on: made-up features of the width of CONCHv1.5."""
    folder.mkdir(parents=True)
    places = np.stack(np.divmod(np.arange(_PATCHES), 3), axis=1) * _SIDE_PX0
    stated = {
        "patch_size": patch_size,
        "patch_size_level0": _SIDE_PX0,
        "target_magnification": magnification,
    }
    for slide in range(1, slides + 1):
        rng = rng_for("titan bags", str(slide))
        write_bag_file(
            folder / f"{slide}.h5",
            rng.standard_normal((_PATCHES, _WIDTH), dtype=np.float32),
            places,
            layout="trident",
            patch_encoder=patch_encoder,
            coords_attributes=stated,
        )
