"""Each network recomputed in plain numpy from its weights, bag by bag, equation by equation."""

import math

import numpy as np
import pytest
import torch

from madeleine_bench.models.mil import Abmil, ClamSb, DsMil, Ilra, MeanMlp, TransMil
from madeleine_bench.models.mil.base import initialise_network

DIM, OUTPUTS = 5, 3
LENGTHS = (7, 1, 20)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ready(network, seed=5):
    """The network in float64 evaluation mode, and its weights as numpy arrays."""
    initialise_network(network, seed)
    network = network.double().eval()
    return network, {key: value.numpy() for key, value in network.state_dict().items()}


def draw(seed=1):
    return np.random.default_rng(seed).standard_normal((sum(LENGTHS), DIM))


def bags_of(patches):
    return np.split(patches, np.cumsum(LENGTHS)[:-1])


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def layer_norm(w, name, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


@torch.no_grad()
def compare(network, patches, expected_logits):
    output = network(torch.from_numpy(patches), LENGTHS)
    np.testing.assert_allclose(output.logits, np.stack(expected_logits), **EXACT)
    return output


@pytest.mark.parametrize("network_class", [Abmil, ClamSb])
def test_abmil_and_clam_are_gated_attention(network_class):
    network, w = ready(network_class(DIM, OUTPUTS, width=6, attention_dim=4))
    logits = []
    for bag in bags_of(draw()):
        h = relu(linear(w, "patch_layer.0", bag))
        gated = np.tanh(linear(w, "pooling.branch.0", h)) * sigmoid(linear(w, "pooling.gate.0", h))
        a = softmax(linear(w, "pooling.score", gated)[:, 0], axis=0)
        z = sum(a[i] * h[i] for i in range(len(h)))
        logits.append(linear(w, "head", z))
    compare(network, draw(), logits)


def test_mean_mlp_is_the_mean_of_hidden_patches():
    network, w = ready(MeanMlp(DIM, OUTPUTS, width=6))
    hidden = [relu(linear(w, "patch_layer.0", bag)).mean(axis=0) for bag in bags_of(draw())]
    compare(network, draw(), [linear(w, "head", z) for z in hidden])


def test_dsmil_weighs_patches_by_the_critical_one_of_each_output():
    network, w = ready(DsMil(DIM, OUTPUTS, query_dim=4))
    logits, highest = [], []
    for bag in bags_of(draw()):
        scores = linear(w, "instance_head", bag)
        q, v = linear(w, "query", bag), linear(w, "value.1", bag)
        sums = []
        for o in range(OUTPUTS):
            critical = int(np.argmax(scores[:, o]))
            u = softmax(q @ q[critical] / math.sqrt(4), axis=0)
            sums.append(u @ v)
        highest.append(scores.max(axis=0))
        logits.append(linear(w, "head", np.concatenate(sums)))
    output = compare(network, draw(), logits)
    (stream,) = output.other_logits
    np.testing.assert_allclose(stream, np.stack(highest), **EXACT)


def test_the_critical_patch_alone_sets_the_first_stream_of_dsmil():
    network, w = ready(DsMil(DIM, OUTPUTS, query_dim=4))
    bag = np.random.default_rng(3).standard_normal((9, DIM))
    critical = np.argmax(linear(w, "instance_head", bag), axis=0)
    patches = torch.from_numpy(bag).requires_grad_()
    network(patches, [9]).other_logits[0][0, 1].backward()
    assert np.flatnonzero(patches.grad.abs().sum(dim=1)).tolist() == [critical[1]]


def cross_attention(w, name, rows, others, heads, *, gated):
    q, k, v = (
        linear(w, f"{name}.{part}", x)
        for part, x in (("query", rows), ("key", others), ("value", others))
    )
    width = q.shape[1] // heads
    found = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        a = softmax(q[:, part] @ k[:, part].T / math.sqrt(width), axis=1)
        found.append(a @ v[:, part])
    z = layer_norm(w, f"{name}.norm", q + linear(w, f"{name}.mix", np.concatenate(found, axis=1)))
    z = layer_norm(w, f"{name}.residual_norm", z + relu(linear(w, f"{name}.residual", z)))
    if gated:
        g = linear(w, f"{name}.gate", rows)
        z = z * (g * sigmoid(g))
    return z


def test_ilra_goes_through_its_learnt_vectors():
    network, w = ready(Ilra(DIM, OUTPUTS, width=6, heads=2, rank=4))
    logits = []
    for x in bags_of(draw()):
        for b in ("blocks.0", "blocks.1"):
            summary = cross_attention(w, f"{b}.gather", w[f"{b}.latent"], x, 2, gated=True)
            x = cross_attention(w, f"{b}.spread", x, summary, 2, gated=True)
        pooled = cross_attention(w, "pooling", w["seed"], x, 2, gated=False)
        logits.append(linear(w, "head", pooled[0]))
    compare(network, draw(), logits)


def runs_of(x, runs):
    """Means of `runs` runs of neighbours, the first ones longer by one."""
    return np.stack([part.mean(axis=0) for part in np.array_split(x, runs)])


def nystrom_attention(w, name, x, heads, landmarks):
    n, width = x.shape
    dim = width // heads
    q, k, v = np.split(x @ w[f"{name}.project.weight"].T, 3, axis=1)
    found = []
    for h in range(heads):
        part = slice(h * dim, (h + 1) * dim)
        qh, kh, vh = q[:, part] / math.sqrt(dim), k[:, part], v[:, part]
        if n <= landmarks:
            z = softmax(qh @ kh.T, axis=1) @ vh
        else:
            ql, kl = runs_of(qh, landmarks), runs_of(kh, landmarks)
            a = softmax(ql @ kl.T, axis=1)
            inverse = a.T / (np.abs(a).sum(axis=0).max() * np.abs(a).sum(axis=1).max())
            one = np.eye(landmarks)
            for _ in range(6):
                az = a @ inverse
                inverse = inverse @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
            z = softmax(qh @ kl.T, axis=1) @ inverse @ softmax(ql @ kh.T, axis=1) @ vh
        kernel = w[f"{name}.smooth.weight"][h, 0, :, 0]
        padded = np.pad(vh, ((16, 16), (0, 0)))
        smooth = np.stack([kernel @ padded[i : i + 33] for i in range(n)])
        found.append(z + smooth)
    return linear(w, f"{name}.mix.0", np.concatenate(found, axis=1))


def position_pyramid(w, tokens):
    side = math.isqrt(len(tokens) - 1)
    square = tokens[1:].reshape(side, side, -1)
    total = square.copy()
    for index, size in enumerate((7, 5, 3)):
        kernel = w[f"pyramid.convolutions.{index}.weight"][:, 0]  # (channel, size, size)
        padded = np.pad(square, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        for i in range(side):
            for j in range(side):
                window = padded[i : i + size, j : j + size]  # (size, size, channel)
                total[i, j] += np.einsum("cij,ijc->c", kernel, window)
                total[i, j] += w[f"pyramid.convolutions.{index}.bias"]
    return np.concatenate([tokens[:1], total.reshape(side * side, -1)])


@pytest.mark.parametrize("landmarks", [256, 10, 6])
def test_transmil_squares_attends_convolves_and_attends(landmarks):
    network, w = ready(TransMil(DIM, OUTPUTS, width=8, heads=2, landmarks=landmarks))
    logits = []
    for bag in bags_of(draw()):
        h = relu(linear(w, "patch_layer.0", bag))
        side = math.ceil(math.sqrt(len(h)))
        h = np.concatenate([w["class_token"], h, h[: side * side - len(h)]])
        h = h + nystrom_attention(w, "attentions.0", layer_norm(w, "norms.0", h), 2, landmarks)
        h = position_pyramid(w, h)
        h = h + nystrom_attention(w, "attentions.1", layer_norm(w, "norms.1", h), 2, landmarks)
        logits.append(linear(w, "head", layer_norm(w, "norm", h[0])))
    compare(network, draw(), logits)
