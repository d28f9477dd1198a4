"""DSMIL: one stream finds the critical patch, the other weighs all patches by it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from madeleine_bench.models.mil.output import BagNetwork, BagOutput
from madeleine_bench.models.mil.packed import (
    at_least_float32,
    bag_softmax,
    bag_sums,
    check_packed,
    split_bags,
)


class DsMil(BagNetwork):
    """Dual-stream multiple-instance learning, on one scale.

    For each output o, the first stream scores every patch and keeps the highest score, that of
    the critical patch m: max_i W0 h_i. The second gives each patch a query q and a value v,
    weighs patch i by softmax_i(q_i . q_m / sqrt(dim q)), sums the values, and maps the sums of
    all outputs to the logits. `logits` are those of the second stream and `other_logits` of the
    first, so the two weigh the same in the loss. `attention` is the mean over outputs.

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

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits of both streams and the mean attention (patch,); see `BagNetwork`."""
        check_packed(patches, lengths)
        scores = at_least_float32(self.instance_head(patches))
        queries = self.query(patches)
        highest, products = [], []
        parts = zip(split_bags(scores, lengths), split_bags(queries, lengths), strict=True)
        for score, query in parts:
            highest.append(score.amax(dim=0))
            products.append(query @ query[score.argmax(dim=0)].T)
        products_of_all = torch.cat(products) / math.sqrt(queries.shape[1])
        attention = bag_softmax(products_of_all, lengths)
        sums = bag_sums(attention, self.value(patches), lengths)
        return BagOutput(
            self.head(sums.flatten(1)), attention.mean(dim=1), other_logits=(torch.stack(highest),)
        )
