"""Extraction killed at any moment goes on to the same bytes."""

import signal
import subprocess
import sys
import time

import pytest

from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.pictures import write_pyramid

from .conftest import section

KILLS = 8


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_to_the_same_bags(tmp_path):
    slides = tmp_path / "slides"
    for number in range(6):
        picture = section(1400, 1500 + 60 * number, 150)
        write_pyramid(slides / f"{number}.tif", picture, mpp=0.5, description="")

    def start(out):
        return subprocess.Popen(
            [sys.executable, "-c", "from madeleine_bench.cli.main import main; main()", "features",
             "extract", "--slides", slides, "--cohort", "bcnb", "--patch-encoder", "stain-texture",
             "--patch-px", "64", "--out", out],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def bags(out):
        return {path.name: path.read_bytes() for path in out.glob("*/features_*/*.h5")}

    started = time.monotonic()
    undisturbed = start(tmp_path / "undisturbed")
    assert undisturbed.wait(timeout=300) == 0
    undisturbed.communicate()
    whole = time.monotonic() - started
    expected = bags(tmp_path / "undisturbed")
    assert len(expected) == 6

    out = tmp_path / "killed"
    rng = rng_for("tests", "kill extraction")
    killed = 0
    for _ in range(KILLS):
        run = start(out)
        time.sleep(float(rng.uniform(0.2, 0.9)) * whole)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        killed += run.returncode == -signal.SIGKILL
        found = bags(out)
        assert found == {name: expected[name] for name in found}
    assert killed >= 3
    last = start(out)
    last.communicate(timeout=300)
    assert last.returncode == 0
    assert bags(out) == expected
