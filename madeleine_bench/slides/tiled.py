"""Pictures in tiles, read tile by tile: for slides that OpenSlide refuses, and large pictures.

A few decoded tiles stay in memory. No file stays open, so threads and processes may read at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]

_CACHE_BYTES = 32 * 1024**2


@dataclass(frozen=True, eq=False)
class TiledImage:
    """One picture in tiles, or in strips (tiles as wide as the picture).

    Attributes:
        width: width in pixels.
        height: height in pixels.
        tile: width and height of a tile.
        samples: channels of a pixel.
        dtype: type of a sample.
        decode_tile: returns the tile of a column and row, height x width x samples, possibly cut
            off at the edge of the picture; None where the file holds none.
    """

    width: int
    height: int
    tile: tuple[int, int]
    samples: int
    dtype: np.dtype[Any]
    decode_tile: Callable[[int, int], Pixels | None]
    _cached: Callable[[int, int], Pixels | None] = field(init=False)

    def __post_init__(self) -> None:
        """Keep the tiles that were read last."""
        tile_bytes = self.tile[0] * self.tile[1] * self.samples * self.dtype.itemsize
        kept = lru_cache(maxsize=max(2, _CACHE_BYTES // max(1, tile_bytes)))(self.decode_tile)
        object.__setattr__(self, "_cached", kept)

    def read(self, left: int, top: int, width: int, height: int) -> Pixels:
        """Return an area, height x width x samples; what the file does not hold is white.

        Raises:
            OSError: a tile cannot be read or decoded.
        """
        white = np.iinfo(self.dtype).max if self.dtype.kind in "ui" else 1
        area = np.full((height, width, self.samples), white, dtype=self.dtype)
        across, down = self.tile
        right, bottom = min(left + width, self.width), min(top + height, self.height)
        for row in range(max(top, 0) // down, math.ceil(bottom / down)):
            for column in range(max(left, 0) // across, math.ceil(right / across)):
                try:
                    pixels = self._cached(column, row)
                except Exception as error:  # each codec raises errors of its own
                    raise OSError(f"{type(error).__name__}: {error}") from error
                if pixels is None:
                    continue
                x, y = column * across, row * down
                x0, y0 = max(left, x), max(top, y)
                x1, y1 = min(right, x + pixels.shape[1]), min(bottom, y + pixels.shape[0])
                area[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[
                    y0 - y : y1 - y, x0 - x : x1 - x
                ]
        return area


class TiledSlide:
    """A pyramid of tiled pictures, with the methods of `openslide.OpenSlide` that are used here."""

    def __init__(self, levels: Sequence[TiledImage], properties: dict[str, str]) -> None:
        """Take the levels, the largest first, and what the file says under OpenSlide's names."""
        self.levels = sorted(levels, key=lambda level: -level.width)
        self.properties = properties
        self.level_dimensions = tuple((level.width, level.height) for level in self.levels)
        self.dimensions = width, height = self.level_dimensions[0]
        self.level_downsamples = tuple(
            (width / w + height / h) / 2 for w, h in self.level_dimensions
        )

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """Return a region, RGBA; `location` is in level-0 pixels, `size` in pixels of the level.

        Raises:
            OSError: a tile cannot be read or decoded.
        """
        left, top = (math.floor(place / self.level_downsamples[level]) for place in location)
        pixels = self.levels[level].read(left, top, *size)
        rgb = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
        return Image.fromarray(rgb).convert("RGBA")


def read_bytes(path: Path, offset: int, count: int) -> bytes:
    """Return a part of a file.

    Raises:
        EOFError: the file is shorter.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(count)
    if len(data) < count:
        raise EOFError(f"the file ends before byte {offset + count}")
    return data
