"""Runs of the preset "aligned", and of real cohorts that are not as one would wish."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.losses.aligned import partner_pull
from madeleine_bench.models.aligned import AlignedMadeleine
from madeleine_bench.models.madeleine import initialise
from madeleine_bench.pretrain.batches import Regions
from madeleine_bench.pretrain.heldout import HeldOut
from madeleine_bench.pretrain.objective import cross_stain_loss
from madeleine_bench.pretrain.parallel import Group
from madeleine_bench.pretrain.recipe import ObjectiveRecipe
from madeleine_bench.pretrain.start import start_plain
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag
from tests.pretrain import two_processes
from tests.pretrain.conftest import DIM
from tests.tool_bags import write_bag_file

ALIGNED = ("--set", "objective.preset=aligned")
ONE_EPOCH = (*ALIGNED, "--set", "epochs=1", "--set", "optimiser.warmup_epochs=0")
ALONE = Group(0, 1, torch.device("cpu"))


def log_of(acrobat):
    return pd.read_csv(acrobat.folder / "out" / "log.csv")


def encoder_of(acrobat):
    return load_encoder(find_encoder(str(acrobat.folder / "out" / "card.yaml")))


def bag_of(features):
    return Bag("s", "c", features.astype(np.float32), organ="breast")


def test_the_loss_is_the_sum_worked_out_by_hand():
    model = AlignedMadeleine(two_processes.DIM, 6, 2).double().eval()
    initialise(model, 1)
    for buffer in model.buffers():
        buffer.normal_(generator=torch.Generator().manual_seed(3))
    cases = list(range(two_processes.CASES))
    batch = two_processes.batch_of(cases, len(cases))
    recipe = ObjectiveRecipe(preset="aligned", temperature=0.2, local_weight=0.7, tokens=3)
    loss = cross_stain_loss(model, batch, 3, recipe, ALONE)

    def tokens(case, stain):
        bag = two_processes.bag(case, stain)
        learned, _ = model.embed_patches(bag)
        return model.aligned_tokens(bag, bag.mean(dim=0), learned)[:3]

    local = []
    for stain, there in ((1, cases), (2, [0, 1])):
        u, v = (torch.stack([tokens(c, s) for c in there]) for s in (0, stain))
        plan = torch.stack([two_processes.bag(c, stain)[:3, :3].square() for c in there])
        local.append(partner_pull(u, v, plan))
    assert float(loss.terms["local"]) == pytest.approx(sum(local).item() / 2, rel=1e-10)
    assert loss.total.item() == pytest.approx(
        float(loss.terms["global"] + 0.7 * loss.terms["local"]), rel=1e-10
    )


def test_half_precision_of_the_model_leaves_the_losses_in_float32():
    model = AlignedMadeleine(two_processes.DIM, 6, 2).eval()
    initialise(model, 1)
    for buffer in model.buffers():
        buffer.normal_(generator=torch.Generator().manual_seed(3))
    batch = two_processes.batch_of([0, 1, 2], 3)
    regions = {name: value.float() for name, value in vars(batch.regions).items()}
    batch = replace(batch, patches=batch.patches.half(), regions=Regions(**regions))
    recipe = ObjectiveRecipe(preset="aligned", temperature=0.2, tokens=3)
    exact = cross_stain_loss(model, batch, 3, recipe, ALONE).total
    with torch.autocast("cpu", torch.bfloat16):
        rough = cross_stain_loss(model, batch, 3, recipe, ALONE).total
    assert exact.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)


def test_a_run_begins_at_plain_features_and_leaves_an_encoder(acrobat, mbench):
    said = mbench(*acrobat.arguments(*ALIGNED, "--set", "model.stain_encoding=true"))
    assert said.code == 0, said.err
    assert "36 plans: " in said.err
    assert "before training: held out: retrieval" in said.err
    log = log_of(acrobat)
    measured = {"mean_pool", "gain_low", "token_cosine", "token_rank", "plan_partners", "map_error"}
    assert {f"held_out_{name}" for name in measured} <= set(log.columns)
    assert log.notna().all().all()
    about = json.loads((acrobat.folder / "out" / "run.json").read_text())
    assert about["state"]["best"] >= log["held_out_mean_pool"][0]
    encoder = encoder_of(acrobat)
    features = rng_for("bag").standard_normal((7, DIM))
    bag = bag_of(features)
    np.testing.assert_allclose(
        encoder.encode_in_chunks(bag, 3), encoder.encode(bag), rtol=1e-4, atol=1e-5
    )


def test_training_that_harms_retrieval_leaves_the_mean_of_plain_features(acrobat, mbench):
    """A rate at which nothing is learned: the weights from before training are kept."""
    wild = ("--set", "optimiser.learning_rate=30", "--set", "optimiser.clip_norm=null")
    said = mbench(*acrobat.arguments(*ALIGNED, *wild))
    assert said.code == 0, said.err
    about = json.loads((acrobat.folder / "out" / "run.json").read_text())
    assert about["state"]["best_epoch"] == 0
    assert "no epoch found partners significantly better than the mean of plain" in said.err
    encoder, stream = encoder_of(acrobat), rng_for("bags")
    bags = [stream.standard_normal((5, DIM)).astype(np.float32) for _ in range(2)]
    one, two, both = (encoder.encode(bag_of(bag)) for bag in (*bags, np.concatenate(bags)))
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "lows", "kept"),
    [("aligned", (-0.01, -0.02, 0.0), 0), ("aligned", (-0.01, 0.03, -0.01), 2),
     ("corrected", (-0.01, -0.02, 0.0), 3)],
)  # fmt: skip
def test_weights_leave_plain_features_only_for_a_gain_that_is_no_chance(
    acrobat, mbench, monkeypatch, preset, lows, kept
):
    """The retrieval rises from epoch to epoch in any case."""
    measured = iter([(0.1, 0.0)] * (preset == "aligned") + [(0.2 + low, low) for low in lows])

    def evaluate(*args, **options):
        retrieval, low = next(measured)
        return HeldOut(retrieval, 0.0, 0.1, 0.1, low, 2.0, 0.5, 2.0)

    monkeypatch.setattr("madeleine_bench.pretrain.run.evaluate_held_out", evaluate)
    said = mbench(*acrobat.arguments("--set", f"objective.preset={preset}"))
    assert said.code == 0, said.err
    about = json.loads((acrobat.folder / "out" / "run.json").read_text())
    assert about["state"]["best_epoch"] == kept
    assert ("significantly better" in said.err) == (kept == 0)


def test_the_start_of_few_slides_keeps_directions_of_their_patches():
    """Cases differ along axis 0, stains along axis 1, patches of a slide along axes 2 and 3."""
    patches = np.repeat([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], 3, axis=0)
    bags = np.zeros((4, len(patches), DIM))
    bags[:, :, 2:4] = patches
    bags[2:, :, 0] += 5.0
    bags[1::2, :, 1] += 9.0
    store = SimpleNamespace(dim=DIM, stains=["H&E", "ER"] * 2, bag=lambda slide: bags[slide])
    model = AlignedMadeleine(DIM, 3, 1)
    start_plain(model, store, range(4))
    sizes = model.shortcut.directions.abs()
    expected = torch.zeros(3, DIM)
    for row, axis in enumerate((0, 2, 3)):
        expected[row, axis] = sizes.max()
    torch.testing.assert_close(sizes, expected, rtol=1e-5, atol=1e-6)


def test_fine_tuning_starts_from_the_weights(acrobat, mbench):
    assert mbench(*acrobat.arguments(*ONE_EPOCH)).code == 0
    encoder = encoder_of(acrobat)
    options = {"input_dim": DIM, "outputs": 2, "organ": "breast", "seed": 0}
    network = encoder.network(from_weights=True, **options)
    bag = bag_of(rng_for("bag").standard_normal((7, DIM)))
    found = network.eval().embed(torch.from_numpy(bag.features), [7])
    np.testing.assert_allclose(found[0].detach(), encoder.encode(bag), rtol=1e-5, atol=1e-6)
    assert encoder.network(from_weights=False, **options) is not None


def test_bags_without_coordinates_train_by_features_alone(acrobat, mbench):
    """As STAMP's, whose coordinates are in micrometres."""
    for number in (0, 1):
        path = acrobat.features / f"c03-{number}.h5"
        path.unlink()
        features = rng_for(number).standard_normal((12, DIM)).astype(np.float32)
        coords = np.stack(np.divmod(np.arange(12), 4), axis=1)
        write_bag_file(path, features, coords, layout="stamp", mpp=0.5)
    said = mbench(*acrobat.arguments(*ONE_EPOCH))
    assert said.code == 0, said.err
    assert "warning: 2 slides have no coordinates in level-0 pixels (c03-0, c03-1)" in said.err


def test_another_patch_encoder_in_one_bag_is_refused(acrobat, mbench):
    path = acrobat.features / "c03-1.h5"
    path.unlink()
    write_bag_file(path, np.ones((9, DIM + 1), np.float32), np.zeros((9, 2)), layout="clam")
    said = mbench(*acrobat.arguments(*ALIGNED))
    assert said.code == 2
    assert "c03-1" in said.err
    assert "One cohort has one patch encoder" in said.err


def test_a_stain_that_most_cases_lack(acrobat, mbench):
    """HER2 of three cases alone: it seldom has two pairs in a batch."""
    table = pd.read_csv(acrobat.labels)
    table[(table["stain"] != "HER2") | (table["slide_id"] < "c05")].to_csv(
        acrobat.labels, index=False
    )
    said = mbench(*acrobat.arguments(*ALIGNED))
    assert said.code == 0, said.err
    assert "stains H&E, ER, HER2;" in said.err
    assert np.isfinite(log_of(acrobat)["local"]).all()


def test_sections_that_do_not_overlap(acrobat, mbench):
    """The slides of a case have nothing in common: neither their tissue nor where it lies."""
    for path in acrobat.features.glob("*.h5"):
        rng = rng_for("apart", path.stem)
        path.unlink()
        features = rng.standard_normal((14, DIM)).astype(np.float32)
        write_bag_file(path, features, rng.integers(0, 99999, (14, 2)), layout="clam")
    said = mbench(*acrobat.arguments(*ALIGNED))
    assert said.code == 0, said.err
    assert np.isfinite(log_of(acrobat)["loss"]).all()


@pytest.mark.slow
def test_a_bag_of_20_000_patches(acrobat, mbench):
    side = 142
    for number in (0, 1):
        path = acrobat.features / f"c03-{number}.h5"
        path.unlink()
        features = rng_for("large", number).standard_normal((side**2, DIM)).astype(np.float32)
        coords = 512 * np.stack(np.divmod(np.arange(side**2), side), axis=1)
        write_bag_file(path, features, coords, layout="clam")
    said = mbench(*acrobat.arguments(*ONE_EPOCH))
    assert said.code == 0, said.err


def test_tokens_that_have_become_alike_are_warned_of(acrobat, mbench, monkeypatch):
    monkeypatch.setattr("madeleine_bench.pretrain.run._COLLAPSED", -1.0)
    said = mbench(*acrobat.arguments())
    assert said.code == 0
    assert said.err.count("warning: the tokens of a slide have become alike (mean cosine") == 1
    assert "objective.preset=aligned" in said.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_has_the_loss_and_the_gradient_of_a_cpu():
    one = two_processes.measure(ALONE)
    other = two_processes.measure(Group(0, 1, torch.device("cuda")))
    for name, value in one.items():
        torch.testing.assert_close(other[name].cpu(), value, rtol=1e-9, atol=1e-12, msg=name)
