"""kill -9 at any moment: the same command with --resume leaves the weights of a run left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MOMENTS = 6


def start(arguments):
    command = Path(sys.executable).with_name("mbench")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [command, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["corrected", "aligned"])
def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(acrobat, preset):
    setting = ("--set", "epochs=20", "--set", f"objective.preset={preset}")
    whole, killed = acrobat.folder / "whole", acrobat.folder / "killed"
    begun = time.monotonic()
    assert start(acrobat.arguments(*setting, "--out", whole)).wait() == 0
    length = time.monotonic() - begun
    moments = random.Random(0)
    for _ in range(MOMENTS):
        running = start(acrobat.arguments(*setting, "--out", killed, "--resume"))
        time.sleep(moments.uniform(0.5, 1.0) * length)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert start(acrobat.arguments(*setting, "--out", killed, "--resume")).wait() == 0
    for name in ("small-acrobat.safetensors", "card.yaml"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
