"""Madeleine's slide encoder, in the layout of the official weights.

References:
    Jaume et al., "Multistain Pretraining for Slide Representation Learning in Pathology",
    ECCV 2024, section 3 (multi-head gated attention after Ilse et al., ICML 2018).
"""

import math

import torch
from torch import Tensor, nn

TOKEN_DIM = 128


class GatedAttention(nn.Module):
    """One head: a score for each patch from a tanh branch gated by a sigmoid branch."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Tanh())
        self.attention_b = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Sigmoid())
        self.attention_c = nn.Linear(hidden_dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the unnormalised attention of each patch: (patch, dim) to (patch,)."""
        scores: Tensor = self.attention_c(self.attention_a(features) * self.attention_b(features))
        return scores.squeeze(-1)


class MultiHeadPooling(nn.Module):
    """Pre-attention network and `heads` gated-attention poolings over head-interleaved features.

    Channel e * heads + h of the pre-attention output is feature e of head h.
    """

    def __init__(
        self, input_dim: int, width: int, heads: int, attention_dim: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.heads = heads
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

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pooled (width, head), raw attention (patch, head), tokens (patch, width, head).

        `bag` is (patch, input_dim).
        """
        tokens = self.pre_attn(bag).unflatten(-1, (-1, self.heads))
        scores = [head(tokens[..., index]) for index, head in enumerate(self.attn)]
        raw = torch.stack(scores, dim=-1)
        pooled = torch.einsum("ph,pdh->dh", raw.softmax(dim=0), tokens)
        return pooled, raw, tokens


class Madeleine(nn.Module):
    """The slide encoder without stain encodings: 4,996,740 parameters at the published size."""

    def __init__(self, input_dim: int = 512, width: int = 512, heads: int = 4) -> None:
        super().__init__()
        self.token_projector = nn.Linear(width * heads, TOKEN_DIM)
        self.wsi_embedders = MultiHeadPooling(input_dim, width, heads, attention_dim=width)
        self.projector = nn.Linear(width * heads, width)

    def encode(self, bag: Tensor) -> Tensor:
        """Return the embedding of one slide: (patch, input_dim) to (width,)."""
        pooled, _, _ = self.wsi_embedders(bag)
        embedding: Tensor = self.projector(pooled.flatten())
        return embedding


def initialise(model: nn.Module, seed: int) -> None:
    """Fill the parameters from a seed, leaving global random state alone.

    Matrices are uniform in +-sqrt(1 / fan_in) as torch's own default, LayerNorm starts at
    identity, other vectors at zero.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                bound = math.sqrt(1.0 / parameter.shape[1])
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                is_norm_scale = name.endswith("weight")
                parameter.fill_(1.0 if is_norm_scale else 0.0)
