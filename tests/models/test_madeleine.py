"""The model against the golden numbers of the reference implementation."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from madeleine_bench.models.madeleine import Madeleine, MultiHeadPooling, initialise  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"golden numbers absent: no folder {GOLDEN}"
)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "madeleine_golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if not name.startswith("got")}


def recipe_weights(layout):
    """Weights as the golden README says: one legacy stream over the sorted names."""
    stream = np.random.RandomState(101)
    state = {}
    for key in sorted(layout):
        shape = layout[key]
        values = stream.standard_normal(shape) * (0.05 if len(shape) > 1 else 0.1)
        if len(shape) == 1 and key.endswith("weight"):
            values = values + 1
        state[key] = torch.from_numpy(values)
    return state


@needs_golden
def test_layout_is_the_official_one():
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())["without_stain_encoding"]
    ours = [[name, list(value.shape)] for name, value in Madeleine().state_dict().items()]
    assert sorted(ours) == sorted(layout)
    assert sum(p.numel() for p in Madeleine().parameters()) == 4_996_740


@needs_golden
def test_encode_equals_the_reference(golden):
    model = Madeleine().double().eval()
    model.load_state_dict(recipe_weights({k: v.shape for k, v in model.state_dict().items()}))
    bags = np.random.RandomState(102).standard_normal((2, 5, 12, 512))
    with torch.inference_mode():
        ours = np.stack([model.encode(torch.from_numpy(bag)).numpy() for bag in bags[:, 0]])
    np.testing.assert_allclose(ours, golden["madeleine/encode_he"], rtol=1e-10, atol=1e-12)


@needs_golden
@pytest.mark.parametrize("heads", [1, 4])
def test_pooling_equals_the_reference(golden, heads):
    prefix = f"abmil{heads}/"
    pooling = MultiHeadPooling(16, 12, heads, attention_dim=10).double().eval()
    start = len(prefix + "state/")
    state = {
        k[start:]: torch.from_numpy(v) for k, v in golden.items() if k.startswith(prefix + "state/")
    }
    if heads == 1:
        state = {k.replace("attn.attention", "attn.0.attention"): v for k, v in state.items()}
    pooling.load_state_dict(state)
    with torch.inference_mode():
        for row, bag in enumerate(golden[prefix + "x"]):
            pooled, raw, tokens = pooling(torch.from_numpy(bag))
            np.testing.assert_allclose(
                pooled, golden[prefix + "slide"][row], rtol=1e-10, atol=1e-13
            )
            np.testing.assert_allclose(
                raw, golden[prefix + "raw_attention"][row][:, 0], rtol=1e-10, atol=1e-13
            )
            np.testing.assert_allclose(
                tokens, golden[prefix + "tokens"][row], rtol=1e-10, atol=1e-13
            )


def test_order_of_patches_does_not_matter():
    model = Madeleine(7, 8, 2).double().eval()
    initialise(model, 3)
    bag = torch.randn(11, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(bag), model.encode(bag.flip(0)))


def test_initialise_is_a_function_of_its_seed():
    first, again, other = Madeleine(7, 8, 2), Madeleine(7, 8, 2), Madeleine(7, 8, 2)
    initialise(first, 3)
    initialise(again, 3)
    initialise(other, 4)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first.projector.weight, other.projector.weight)
