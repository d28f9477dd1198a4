"""CLAM with one attention branch: ABMIL that also learns from the patches it attends to."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madeleine_bench.models.mil.abmil import GatedPooling, PatchLayer
from madeleine_bench.models.mil.output import BagNetwork, BagOutput
from madeleine_bench.models.mil.packed import at_least_float32, check_packed, split_bags

_MARGIN = 1.0  # alpha of the smooth top-1 SVM loss; its temperature tau is 1 as well


class ClamSb(BagNetwork):
    """Clustering-constrained attention, single branch.

    The bag's part is that of `Abmil`. Beside it stands, for each class, a classifier of patches
    into evidence for the class or not. In training, the most attended patches of a bag are taken
    for evidence of the bag's class and the least attended for none of it.

    With `subtyping`, the most attended patches are also taken for no evidence of every other
    class, and the sum is divided by the number of classes. The paper does so where classes
    exclude each other and each has a tissue of its own, such as subtypes of a tumour. It hangs on
    that, not on how many classes there are: of tumour against normal, or a receptor present or
    absent, the negative class has nothing to show, and this is False.

    Differences from the paper: a bag with fewer than twice `instances` patches gives half of its
    patches to each side, so that no patch is evidence and none of it at once, and a bag of one
    patch adds nothing. Does not depend on the order of patches.

    References:
        Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide
        images", Nature Biomedical Engineering 5 (2021) 555-570, methods: instance-level
        clustering and smooth SVM loss; code github.com/mahmoodlab/CLAM for the numbers (8
        patches, shares of .7 and .3, alpha = tau = 1).
        Berrada, Zisserman and Kumar, "Smooth Loss Functions for Deep Top-k Classification", ICLR
        2018, the smooth loss at k = 1.
    """

    def __init__(
        self,
        input_dim: int,
        outputs: int,
        *,
        width: int = 512,
        attention_dim: int = 256,
        dropout: float = 0.25,
        instances: int = 8,
        instance_share: float = 0.3,
        subtyping: bool = False,
        classes: int | None = None,
    ) -> None:
        """Make the layers.

        Args:
            input_dim: width of the patch features.
            outputs: number of outputs for each bag.
            width: width of a hidden patch and of a pooled bag.
            attention_dim: width of the two branches of the attention.
            dropout: share of hidden units, and of each branch, dropped in training.
            instances: patches taken from either end of the attention.
            instance_share: share of the instance loss in the total, from 0 to below 1.
            subtyping: whether classes exclude each other and each has its own tissue.
            classes: number of classes of the labels that the instance loss is given; `outputs`
                where None. K ordered levels learnt from K - 1 outputs need K.
        """
        super().__init__()
        self.patch_layer = PatchLayer(input_dim, width, dropout)
        self.pooling = GatedPooling(width, attention_dim, dropout)
        self.head = nn.Linear(width, outputs)
        self.classes = outputs if classes is None else classes
        # Rows 2 c and 2 c + 1 are the two outputs of class c: not evidence, evidence.
        self.instance_head = nn.Linear(width, 2 * self.classes)
        self.instances = instances
        self.instance_share = instance_share
        self.subtyping = subtyping

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs), attention (patch,) and, in training, the instance loss.

        See `BagNetwork`. The instance loss raises ValueError where a label is no class.
        """
        check_packed(patches, lengths)
        hidden = self.patch_layer(patches)
        bags, attention = self.pooling(hidden, lengths)
        logits = self.head(bags)
        if not self.training:
            return BagOutput(logits, attention)

        def instance_loss(label: Tensor) -> Tensor:
            return self._instance_loss(hidden, attention, lengths, label)

        return BagOutput(
            logits, attention, auxiliary=instance_loss, auxiliary_share=self.instance_share
        )

    def _instance_loss(
        self, hidden: Tensor, attention: Tensor, lengths: Sequence[int], label: Tensor
    ) -> Tensor:
        """Return the mean over bags of the loss of their most and least attended patches."""
        if label.shape != (len(lengths),):
            raise ValueError(f"{len(lengths)} bags need as many labels, found {tuple(label.shape)}")
        if bool(((label < 0) | (label >= self.classes)).any()):
            raise ValueError(
                f"labels must be from 0 to {self.classes - 1}, found {label.tolist()[:8]}; give "
                "the network the number of classes (classes) where it has other outputs"
            )
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        parts = zip(split_bags(hidden, lengths), split_bags(attention, lengths), strict=True)
        for bag, (patches, weight) in enumerate(parts):
            count = min(self.instances, len(patches) // 2)
            if count:
                order = weight.detach().argsort(descending=True, stable=True)
                own = F.one_hot(label[bag], self.classes).to(total.dtype)
                total = total + self._bag_loss(patches, order[:count], order[-count:], own)
        return total / len(lengths)

    def _bag_loss(self, patches: Tensor, most: Tensor, least: Tensor, own: Tensor) -> Tensor:
        """Return the loss of one bag; `own` (class,) is 1 at its class."""
        top, bottom = self.instance_head(patches[most]), self.instance_head(patches[least])
        inside = (_smooth_svm(top, evidence=True) + _smooth_svm(bottom, evidence=False)) / 2
        if not self.subtyping:
            return (own * inside).sum()
        outside = _smooth_svm(top, evidence=False)
        return (own * inside + (1.0 - own) * outside).sum() / self.classes


def _smooth_svm(scores: Tensor, *, evidence: bool) -> Tensor:
    """Return the smooth top-1 SVM loss of each class, (class,), the mean over patches.

    log(sum_j exp(alpha [j is not the target] + s_j - s_target)) is a cross-entropy in which the
    other output has the margin added. `scores` is (patch, 2 * class).
    """
    no, yes = torch.unflatten(at_least_float32(scores), 1, (-1, 2)).unbind(dim=2)
    behind, ahead = (no, yes) if evidence else (yes, no)
    return F.softplus(behind + _MARGIN - ahead).mean(dim=0)
