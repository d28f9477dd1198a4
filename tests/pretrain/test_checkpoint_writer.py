"""Checkpoints written behind: what is on disk is what was given, in the order it was given."""

import threading

import pytest
import torch

from madeleine_bench.errors import InputError
from madeleine_bench.pretrain import checkpoint_writer
from madeleine_bench.pretrain.checkpoint import Checkpoint, RunState, read_checkpoint
from madeleine_bench.pretrain.checkpoint_writer import CheckpointWriter


@pytest.fixture
def model():
    return torch.nn.Linear(3, 2)


def checkpoint_of(model, epoch=0) -> Checkpoint:
    return Checkpoint(RunState(epoch=epoch), model.state_dict(), {}, {}, {}, {"seed": 1})


def test_training_that_goes_on_does_not_change_what_is_written(tmp_path, model, monkeypatch):
    go, real = threading.Event(), checkpoint_writer.write_checkpoint

    def slow(path, checkpoint):
        assert go.wait(10)
        real(path, checkpoint)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", slow)
    writer, given = CheckpointWriter(tmp_path / "c", behind=True), checkpoint_of(model, 3)
    before = model.weight.detach().clone()
    writer.write(given, last=False)
    assert not (tmp_path / "c").exists()
    given.state.epoch, given.state.sums["loss"] = 4, 1.0
    with torch.no_grad():
        model.weight.add_(1.0)
    go.set()
    writer.finish()
    found = read_checkpoint(tmp_path / "c", {"seed": 1}, model)
    assert found.state == RunState(epoch=3)
    assert torch.equal(found.model["weight"], before)


@pytest.mark.parametrize("behind", [False, True])
def test_the_last_one_is_there_at_once(tmp_path, model, behind):
    writer = CheckpointWriter(tmp_path / "c", behind=behind)
    for epoch in range(4):
        writer.write(checkpoint_of(model, epoch), last=epoch == 3)
    assert read_checkpoint(tmp_path / "c", {"seed": 1}, model).state.epoch == 3
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_one_that_could_not_be_written_is_told_by_the_next(tmp_path, model):
    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter(tmp_path / "file" / "c", behind=True)
    writer.write(checkpoint_of(model), last=False)
    with pytest.raises(InputError, match="cannot write"):
        writer.write(checkpoint_of(model), last=False)


def test_a_run_written_behind_leaves_the_files_of_another(acrobat, mbench, monkeypatch):
    outs = []
    for behind in (False, True):
        monkeypatch.setattr(
            "madeleine_bench.pretrain.run.CheckpointWriter",
            lambda path, *, behind, chosen=behind: CheckpointWriter(path, behind=chosen),
        )
        outs.append(acrobat.folder / str(behind))
        said = mbench(*acrobat.arguments("--out", outs[-1]))
        assert said.code == 0, said.err
    for name in ("checkpoint.safetensors", "small-acrobat.safetensors"):
        one, two = (torch_tensors(out / name) for out in outs)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def torch_tensors(path):
    from safetensors.torch import load_file

    return load_file(path)
