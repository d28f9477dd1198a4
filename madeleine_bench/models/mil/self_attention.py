"""Networks in which patches attend to each other: TransMIL, and ILRA through a few vectors."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madeleine_bench.models.mil.base import BagNetwork, BagOutput, at_least_float32

_PSEUDO_INVERSE_STEPS = 6
_VALUE_KERNEL = 33
_PYRAMID = (7, 5, 3)


class NystromAttention(nn.Module):
    """Multi-head self-attention of one sequence, approximated through landmarks if it is long.

    With queries Q (scaled), keys K and their means over `landmarks` runs of neighbours Q~ and K~,
    softmax(Q K') V is approximated by
    softmax(Q K~') pinv(softmax(Q~ K~')) softmax(Q~ K') V. A sequence no longer than the landmarks
    is attended to exactly. The values, smoothed along the sequence by a convolution for each
    head, are added.

    Differences from the authors' code: a sequence that is no multiple of the landmarks is cut in
    runs that differ by one in length, where theirs is led by zeros that take part in the
    attention; the pseudo-inverse of each head starts from its own norms.

    References:
        Xiong et al., "Nystromformer", AAAI 2021 (arXiv 2102.03902), section 3, with six steps
        for the pseudo-inverse.
    """

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.landmarks = landmarks
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.smooth = nn.Conv2d(
            heads,
            heads,
            (_VALUE_KERNEL, 1),
            padding=(_VALUE_KERNEL // 2, 0),
            groups=heads,
            bias=False,
        )
        self.mix = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what each token found, (token, width), from tokens (token, width)."""
        query, key, value = (
            torch.unflatten(part, 1, (self.heads, -1)).transpose(0, 1)
            for part in self.project(tokens).chunk(3, dim=1)
        )
        # In bfloat16 what six steps of the pseudo-inverse lead to is off by one to three percent.
        with torch.autocast(tokens.device.type, enabled=False):
            scaled = at_least_float32(query) / math.sqrt(query.shape[-1])
            found = attend(scaled, at_least_float32(key), at_least_float32(value), self.landmarks)
        found = found + self.smooth(value.unsqueeze(0)).squeeze(0)
        mixed: Tensor = self.mix(found.transpose(0, 1).flatten(1))
        return mixed


def attend(
    query: Tensor, key: Tensor, value: Tensor, landmarks: int, steps: int = _PSEUDO_INVERSE_STEPS
) -> Tensor:
    """Return softmax(query key') value, through landmarks where there are more tokens than these.

    All are (head, token, dim), the query already scaled. `steps` is of the pseudo-inverse.
    """
    if query.shape[1] <= landmarks:
        return (query @ key.mT).softmax(dim=-1) @ value
    few_queries, few_keys = run_means(query, landmarks), run_means(key, landmarks)
    to_landmarks = (query @ few_keys.mT).softmax(dim=-1)
    between = (few_queries @ few_keys.mT).softmax(dim=-1)
    from_landmarks = (few_queries @ key.mT).softmax(dim=-1)
    return (to_landmarks @ pseudo_inverse(between, steps)) @ (from_landmarks @ value)


def run_means(tokens: Tensor, runs: int) -> Tensor:
    """Return means over `runs` runs of neighbours, (head, token, dim) to (head, run, dim).

    The first runs are longer by one token where the runs do not divide the tokens.
    """
    return torch.stack([run.mean(dim=1) for run in tokens.tensor_split(runs, dim=1)], dim=1)


def pseudo_inverse(matrix: Tensor, steps: int) -> Tensor:
    """Return the Moore-Penrose inverse of each matrix, approached in `steps` third-order steps.

    `matrix` is (head, n, n), a softmax along its last axis.

    References:
        Xiong et al., AAAI 2021, section 3, after Razavi et al. (2014).
    """
    norm_1 = matrix.abs().sum(dim=-2).amax(dim=-1)
    norm_inf = matrix.abs().sum(dim=-1).amax(dim=-1)
    inverse = matrix.mT / (norm_1 * norm_inf)[:, None, None]
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(steps):
        product = matrix @ inverse
        inner = 7 * unit - product
        inner = 15 * unit - product @ inner
        inverse = 0.25 * inverse @ (13 * unit - product @ inner)
    return inverse


class PositionPyramid(nn.Module):
    """PPEG: the patches, laid out as a square, plus their 7 x 7, 5 x 5 and 3 x 3 convolutions.

    Each channel is convolved by itself. The class token passes unchanged.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in _PYRAMID
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (1 + side * side, width), of the shape of the input."""
        class_token, patches = tokens[:1], tokens[1:]
        side = math.isqrt(len(patches))
        square = torch.unflatten(patches.T, 1, (side, side)).unsqueeze(0)
        summed = square
        for convolution in self.convolutions:
            summed = summed + convolution(square)
        return torch.cat([class_token, summed.squeeze(0).flatten(1).T])


class TransMil(BagNetwork):
    """A transformer with a class token, Nystrom attention and a positional pyramid.

    A layer over each patch, then: the bag is filled up to the next square number by repeating its
    first patches; a class token goes in front; attention; the position pyramid; attention; a
    linear head on the class token.

    It depends on the order of the patches, by design. "Squaring of sequence" (algorithm 2) lays
    patch i at row i // side and column i % side; "conditional position encoding and local
    information fusion" (PPEG) convolves over that square; landmarks are means of patches next to
    each other. Give the patches row by row of the slide, always in the same way.

    References:
        Shao et al., "TransMIL: Transformer based Correlated Multiple Instance Learning for Whole
        Slide Image Classification", NeurIPS 2021 (arXiv 2106.00908), section 3.3; code
        github.com/szc19990412/TransMIL for landmarks, dropout and the convolution of the values.
    """

    def __init__(
        self,
        input_dim: int,
        outputs: int,
        *,
        width: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        dropout: float = 0.1,
    ) -> None:
        """Make the layers.

        Args:
            input_dim: width of the patch features.
            outputs: number of outputs for each bag.
            width: width of a token, a multiple of `heads`.
            heads: attention heads.
            landmarks: the longest sequence attended to exactly, and landmarks of longer ones. The
                six steps to the pseudo-inverse take 48 m^3 operations for m landmarks and a head,
                exact attention 4 n^2 d for n tokens and a head of width d: at the default sizes
                it would be the cheaper one up to 1,773 tokens. More landmarks give it.
            dropout: share of what attention found that is dropped in training.

        Raises:
            ValueError: the width is not a multiple of the heads.
        """
        super().__init__()
        self.patch_layer = nn.Sequential(nn.Linear(input_dim, width), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(1, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attentions = nn.ModuleList(
            NystromAttention(width, heads, landmarks, dropout) for _ in range(2)
        )
        self.pyramid = PositionPyramid(width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs); see `BagNetwork`."""
        bags = torch.split(self.patch_layer(patches), list(lengths))
        read = torch.stack([self._class_token_of(bag) for bag in bags])
        return BagOutput(self.head(self.norm(read)))

    def _class_token_of(self, hidden: Tensor) -> Tensor:
        """Return the class token (width,) after reading one bag, (patch, width)."""
        side = math.isqrt(len(hidden) - 1) + 1
        missing = side * side - len(hidden)
        tokens: Tensor = torch.cat([self.class_token, hidden, hidden[:missing]])
        tokens = tokens + self.attentions[0](self.norms[0](tokens))
        tokens = self.pyramid(tokens)
        tokens = tokens + self.attentions[1](self.norms[1](tokens))
        return tokens[0]


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

    def forward(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return rows (row, width) from `rows` (row, query_dim) and `others` (other, key_dim)."""
        query = self.query(rows)
        q, k, v = (
            x.unflatten(1, (self.heads, -1)).transpose(0, 1)
            for x in (query, self.key(others), self.value(others))
        )
        scores = at_least_float32(q @ k.mT) / math.sqrt(q.shape[-1])
        attention = scores.softmax(dim=-1)
        found: Tensor = (attention.to(v.dtype) @ v).transpose(0, 1).flatten(1)
        hidden = self.norm(query + self.mix(found))
        hidden = self.residual_norm(hidden + F.relu(self.residual(hidden)))
        gated: Tensor = hidden if self.gate is None else hidden * F.silu(self.gate(rows))
        return gated


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
        spread: Tensor = self.spread(patches, self.gather(self.latent, patches))
        return spread


class Ilra(BagNetwork):
    """Iterative low-rank attention: low-rank blocks, non-local pooling, a linear head.

    Pooling is attention from one more learnt vector to the patches. The default rank of 64 is what
    others report of the paper and use (MIL-Lab); the authors' published configuration has 1, at
    which every patch is given the same summary.

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

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs); see `BagNetwork`."""
        bags = []
        for hidden in torch.split(patches, list(lengths)):
            for block in self.blocks:
                hidden = block(hidden)
            bags.append(self.pooling(self.seed, hidden))
        return BagOutput(self.head(torch.cat(bags)))
