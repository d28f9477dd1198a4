"""ABMIL: patches pooled by gated attention."""

from collections.abc import Sequence

from torch import Tensor, nn

from madeleine_bench.models.mil.output import BagNetwork, BagOutput
from madeleine_bench.models.mil.packed import bag_softmax, bag_sums, check_packed


class PatchLayer(nn.Sequential):
    """A layer over each patch by itself: linear, ReLU, dropout; (patch, dim) to (patch, width)."""

    def __init__(self, input_dim: int, width: int, dropout: float) -> None:
        super().__init__(nn.Linear(input_dim, width), nn.ReLU(), nn.Dropout(dropout))


class GatedPooling(nn.Module):
    """Pooling by gated attention with one head.

    The score of patch h is w . (tanh(V h) * sigmoid(U h)); the weights of a bag's patches are the
    softmax of their scores, and the bag is their weighted mean.

    References:
        Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
        equations 7 to 9.
    """

    def __init__(self, width: int, attention_dim: int, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, attention_dim), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(
            nn.Linear(width, attention_dim), nn.Sigmoid(), nn.Dropout(dropout)
        )
        self.score = nn.Linear(attention_dim, 1)

    def forward(self, hidden: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return bags (bag, width) and attention (patch,) from hidden patches (patch, width)."""
        scores = self.score(self.branch(hidden) * self.gate(hidden))
        attention = bag_softmax(scores, lengths)
        return bag_sums(attention, hidden, lengths).squeeze(1), attention.squeeze(1)


class Abmil(BagNetwork):
    """Attention-based multiple-instance learning with gated attention.

    A layer over each patch, gated-attention pooling, a linear head. Sizes and dropout (also in
    both branches of the attention) are those common in pathology, after CLAM's "small" network.
    Does not depend on the order of patches.

    References:
        Ilse, Tomczak and Welling, ICML 2018 (arXiv 1802.04712), section 2.4.
        Lu et al., Nature Biomedical Engineering 5 (2021) 555-570, methods, for the sizes.
    """

    def __init__(
        self,
        input_dim: int,
        outputs: int,
        *,
        width: int = 512,
        attention_dim: int = 256,
        dropout: float = 0.25,
    ) -> None:
        """Make the layers.

        Args:
            input_dim: width of the patch features.
            outputs: number of outputs for each bag.
            width: width of a hidden patch and of a pooled bag.
            attention_dim: width of the two branches of the attention.
            dropout: share of hidden units, and of each branch, dropped in training.
        """
        super().__init__()
        self.patch_layer = PatchLayer(input_dim, width, dropout)
        self.pooling = GatedPooling(width, attention_dim, dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs) and attention (patch,); see `BagNetwork`."""
        check_packed(patches, lengths)
        bags, attention = self.pooling(self.patch_layer(patches), lengths)
        return BagOutput(self.head(bags), attention)
