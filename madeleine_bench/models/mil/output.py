"""What every multiple-instance network takes and gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class BagOutput:
    """What a network says of some bags, and what its training asks beside the loss of the task.

    Attributes:
        logits: (bag, outputs), what predictions are made from.
        attention: (patch,) packed as the patches, float32 or better, adding up to 1 within each
            bag; None where the network weighs no patch against another.
        other_logits: further heads, each (bag, outputs). The loss of the task is the mean of its
            values on `logits` and on each of these.
        auxiliary: takes the class index of each bag, (bag,) int64, and returns a scalar loss;
            None outside training and where the network has none.
        auxiliary_share: the total is (1 - share) * loss of the task + share * auxiliary.
    """

    logits: Tensor
    attention: Tensor | None = None
    other_logits: tuple[Tensor, ...] = ()
    auxiliary: Callable[[Tensor], Tensor] | None = None
    auxiliary_share: float = 0.0


class BagNetwork(nn.Module, ABC):
    """A network over packed bags: the patches of bag i follow those of bag i - 1.

    No bag changes what is said of another. Parameters start as torch fills them;
    `start.initialise_network` fills them from a seed.
    """

    @abstractmethod
    def forward(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return the outputs of each bag.

        Args:
            patches: (patch, dim), floating point.
            lengths: the number of patches of each bag.

        Raises:
            ValueError: a bag has no patch, or the lengths do not add up to the patches.
        """
