"""`mbench data pack`: a store that run and pretrain read in place of feature files."""

import shutil

import numpy as np
import pytest

from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.data.packed import open_store
from madeleine_bench.results.store import ResultStore


@pytest.fixture
def packed(bcnb, mbench, tmp_path):
    """Bags in float16, packed; what the command said; the config that reads the store."""
    for number in range(1, 41):
        bcnb.write_bag(number, read_bag_file(bcnb.bag(number)).features.astype(np.float16))

    def pack(*options):
        return mbench(
            "data", "pack", "bcnb", "--config", bcnb.config, "--results", tmp_path / "results",
            "--out", tmp_path / "store", *options,
        )  # fmt: skip

    pack.store, pack.config = tmp_path / "store", tmp_path / "packed.toml"
    pack.config.write_text(
        f'[cohorts.bcnb]\nfeatures = "store"\nlabels = "{bcnb.labels}"\n', encoding="utf-8"
    )
    return pack


def run(mbench, config, results):
    said = mbench(
        "run", "--encoder", "mean-pool", "--task", "bcnb-er", "--protocol", "linear-probe",
        "--jobs", "1", "--config", config, "--results", results, "--source", "local",
    )  # fmt: skip
    assert said.code == 0, said.err
    return [record.record_id for record in ResultStore(results).records()]


def test_records_from_the_store_are_those_from_the_files(packed, bcnb, mbench, tmp_path):
    said = packed()
    assert said.code == 0
    assert "bcnb: 40 slides, 260 patches x 8 float16" in said.out
    assert 'features = "' in said.out
    from_files = run(mbench, bcnb.config, tmp_path / "a")
    shutil.rmtree(bcnb.folder / "features")
    assert run(mbench, packed.config, tmp_path / "b") == from_files


def test_status_and_verify_read_the_store(packed, mbench, tmp_path):
    packed()
    common = ("--config", packed.config, "--results", tmp_path / "r")
    assert "40/40" in mbench("data", "status", "bcnb", *common).out
    assert "40 files opened, 0 findings" in mbench("data", "verify", "bcnb", *common).out


def test_a_store_is_checked_and_repaired(packed, bcnb):
    packed()
    store = open_store(packed.store)
    bcnb.write_bag(7, np.ones((4, 8), np.float16))
    assert packed().code == 0
    assert open_store(packed.store).content != store.content
    (path,) = packed.store.glob("features-*.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    said = packed()
    assert said.code == 0
    assert f"{path}: slide '9' is not what was packed" in " ".join(said.err.split())
    assert "mbench data pack bcnb --out" in said.err
    open_store(packed.store, verify=True)


def test_where_a_store_lies_by_default(bcnb, mbench, tmp_path):
    results = tmp_path / "results"
    common = ("data", "pack", "bcnb", "--config", bcnb.config, "--results", results)
    assert mbench(*common).code == 0
    folder = results / "features" / "local"
    assert open_store(folder / "bcnb").dtype == "float16"


def test_a_phantom_is_packed_as_a_phantom(mbench, tmp_path):
    said = mbench(
        "data", "pack", "aidpath", "--source", "phantom", "--results", tmp_path / "results"
    )
    assert said.code == 0
    assert said.out.startswith("PHANTOM aidpath: 50 slides")
    assert (tmp_path / "results" / "features" / "phantom" / "aidpath" / "index.json").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard-gb", "0"], ["--shard-gb"]),
        (["--phantom-seed", "-1"], ["--phantom-seed"]),
    ],
)
def test_options_that_cannot_be(packed, options, words):
    said = packed(*options)
    assert said.code == 2
    assert all(word in said.err for word in words)
    assert "Traceback" not in said.err


def test_an_unknown_cohort(mbench):
    said = mbench("data", "pack", "bnbc")
    assert (said.code, "did you mean 'bcnb'" in said.err) == (2, True)
