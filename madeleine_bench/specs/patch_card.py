"""Cards of patch encoders: what one is, the pixels it expects, and where its weights come from."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from madeleine_bench.specs.card import Card, ImplementationName, Width
from madeleine_bench.specs.loader import Spec

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
