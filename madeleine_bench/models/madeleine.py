"""Madeleine's slide encoder, in the layout of the official weights, over packed slides.

A batch of slides is one long tensor of patches: the patches of slide i follow those of slide
i - 1, and `lengths` says how many each slide has. Nothing is padded.

References:
    Jaume et al., "Multistain Pretraining for Slide Representation Learning in Pathology",
    ECCV 2024, section 3 (multi-head gated attention after Ilse et al., ICML 2018).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKEN_DIM = 128
STAIN_DIM = 32

_STAIN_STD = 0.02
_LAYERS = (0, 4, 8)  # positions of the three Linear layers in the pre-attention network


class GatedAttention(nn.Module):
    """The parameters of one head: a tanh branch, a sigmoid branch that gates it, and a score.

    `MultiHeadPooling` runs all heads at once; the layers stand here for the official names.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Tanh())
        self.attention_b = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Sigmoid())
        self.attention_c = nn.Linear(hidden_dim, 1)

    def branches(self) -> tuple[Tensor, Tensor]:
        """Return weight (2 * hidden, dim) and bias (2 * hidden,) of both branches, tanh first."""
        pair = _linear(self.attention_a[0]), _linear(self.attention_b[0])
        return torch.cat([branch.weight for branch in pair]), torch.cat([b.bias for b in pair])


class MultiHeadPooling(nn.Module):
    """The pre-attention network and `heads` gated-attention poolings.

    In the weights, channel e * heads + h is feature e of head h. Here the tensors are head-major,
    (patch, head, width), so that a head is a plain matrix for the products that follow. LayerNorm
    spans all channels, so it is enough to reorder the weights of the last layer.
    """

    def __init__(
        self,
        input_dim: int,
        width: int,
        heads: int,
        attention_dim: int,
        *,
        dropout: float = 0.1,
        gate_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        # The product of two branches, each kept with probability 1 - p, is kept with (1 - p)^2.
        self.gate_dropout = 1.0 - (1.0 - gate_dropout) ** 2
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((input_dim, width), (width, width), (width, width * heads)):
            layers += [
                nn.Linear(fan_in, fan_out),
                nn.LayerNorm(fan_out),
                nn.GELU(),
                nn.Dropout(dropout),
            ]
        self.pre_attn = nn.Sequential(*layers)
        self.attn = nn.ModuleList(GatedAttention(width, attention_dim) for _ in range(heads))

    def embed(self, patches: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return tokens (patch, head, width) and raw attention (patch, head).

        `patches` is (patch, dim). Where dim is less than the first layer takes, `shift`
        (patch, width) is what the other input columns contribute to that layer.
        """
        hidden = patches
        for index in _LAYERS:
            weight, bias, scale, offset = self._layer(index)
            hidden = F.linear(hidden, weight[:, : hidden.shape[1]], bias)
            if shift is not None and index == 0:
                hidden = hidden + shift
            # Autocast would keep a float32 copy of every activation for LayerNorm and GELU.
            with torch.autocast(hidden.device.type, enabled=False):
                scale, offset = scale.to(hidden.dtype), offset.to(hidden.dtype)
                hidden = F.gelu(F.layer_norm(hidden, offset.shape, scale, offset))
                hidden = self.pre_attn[index + 3](hidden)
        tokens = torch.unflatten(hidden, -1, (self.heads, -1))
        return tokens, self._scores(tokens)

    def pool(self, tokens: Tensor, scores: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the mean token of each slide, weighted by attention: (slide, width, head).

        `tokens` is (patch, head, width) and `scores` (patch, head). The softmax, in float32 or
        better, runs over each slide's own patches.

        Raises:
            ValueError: a slide has no patch, or the lengths do not add up to the patches.
        """
        check_lengths(lengths, tokens)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        channels = tokens.flatten(1)
        if len(set(lengths)) == 1:
            shape = (len(lengths), lengths[0])
            pooled = _attend(torch.unflatten(scores, 0, shape), torch.unflatten(channels, 0, shape))
        else:
            parts = [torch.split(tensor, list(lengths)) for tensor in (scores, channels)]
            pooled = torch.stack([_attend(*bag) for bag in zip(*parts, strict=True)])
        # Each head has weighted the channels of all heads: its own are on the diagonal. That is
        # one product without a copy of the tokens; the part thrown away costs next to nothing.
        return torch.unflatten(pooled, -1, (self.heads, -1)).diagonal(dim1=1, dim2=2)

    def _layer(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weight and bias of a Linear layer, then scale and offset of its LayerNorm."""
        linear, norm = _linear(self.pre_attn[index]), self.pre_attn[index + 1]
        assert isinstance(norm, nn.LayerNorm)
        found = (linear.weight, linear.bias, norm.weight, norm.bias)
        if index != _LAYERS[-1]:
            return found
        weight, bias, scale, offset = (_head_major(p, self.heads, dim=0) for p in found)
        return weight, bias, scale, offset

    def _scores(self, tokens: Tensor) -> Tensor:
        """Return the raw attention (patch, head); both branches of all heads are one product."""
        heads = [head for head in self.attn if isinstance(head, GatedAttention)]
        weights, biases = zip(*(head.branches() for head in heads), strict=True)
        both = torch.bmm(tokens.transpose(0, 1), torch.stack(weights).transpose(1, 2))
        both = both.add_(torch.stack(biases).unsqueeze(1))  # (head, patch, 2 * attention)
        branch, gate = both.chunk(2, dim=-1)
        gated = F.dropout(branch.tanh() * gate.sigmoid(), self.gate_dropout, self.training)
        weight = torch.stack([head.attention_c.weight for head in heads])  # (head, 1, attention)
        bias = torch.cat([head.attention_c.bias for head in heads])
        return torch.bmm(gated, weight.transpose(1, 2)).squeeze(-1).T + bias


class Madeleine(nn.Module):
    """The slide encoder: 4,996,740 parameters at the published size, without stain encodings.

    Attributes:
        stains: number of stain encodings (H&E first); 0 means that the stain is not an input.
    """

    def __init__(
        self,
        input_dim: int = 512,
        width: int = 512,
        heads: int = 4,
        *,
        stains: int = 0,
        dropout: float = 0.1,
        gate_dropout: float = 0.0,
    ) -> None:
        """Make the layers, filled as torch fills them; see `initialise` for a seeded start.

        Args:
            input_dim: width of the patch features.
            width: width of the slide embedding, of a token, and of the attention.
            heads: number of attention heads.
            stains: number of stain encodings, 0 for none.
            dropout: share of pre-attention channels dropped in training.
            gate_dropout: share of each attention branch dropped in training; 0.25 in the
                published code, which the paper does not mention.
        """
        super().__init__()
        self.stains = stains
        if stains:
            # Zeros until `initialise`: to draw them on the meta device would cost seconds.
            zeros = torch.zeros(stains, STAIN_DIM)
            self.embedding = nn.Embedding.from_pretrained(zeros, freeze=False)  # type: ignore[no-untyped-call]
        self.token_projector = nn.Linear(width * heads, TOKEN_DIM)
        self.wsi_embedders = MultiHeadPooling(
            input_dim + STAIN_DIM * bool(stains),
            width,
            heads,
            attention_dim=width,
            dropout=dropout,
            gate_dropout=gate_dropout,
        )
        self.projector = nn.Linear(width * heads, width)

    def embed_patches(self, patches: Tensor, stains: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return tokens (patch, head, width) and raw attention (patch, head).

        `patches` is (patch, input_dim); `stains` (patch,) is the index of each patch's stain.

        Raises:
            ValueError: stains are given to a model without stain encodings, or the reverse.
        """
        if (stains is not None) != bool(self.stains):
            raise ValueError(f"the model has {self.stains} stain encodings, but stains={stains}")
        if stains is None:
            return self.wsi_embedders.embed(patches)
        first = _linear(self.wsi_embedders.pre_attn[0])
        of_stain = self.embedding.weight @ first.weight[:, patches.shape[1] :].T
        # A product with indicators, not a look-up, whose gradient would add up in random order.
        indicator = F.one_hot(stains, self.stains).to(of_stain.dtype)
        return self.wsi_embedders.embed(patches, indicator @ of_stain)

    def pool(
        self, tokens: Tensor, scores: Tensor, lengths: Sequence[int], patches: Tensor
    ) -> Tensor:
        """Return slide embeddings (slide, width) from tokens, raw attention and patch counts.

        `patches` (patch, input_dim) are those of the tokens; only `AlignedMadeleine` uses them.

        Raises:
            ValueError: a slide has no patch, or the lengths do not add up to the patches.
        """
        pooled = self.wsi_embedders.pool(tokens, scores, lengths)
        embeddings: Tensor = self.projector(pooled.flatten(1))
        return embeddings

    def project_tokens(self, tokens: Tensor) -> Tensor:
        """Return tokens as the transport loss compares them: (..., head, width) to (..., 128)."""
        weight = _head_major(self.token_projector.weight, tokens.shape[-2], dim=1)
        return F.linear(tokens.flatten(-2), weight, self.token_projector.bias)

    def forward(
        self, patches: Tensor, lengths: Sequence[int], stains: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return slide embeddings (slide, width), tokens (patch, head, width), raw attention.

        `patches` (patch, input_dim) are packed by `lengths`; `stains` is (patch,) or None.

        Raises:
            ValueError: as `embed_patches` and `pool`.
        """
        tokens, scores = self.embed_patches(patches, stains)
        return self.pool(tokens, scores, lengths, patches), tokens, scores

    def encode(self, bag: Tensor, stain: int | None = None) -> Tensor:
        """Return the embedding of one slide, (width,), from its bag, (patch, input_dim).

        Raises:
            ValueError: as `embed_patches` and `pool`.
        """
        count = len(bag)
        stains = None if stain is None else torch.full((count,), stain, device=bag.device)
        return self(bag, (count,), stains)[0][0]  # type: ignore[no-any-return]


def check_lengths(lengths: Sequence[int], patches: Tensor) -> None:
    """Check that lengths say where each of several bags lies in a packed tensor (patch, ...).

    Raises:
        ValueError: a bag has no patch, or the lengths do not add up to the patches.
    """
    if not lengths or min(lengths) < 1 or sum(lengths) != len(patches):
        raise ValueError(
            f"each bag needs a patch, and all together {len(patches)}; these lengths start "
            f"{list(lengths[:8])} and add up to {sum(lengths)}"
        )


def published_stain_order(cases: int, stains: int) -> Tensor:
    """Return the stain whose encoding the published training gives each row: (cases * stains,).

    Rows are case-major, so row r is of stain r % stains; the published code numbers them
    stain-major and gives it the encoding of r // cases.

    Examples:
        >>> published_stain_order(2, 3).tolist()
        [0, 0, 1, 1, 2, 2]
    """
    return torch.arange(cases * stains) // cases


def initialise(model: nn.Module, seed: int) -> None:
    """Fill the parameters from a seed, leaving global random state alone.

    Matrices are uniform in +-sqrt(1 / fan_in) as torch's own default, stain encodings normal
    with a small deviation (at 1, torch's default, they drown patch features of unit length and
    the stains are hard to align), LayerNorm starts at identity, other vectors at zero.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            # Drawn in float32 on the CPU, so that device and precision do not change the draw.
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            if name.endswith("embedding.weight"):
                drawn.normal_(std=_STAIN_STD, generator=generator)
            elif parameter.ndim > 1:
                bound = math.sqrt(1.0 / parameter.shape[1])
                drawn.uniform_(-bound, bound, generator=generator)
            else:
                is_norm_scale = name.endswith("weight")
                drawn.fill_(1.0 if is_norm_scale else 0.0)
            parameter.copy_(drawn)


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _head_major(parameter: Tensor, heads: int, dim: int) -> Tensor:
    """Return a parameter whose channels (e, head) along `dim` are reordered to (head, e)."""
    split = torch.unflatten(parameter, dim, (-1, heads))
    return split.transpose(dim, dim + 1).flatten(dim, dim + 1)


def _attend(scores: Tensor, channels: Tensor) -> Tensor:
    """Return softmax-weighted sums: (..., patch, head), (..., patch, dim) to (..., head, dim)."""
    attention = scores.softmax(dim=-2).to(channels.dtype)
    return attention.transpose(-2, -1) @ channels
