"""Filling the parameters of a multiple-instance network from a seed."""

import math

import torch
from torch import Tensor, nn


def initialise_network(network: nn.Module, seed: int) -> None:
    """Fill all parameters of a network from a seed, leaving global random state alone.

    Layers start as torch starts them: weights and biases of linear and convolution layers uniform
    in +-sqrt(1 / fan_in), where fan_in counts the inputs of one output (49 for a depth-wise 7 x 7
    convolution), LayerNorm at identity. A class token is standard normal, as in TransMIL; other
    learnt vectors, such as the latent ones of ILRA, are uniform in +-sqrt(6 / (rows + columns)).

    Trained weights are overwritten too: load them afterwards.

    Raises:
        TypeError: a parameter is of a layer for which no start is defined.

    References:
        Glorot and Bengio, AISTATS 2010, equation 16, for the learnt vectors.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            path, _, field = name.rpartition(".")
            # Drawn in float32 on the CPU, so that device and precision do not change the draw.
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            _fill(drawn, network.get_submodule(path), field, generator)
            parameter.copy_(drawn)


def _fill(drawn: Tensor, owner: nn.Module, field: str, generator: torch.Generator) -> None:
    if isinstance(owner, nn.Linear | nn.Conv2d):
        bound = math.sqrt(1.0 / owner.weight[0].numel())
        drawn.uniform_(-bound, bound, generator=generator)
    elif isinstance(owner, nn.LayerNorm):
        drawn.fill_(1.0 if field == "weight" else 0.0)
    elif field == "class_token":
        drawn.normal_(generator=generator)
    elif field in ("latent", "seed") and drawn.ndim == 2:
        bound = math.sqrt(6.0 / sum(drawn.shape))
        drawn.uniform_(-bound, bound, generator=generator)
    else:
        raise TypeError(f"no start is defined for parameter '{field}' of {type(owner).__name__}")
