"""Checkpoints: what is written is what is read, and a crash leaves the one before."""

import pytest
import torch

from madeleine_bench import files
from madeleine_bench.errors import InputError
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.checkpoint import (
    Checkpoint,
    RunState,
    optimiser_moments,
    read_checkpoint,
    restore_moments,
    write_checkpoint,
)

INPUTS = {"recipe": {"epochs": 3, "model": {"width": 6}}, "data": "abc"}


def trained(steps, model=None, optimiser=None):
    """A model after some steps of AdamW on a made-up loss."""
    if model is None:
        model = Madeleine(5, 6, 2)
        initialise(model, 0)
    optimiser = optimiser or torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        sum(p.square().sum() for p in model.parameters()).backward()
        optimiser.step()
    return model, optimiser


def checkpoint_of(model, optimiser, **state):
    return Checkpoint(
        state=RunState(**state),
        model=model.state_dict(),
        moments=optimiser_moments(model, optimiser),
        best={"projector.bias": torch.ones(6)},
        inputs=INPUTS,
    )


def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    model, optimiser = trained(3)
    state = {"epoch": 2, "step": 1, "sums": {"loss": 0.1 + 0.2}, "best": 0.5, "best_epoch": 1}
    write_checkpoint(tmp_path / "c", checkpoint_of(model, optimiser, **state))
    trained(2, model, optimiser)

    again = Madeleine(5, 6, 2)
    found = read_checkpoint(tmp_path / "c", INPUTS)
    again.load_state_dict(found.model)
    resumed = torch.optim.AdamW(again.parameters(), lr=0.01)
    restore_moments(again, resumed, found.moments)
    trained(2, again, resumed)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert found.state == RunState(**state)
    assert torch.equal(found.best["projector.bias"], torch.ones(6))


def test_the_same_checkpoint_has_the_same_bytes(tmp_path):
    model, optimiser = trained(2)
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, checkpoint_of(model, optimiser))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    model, optimiser = trained(1)
    write_checkpoint(tmp_path / "c", checkpoint_of(model, optimiser, epoch=1))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(InputError, match="cannot write"):
        write_checkpoint(tmp_path / "c", checkpoint_of(model, optimiser, epoch=2))
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "c", INPUTS).state.epoch == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_every_setting_that_differs_is_named(tmp_path):
    model, optimiser = trained(1)
    write_checkpoint(tmp_path / "c", checkpoint_of(model, optimiser))
    other = {"recipe": {"epochs": 4, "model": {"width": 6}, "seed": 1}, "data": "abd"}
    with pytest.raises(InputError) as refused:
        read_checkpoint(tmp_path / "c", other)
    for words in ("recipe.epochs was 3, now 4", "recipe.seed was None, now 1", "data was abc"):
        assert words in str(refused.value)
    assert "width" not in str(refused.value)
