"""Third-party slide encoders through TRIDENT: TITAN, PRISM, CHIEF, GigaPath, FEATHER, Madeleine.

TRIDENT is not on PyPI, most of the weights are gated, and TRIDENT takes no path of a weights file:
what a user has already is found in the cache of the hub (HF_HOME), or where TRIDENT's own
slide_encoder_models/local_ckpts.json points to (docs/external-encoders.md).

References:
    github.com/mahmoodlab/TRIDENT, slide_encoder_models/load.py; Zhang et al., arXiv 2502.06750.
"""

import importlib
import importlib.util
import io
from contextlib import AbstractContextManager, chdir, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import BaseEncoder, as_array
from madeleine_bench.errors import InputError
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.types import Bag

if TYPE_CHECKING:
    import torch

PIP = "pip install git+https://github.com/mahmoodlab/TRIDENT"
_LOADER = "trident.slide_encoder_models.load"
IMPLEMENTATION = "madeleine_bench.encoders.trident:TridentEncoder"
NO_LEVEL0_SIZE = (
    "its file does not state patch_size_level0, the side of a patch in level-0 pixels, by which "
    "the model places the patches; TRIDENT, AtlasPatch and mbench features extract state it"
)


class ExternalModel(NamedTuple):
    """What a model of TRIDENT's needs.

    Attributes:
        page: where its weights are asked for.
        more: what it needs besides TRIDENT.
        gated: whether they are given out on request alone.
        places: whether it uses the coordinates of the patches and their size at level 0.
    """

    page: str
    more: str = "pip install 'transformers>=4.51,<5'"
    gated: bool = True
    places: bool = False


# By their names in TRIDENT; the facts are of its README and slide_encoder_models/load.py.
MODELS = {
    "care": ExternalModel("https://huggingface.co/Zipper-1/CARE", places=True),
    "chief": ExternalModel(
        "https://github.com/hms-dbmi/CHIEF",
        "pip install addict; a clone of that repository with CHIEF_pretraining.pth and "
        "Text_emdding.pth, from the page's link, in its model_weight/, and the path of the clone "
        'under "chief" in trident/slide_encoder_models/local_ckpts.json',
        gated=False,
    ),
    "feather": ExternalModel("https://huggingface.co/MahmoodLab/abmil.base.conch_v15.pc108-24k"),
    "gigapath": ExternalModel(
        "https://huggingface.co/prov-gigapath/prov-gigapath",
        "an NVIDIA GPU; pip install fairscale flash-attn "
        "git+https://github.com/prov-gigapath/prov-gigapath.git",
        places=True,
    ),
    "madeleine": ExternalModel(
        "https://huggingface.co/MahmoodLab/madeleine",
        "pip install git+https://github.com/mahmoodlab/MADELEINE.git (or go without TRIDENT: "
        "mbench encoders import madeleine-official)",
    ),
    "prism": ExternalModel(
        "https://huggingface.co/paige-ai/Prism",
        "pip install environs==11.0.0 sacremoses==0.1.1 'transformers>=4.51,<5'",
    ),
    "titan": ExternalModel("https://huggingface.co/MahmoodLab/TITAN", places=True),
}


def installed() -> bool:
    """Return whether TRIDENT, not the astrophysics code, is installed; nothing of it is run."""
    spec = importlib.util.find_spec("trident")
    places = (spec and spec.submodule_search_locations) or ()
    return any((Path(place) / "slide_encoder_models").is_dir() for place in places)


def load_network(name: str, model: str) -> "torch.nn.Module":
    """Return a network of TRIDENT's with its weights.

    Args:
        name: of the encoder, for messages.
        model: its name in TRIDENT.

    Raises:
        InputError: TRIDENT is not installed, is another package of the name, cannot be imported,
            does not know the model, or could not get its weights or build it.
    """
    about = MODELS[model]
    if not installed():
        raise InputError(
            f"{name}: it is loaded by TRIDENT, which is not installed; {PIP} (the package "
            "'trident' on PyPI is an astrophysics code: pip uninstall trident). Its weights"
            f"{' are gated: ask for access' * about.gated}: {about.page}"
        )
    try:
        # TRIDENT prints tracebacks of what it then raises; for CHIEF it changes the folder too.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), chdir("."):
            create = importlib.import_module(_LOADER).encoder_factory
            network: torch.nn.Module = create(model, pretrained=True, freeze=True)
            return network
    except Exception as error:  # TRIDENT, the hub and the network each raise their own
        raise InputError(
            f"{name}: TRIDENT could not load the model '{model}'\n"
            f"{type(error).__name__}: {str(error).strip()[:300]}\n"
            f"It needs a recent TRIDENT ({PIP}); {about.more}; and its weights: ask for access at "
            f"{about.page}, then log in (hf auth login). On a machine without network, bring the "
            "cache of one that has fetched them and set HF_HOME to it and HF_HUB_OFFLINE=1"
        ) from error


class TridentEncoder(BaseEncoder):
    """A slide encoder that TRIDENT loads; its code and weights are its authors'.

    On a GPU it runs in the precision that TRIDENT names for the model, on the CPU in float32.
    Models that use places see the patches column by column, the order in which TRIDENT writes
    them, so that the order in the file does not count: GigaPath reads them as a sequence.
    """

    def __init__(self, card: EncoderCard, weights: Path | None = None, *, model: str) -> None:
        """Load the network. This runs TRIDENT's code, and for some models code from the hub.

        Raises:
            InputError: there is no such model; TRIDENT is absent or another package;
                the weights are refused, absent or out of reach.
        """
        super().__init__(card, weights)
        if model not in MODELS:
            raise InputError(f"there is no model '{model}'{did_you_mean(model, sorted(MODELS))}")
        import torch

        self.model = MODELS[model]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = load_network(card.name, model).to(self.device).eval()

    @property
    def n_parameters(self) -> int:
        """Of the whole network that TRIDENT loaded."""
        return sum(part.numel() for part in self._network.parameters())

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the slide embedding, shape (dim,), float32.

        Raises:
            InputError: the model uses places and the bag has no coordinates or does not state
                the size of its patches.
        """
        import torch

        batch = self._batch(bag)
        with torch.inference_mode(), self._precision():
            out = self._network(batch, device=self.device)
        is_batch = isinstance(out, torch.Tensor) and out.ndim == 2 and len(out) == 1
        return as_array(out[0] if is_batch else out)

    def to(self, device: str) -> None:
        """Move the network to a device."""
        self._network.to(device)
        self.device = device

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

        dtype = getattr(self._network, "precision", torch.float32)
        if self.device == "cuda" and dtype in (torch.float16, torch.bfloat16):
            return torch.autocast("cuda", dtype=dtype)
        return nullcontext()


def needs(card: EncoderCard) -> str:
    """Return what must be there that does not ship, for tables; "" for nothing."""
    model = external_model(card)
    if model is None:
        return ""
    return ("" if installed() else "TRIDENT, ") + "gated " * model.gated + "weights"


def needs_level0_size(card: EncoderCard) -> bool:
    """Return whether an encoder can do nothing with a bag that states no patch_size_level0."""
    model = external_model(card)
    return model is not None and model.places


def external_model(card: EncoderCard) -> ExternalModel | None:
    """Return what the model of a card needs; None for an encoder that is not TRIDENT's."""
    ours = card.implementation == IMPLEMENTATION
    return MODELS.get(str(card.parameters.get("model"))) if ours else None
