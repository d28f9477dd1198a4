"""Pretraining from a packed store that is there already: as from the files, bit for bit."""

import shutil

import torch
from safetensors.torch import load_file

SHORT = ("--set", "epochs=1", "--set", "optimiser.warmup_epochs=0")


def weights_of(folder):
    (path,) = (p for p in folder.glob("*.safetensors") if p.name != "checkpoint.safetensors")
    return load_file(path)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_weights_from_a_store_are_those_from_the_files(acrobat, mbench):
    config, results = acrobat.folder / "mbench.toml", acrobat.folder / "results"
    out, again = acrobat.folder / "from-files", acrobat.folder / "from-store"
    assert mbench(*acrobat.arguments(*SHORT, "--out", out)).code == 0
    shutil.rmtree(results / "features")
    packing = ("data", "pack", "acrobat", "--config", config, "--results", results)
    assert mbench(*packing, "--out", acrobat.folder / "store").code == 0
    shutil.rmtree(acrobat.features)
    config.write_text('[cohorts.acrobat]\nfeatures = "store"\nlabels = "labels.csv"\n')
    said = mbench(*acrobat.arguments(*SHORT, "--out", again))
    assert said.code == 0, said.err
    assert same(weights_of(out), weights_of(again))
    # It was read where it lies, without another copy.
    assert not (results / "features").exists()


def test_a_damaged_store_is_repaired_before_training(acrobat, mbench):
    store = acrobat.folder / "store"
    assert mbench(*acrobat.arguments("--features", store, *SHORT)).code == 0
    (path,) = store.glob("features-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    out = acrobat.folder / "again"
    said = mbench(*acrobat.arguments("--features", store, *SHORT, "--out", out))
    assert said.code == 0
    assert f"{path.name} is truncated" in said.err
    assert path.read_bytes() == whole
