"""Processes on several machines: the encoder of one, and what is said where it cannot be."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.parallel import process_group

ROOT = Path(__file__).resolve().parents[2]
RENDEZVOUS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """Set the environment as a launcher does; None takes a variable out."""

    def set_to(**variables):
        for name in RENDEZVOUS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def agent(port, nodes, processes, *command):
    """Start the agent of one machine; all of them are this one."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node",
        str(processes), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}",
        "--rdzv-id", "test", "--no-python", str(Path(sys.executable).with_name("mbench")),
        *map(str, command),
    ]  # fmt: skip
    return subprocess.Popen(
        launcher, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def ended(agents):
    said = [one.communicate(timeout=280)[0] for one in agents]
    assert [one.returncode for one in agents] == [0] * len(agents), "\n".join(said)
    return "".join(said)


@pytest.mark.slow
def test_two_machines_train_the_encoder_of_one_with_two_processes(acrobat):
    weights = {}
    for name, nodes, processes in (("one", 1, 2), ("two", 2, 1)):
        out, port = acrobat.folder / name, free_port()
        command = acrobat.arguments("--out", out)
        said = ended([agent(port, nodes, processes, *command) for _ in range(nodes)])
        assert said.count("epoch 3/3") == 1, "one process of all machines speaks"
        assert said.count("card: ") == 1
        weights[name] = load_file(out / "small-acrobat.safetensors")
    assert weights["one"].keys() == weights["two"].keys()
    for name, value in weights["one"].items():
        assert torch.equal(weights["two"][name], value), name


def test_alone_nothing_of_a_launcher_is_needed(environment):
    environment()
    with process_group("cpu") as group:
        assert (group.rank, group.size, group.patient) == (0, 1, None)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "2", "RANK": "0"},
            r"WORLD_SIZE is 2, .* do not find together: .*MASTER_ADDR expected",
        ),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE in the environment is 'two'; expected a number"),
        (
            {"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "no"},
            r"WORLD_SIZE is 2, and the processes do not find together: ",
        ),
    ],
)
def test_an_environment_of_no_launcher(environment, variables, message):
    environment(**variables)
    with pytest.raises(InputError, match=message), process_group("cpu"):
        pass


def test_the_number_on_its_machine_chooses_the_gpu(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment(LOCAL_RANK="1")
    with process_group("auto") as group:
        assert group.device == torch.device("cuda", 1)
    environment(LOCAL_RANK="2")
    with (
        pytest.raises(InputError, match=r"process 2 .* no GPU of its own: there are 2; give torch"),
        process_group("cuda"),
    ):
        pass
