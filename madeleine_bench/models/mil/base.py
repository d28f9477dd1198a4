"""What every multiple-instance network takes, gives and starts from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madeleine_bench.models.madeleine import check_lengths


@dataclass(frozen=True)
class BagOutput:
    """What a network says of some bags, and what its training asks beside the loss of the task.

    Attributes:
        logits: (bag, outputs), what predictions are made from.
        other_logits: further heads, each (bag, outputs). The loss of the task is the mean of its
            values on `logits` and on each of these.
        auxiliary: takes the class index of each bag, (bag,) int64, and returns a scalar loss;
            None outside training and where the network has none.
        auxiliary_share: the total is (1 - share) * loss of the task + share * auxiliary.
    """

    logits: Tensor
    other_logits: tuple[Tensor, ...] = ()
    auxiliary: Callable[[Tensor], Tensor] | None = None
    auxiliary_share: float = 0.0


class BagNetwork(nn.Module, ABC):
    """A network over packed bags: the patches of bag i follow those of bag i - 1.

    No bag changes what is said of another. Parameters start as torch fills them;
    `initialise_network` fills them from a seed.
    """

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return the outputs of each bag.

        Args:
            patches: (patch, dim), floating point.
            lengths: the number of patches of each bag.

        Raises:
            ValueError: a bag has no patch, or the lengths do not add up to the patches.
        """
        if patches.ndim != 2:
            raise ValueError(f"patches must be (patch, dim), found shape {tuple(patches.shape)}")
        check_lengths(lengths, patches)
        return self.outputs_of(patches, lengths)

    @abstractmethod
    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return the outputs of each bag; patches and lengths go together."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is where it has that precision or more."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def bag_softmax(scores: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the softmax of each column over each bag's own patches, in float32 or better.

    `scores` is (patch, column), and so is the result: each column adds up to 1 within each bag.
    """
    parts = torch.split(at_least_float32(scores), list(lengths))
    return torch.cat([part.softmax(dim=0) for part in parts])


def bag_sums(weights: Tensor, values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the weighted sums of each bag, (bag, column, dim).

    `weights` is (patch, column) and `values` (patch, dim).
    """
    weights = weights.to(values.dtype)
    parts = zip(*(torch.split(part, list(lengths)) for part in (weights, values)), strict=True)
    return torch.stack([weight.T @ value for weight, value in parts])


def bag_means(patches: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the mean of each feature over each bag, (patch, dim) to (bag, dim)."""
    return torch.stack([bag.mean(dim=0) for bag in torch.split(patches, list(lengths))])


def bag_maxima(patches: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the largest value of each feature in each bag, (patch, dim) to (bag, dim)."""
    return torch.stack([bag.amax(dim=0) for bag in torch.split(patches, list(lengths))])


class EmbedderWithHead(BagNetwork):
    """An embedder of bags and a linear head, to be trained as a whole.

    To start from trained weights, call `initialise_network` first and load them after it,
    or call it on `head` alone.
    """

    def __init__(
        self, embed: Callable[[Tensor, Sequence[int]], Tensor], width: int, outputs: int
    ) -> None:
        """Make the head.

        Args:
            embed: maps patches (patch, dim) and lengths to embeddings (bag, width).
            width: width of an embedding.
            outputs: number of outputs for each bag.
        """
        super().__init__()
        self.embed = embed
        self.head = nn.Linear(width, outputs)

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs); see `BagNetwork`."""
        return BagOutput(self.head(self.embed(patches, lengths)))


class MadeleineEmbedder(nn.Module):
    """The slide embedding of a Madeleine, without the tokens and the attention it also gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return embeddings (bag, width)."""
        embeddings: Tensor = self.model(patches, lengths)[0]
        return embeddings


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
