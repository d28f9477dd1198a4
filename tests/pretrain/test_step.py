"""How a step is taken: what it reads and when, and its layers compiled."""

import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from madeleine_bench.errors import InputError
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.objective import cross_stain_loss
from madeleine_bench.pretrain.recipe import ObjectiveRecipe
from madeleine_bench.pretrain.run import AsyncScalars, Run, _products, compile_layers
from tests.pretrain.test_objective import ALONE, DIM, STAINS, packed, some_bags

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
        ],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_terms_are_read_as_they_were(device):
    terms = {"global": torch.tensor(1.5, device=device), "local": torch.tensor(0.25, device=device)}
    reading = AsyncScalars(terms)
    assert reading.values() == {"global": 1.5, "local": 0.25}
    assert reading.values() == reading.values()
    assert reading.terms is terms


def test_a_step_without_terms_has_none_to_read():
    assert AsyncScalars({}).values() == {}


def test_the_loss_of_a_step_is_read_after_the_next(acrobat, mbench, monkeypatch):
    read, step = [], Run.step
    values = AsyncScalars.values

    def stepping(run, batch):
        read.append("step")
        step(run, batch)

    def reading(self):
        read.append("read")
        return values(self)

    monkeypatch.setattr(Run, "step", stepping)
    monkeypatch.setattr(AsyncScalars, "values", reading)
    said = mbench(*acrobat.arguments("--set", "epochs=2"))
    assert said.code == 0, said.err
    epoch = len(read) // 2
    assert read[:4] == ["step", "step", "read", "step"]
    assert read[:epoch] == read[epoch:]
    assert read[:epoch].count("step") == read[:epoch].count("read")


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cuda", "bf16", "high"), ("cuda", "fp32", "highest"), ("cpu", "bf16", "highest")],
)
def test_held_out_products_on_a_gpu_are_as_exact_as_training_needs(device, precision, expected):
    recipe = type("Recipe", (), {"precision": precision})
    with _products(recipe, torch.device(device)):
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == "highest"


def loss_and_gradients(model, seed):
    batch = packed({key: bag.float() for key, bag in some_bags(seed).items()}, 5)
    recipe = ObjectiveRecipe(temperature=0.2, tokens=3, intra_weight=0.3)
    model.zero_grad()
    loss = cross_stain_loss(model, batch, STAINS, recipe, ALONE)
    loss.total.backward()
    return loss.total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def made_model(stains=0):
    model = Madeleine(DIM, 6, 2, stains=stains, dropout=0.0).train()
    initialise(model, 1)
    return model


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler: no g++ here"
)
# PyTorch's own, while it imports its compiler.
from_torch = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@needs_compiler
@from_torch
@pytest.mark.slow
@pytest.mark.parametrize("stains", [0, STAINS])
def test_compiled_layers_have_the_loss_and_the_gradient_of_plain_ones(stains):
    plain, compiled = made_model(stains), made_model(stains)
    compile_layers(compiled)
    for seed in (0, 1):  # of other lengths: one compilation does for all
        expected, gradients = loss_and_gradients(plain, seed)
        found, ours = loss_and_gradients(compiled, seed)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        for name, gradient in gradients.items():
            if name.endswith("attention_c.bias"):
                continue  # attention does not depend on it: its gradient is rounding
            scale = max(float(gradient.abs().max()), 1e-4)
            torch.testing.assert_close(
                ours[name] / scale, gradient / scale, rtol=0, atol=1e-4, msg=name
            )


@needs_compiler
@from_torch
@pytest.mark.slow
def test_a_compiled_run_is_that_of_plain_layers(acrobat, mbench):
    logs, weights = [], []
    for choice in ("false", "true"):
        out = acrobat.folder / choice
        said = mbench(
            *acrobat.arguments("--set", "model.dropout=0", "--set", f"compile={choice}"),
            "--out", out,
        )  # fmt: skip
        assert said.code == 0, said.err
        logs.append(pd.read_csv(out / "log.csv")["loss"])
        weights.append(load_file(out / "small-acrobat.safetensors"))
    pd.testing.assert_series_equal(*logs, rtol=1e-3)
    for name, value in weights[0].items():
        # Attention does not depend on this bias: its gradient is rounding, which AdamW enlarges.
        if not name.endswith("attention_c.bias"):
            torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3, msg=name)


def counting(monkeypatch):
    """Put a torch.compile in place that counts calls of what it returns."""
    calls = []

    def compile_(function, dynamic):
        def compiled(*given):
            calls.append(given)
            return function(*given)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


def test_only_training_is_compiled(monkeypatch):
    calls, model, patches = counting(monkeypatch), made_model(), torch.ones(3, DIM)
    compile_layers(model)
    model.eval()
    expected = model(patches, (3,))[0]
    assert not calls
    model.train()
    torch.testing.assert_close(model(patches, (3,))[0], expected)
    assert len(calls) == 1


def test_a_failing_compiler_is_named_with_what_to_do(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def failing(*_):
        raise TorchDynamoException("no C++ compiler found\nlong story")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    model = made_model()
    compile_layers(model)
    with pytest.raises(InputError, match=r"no C\+\+ compiler found\).*--set compile=false"):
        model(torch.ones(3, DIM), (3,))


def test_a_run_may_go_on_compiled(acrobat, mbench, monkeypatch):
    calls = counting(monkeypatch)
    assert mbench(*acrobat.arguments()).code == 0
    before = load_file(acrobat.folder / "out" / "small-acrobat.safetensors")
    assert not calls
    said = mbench(*acrobat.arguments("--resume", "--set", "compile=true"))
    assert said.code == 0, said.err
    again = load_file(acrobat.folder / "out" / "small-acrobat.safetensors")
    assert all(torch.equal(before[name], again[name]) for name in before)
    other = acrobat.folder / "other"
    assert mbench(*acrobat.arguments("--set", "compile=true", "--out", other)).code == 0
    assert calls
