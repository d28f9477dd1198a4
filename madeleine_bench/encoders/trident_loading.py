"""Getting slide encoders out of TRIDENT: which there are, what each needs, what went wrong.

TRIDENT is not on PyPI, most of the weights are gated, and TRIDENT takes no path of a weights file:
what a user has already is found in the cache of the hub (HF_HOME), or where TRIDENT's own
slide_encoder_models/local_ckpts.json points to (docs/external-encoders.md).

References:
    github.com/mahmoodlab/TRIDENT, README and slide_encoder_models/load.py.
"""

import importlib
import importlib.util
import io
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madeleine_bench.errors import InputError

if TYPE_CHECKING:
    import torch

PIP = "pip install git+https://github.com/mahmoodlab/TRIDENT"
_LOADER = "trident.slide_encoder_models.load"


@dataclass(frozen=True)
class ExternalModel:
    """What a model of TRIDENT's needs.

    Attributes:
        page: where its weights are asked for.
        gated: whether they are given out on request alone.
        places: whether it uses the coordinates of the patches and their size at level 0.
        more: what it needs besides TRIDENT.
    """

    page: str
    gated: bool
    places: bool
    more: str


_TRANSFORMERS = "pip install 'transformers>=4.51,<5'"
# By their names in TRIDENT; the facts are of its README and slide_encoder_models/load.py.
MODELS = {
    "chief": ExternalModel(
        "https://github.com/hms-dbmi/CHIEF",
        gated=False,
        places=False,
        more="pip install addict; a clone of that repository with CHIEF_pretraining.pth and "
        "Text_emdding.pth, from the page's link, in its model_weight/, and the path of the clone "
        'under "chief" in trident/slide_encoder_models/local_ckpts.json',
    ),
    "feather": ExternalModel(
        "https://huggingface.co/MahmoodLab/abmil.base.conch_v15.pc108-24k",
        gated=True,
        places=False,
        more=_TRANSFORMERS,
    ),
    "gigapath": ExternalModel(
        "https://huggingface.co/prov-gigapath/prov-gigapath",
        gated=True,
        places=True,
        more="an NVIDIA GPU; pip install fairscale flash-attn "
        "git+https://github.com/prov-gigapath/prov-gigapath.git",
    ),
    "madeleine": ExternalModel(
        "https://huggingface.co/MahmoodLab/madeleine",
        gated=True,
        places=False,
        more="pip install git+https://github.com/mahmoodlab/MADELEINE.git (or go without TRIDENT: "
        "mbench encoders import madeleine-official)",
    ),
    "prism": ExternalModel(
        "https://huggingface.co/paige-ai/Prism",
        gated=True,
        places=False,
        more="pip install environs==11.0.0 sacremoses==0.1.1 'transformers>=4.51,<5'",
    ),
    "titan": ExternalModel(
        "https://huggingface.co/MahmoodLab/TITAN", gated=True, places=True, more=_TRANSFORMERS
    ),
}


def installed() -> bool:
    """Return whether TRIDENT is installed; nothing of it is run."""
    return any((place / "slide_encoder_models").is_dir() for place in _places_of_trident())


def _places_of_trident() -> list[Path]:
    spec = importlib.util.find_spec("trident")
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]


def trident_factory(name: str, model: str) -> Any:
    """Return TRIDENT's encoder_factory.

    Raises:
        InputError: it is not installed, is another package of the name, or cannot be imported.
    """
    if not installed():
        others = _places_of_trident()
        if not others:
            raise InputError(
                f"{name}: it is loaded by TRIDENT, which is not installed; {PIP} (the package "
                f"'trident' on PyPI is an astrophysics code). {_weights(model)}"
            )
        raise InputError(
            f"{name}: it is loaded by TRIDENT, but the package 'trident' at {others[0]} is another "
            f"one (on PyPI the name belongs to an astrophysics code); pip uninstall trident, then "
            f"{PIP}"
        )
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return importlib.import_module(_LOADER).encoder_factory
    except Exception as error:  # a package built for another torch raises almost anything
        raise InputError(
            f"{name}: TRIDENT is installed but cannot be imported ({_said(error)}); install it "
            f"again with what it requires: {PIP}"
        ) from error


def load_network(create: Any, name: str, model: str) -> "torch.nn.Module":
    """Return the network with its weights.

    Raises:
        InputError: TRIDENT does not know the model, or could not get its weights or build it.
    """
    try:
        # TRIDENT prints tracebacks of what it then raises; for CHIEF it changes the folder too.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), chdir("."):
            network: torch.nn.Module = create(model, pretrained=True, freeze=True)
            return network
    except Exception as error:  # TRIDENT, the hub and the network each raise their own
        raise InputError(f"{name}: {_reason(model, error)}") from error


def _reason(model: str, error: Exception) -> str:
    """Return what went wrong when TRIDENT was asked for a model, and what to do."""
    from madeleine_bench.slides.patch_encoders.hub import failure_kind

    about = MODELS[model]
    said = _said(error)
    kind = failure_kind(error)
    cached = (
        "On a machine without network, bring the cache of one that has fetched them and set "
        "HF_HOME to it and HF_HUB_OFFLINE=1"
    )
    if kind == "refused":
        return (
            f"its weights are gated and were refused; ask for access at {about.page}, then log in "
            f"(hf auth login). {cached}\n{said}"
        )
    if kind in ("network", "absent"):
        return f"its weights ({about.page}) could not be fetched. {cached}\n{said}"
    if isinstance(error, ValueError) and "unknown encoder" in said.lower():
        return f"this TRIDENT does not know the model '{model}'; install it anew: {PIP}\n{said}"
    return f"TRIDENT could not make the model: {said}. It needs {about.more}. Page: {about.page}"


def _weights(model: str) -> str:
    about = MODELS[model]
    if about.gated:
        return f"Its weights are gated: ask for access at {about.page}, then hf auth login"
    return f"Its weights: {about.page}"


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
