"""When the fused kernels are used, and what happens where they are wrong or do not compile."""

import sys
from types import SimpleNamespace

import pytest
import torch

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.losses import fused, ipot_torch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is known of any device, and MBENCH_TRANSPORT is not set."""
    monkeypatch.delenv(fused.SETTING, raising=False)
    fused.fault.cache_clear()
    yield
    fused.fault.cache_clear()


def cost_on_gpu(n=6, m=5, dtype=torch.float32):
    """Something that looks like a cost on a GPU as far as the choice looks."""
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype, shape=(3, n, m))


def kernels_are(monkeypatch, iterate=ipot_torch.iterate, pull_back=ipot_torch.pull_back):
    """Put other functions in the place of the kernels, and the CPU in that of the GPU."""
    module = SimpleNamespace(iterate=iterate, pull_back=pull_back)
    monkeypatch.setitem(sys.modules, "madeleine_bench.losses.ipot_kernels", module)
    package = sys.modules["madeleine_bench.losses"]
    monkeypatch.setattr(package, "ipot_kernels", module, raising=False)
    monkeypatch.setattr(fused, "find_spec", lambda name: name)
    real = fused._differs
    monkeypatch.setattr(fused, "_differs", lambda device, n, m: real(CPU, n, m))


def broken(*_):
    raise RuntimeError("ptxas: no such architecture\nmore of it")


def wrong(cost, beta, iterations):
    plan, trace = ipot_torch.iterate(cost, beta, iterations)
    return plan * 1.01, trace


def not_a_number(upstream, trace, beta):
    return ipot_torch.pull_back(upstream, trace, beta) * torch.nan


def test_a_cpu_uses_torch_whatever_is_asked_for(monkeypatch):
    for setting in fused.CHOICES:
        monkeypatch.setenv(fused.SETTING, setting)
        assert not fused.takes(torch.ones(1, 2, 2))


def test_kernels_that_agree_are_used(monkeypatch):
    kernels_are(monkeypatch)
    assert fused.takes(cost_on_gpu())


def test_each_size_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(fused, "find_spec", lambda name: name)
    monkeypatch.setattr(fused, "_differs", lambda device, n, m: tried.append((n, m)) or "")
    for n, m in ((6, 5), (6, 5), (7, 5), (6, 5)):
        assert fused.takes(cost_on_gpu(n, m))
    assert tried == [(6, 5), (7, 5)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterate": broken}, "RuntimeError: ptxas: no such architecture\\)"),
        ({"pull_back": broken}, "RuntimeError: ptxas"),
        ({"iterate": wrong}, "6 x 5 plans differ by 1.0e-02"),
        ({"pull_back": not_a_number}, "gradients by nan"),
    ],
)
def test_kernels_that_fail_are_left_alone_and_one_warning_says_so(monkeypatch, given, message):
    kernels_are(monkeypatch, **given)
    with pytest.warns(RuntimeWarning, match=f"without its fused kernels.*{message}"):
        assert not fused.takes(cost_on_gpu())
    assert not fused.takes(cost_on_gpu())  # a second warning would be an error
    monkeypatch.setenv(fused.SETTING, "triton")
    with pytest.raises(CheckFailed, match=f"MBENCH_TRANSPORT=triton.*cuda:0: .*{message[:20]}"):
        fused.takes(cost_on_gpu())


def test_without_triton_torch_is_used(monkeypatch):
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="Triton is not installed"):
        assert not fused.takes(cost_on_gpu())


def test_torch_can_be_asked_for(monkeypatch):
    kernels_are(monkeypatch, iterate=broken)
    monkeypatch.setenv(fused.SETTING, "torch")
    assert not fused.takes(cost_on_gpu())


@pytest.mark.parametrize(
    "cost",
    [cost_on_gpu(1, 5), cost_on_gpu(5, 1), cost_on_gpu(5, 4097), cost_on_gpu(dtype=torch.float64)],
)
def test_costs_the_kernels_are_not_made_for(monkeypatch, cost):
    kernels_are(monkeypatch, iterate=broken)
    assert not fused.takes(cost)


def test_an_unknown_setting_is_refused(monkeypatch):
    monkeypatch.setenv(fused.SETTING, "cuda")
    with pytest.raises(InputError, match="found 'cuda', expected one of auto, torch, triton"):
        fused.takes(cost_on_gpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("sizes", [(256, 256), (48, 48), (100, 33)])
def test_the_kernels_work_on_this_gpu(sizes):
    assert fused.fault(torch.device("cuda", 0), *sizes, warn=False) == ""
