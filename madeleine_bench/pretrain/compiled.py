"""The layers before the pooling, by torch.compile."""

import torch
from torch import Tensor

from madeleine_bench.errors import InputError
from madeleine_bench.models.madeleine import Madeleine


def compile_layers(model: Madeleine) -> None:
    """Have the layers before the pooling, nearly all of the arithmetic, compiled in training.

    They are compiled once, for any number of patches, at the first step. Evaluation stays as it
    is: it is not worth a second compilation. So does the pooling, whose shapes differ from batch
    to batch where slides have fewer patches than are drawn.

    A step raises InputError where they cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second of imports

    plain = model.embed_patches
    fast = torch.compile(plain, dynamic=True)

    def embed_patches(patches: Tensor, stains: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not model.training:
            return plain(patches, stains)
        try:
            return fast(patches, stains)
        except TorchDynamoException as error:
            first = str(error).strip().splitlines()[0][:200]
            raise InputError(
                f"compile: true, but torch.compile failed ({type(error).__name__}: {first}). It "
                "needs a C++ compiler on a CPU and Triton on a GPU; --set compile=false does "
                "without"
            ) from error

    model.embed_patches = embed_patches  # type: ignore[method-assign]
