"""Networks that pool patches: mean, gated attention (ABMIL, CLAM), critical patch (DSMIL)."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madeleine_bench.models.mil.base import (
    BagNetwork,
    BagOutput,
    at_least_float32,
    bag_means,
    bag_softmax,
    bag_sums,
)


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
        """Return bags (bag, width) and attention (patch,) from hidden patches (patch, width).

        Attention is float32 or better, and adds up to 1 within each bag.
        """
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

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs); see `BagNetwork`."""
        bags, _ = self.pooling(self.patch_layer(patches), lengths)
        return BagOutput(self.head(bags))


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

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs); see `BagNetwork`."""
        return BagOutput(self.head(bag_means(self.patch_layer(patches), lengths)))


_MARGIN = 1.0  # alpha of the smooth top-1 SVM loss; its temperature tau is 1 as well


class ClamSb(Abmil):
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
        """
        super().__init__(
            input_dim, outputs, width=width, attention_dim=attention_dim, dropout=dropout
        )
        self.classes = outputs
        # Rows 2 c and 2 c + 1 are the two outputs of class c: not evidence, evidence.
        self.instance_head = nn.Linear(width, 2 * self.classes)
        self.instances = instances
        self.instance_share = instance_share
        self.subtyping = subtyping

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs) and, in training, the instance loss; see `BagNetwork`."""
        hidden = self.patch_layer(patches)
        bags, attention = self.pooling(hidden, lengths)
        logits = self.head(bags)
        if not self.training:
            return BagOutput(logits)
        loss = partial(self._instance_loss, hidden, attention, lengths)
        return BagOutput(logits, auxiliary=loss, auxiliary_share=self.instance_share)

    def _instance_loss(
        self, hidden: Tensor, attention: Tensor, lengths: Sequence[int], label: Tensor
    ) -> Tensor:
        """Return the mean over bags of the loss of their most and least attended patches."""
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        parts = zip(
            *(torch.split(part, list(lengths)) for part in (hidden, attention)), strict=True
        )
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


class DsMil(BagNetwork):
    """Dual-stream multiple-instance learning, on one scale.

    For each output o, the first stream scores every patch and keeps the highest score, that of
    the critical patch m: max_i W0 h_i. The second gives each patch a query q and a value v,
    weighs patch i by softmax_i(q_i . q_m / sqrt(dim q)), sums the values, and maps the sums of
    all outputs to the logits. `logits` are those of the second stream and `other_logits` of the
    first, so the two weigh the same in the loss.

    Differences from the paper: the products of queries are divided by the square root of their
    width, as in the authors' code; the paper has no such factor. The paper's score is the mean of
    both streams; here predictions come from the second alone, as in the authors' evaluation on
    TCGA. Does not depend on the order of patches, unless two tie for
    the highest score.

    References:
        Li, Li and Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
        Classification with Self-supervised Contrastive Learning", CVPR 2021 (arXiv 2011.08939),
        section 3.2; code github.com/binli123/dsmil-wsi.
    """

    def __init__(
        self, input_dim: int, outputs: int, *, query_dim: int = 128, dropout: float = 0.0
    ) -> None:
        """Make the layers.

        Args:
            input_dim: width of the patch features, and of the values.
            outputs: number of outputs for each bag.
            query_dim: width of the queries.
            dropout: share of the features dropped before the values in training.
        """
        super().__init__()
        self.instance_head = nn.Linear(input_dim, outputs)
        self.query = nn.Linear(input_dim, query_dim)
        self.value = nn.Sequential(nn.Dropout(dropout), nn.Linear(input_dim, input_dim))
        # Each logit reads the sums of all outputs: (outputs * dim) numbers of a bag.
        self.head = nn.Linear(outputs * input_dim, outputs)

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits of both streams; see `BagNetwork`."""
        scores = at_least_float32(self.instance_head(patches))
        queries = self.query(patches)
        highest, products = [], []
        parts = zip(*(torch.split(part, list(lengths)) for part in (scores, queries)), strict=True)
        for score, query in parts:
            highest.append(score.amax(dim=0))
            products.append(query @ query[score.argmax(dim=0)].T)
        products_of_all = torch.cat(products) / math.sqrt(queries.shape[1])
        attention = bag_softmax(products_of_all, lengths)
        sums = bag_sums(attention, self.value(patches), lengths)
        return BagOutput(self.head(sums.flatten(1)), (torch.stack(highest),))
