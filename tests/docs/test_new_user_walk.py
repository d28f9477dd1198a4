"""A new user's walk works as it stands, and docs/new-user.md shows what it printed."""

import re

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.ucsb import write_ucsb
from madeleine_bench.seeds import rng_for
from tests.docs.page_commands import ROOT

SCRIPT = ROOT / "examples" / "new_user" / "run.sh"
TRANSCRIPT = (ROOT / "benchmarks" / "results" / "new_user.txt").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "new-user.md").read_text(encoding="utf-8")
# Words of the commands, in the order of the walk.
STEPS = (
    "mbench submit new", "mbench encoders check", "python -m pytest", "mbench data fetch",
    "mbench run", "mbench run", "mbench submit pack", "mbench submit verify", "mbench run",
    "mbench leaderboard add", "mbench leaderboard show", "mbench leaderboard build",
)  # fmt: skip
LONGEST_S = 15 * 60


def commands(printed: str) -> list[str]:
    return re.findall(r"^\$ (.+)$", printed, re.M)


def test_the_page_shows_the_transcript():
    assert f"```text\n{TRANSCRIPT.rstrip()}\n```" in PAGE


def test_the_transcript_is_of_the_whole_walk_and_in_time():
    found = commands(TRANSCRIPT)
    assert len(found) == len(STEPS)
    assert all(line.startswith(step) for line, step in zip(found, STEPS, strict=True))
    seconds = [int(s) for s in re.findall(r"^\[(\d+) s\]$", TRANSCRIPT, re.M)]
    assert len(seconds) == len(STEPS)
    (whole,) = re.findall(r"whole walk: (\d+) s", TRANSCRIPT)
    assert sum(seconds) - len(STEPS) <= int(whole) < LONGEST_S
    assert f"{whole} seconds" in PAGE
    assert "PHANTOM" in TRANSCRIPT
    assert "verified" in TRANSCRIPT.lower() or "recomputed" in TRANSCRIPT


def made_up_bags() -> pd.DataFrame:
    """A table laid out as that of the UCSB set: 58 bags of three patches, signal in one feature."""
    rng = rng_for("new user walk")
    label = np.repeat(np.arange(58) % 2, 3)
    features = rng.standard_normal((len(label), 708))
    features[:, 0] += 2.0 * label
    table = pd.DataFrame(features)
    table.insert(0, "bag", np.repeat(np.arange(1, 59), 3))
    table.insert(0, "label", label)
    return table


@pytest.mark.slow
def test_the_walk_works(shell, tmp_path):
    write_ucsb(made_up_bags(), tmp_path / "walk" / "data" / "ucsb-breast")
    printed = shell(f"bash {SCRIPT} walk", TASKS="bcnb-*", PROTOCOL="linear-probe")
    steps = [step for step in STEPS if step != "mbench data fetch"]
    assert len(commands(printed)) == len(steps)
    assert (tmp_path / "walk" / "site" / "index.html").is_file()
    assert "spread-pool" in (tmp_path / "walk" / "site" / "leaderboard.csv").read_text()
    assert "PHANTOM" in (tmp_path / "walk" / "report.md").read_text()


@pytest.mark.slow
def test_an_encoder_that_breaks_the_contract_stops_the_walk(shell, tmp_path):
    broken = tmp_path / "example"
    broken.mkdir()
    text = (SCRIPT.parent / "encoder.py").read_text()
    (broken / "encoder.py").write_text(text.replace("bag.features.mean(axis=0)", "bag.features[0]"))
    (broken / "run.sh").write_text(SCRIPT.read_text())
    with pytest.raises(AssertionError, match="order of patches"):
        shell("bash example/run.sh walk", TASKS="bcnb-*", PROTOCOL="linear-probe")
    assert not (tmp_path / "walk" / "results").exists()
