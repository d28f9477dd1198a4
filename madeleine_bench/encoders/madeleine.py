"""Madeleine as a slide encoder: the H&E branch of the published model, on CPU or GPU."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import BaseEncoder
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag


class UntrainedMadeleine(BaseEncoder):
    """Madeleine's architecture with random weights: what the architecture alone is worth."""

    def __init__(
        self, card: EncoderCard, weights: Path | None = None, *, width: int = 512, heads: int = 4
    ) -> None:
        super().__init__(card, weights)
        self.width, self.heads = width, heads
        self._models: dict[int, object] = {}

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the slide embedding, shape (width,)."""
        import torch

        from madeleine_bench.models.madeleine import Madeleine, initialise
        from madeleine_bench.seeds import seed_for

        input_dim = bag.features.shape[1]
        model = self._models.get(input_dim)
        if model is None:
            model = Madeleine(input_dim, self.width, self.heads).eval()
            initialise(model, seed_for("untrained-madeleine", input_dim, self.width, self.heads))
            self._models[input_dim] = model
        assert isinstance(model, Madeleine)
        with torch.inference_mode():
            features = torch.from_numpy(np.ascontiguousarray(bag.features, dtype=np.float32))
            embedding: NDArray[np.float32] = model.encode(features).numpy()
        return embedding
