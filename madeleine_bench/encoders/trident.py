"""Slide encoders of others through TRIDENT: TITAN, PRISM, CHIEF, GigaPath, FEATHER, Madeleine.

References:
    github.com/mahmoodlab/TRIDENT, slide_encoder_models/load.py; Zhang et al., arXiv 2502.06750.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import BaseEncoder
from madeleine_bench.encoders.trident_loading import (
    MODELS,
    PIP,
    ExternalModel,
    installed,
    load_network,
    trident_factory,
)
from madeleine_bench.errors import InputError
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.types import Bag

IMPLEMENTATION = "madeleine_bench.encoders.trident:TridentEncoder"
NO_LEVEL0_SIZE = (
    "its file does not state patch_size_level0, the side of a patch in level-0 pixels, by which "
    "the model places the patches; TRIDENT, AtlasPatch and mbench features extract state it"
)


class TridentEncoder(BaseEncoder):
    """A slide encoder that TRIDENT loads; its code and weights are its authors'.

    On a GPU it runs in the precision that TRIDENT names for the model, on the CPU in float32.
    Models that use places see the patches column by column, the order in which TRIDENT writes
    them, so that the order in the file does not count: GigaPath reads them as a sequence.
    """

    def __init__(
        self,
        card: EncoderCard,
        weights: Path | None = None,
        *,
        model: str,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        """Load the network. This runs TRIDENT's code, and for some models code from the hub.

        Raises:
            InputError: there is no such model or device; TRIDENT is absent or another package;
                the weights are refused, absent or out of reach.
        """
        super().__init__(card, weights)
        if model not in MODELS:
            raise InputError(f"there is no model '{model}'{did_you_mean(model, sorted(MODELS))}")
        self.model = MODELS[model]
        create = trident_factory(card.name, model)
        self.device = _device(device)
        self._network = load_network(create, card.name, model).to(self.device).eval()

    @property
    def n_parameters(self) -> int:
        """Of the whole network that TRIDENT loaded."""
        return sum(part.numel() for part in self._network.parameters())

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the slide embedding, shape (dim,), float32.

        Raises:
            InputError: the model uses places and the bag has no coordinates or does not state
                the size of its patches; the network returned something else than one vector.
        """
        import torch

        batch = self._batch(bag)
        with torch.inference_mode(), self._precision():
            out = self._network(batch, device=self.device)
        if not isinstance(out, torch.Tensor):
            raise InputError(
                f"TRIDENT's model returned a {type(out).__name__}, expected one vector; {_other()}"
            )
        vector: NDArray[np.floating] = out.float().cpu().numpy()
        if vector.ndim == 2 and len(vector) == 1:
            vector = vector[0]
        if vector.ndim != 1:
            raise InputError(
                f"TRIDENT's model returned shape {vector.shape}, expected one vector; {_other()}"
            )
        return vector

    def _batch(self, bag: Bag) -> dict[str, Any]:
        """Return what TRIDENT's models take: features 1 x patch x dim, and coords 1 x patch x 2."""
        import torch

        attributes = {}
        if bag.patch_size_level0 is not None:
            attributes["patch_size_level0"] = bag.patch_size_level0
        elif self.model.places:
            raise InputError(NO_LEVEL0_SIZE)
        features = np.ascontiguousarray(bag.features, dtype=np.float32)
        batch: dict[str, Any] = {"attributes": attributes}
        if self.model.places:
            if bag.coords is None:
                raise InputError(
                    "the bag has no coordinates in level-0 pixels, by which the model places the "
                    "patches; CLAM, TRIDENT, AtlasPatch and mbench features extract write them "
                    "(STAMP's are in micrometres)"
                )
            coords = np.rint(bag.coords).astype(np.int64)
            column_by_column = np.lexsort((coords[:, 1], coords[:, 0]))
            features = features[column_by_column]
            batch["coords"] = torch.tensor(coords[column_by_column])[None].to(self.device)
        batch["features"] = torch.tensor(features)[None].to(self.device)
        return batch

    def _precision(self) -> AbstractContextManager[Any]:
        import torch

        named = getattr(self._network, "precision", torch.float32)
        if self.device == "cuda" and named in (torch.float16, torch.bfloat16):
            return torch.autocast("cuda", dtype=named)
        return nullcontext()


def needs(card: EncoderCard) -> str:
    """Return what must be there that does not ship, for tables; "" for nothing."""
    model = _model_of(card)
    if model is None:
        return ""
    return ("" if installed() else "TRIDENT, ") + "gated " * model.gated + "weights"


def weights_page(card: EncoderCard) -> str:
    """Return where the weights are asked for; "" for an encoder that is not TRIDENT's."""
    model = _model_of(card)
    return "" if model is None else model.page


def needs_level0_size(card: EncoderCard) -> bool:
    """Return whether an encoder can do nothing with a bag that states no patch_size_level0."""
    model = _model_of(card)
    return model is not None and model.places


def _model_of(card: EncoderCard) -> ExternalModel | None:
    ours = card.implementation == IMPLEMENTATION
    return MODELS.get(str(card.parameters.get("model"))) if ours else None


def _device(asked: str) -> str:
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"there is no device '{asked}'{did_you_mean(asked, ['auto', 'cpu', 'cuda'])}"
        )
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise InputError("device cuda: torch sees no GPU here; take device: auto or cpu")
    return "cuda" if there and asked != "cpu" else "cpu"


def _other() -> str:
    return f"another version of TRIDENT may fit: {PIP}"
