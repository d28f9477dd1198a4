"""Two feature folders of one cohort and one results folder: each score keeps its features."""

import json
import re

import numpy as np
import pytest

from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from tests.stranger import write_stranger
from tests.tool_bags import write_bag_file

TASK = ["--task", "bcnb-er", "--protocol", "linear-probe", "--source", "local", "--jobs", "1"]


@pytest.fixture
def folders(bcnb, mbench, tmp_path):
    """Run encoders on the folder `features`, which tells the label, or on `noise`, which cannot."""
    for number in range(1, 41):
        patches = rng_for("noise", number).standard_normal((6, 8), dtype=np.float32)
        coords = np.zeros((6, 2), dtype=np.int64)
        write_bag_file(bcnb.folder / "noise" / f"{number}.h5", patches, coords, layout="clam")
    text = bcnb.config.read_text()

    def run(folder, *encoders, patch_encoder=None, more=(), command="run"):
        named = f'"{folder}"' + (f'\npatch_encoder = "{patch_encoder}"' if patch_encoder else "")
        bcnb.config.write_text(text.replace('"features"', named))
        options = [*TASK, "--config", bcnb.config, "--results", tmp_path / "r", *more]
        said = mbench(
            command, *[part for name in encoders for part in ("--encoder", name)], *options
        )
        assert said.code == 0, said.err
        return said

    run.results = tmp_path / "r"
    return run


def printed(said):
    """Return the scores of the task in a printed board, left to right."""
    line = next(line for line in said.out.splitlines() if line.strip().startswith("bcnb-er"))
    return re.findall(r"[01]\.\d{3}", line)


def test_going_back_to_the_first_features_prints_their_score(folders, mbench):
    """Before: the third run printed the score of the second, "0 computed, 1 already there"."""
    first = folders("noise", "mean-pool")
    second = folders("features", "mean-pool")
    again = folders("noise", "mean-pool")
    assert printed(first) != printed(second)
    assert printed(again) == printed(first)
    assert "0 computed, 1 already there" in again.err
    assert "leaves out 1 records of other features" in again.err
    assert "leaves out" not in first.err
    said = mbench("leaderboard", "show", "--results", folders.results, "--protocol", "linear-probe")
    assert sorted(printed(said)) == sorted(printed(first) + printed(second))
    labels = {f"mean-pool · features {r.features.content[:6]}" for r in records(folders)}
    assert len(labels) == 2
    assert all(label in said.out for label in labels)


def records(folders):
    return list(ResultStore(folders.results).records())


def test_equal_embeddings_of_other_features_are_no_record_of_these(folders):
    """A control that reads no patch has one embedding; its record of the first folder was reused,
    and on the second it would not stand beside the encoders that were scored there."""
    folders("noise", "case-id")
    said = folders("features", "case-id", "mean-pool")
    assert "2 computed, 0 already there" in said.err
    assert len(printed(said)) == 2
    one, two = [r for r in records(folders) if r.encoder.name == "case-id"]
    assert one.inputs.embeddings == two.inputs.embeddings
    assert one.features != two.features


def test_a_record_names_the_patch_encoder_and_a_rerun_of_a_part_keeps_the_content(folders):
    folders("features", "mean-pool", patch_encoder="conch")
    folders("features", "mean-pool", patch_encoder="conch", more=["--task", "bcnb-pr"])
    found = records(folders)
    assert {r.task.id for r in found} == {"bcnb-er", "bcnb-pr"}
    assert {r.features.patch_encoder for r in found} == {"conch"}
    assert len({r.features.content for r in found}) == 1


def test_a_comparison_of_protocols_is_of_the_features_of_its_run(folders, tmp_path):
    """Before: the records of whichever folder was scored last."""
    body = "return bag.features.std(axis=0)"
    asked = ("mean-pool", "max-pool", write_stranger(tmp_path / "stranger", body))
    more = ["--protocol", "retrieval", "--format", "json"]
    first, second, again = (
        json.loads(folders(name, *asked, more=more, command="sensitivity").out)["boards"]
        for name in ("noise", "features", "noise")
    )
    assert first != second
    assert again == first
