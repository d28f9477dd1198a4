"""The speed script of pretraining: all of it at toy size, and that what it compares is equal."""

import json
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import pretrain_speed, speed_sections, step_clock
from benchmarks.acrobat_scale import ACROBAT, TOY, MadeUpSource, made_up_store
from benchmarks.plain_madeleine import PlainMadeleine, first_cases, padded, plain_loss
from benchmarks.pretrain_speed import AT_TOY_SIZE, TOY_CHANGES, main, needs_s, run_sections
from benchmarks.speed_sections import Speed, take_steps
from benchmarks.step_clock import PARTS, Clock, Spans, end_of_epoch_ms, parts_ms, spread, watching
from madeleine_bench.errors import InputError
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain import objective, run
from madeleine_bench.pretrain.batches import draw_batch
from madeleine_bench.pretrain.cases import build_cases
from madeleine_bench.pretrain.parallel import Group
from madeleine_bench.pretrain.recipe import ObjectiveRecipe, load_recipe, with_changes

CPU = torch.device("cpu")
ALONE = Group(0, 1, CPU)
RECIPE = ObjectiveRecipe(temperature=0.2, local_weight=0.7, tokens=5)


@pytest.fixture(scope="module")
def speed(tmp_path_factory) -> Speed:
    """Everything a section needs, at toy size."""
    recipe = with_changes(load_recipe("madeleine"), ["objective.preset=corrected", *TOY_CHANGES])
    amounts = replace(AT_TOY_SIZE, steps=2, plain_steps=1)
    return Speed(
        store=made_up_store(TOY, 0),
        recipe=recipe,
        group=ALONE,
        amounts=amounts,
        out=tmp_path_factory.mktemp("speed"),
        deadline_s=time.perf_counter() + 3600.0,
        toy=True,
        found={},
    )


@pytest.fixture(scope="module")
def batch():
    """A batch of 7 cases with 5 stains, some absent, 9 patches a slide."""
    store = made_up_store(TOY, 1)
    table = build_cases(store, min_patches=2, unusable="refuse", encoder="madeleine")
    source = MadeUpSource(store, CPU, 1)
    return draw_batch(source, table, list(range(7)), patches=9, seed=0, epoch=0)


def test_the_whole_script_at_toy_size(tmp_path):
    few = ["--steps", "2", "--plain-steps", "1", "--epochs", "2", "--commit", "abc"]
    main(["--toy", "--out", str(tmp_path), *few])
    report = json.loads((tmp_path / "pretrain_speed.json").read_text())
    sections = report["sections"]
    assert list(sections) == ["steps", "aligned", "plain", "full", "precision"]
    assert not any({"failed", "skipped"} & section.keys() for section in sections.values())
    assert report["toy"]
    assert report["commit"] == "abc"
    assert report["device"]["name"]
    assert report["packages"]["torch"]
    steps = sections["steps"]
    assert steps["ms_per_step"]["steps"] == 2
    assert set(steps["parts_ms"]) == {*PARTS, "step"}
    assert min(steps["parts_ms"][part] for part in ("model_forward", "local", "backward")) > 0
    assert {"held_out", "checkpoint", "end_of_epoch"} <= set(steps["end_of_epoch_ms"])
    assert steps["patches_per_step"] == pytest.approx(16 * steps["slides_per_step"], abs=1)
    assert steps["floor"] is None
    assert steps["per_step"]["operators"] > 1000
    assert 0 < steps["local_share"] < 1
    assert 0 < sections["aligned"]["local_share"] < 1
    assert sections["plain"]["cases"] == 8
    assert sections["plain"]["times_ours_by_the_case"] > 0
    assert sections["full"]["epochs_done"] == 2
    assert sections["full"]["goal_met"] is None
    losses = sections["precision"]["loss"]
    assert len(losses["bf16"]) == len(losses["fp32"]) == sections["precision"]["steps_compared"] > 1
    assert 0 < sections["precision"]["mean_relative_difference"] < 0.05
    kept = {path.name for path in (tmp_path / "pretrain_speed").iterdir()}
    assert kept == {"log.csv", "curves.svg", "precision.svg"}


def test_the_plain_implementation_has_our_loss_and_our_gradient(batch):
    torch.manual_seed(3)
    ours = Madeleine(TOY.dim, 6, 2)
    initialise(ours, 5)
    plain = PlainMadeleine(TOY.dim, 6, 2, 0.1)
    plain.load_state_dict(ours.state_dict())
    ours.eval()
    plain.eval()
    expected = objective.cross_stain_loss(ours, batch, 5, RECIPE, ALONE)
    found = plain_loss(plain, batch, 5, RECIPE)
    assert expected.terms.keys() == found.keys()
    for name, value in found.items():
        assert value.item() == pytest.approx(expected.terms[name].item(), rel=1e-5), name
    expected.total.backward()
    found["loss"].backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = max(float(parameter.grad.abs().max()), 1e-4)
        torch.testing.assert_close(
            theirs[name].grad / scale, parameter.grad / scale, rtol=0, atol=1e-3, msg=name
        )


def test_absent_slides_are_zeros_in_a_padded_batch(batch):
    bags, present = padded(batch, 5)
    assert bags.shape == (35, 9, TOY.dim)
    assert present.sum() == len(batch.lengths) < 35
    flat = present.flatten()
    torch.testing.assert_close(bags[flat].flatten(0, 1), batch.patches)
    assert not bags[~flat].any()
    uneven = replace(batch, lengths=(1, 17, *batch.lengths[2:]))
    with pytest.raises(ValueError, match="one number of patches"):
        padded(uneven, 5)


def test_the_first_cases_of_a_batch(batch):
    some = first_cases(batch, 3)
    assert some.cases == 3
    assert set(some.case.tolist()) == {0, 1, 2}
    assert len(some.patches) == sum(some.lengths) == 9 * int((batch.case < 3).sum())
    assert torch.equal(some.patches, batch.patches[: len(some.patches)])


def test_the_made_up_cohort_is_as_large_as_acrobat():
    store = made_up_store(ACROBAT, 0)
    assert len(store) == 4211
    assert {stain: store.stains.count(stain) for stain in ACROBAT.slides} == dict(ACROBAT.slides)
    table = build_cases(store, min_patches=2, unusable="refuse", encoder="madeleine")
    assert len(table) == 1153
    assert not table.left_out
    assert list(store.slide_ids) == sorted(set(store.slide_ids))
    assert store.lengths.min() >= 2048
    assert store.lengths.max() <= 12000
    assert store.lengths.mean() == pytest.approx(6000, abs=2)
    assert len(set(store.lengths.tolist())) > 1000
    assert store.shards[0].shape == (store.offsets[-1], 512)


@pytest.mark.parametrize("mean", [5.0, 80.0, 1000.0])
def test_a_mean_outside_the_range_is_refused(mean):
    with pytest.raises(InputError, match="between 16 and 80"):
        made_up_store(replace(TOY, mean_patches=mean), 0)


def test_made_up_patches_come_from_their_seed_and_share_what_their_case_is_like():
    store = made_up_store(TOY, 0)
    one, same, other = (MadeUpSource(store, CPU, seed).patches for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    means = torch.stack([one[store.rows(i)].float().mean(0) for i in range(len(store))])
    stain = torch.stack([means[[s == t for t in store.stains]].mean(0) for s in store.stains])
    cosine = torch.nn.functional.cosine_similarity(
        (means - stain)[:, None], (means - stain)[None], dim=-1
    )
    case = np.array(store.case_ids)
    pairs = torch.from_numpy(case[:, None] == case[None]) & ~torch.eye(len(case), dtype=torch.bool)
    assert cosine[pairs].mean() > 0.3 > cosine[~pairs & (cosine < 0.999)].mean()


def test_without_a_gpu_only_the_toy_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        main(["--out", str(tmp_path)])
    assert end.value.code == 2
    assert "no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", ["0", "-3", "1.5", "many"])
def test_a_count_that_is_none_is_refused(count, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--toy", f"--steps={count}"])
    assert end.value.code == 2
    assert "whole number of 1 or more" in capsys.readouterr().err


def test_a_section_that_does_not_fit_into_the_budget_says_so(tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["--toy", "--out", str(tmp_path), "--budget-s", "0"])
    assert end.value.code == 1
    sections = json.loads((tmp_path / "pretrain_speed.json").read_text())["sections"]
    assert all("0 s of the budget left" in section["skipped"] for section in sections.values())


def test_what_a_section_needs_follows_from_the_steps_measured():
    found = {"steps": {"epoch_s": 0.5}}
    amounts = replace(AT_TOY_SIZE, epochs=120, compare_epochs=4)
    assert needs_s("full", amounts, found) == 60.0
    assert needs_s("precision", amounts, found) == pytest.approx(22.0)
    assert needs_s("plain", amounts, found) == needs_s("full", amounts, {}) == 0.0


def test_a_run_that_meets_the_end_of_the_budget_stops_there(speed):
    found = speed_sections.measure_full(
        replace(speed, deadline_s=time.perf_counter(), amounts=replace(AT_TOY_SIZE, epochs=9))
    )
    assert found["stopped_by_the_budget"]
    assert found["epochs_done"] < 9


def test_a_section_that_fails_leaves_the_others_their_turn(speed, tmp_path, monkeypatch, capsys):
    def fail(speed):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(pretrain_speed.SECTIONS, "steps", fail)
    monkeypatch.setitem(pretrain_speed.SECTIONS, "plain", lambda speed: {"wall_s": 3})
    report = {"sections": {}}
    assert not run_sections(speed, report, ["steps", "plain"], tmp_path)
    kept = json.loads((tmp_path / "pretrain_speed.json").read_text())["sections"]
    assert kept["steps"]["failed"] == "RuntimeError: no such kernel"
    assert kept["plain"]["wall_s"] == 3
    assert "no such kernel" in capsys.readouterr().out


def test_half_of_the_cases_where_memory_runs_out(speed, monkeypatch):
    sizes = []

    def hungry(model, optimiser, batch, *_):
        sizes.append(batch.cases)
        if batch.cases > 2:
            raise torch.OutOfMemoryError("8 GB short")

    monkeypatch.setattr(speed_sections, "plain_step", hungry)
    ours = {"steps": {"ms_per_step": {"median": 4.0}}}
    found = speed_sections.measure_plain(replace(speed, found=ours))
    assert sizes[:3] == [8, 4, 2]
    assert found["cases"] == 2
    assert found["cases_of_ours"] == 8
    by_case = found["ms_per_step"]["median"] / 2
    assert found["times_ours_by_the_case"] == pytest.approx(by_case / (4.0 / 8), abs=0.01)
    monkeypatch.setattr(
        speed_sections, "plain_step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError)
    )
    assert "do not fit" in speed_sections.measure_plain(speed)["failed"]


def test_steps_are_those_of_the_trainer(speed):
    """As many as an epoch has, its end included; watched or not, the losses are the same."""
    losses = []
    for watched in (False, True):
        with speed.run("epochs=6", "model.dropout=0.2") as ours:
            spans = Spans(Clock(CPU))
            few = islice(take_steps(ours, Clock(CPU)), ours.steps_per_epoch + 1)
            if watched:
                with watching(ours, spans):
                    taken = list(few)
            else:
                taken = list(few)
            assert (ours.state.epoch, ours.state.step) == (1, 1)
        losses.append([step.loss for step in taken])
        assert all(step.patches == 16 * step.slides for step in taken)
    assert losses[0] == losses[1]
    assert run.cross_stain_loss is objective.cross_stain_loss
    assert objective.embed.__name__ == "embed"


def test_parts_make_up_the_step():
    spans = Spans(Clock(CPU))
    spans.end("never begun")
    moments = {
        "model_forward": [(1.0, 3.0)], "contrast": [(3.0, 3.5), (4.0, 4.5)],
        "local": [(5.0, 8.0)], "losses": [(0.5, 9.0)], "backward": [(9.0, 14.0)],
        "clip": [(14.0, 14.5)], "optimiser": [(14.5, 16.0)], "step": [(0.0, 17.0)],
    }  # fmt: skip
    spans._found = [(1, name, *pair) for name, pairs in moments.items() for pair in pairs]
    spans._found += [(2, "held_out", 20.0, 21.0), (2, "end_of_epoch", 20.0, 22.0)]
    found = parts_ms(spans)
    assert found["contrast"] == pytest.approx(1000.0)
    assert found["rest_of_losses"] == pytest.approx(2500.0)
    assert found["rest"] == pytest.approx(1500.0)
    assert sum(found[part] for part in PARTS) == pytest.approx(found["step"])
    assert end_of_epoch_ms(spans) == {"held_out": 1000.0, "end_of_epoch": 2000.0}


def test_spread_of_one_and_of_several():
    assert spread([3.0])["median"] == spread([3.0])["quartile_1"] == 3.0
    found = spread([1.0, 2.0, 3.0, 4.0, 10.0])
    assert (found["median"], found["fastest"], found["slowest"]) == (3.0, 1.0, 10.0)
    assert found["quartile_1"] < 3.0 < found["quartile_3"]


def on_a_gpu(step):
    return SimpleNamespace(group=SimpleNamespace(device=torch.device("cuda")), step=step)


def test_launches_and_kernels_are_counted_for_a_step(monkeypatch):
    def event(key, count, device="CPU", time_us=0.0, **more):
        kind = SimpleNamespace(name=device)
        return SimpleNamespace(
            key=key, count=count, device_type=kind, self_device_time_total=time_us, **more
        )

    averages = [
        event("cudaLaunchKernel", 8), event("cudaLaunchKernelExC_v11060", 4),
        event("cuLaunchKernelEx", 2), event("cudaMemcpyAsync", 6), event("aten::mul", 10),
        event("cudaStreamSynchronize", 2, time_us=9e9), event("short", 4, "CUDA", 1000.0),
        event("long", 2, "CUDA", 5000.0), event("step", 1, "CUDA", 9e9, is_user_annotation=True),
    ]  # fmt: skip

    @contextmanager
    def profile(activities):
        yield SimpleNamespace(key_averages=lambda: averages)

    monkeypatch.setattr(step_clock, "profile", profile)
    taken = []
    found = step_clock.profile_steps(on_a_gpu(taken.append), ["a", "b"])
    assert taken == ["a", "b"]
    assert (found["launches"], found["copies"], found["waits"]) == (7, 3, 1)
    assert (found["kernels"], found["operators"], found["device_busy_ms"]) == (3, 5, 3.0)
    assert found["longest_kernels"][0] == {"name": "long", "launches": 1, "ms": 2.5}


def test_places_that_wait_are_told_by_file_and_line(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step(batch):
        for _ in range(2):
            warnings.warn_explicit("synchronizing", UserWarning, "/a/pretrain/objective.py", 112)
        warnings.warn_explicit("synchronizing", UserWarning, "/a/pretrain/run.py", 7)

    found = step_clock.places_that_wait(on_a_gpu(step), None)
    assert found == {"pretrain/objective.py:112": 2, "pretrain/run.py:7": 1}
    assert modes == ["warn", "default"]


def test_curves_need_results_and_what_draws_them(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--draw", "--out", str(tmp_path)])
    assert end.value.code == 2
    assert "no results to draw" in capsys.readouterr().err
    monkeypatch.setattr(pretrain_speed, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["--draw", "--out", str(tmp_path)])
    assert "altair and vl_convert cannot be imported" in capsys.readouterr().err


def test_a_run_without_what_draws_goes_on_without_curves(speed, monkeypatch):
    monkeypatch.setattr(speed_sections, "find_spec", lambda name: None)
    with speed.run() as ours:
        for _ in islice(take_steps(ours, Clock(CPU)), ours.steps_per_epoch):
            pass
        assert (ours.out / "log.csv").is_file()
        assert (ours.out / "curves.svg").read_text() == ""


def test_patches_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 10**11))
    with pytest.raises(InputError, match="smaller --patches-mean"):
        pretrain_speed._check_room(made_up_store(ACROBAT, 0), Group(0, 1, torch.device("cuda", 0)))
