"""What holds for every multiple-instance network, whatever is inside."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.models.mil import Abmil, ClamSb, DsMil, Ilra, MeanMlp, TransMil
from madeleine_bench.models.mil.base import (
    BagNetwork,
    BagOutput,
    EmbedderWithHead,
    MadeleineEmbedder,
    bag_maxima,
    bag_means,
    initialise_network,
)

DIM, OUTPUTS = 6, 3
LENGTHS = (5, 1, 23, 2)


def madeleine_embedder():
    return MadeleineEmbedder(Madeleine(DIM, 8, 2))


BUILD = {
    "abmil": lambda: Abmil(DIM, OUTPUTS, width=8, attention_dim=5),
    "clam-sb": lambda: ClamSb(DIM, OUTPUTS, width=8, attention_dim=5, instances=3),
    "dsmil": lambda: DsMil(DIM, OUTPUTS, query_dim=4, dropout=0.2),
    "ilra": lambda: Ilra(DIM, OUTPUTS, width=8, heads=2, rank=3),
    "mean-mlp": lambda: MeanMlp(DIM, OUTPUTS, width=8),
    # Of the bags, only the one of 23 patches (26 tokens) has more tokens than landmarks.
    "transmil": lambda: TransMil(DIM, OUTPUTS, width=8, heads=2, landmarks=11),
    "mean-head": lambda: EmbedderWithHead(bag_means, DIM, OUTPUTS),
    "max-head": lambda: EmbedderWithHead(bag_maxima, DIM, OUTPUTS),
    "madeleine-head": lambda: EmbedderWithHead(madeleine_embedder(), 8, OUTPUTS),
}
# A softmax does not feel a number added to all its scores: neither the bias of the score of an
# attention nor the bias of keys can change anything.
WITHOUT_EFFECT = {
    "abmil": {"pooling.score.bias"},
    "clam-sb": {"pooling.score.bias"},
    "dsmil": set(),
    "ilra": {
        "blocks.0.gather.key.bias",
        "blocks.0.spread.key.bias",
        "blocks.1.gather.key.bias",
        "blocks.1.spread.key.bias",
        "pooling.key.bias",
    },
    "mean-mlp": set(),
    "transmil": set(),
    "mean-head": set(),
    "max-head": set(),
    # Fine-tuning reads the slide embedding; the tokens' projector is for the transport loss.
    "madeleine-head": {
        "embed.model.token_projector.weight",
        "embed.model.token_projector.bias",
        "embed.model.wsi_embedders.attn.0.attention_c.bias",
        "embed.model.wsi_embedders.attn.1.attention_c.bias",
    },
}
every_network = pytest.mark.parametrize("name", sorted(BUILD))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name, seed=3):
    network = BUILD[name]()
    initialise_network(network, seed)
    return network.double().eval()


def draw(lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(lengths), DIM, generator=generator, dtype=torch.float64)


def everything(output):
    """All heads side by side, (bag, head * outputs)."""
    return torch.cat([output.logits, *output.other_logits], dim=1)


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@every_network
def test_says_something_of_each_bag(name):
    output = build(name)(draw(), LENGTHS)
    assert isinstance(output, BagOutput)
    assert output.logits.shape == (len(LENGTHS), OUTPUTS)
    assert all(other.shape == (len(LENGTHS), OUTPUTS) for other in output.other_logits)
    assert output.auxiliary is None  # in evaluation
    assert len({tuple(row) for row in output.logits.tolist()}) == len(LENGTHS)


@every_network
@settings(max_examples=3)
@given(seed=st.integers(0, 999))
def test_no_bag_changes_another(name, seed):
    network, patches = build(name), draw(seed=seed)
    together = network(patches, LENGTHS)
    parts = patches.split(list(LENGTHS))
    for bag, part in enumerate(parts):
        alone = network(part, [len(part)])
        same(everything(alone)[0], everything(together)[bag])
    backwards = network(torch.cat(parts[::-1]), LENGTHS[::-1])
    same(everything(backwards), everything(together).flip(0))


@every_network
@settings(max_examples=3)
@given(seed=st.integers(0, 999))
def test_order_of_patches_matters_to_transmil_alone(name, seed):
    network, patches = build(name), draw((17,), seed=seed)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(seed + 1))
    straight, shuffled = network(patches, [17]), network(patches[order], [17])
    if name == "transmil":
        assert not torch.allclose(everything(shuffled), everything(straight))
        return
    same(everything(shuffled), everything(straight))


@every_network
def test_gradients_reach_every_parameter_that_has_an_effect(name):
    network = build(name).train()
    torch.manual_seed(0)
    lengths = (30, 40, 12)
    output = network(draw(lengths), lengths)
    loss = everything(output).square().sum()
    if output.auxiliary is not None:
        loss = loss + output.auxiliary(torch.tensor([0, 1, 2]))
    loss.backward()
    without = {
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() < 1e-13
    }
    assert without == WITHOUT_EFFECT[name]


@every_network
def test_a_batch_of_one_patch_is_a_bag(name):
    output = build(name)(draw((1,)), [1])
    assert output.logits.shape == (1, OUTPUTS)
    assert bool(output.logits.isfinite().all())


@every_network
@pytest.mark.parametrize("lengths", [(), (4, 0), (3,), (5,), (6, -2)])
def test_refuses_lengths_that_do_not_fit(name, lengths):
    with pytest.raises(ValueError, match="each bag needs a patch"):
        build(name)(draw((4,)), lengths)


@every_network
def test_refuses_padded_patches(name):
    with pytest.raises(ValueError, match="patches must be"):
        build(name)(torch.zeros(1, 4, DIM, dtype=torch.float64), [4])


@every_network
def test_dropout_acts_in_training_alone_and_comes_from_torch(name):
    network, patches = build(name), draw()
    with torch.inference_mode():
        same(network(patches, LENGTHS).logits, network(patches, LENGTHS).logits)
    network.train()
    torch.manual_seed(5)
    first = network(patches, LENGTHS).logits
    second = network(patches, LENGTHS).logits
    torch.manual_seed(5)
    same(network(patches, LENGTHS).logits, first)
    assert torch.equal(first, second) == (name in ("ilra", "mean-head", "max-head"))


@every_network
def test_works_in_bfloat16(name):
    network, patches = build(name).float(), draw().float()
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(patches, LENGTHS)
    everything(output).float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    network.eval()
    exact = network(patches, LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        close = network(patches, LENGTHS)
    torch.testing.assert_close(close.logits.float(), exact.logits, atol=0.05, rtol=0.05)


@every_network
def test_makes_no_tensor_on_another_device(name, monkeypatch):
    # The meta device stands in for a GPU: an operation between it and the CPU raises. It has no
    # autocast, not even to be switched off.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    network = BUILD[name]().to("meta").train()
    patches = torch.zeros(sum(LENGTHS), DIM, device="meta")
    output = network(patches, LENGTHS)
    assert everything(output).device.type == "meta"
    everything(output).sum().backward()


@pytest.mark.gpu
@every_network
def test_says_the_same_on_a_gpu(name):
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    network, patches = build(name), draw()
    expected = everything(network(patches, LENGTHS))
    found = everything(network.cuda()(patches.cuda(), LENGTHS))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("ilra", "transmil") else name
        for name in sorted(BUILD)
    ],
)
def test_learns_which_bags_hold_a_key_patch(name):
    """Six bags of four patches; in every other one, a patch has a large first feature."""
    network = BUILD[name]()
    initialise_network(network, 1)
    lengths = [4] * 6
    patches = draw(lengths, seed=2).float()
    patches[0::8, 0] += 6.0
    label = torch.tensor([1, 0] * 3)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02)
    torch.manual_seed(0)
    for _ in range(60):
        output = network(patches, lengths)
        heads = [output.logits, *output.other_logits]
        loss = torch.stack([torch.nn.functional.cross_entropy(h, label) for h in heads]).mean()
        if output.auxiliary is not None:
            share = output.auxiliary_share
            loss = (1 - share) * loss + share * output.auxiliary(label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        output = network(patches, lengths)
    assert output.logits.argmax(dim=1).tolist() == label.tolist()
    assert torch.nn.functional.cross_entropy(output.logits, label).item() < 0.3


def gated(width, attention_dim):
    return 2 * (width + 1) * attention_dim + attention_dim + 1


def cross(query_dim, key_dim, width, *, gate):
    linear = (query_dim + 1) * width + 2 * (key_dim + 1) * width + 2 * (width + 1) * width
    return linear + 4 * width + gate * (query_dim + 1) * width


def nystrom(width, heads):
    return 3 * width * width + 33 * heads + (width + 1) * width


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Abmil, 513 * 512 + gated(512, 256) + 513 * 2),
        (ClamSb, 513 * 512 + gated(512, 256) + 513 * 2 + 2 * 513 * 2),
        (DsMil, 513 * 2 + 513 * 128 + 513 * 512 + (2 * 512 + 1) * 2),
        (MeanMlp, 513 * 512 + 513 * 2),
        (
            TransMil,
            513 * 512
            + 512
            + 2 * (nystrom(512, 8) + 1024)
            + 512 * (49 + 25 + 9 + 3)
            + 1024
            + 513 * 2,
        ),
        (
            Ilra,
            2 * 64 * 256
            + cross(256, 512, 256, gate=True)
            + cross(512, 256, 256, gate=True)
            + 2 * cross(256, 256, 256, gate=True)
            + 256
            + cross(256, 256, 256, gate=False)
            + 257 * 2,
        ),
    ],
)
def test_number_of_parameters_at_the_default_size(network, expected):
    with torch.device("meta"):
        made = network(512, 2)
    assert sum(parameter.numel() for parameter in made.parameters()) == expected


def test_a_network_without_forward_is_none():
    class Unfinished(BagNetwork):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Unfinished()


def test_widths_that_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of 3 heads"):
        TransMil(DIM, OUTPUTS, width=8, heads=3)
    with pytest.raises(ValueError, match="multiple of 3 heads"):
        Ilra(DIM, OUTPUTS, width=8, heads=3)
    with pytest.raises(ValueError, match="there must be a block"):
        Ilra(DIM, OUTPUTS, width=8, heads=2, blocks=0)


def test_pooling_is_the_plain_statistics():
    patches = draw()
    parts = patches.split(list(LENGTHS))
    same(bag_means(patches, LENGTHS), torch.stack([part.mean(0) for part in parts]))
    same(bag_maxima(patches, LENGTHS), torch.stack([part.max(0).values for part in parts]))


def test_madeleine_under_a_head_is_madeleine():
    model = Madeleine(DIM, 8, 2).double().eval()
    network = EmbedderWithHead(MadeleineEmbedder(model), 8, OUTPUTS).double().eval()
    with torch.no_grad():
        torch.nn.init.eye_(network.head.weight)
        network.head.bias.zero_()
    patches = draw()
    found = network(patches, LENGTHS).logits
    for bag, part in enumerate(patches.split(list(LENGTHS))):
        same(found[bag], model.encode(part)[:OUTPUTS])
