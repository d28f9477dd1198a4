"""Slides made for the tests, small and exact."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.pictures import write_pyramid

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def noise(height: int, width: int) -> np.ndarray:
    return rng_for("tests", "noise", height, width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def section(height: int, width: int, margin: int) -> np.ndarray:
    """A pink rectangle with dark nuclei on white glass, `margin` pixels of it all around."""
    rng = rng_for("tests", "section", height, width)
    picture = np.full((height, width, 3), 245, dtype=np.uint8)
    inside = (slice(margin, height - margin), slice(margin, width - margin))
    shape = picture[inside].shape[:2]
    picture[inside] = (214, 140, 182)
    nuclei = rng.random(shape) < 0.15
    picture[inside][nuclei] = (92, 60, 140)
    return picture


def plain_tiff(path: Path, picture: np.ndarray, **tags) -> Path:
    """A tiled TIFF without a resolution, unless `tags` give one."""
    tifffile.imwrite(path, picture, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    return path


@pytest.fixture(scope="session")
def aperio() -> Path:
    path = SHARED / "wsi" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        pytest.skip(f"the real Aperio slide is not there: {path}")
    return path


@pytest.fixture
def slide_file(tmp_path) -> Path:
    """A slide of 1000 x 700 px at 0.5 micrometres a pixel: tissue with glass around it."""
    path = tmp_path / "section.tif"
    write_pyramid(path, section(700, 1000, 120), mpp=0.5, description="test")
    return path
