"""ILRA: patches that exchange what they know through a few learnt vectors."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madeleine_bench.models.mil.output import BagNetwork, BagOutput
from madeleine_bench.models.mil.packed import at_least_float32, check_packed, split_bags


class CrossAttention(nn.Module):
    """Multi-head attention from some rows to others, with a residual layer and maybe a gate.

    With Q, K, V linear in the rows: Z = norm(Q + attention(Q, K, V)), then norm(Z + ReLU(O Z)),
    then, if gated, times SiLU(G rows), row by row.

    References:
        Lee et al., "Set Transformer", ICML 2019, equations 6 and 7.
    """

    def __init__(
        self, query_dim: int, key_dim: int, width: int, heads: int, *, gated: bool
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(query_dim, width)
        self.key = nn.Linear(key_dim, width)
        self.value = nn.Linear(key_dim, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.residual = nn.Linear(width, width)
        self.residual_norm = nn.LayerNorm(width)
        self.gate = nn.Linear(query_dim, width) if gated else None

    def forward(self, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (row, width) and the mean attention of the heads, (row, other).

        `rows` is (row, query_dim) and `others` (other, key_dim).
        """
        query = self.query(rows)
        q, k, v = (
            x.unflatten(1, (self.heads, -1)).transpose(0, 1)
            for x in (query, self.key(others), self.value(others))
        )
        scores = at_least_float32(q @ k.mT) / math.sqrt(q.shape[-1])
        attention = scores.softmax(dim=-1)
        found = (attention.to(v.dtype) @ v).transpose(0, 1).flatten(1)
        hidden = self.norm(query + self.mix(found))
        hidden = self.residual_norm(hidden + F.relu(self.residual(hidden)))
        if self.gate is not None:
            hidden = hidden * F.silu(self.gate(rows))
        return hidden, attention.mean(dim=0)


class LowRankBlock(nn.Module):
    """Self-attention of patches by way of `rank` learnt vectors, at a cost linear in patches.

    The vectors attend to the patches, then the patches to what the vectors found.
    """

    def __init__(self, input_dim: int, width: int, heads: int, rank: int) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.empty(rank, width))
        nn.init.xavier_uniform_(self.latent)
        self.gather = CrossAttention(width, input_dim, width, heads, gated=True)
        self.spread = CrossAttention(input_dim, width, width, heads, gated=True)

    def forward(self, patches: Tensor) -> Tensor:
        """Return patches (patch, width) from those of one bag (patch, input_dim)."""
        summary, _ = self.gather(self.latent, patches)
        spread: Tensor = self.spread(patches, summary)[0]
        return spread


class Ilra(BagNetwork):
    """Iterative low-rank attention: low-rank blocks, non-local pooling, a linear head.

    Pooling is attention from one more learnt vector to the patches; `attention` is the mean of
    its heads. The default rank of 64 is what others report of the paper and use (MIL-Lab); the
    authors' published configuration has 1, at which every patch is given the same summary.

    Differences from the authors' code: each attention projects queries, keys and values once, as
    in Set Transformer, not twice in a row. Does not depend on the order of patches.

    References:
        Xiang and Zhang, "Exploring Low-Rank Property in Multiple Instance Learning for Whole
        Slide Image Classification", ICLR 2023, section 3; code github.com/jinxixiang/low_rank_wsi.
    """

    def __init__(
        self,
        input_dim: int,
        outputs: int,
        *,
        width: int = 256,
        heads: int = 8,
        rank: int = 64,
        blocks: int = 2,
    ) -> None:
        """Make the layers.

        Args:
            input_dim: width of the patch features.
            outputs: number of outputs for each bag.
            width: width of a hidden patch and of a pooled bag, a multiple of `heads`.
            heads: attention heads.
            rank: learnt vectors of each block.
            blocks: low-rank blocks, at least one.

        Raises:
            ValueError: the width is not a multiple of the heads, or there is no block.
        """
        super().__init__()
        if blocks < 1:
            raise ValueError(f"there must be a block, found {blocks}")
        self.blocks = nn.ModuleList(
            LowRankBlock(input_dim if index == 0 else width, width, heads, rank)
            for index in range(blocks)
        )
        self.seed = nn.Parameter(torch.empty(1, width))
        nn.init.xavier_uniform_(self.seed)
        self.pooling = CrossAttention(width, width, width, heads, gated=False)
        self.head = nn.Linear(width, outputs)

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs) and attention (patch,); see `BagNetwork`."""
        check_packed(patches, lengths)
        bags, attention = [], []
        for hidden in split_bags(patches, lengths):
            for block in self.blocks:
                hidden = block(hidden)
            pooled, weight = self.pooling(self.seed, hidden)
            bags.append(pooled)
            attention.append(weight.squeeze(0))
        return BagOutput(self.head(torch.cat(bags)), torch.cat(attention))
