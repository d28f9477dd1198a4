"""The token projection of the preset "aligned"."""

import numpy as np
import pytest
import torch

from madeleine_bench.models.aligned_tokens import AlignedTokens, principal_directions


def test_directions_are_those_of_most_variance_and_have_one_sign():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    variances = np.array([9.0, 5.0, 3.0, 1.0, 0.5, 0.1])
    found = principal_directions(basis @ np.diag(variances) @ basis.T, 3).double().numpy()
    np.testing.assert_allclose(np.abs(found @ basis), np.eye(3, 6), atol=1e-6)
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1) > 0).all()
    assert len(principal_directions(np.eye(6), 128)) == 6


def test_untrained_tokens_are_the_plain_features_and_training_moves_them():
    rng = np.random.default_rng(1)
    patches = torch.from_numpy(rng.normal(size=(2, 7, 5)).astype(np.float32))
    tokens = torch.from_numpy(rng.normal(size=(2, 7, 4, 3)).astype(np.float32))
    module = AlignedTokens(torch.eye(5)[:3], token_width=12)
    mean = patches.mean(dim=1, keepdim=True)
    projected = module(patches, mean, tokens)
    torch.testing.assert_close(projected, (patches - mean)[..., :3])
    projected.square().sum().backward()
    assert module.residual.weight.grad.abs().max() > 0
    assert [name for name, _ in module.named_parameters()] == ["residual.weight"]
    assert set(module.state_dict()) == {"directions", "residual.weight"}


def test_the_shift_of_a_stain_drops_out():
    rng = np.random.default_rng(2)
    patches = torch.from_numpy(rng.normal(size=(7, 5)))
    tokens = torch.zeros(7, 2, 2, dtype=torch.float64)
    module = AlignedTokens(torch.eye(5, dtype=torch.float64), token_width=4).double()
    projected = [module(p, p.mean(dim=0), tokens) for p in (patches, patches + 4.0)]
    assert projected[0].detach().numpy() == pytest.approx(projected[1].detach().numpy())
