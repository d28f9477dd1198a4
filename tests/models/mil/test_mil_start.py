"""The seeded start of multiple-instance networks."""

import math

import pytest
import torch
from torch import nn

from madeleine_bench.models.mil import Ilra, TransMil
from madeleine_bench.models.mil.base import initialise_network


def start(seed, make=lambda: TransMil(6, 3, width=64, heads=2)):
    network = make()
    initialise_network(network, seed)
    return network.state_dict()


def test_a_seed_gives_one_network_and_leaves_global_state_alone():
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    network = TransMil(6, 3, width=64, heads=2)
    drawn = torch.random.get_rng_state()
    initialise_network(network, 7)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    torch.random.set_rng_state(before)
    first, again, other = network.state_dict(), start(7), start(8)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert sum(not torch.equal(first[key], other[key]) for key in first) > 10


def test_precision_does_not_change_the_draw():
    exact = start(3, lambda: TransMil(6, 3, width=64, heads=2).double())
    assert all(torch.equal(exact[key].float(), value) for key, value in start(3).items())


def test_layers_start_within_the_bounds_of_torch():
    for key, value in start(1).items():
        if "norm" in key:
            assert value.unique().tolist() == [1.0 if key.endswith("weight") else 0.0]
        elif key == "class_token":
            assert 0.7 < value.std().item() < 1.3
        else:
            weight = start(1)[key.rpartition(".")[0] + ".weight"]
            bound = math.sqrt(1 / weight[0].numel())
            assert 0.8 * bound < value.abs().max().item() <= bound or value.numel() < 10


def test_depth_wise_convolutions_count_the_inputs_of_one_channel():
    weight = start(2)["pyramid.convolutions.0.weight"]
    assert weight.shape == (64, 1, 7, 7)
    assert weight.abs().max().item() == pytest.approx(1 / 7, rel=0.01)


def test_learnt_vectors_of_ilra_start_apart():
    state = start(2, lambda: Ilra(6, 3, width=16, heads=2, rank=5))
    for key, shape in (("blocks.1.latent", (5, 16)), ("seed", (1, 16))):
        bound = math.sqrt(6 / sum(shape))
        assert state[key].shape == shape
        assert 0.7 * bound < state[key].abs().max().item() <= bound


def test_a_layer_without_a_start_is_named():
    with pytest.raises(TypeError, match="'weight' of Embedding"):
        initialise_network(nn.Sequential(nn.Embedding(3, 4)), 0)
