"""Weights of trained encoders: one safetensors file, a model for each organ, no pickle.

metadata "mbench"     {"format": 1, "models": {"breast": {"input_dim": 512, ...}}}
tensors               "breast/projector.weight", ... float32, names of the official state dict
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import ConfigDict, Field, ValidationError

from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes
from madeleine_bench.hashing import canonical_json
from madeleine_bench.specs.card import Width
from madeleine_bench.specs.loader import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from madeleine_bench.models.madeleine import Madeleine

FORMAT = 1
CITATION = (
    'Jaume et al., "Multistain Pretraining for Slide Representation Learning in Pathology", '
    "ECCV 2024, arXiv 2408.02859"
)
_KEY = "mbench"  # the only one: safetensors writes several keys in an order that changes


class ModelDescription(Spec):
    """What one model is: enough to build it, and what it was trained on.

    Further keys, such as what else its maker wrote down, are kept and not read.

    Attributes:
        input_dim: width of the patch features.
        width: width of the slide embedding.
        heads: number of attention heads.
        stains: the stains it was trained on, H&E first; with stain encodings, in their order.
        stain_encoding: whether the stain of a slide is an input.
        aligned: whether the model adds what it learned to plain features (preset "aligned").
        cohort: id of the cohort it was trained on.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    input_dim: Width
    width: Width
    heads: int = Field(gt=0)
    stains: tuple[str, ...] = Field(min_length=1)
    stain_encoding: bool
    aligned: bool = False
    cohort: str

    def outline(self) -> "Madeleine":
        """Return the model with shapes alone: its parameters are on the meta device."""
        import torch

        from madeleine_bench.models.aligned import AlignedMadeleine
        from madeleine_bench.models.madeleine import Madeleine

        kind = AlignedMadeleine if self.aligned else Madeleine
        stains = len(self.stains) if self.stain_encoding else 0
        with torch.device("meta"):
            return kind(self.input_dim, self.width, self.heads, stains=stains)

    def build(self, state: "Mapping[str, Tensor]") -> "Madeleine":
        """Return the model with the given parameters, in evaluation mode."""
        model = self.outline().eval()
        # Copies, as how a tensor lies in memory changes the last bit of a product.
        aligned = {name: tensor.clone() for name, tensor in state.items()}
        model.load_state_dict(aligned, assign=True)
        return model


Models: TypeAlias = "dict[str, tuple[ModelDescription, dict[str, Tensor]]]"


class _Metadata(Spec):
    """The metadata of a weights file."""

    format: Literal[1]
    models: dict[str, ModelDescription] = Field(min_length=1)


def write_weights(
    path: Path, models: "Mapping[str, tuple[ModelDescription, Mapping[str, Tensor]]]"
) -> None:
    """Write models by organ ("breast", "kidney", or "any") as float32: the same bytes every time.

    Raises:
        InputError: a state dict does not fit its description or holds NaN or infinity; a name is
            empty or has a slash; the folder cannot be written.
    """
    import torch
    from safetensors.torch import save

    tensors = {}
    for key, (description, state) in models.items():
        if not key or "/" in key:
            raise InputError(f"{path}: '{key}' cannot name a model; use an organ, such as breast")
        check_state(f"{path}, model '{key}'", description, state)
        for name, tensor in state.items():
            plain = tensor.detach().to("cpu", torch.float32)
            # A tied or sliced tensor would be refused, or its whole storage written.
            tensors[f"{key}/{name}"] = plain.clone(memory_format=torch.contiguous_format)
    described = {key: model.model_dump(mode="json") for key, (model, _) in models.items()}
    metadata = {_KEY: canonical_json({"format": FORMAT, "models": described})}
    write_bytes(path, save(dict(sorted(tensors.items())), metadata))


def read_weights(path: Path) -> Models:
    """Return the models of a weights file by organ: description and float32 state dict.

    Raises:
        InputError: the file is absent, damaged, a pickle, or not of this format; a tensor is
            missing, not of the described model, of the wrong shape or dtype, or not finite.
    """
    from madeleine_bench.slides.patch_encoders.torch_encoder import read_content

    tensors, metadata = read_content(path, plain=True)
    models: Models = {}
    for key, description in _descriptions(path, metadata).items():
        prefix = f"{key}/"
        state = {
            n.removeprefix(prefix): tensors.pop(n) for n in list(tensors) if n.startswith(prefix)
        }
        where = f"{path}, model '{key}'"
        for name, tensor in state.items():
            if str(tensor.dtype) != "torch.float32":
                raise InputError(f"{where}: tensor '{name}' is {tensor.dtype}, not torch.float32")
        check_state(where, description, state)
        models[key] = (description, state)
    if tensors:
        raise InputError(f"{path}: tensor '{min(tensors)}' belongs to none of {sorted(models)}")
    return models


def check_state(where: str, description: ModelDescription, state: "Mapping[str, Tensor]") -> None:
    """Check that a state dict is that of the described model; `where` begins the message.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, or not finite.
    """
    try:
        description.outline().load_state_dict(state, assign=True)
    except RuntimeError as error:
        faults = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise InputError(f"{where}: not the state of the described model: {faults}") from error
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: tensor '{name}' holds NaN or infinity")


def _descriptions(path: Path, metadata: Mapping[str, str]) -> dict[str, ModelDescription]:
    if _KEY not in metadata:
        raise InputError(
            f"{path} is a safetensors file, but not one of this program: its metadata has no "
            f"'{_KEY}'. Official weights are read by mbench encoders import madeleine-official"
        )
    try:
        return _Metadata.model_validate_json(metadata[_KEY]).models
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise InputError(f"{path}: metadata '{_KEY}', key '{place}': {fault['msg']}") from error
