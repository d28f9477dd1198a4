"""Encoder cards: what an encoder is, what it expects, and what it was trained on."""

import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from ruamel.yaml import YAML

from madeleine_bench.specs.loader import Spec, portable_name
from madeleine_bench.specs.task import Identifier


class Weights(Spec):
    """A weights file beside the card."""

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Kind = Literal["encoder", "baseline", "supervised", "control"]
Contamination = Literal["clean", "contaminated", "unknown"]
Revision = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._+-]+$"),
    AfterValidator(portable_name),
]
# The contract checks make bags of 37 patches and networks of this width: 15 MB and 200 MB at most.
MAX_DIM = 100_000
Width = Annotated[int, Field(gt=0, le=MAX_DIM)]
ImplementationName = Annotated[str, Field(pattern=r"^[^:\s]+:[A-Za-z_][A-Za-z0-9_]*$")]


class Card(Spec):
    """What any encoder declares first: its name, its revision and one line for tables."""

    name: Identifier
    revision: Revision
    title: str


class EncoderCard(Card):
    """What a slide encoder declares of itself.

    Attributes:
        name: the name it is called by.
        revision: changes whenever its embeddings do.
        title: one line for tables.
        kind: "encoder", "baseline", "supervised" (trained on the labels of each task: it has no
            embedding of its own and only the finetune protocols score it), or "control" (a row
            that tests the benchmark, not pathology).
        implementation: "package.module:Class", or "file.py:Class" beside the card.
        parameters: keyword arguments for the class.
        weights: weights file, read by the implementation; None when there is nothing learned.
        patch_encoder: patch encoder whose features it expects; None accepts any.
        input_dim: width of the patch features it expects, at most 100,000; None accepts any.
        magnification: objective power of the patches it expects, such as 20; None accepts any.
        patch_size: side of the patches it expects, in pixels at that magnification; None accepts
            any.
        dim: width of its embeddings, at most 100,000; None means the width of the patch features.
        training_cohorts: ids of cohorts it was trained on; [] = none, null = unknown.
        licence: licence of weights and code.
        deterministic: whether the same bag gives the same embedding, bit for bit.
        phantom_only: whether it reads what only a phantom has.
    """

    kind: Kind = "encoder"
    implementation: ImplementationName
    parameters: dict[str, Any] = Field(default_factory=dict)
    weights: Weights | None = None
    patch_encoder: str | None = None
    input_dim: Width | None = None
    magnification: float | None = Field(default=None, gt=0)
    patch_size: int | None = Field(default=None, gt=0)
    dim: Width | None = None
    training_cohorts: tuple[str, ...] | None
    licence: str
    deterministic: bool = True
    phantom_only: bool = False
    description: str
    citation: str | None = None

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        if self.phantom_only and self.kind != "control":
            raise ValueError("'phantom_only' is for controls")
        return self


def card_text(card: EncoderCard) -> str:
    """Return the YAML of a card, without the keys that keep their default."""
    values = card.model_dump(mode="json", exclude_defaults=True)
    values["training_cohorts"] = values.pop("training_cohorts")
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 110
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = io.StringIO()
    writer.dump(values, out)
    return out.getvalue()


Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]


class PatchWeights(Spec):
    """Where the weights come from: a file we know, or a hub a user must ask.

    Attributes:
        path: file beside the card, or inside `package`.
        package: installed Python package that holds `path`.
        sha256: hash of that file, checked before every use.
        hub: "hf-hub:OWNER/NAME", for weights that do not ship.
        gated: whether the hub gives them out on request alone.
        url: page where they are asked for or downloaded.
    """

    path: str | None = None
    package: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    hub: Annotated[str, Field(pattern=r"^hf-hub:[^/\s]+/[^/\s]+$")] | None = None
    gated: bool = False
    url: Annotated[str, Field(pattern=r"^https://\S+$")] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        file = (self.path, self.sha256)
        if self.hub is None:
            if None in file or self.gated:
                raise ValueError("a file needs 'path' and 'sha256' (or give 'hub' and 'url')")
        elif self.url is None or any((*file, self.package)):
            raise ValueError("a hub needs 'hub' and 'url', and no 'path', 'package' or 'sha256'")
        return self


class PatchEncoderCard(Card):
    """What a patch encoder declares of itself.

    Attributes:
        name: the name it is called by.
        revision: changes whenever its features do.
        title: one line for tables.
        implementation: "package.module:Class", or "file.py:Class" beside the card.
        parameters: keyword arguments for the class.
        weights: where the weights come from; None when there is nothing learned.
        input_px: side of the square it was trained at, in pixels; patches are resized to it.
            None takes patches as they are.
        interpolation: how patches are resized, as its authors do.
        mpp: micrometres per pixel it expects of a patch before resizing; None means any.
        dim: width of its features.
        mean: mean of red, green, blue (0-1) that is subtracted; None leaves pixels at 0-1.
        std: deviation of red, green, blue (0-1) that is divided by; None with `mean`.
        training_data: in words, what it was trained on.
        licence: licence of the weights.
        deterministic: whether the same patch gives the same feature, bit for bit.
        requires: packages to install first, as pip names them.
    """

    implementation: ImplementationName
    parameters: dict[str, Any] = Field(default_factory=dict)
    weights: PatchWeights | None = None
    input_px: int | None = Field(None, gt=0, le=4096)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mpp: float | None = Field(None, gt=0)
    dim: Width
    mean: tuple[Share, Share, Share] | None = None
    std: tuple[Spread, Spread, Spread] | None = None
    training_data: str
    licence: str
    deterministic: bool = True
    requires: tuple[str, ...] = ()
    description: str
    citation: str | None = None

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("'mean' and 'std' go together")
        return self

    @property
    def needs(self) -> str:
        """What must be there that does not ship, for tables; empty for nothing."""
        parts = [requirement.split(" @ ")[0] for requirement in self.requires]
        if self.weights is not None and self.weights.hub is not None:
            parts.append("gated weights" if self.weights.gated else "weights (download)")
        return ", ".join(parts)


def contamination(training_cohorts: Sequence[str] | None, *cohorts: str) -> Contamination:
    """Return whether an encoder was trained on a cohort of a task, by its own card.

    Unknown is not clean: a card with `training_cohorts: null` says that nobody knows.

    Args:
        training_cohorts: ids of the cohorts it was trained on; None where unknown.
        cohorts: ids of the cohort that is scored, and of one that an external task is trained on.

    Examples:
        >>> [contamination(c, "bcnb") for c in ((), ("acrobat",), ("bcnb",), None)]
        ['clean', 'clean', 'contaminated', 'unknown']
    """
    if training_cohorts is None:
        return "unknown"
    return "clean" if set(cohorts).isdisjoint(training_cohorts) else "contaminated"
