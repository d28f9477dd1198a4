"""Slides to bags by jobs: the bags of one process, and a slide whose process died fails by name."""

import subprocess
import sys
from dataclasses import replace

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer
from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.extraction import EncoderChoice, ExtractionSettings, extract_bags
from madeleine_bench.slides.folder import list_slides
from madeleine_bench.slides.patch_encoders import find_patch_encoder
from madeleine_bench.slides.patches import PatchSettings
from madeleine_bench.slides.pictures import write_pyramid
from madeleine_bench.types import Silence

from .conftest import section

SETTINGS = ExtractionSettings(patches=PatchSettings(patch_px=64, mpp=1.0), batch=10)
CHOICE = EncoderChoice(find_patch_encoder("stain-texture"), "cpu")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for number in range(3):
        picture = section(700, 800 + 60 * number, 120)
        write_pyramid(folder / f"{number}.tif", picture, mpp=0.5, description="")
    (folder / "broken.tif").write_bytes(b"no slide")
    return folder


def backwards(work, jobs, lost, *, gpu):
    """Jobs done in this process, the last one first."""
    assert not gpu
    yield from map(work, reversed(jobs))


def bags(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*/features_*/*.h5")}


def by_jobs(slides, out, run, settings=SETTINGS):
    folder = BagFolder(out, settings.patches, "stain-texture")
    found = list_slides(slides)
    return extract_bags(found, CHOICE, folder, settings, Silence(), run)


def test_jobs_make_the_bags_of_one_process(slides, tmp_path, monkeypatch):
    folder = BagFolder(tmp_path / "one", SETTINGS.patches, "stain-texture")
    whole = extract_bags(list_slides(slides), CHOICE, folder, SETTINGS, Silence())
    monkeypatch.chdir(tmp_path)
    parts = by_jobs(slides, folder.root.with_name("two").relative_to(tmp_path), backwards)
    timeless = [replace(outcome, seconds=0.0) for outcome in parts]
    assert timeless == [replace(outcome, seconds=0.0) for outcome in whole]
    assert [outcome.status for outcome in parts] == ["extracted"] * 3 + ["failed"]
    assert bags(tmp_path / "two") == bags(tmp_path / "one")
    assert len(bags(tmp_path / "one")) == 3
    again = by_jobs(slides, tmp_path / "two", backwards)
    assert [outcome.status for outcome in again] == ["already there"] * 3 + ["failed"]


def test_a_slide_that_ends_its_process_is_named(slides, tmp_path):
    def deadly(work, jobs, lost, *, gpu):
        for job in jobs:
            yield lost(job, "its worker died") if job.stem == "1" else work(job)

    outcomes = by_jobs(slides, tmp_path, deadly)
    assert [(o.slide_id, o.status) for o in outcomes] == [
        ("0", "extracted"), ("1", "failed"), ("2", "extracted"), ("broken", "failed"),
    ]  # fmt: skip
    assert outcomes[1].message == "its worker died"
    report = (tmp_path / "10x_64px_0px_overlap" / "features_stain-texture.csv").read_text()
    assert "1,failed,0,,0.00,its worker died" in report


def test_paths_reach_the_processes_absolute(slides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patches").mkdir()
    settings = replace(SETTINGS, patch_folder=(tmp_path / "patches").relative_to(tmp_path))
    seen, given = [], {}

    def listed(work, jobs, lost, *, gpu):
        seen.extend(jobs)
        given.update(work.keywords)
        return iter(())

    assert by_jobs(slides, tmp_path / "out", listed, settings) == []
    assert all(slide.is_absolute() for slide in seen)
    assert given["folder"].root.is_absolute()
    assert given["settings"].patch_folder == tmp_path / "patches"


def test_one_run_writes_to_a_folder(slides, tmp_path):
    folder = BagFolder(tmp_path, SETTINGS.patches, "stain-texture")
    with (
        sole_writer(folder.features),
        pytest.raises(InputError, match="another process is writing"),
    ):
        by_jobs(slides, tmp_path, backwards)


def test_a_queue_is_not_needed_to_be_told_so(mbench, slides, tmp_path):
    said = mbench(
        "features", "extract", "--slides", slides, "--cohort", "bcnb", "--out", tmp_path,
        "--scheduler", "tcp://node1:8786",
    )  # fmt: skip
    assert said.code == 2
    assert "--scheduler is for --executor dask" in said.err


@pytest.mark.slow
def test_workers_of_dask_make_the_bags_of_one_process(slides, tmp_path):
    def command(out, *more):
        code = "from madeleine_bench.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "features", "extract", "--slides", slides, "--cohort",
             "bcnb", "--patch-px", "64", "--out", out, *more],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr  # for the broken one
        assert "3 extracted, 1 failed" in done.stdout
        return bags(out)

    alone = command(tmp_path / "one")
    assert command(tmp_path / "two", "--executor", "dask", "--jobs", "2") == alone
