"""The mean of hidden patches: ABMIL in which every patch weighs the same."""

from collections.abc import Sequence

from torch import Tensor, nn

from madeleine_bench.models.mil.abmil import PatchLayer
from madeleine_bench.models.mil.output import BagNetwork, BagOutput
from madeleine_bench.models.mil.packed import bag_means, check_packed


class MeanMlp(BagNetwork):
    """A layer over each patch, the mean over a bag, a linear head.

    What is left of `Abmil` without its attention, so the two tell what attention is worth. Does
    not depend on the order of patches.

    References:
        Zaheer et al., "Deep Sets", NeurIPS 2017, theorem 2 (a sum over elements, then a map).
    """

    def __init__(
        self, input_dim: int, outputs: int, *, width: int = 512, dropout: float = 0.25
    ) -> None:
        """Make the layers.

        Args:
            input_dim: width of the patch features.
            outputs: number of outputs for each bag.
            width: width of a hidden patch.
            dropout: share of hidden units dropped in training.
        """
        super().__init__()
        self.patch_layer = PatchLayer(input_dim, width, dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs); see `BagNetwork`."""
        check_packed(patches, lengths)
        return BagOutput(self.head(bag_means(self.patch_layer(patches), lengths)))
