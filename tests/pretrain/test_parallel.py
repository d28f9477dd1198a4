"""Several processes do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.loop import _check_request
from madeleine_bench.pretrain.parallel import Group, gather_rows, process_group, sum_over
from madeleine_bench.pretrain.recipe import load_recipe, with_changes
from tests.pretrain import two_processes

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*command, cwd=ROOT):
    """Run a command in two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--standalone", *map(str, command)]  # fmt: skip
    return subprocess.run(
        launcher, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path):
    done = torchrun(two_processes.__file__, tmp_path / "two.safetensors")
    assert done.returncode == 0, done.stderr
    two = load_file(tmp_path / "two.safetensors")
    one = two_processes.measure(Group(0, 1, torch.device("cpu")))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["corrected", "aligned"])
def test_two_processes_train_the_encoder_of_one(acrobat, mbench, preset):
    alone, together = acrobat.folder / "alone", acrobat.folder / "together"
    setting = ("--set", "model.dropout=0", "--set", f"objective.preset={preset}")
    said = mbench(*acrobat.arguments(*setting, "--out", alone))
    assert said.code == 0, said.err
    command = Path(sys.executable).with_name("mbench")
    done = torchrun("--no-python", command, *acrobat.arguments(*setting, "--out", together))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 3/3") == 1, "one process speaks"
    one, two = (load_file(out / "small-acrobat.safetensors") for out in (alone, together))
    for name, value in one.items():
        # Attention does not depend on this bias: its gradient is rounding, which AdamW enlarges.
        if not name.endswith("attention_c.bias"):
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_alone_nothing_is_gathered():
    alone, rows = Group(0, 1, torch.device("cpu")), torch.ones(3, 2, requires_grad=True)
    assert gather_rows(alone, rows) is rows
    assert not sum_over(alone, rows.sum()).requires_grad


def test_the_published_objective_runs_in_one_process(tmp_path):
    recipe = with_changes(load_recipe("madeleine"), ["objective.preset=published"])
    with pytest.raises(InputError, match="runs in one process"):
        _check_request(recipe, tmp_path, Group(0, 2, torch.device("cpu")), resume=False)


def test_auto_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    with process_group("auto") as group:
        assert group.device.type == expected
