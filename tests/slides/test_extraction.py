"""From slides to bags: what is written, what fails, and how it goes on."""

import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.bags import read_bag_file, read_bag_header
from madeleine_bench.data.hdf5 import read_patch_file, write_patch_file
from madeleine_bench.errors import InputError, UnreadableFile
from madeleine_bench.files import sole_writer
from madeleine_bench.slides import bag_folder
from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.extraction import ExtractionSettings, extract_bags
from madeleine_bench.slides.folder import list_slides
from madeleine_bench.slides.patches import PatchSettings
from madeleine_bench.slides.pictures import write_pyramid
from madeleine_bench.slides.reader import Slide, phantom_description
from madeleine_bench.types import Silence

from .conftest import noise, plain_tiff, section

PATCHES = PatchSettings(patch_px=64, mpp=1.0)


class Quiet(Silence):
    """Progress that keeps what was said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


@dataclass
class ColourEncoder:
    """The mean of each colour; raises where told to."""

    card: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="colour", dim=3))
    calls: int = 0
    trouble: dict = field(default_factory=dict)

    def encode(self, patches):
        self.calls += 1
        if self.calls in self.trouble:
            raise self.trouble.pop(self.calls)
        return patches.reshape(len(patches), -1, 3).mean(axis=1, dtype=np.float64).astype("f4")


@dataclass
class Lab:
    """Three slides, and a run of the extraction over them."""

    slides: Path
    out: Path
    encoder: ColourEncoder = field(default_factory=ColourEncoder)
    settings: ExtractionSettings = field(
        default_factory=lambda: ExtractionSettings(patches=PATCHES, batch=10)
    )
    progress: Quiet = field(default_factory=Quiet)

    @property
    def folder(self):
        return BagFolder(self.out, self.settings.patches, "colour")

    def run(self, key="one", **changes):
        settings = replace(self.settings, **changes)
        found = list_slides(self.slides)
        choice = SimpleNamespace(key=key, load=lambda threads: self.encoder)
        outcomes = extract_bags(found, choice, self.folder, settings, self.progress)
        return {outcome.slide_id: outcome for outcome in outcomes}

    def bags(self):
        return {path.stem: path.read_bytes() for path in self.folder.features.glob("*.h5")}


@pytest.fixture
def lab(tmp_path):
    slides = tmp_path / "slides"
    for name, width in (("a", 1000), ("b.1", 1100), ("c", 1200)):
        write_pyramid(slides / f"{name}.tif", section(700, width, 120), mpp=0.5, description="")
    return Lab(slides, tmp_path / "out")


def test_every_patch_of_the_bag_is_the_one_at_its_coordinates(lab):
    outcomes = lab.run()
    assert {one.status for one in outcomes.values()} == {"extracted"}
    bag = read_bag_file(lab.folder.bag("a"))
    assert outcomes["a"].patches == len(bag.features) > 10
    with Slide(lab.slides / "a.tif") as slide:
        plan = slide.plan(64, 1.0)
        for (x, y), row in zip(bag.coords, bag.features, strict=True):
            mean = slide.read_patch(int(x), int(y), plan).reshape(-1, 3).mean(axis=0)
            assert row == pytest.approx(mean, abs=1e-4)
    # The tissue begins 120 px from each edge: no patch is mostly glass.
    assert bag.coords.min() >= 120 - 64
    assert (bag.features[:, 1] < 200).all()


def test_the_bag_keeps_the_rules_of_the_field(lab):
    lab.run()
    with h5py.File(lab.folder.bag("b.1")) as handle:
        assert sorted(handle) == ["coords", "features"]
        features, coords = handle["features"], handle["coords"]
        assert (features.dtype, features.ndim, features.shape[1]) == (np.float32, 2, 3)
        assert (coords.dtype.kind, coords.shape) == ("i", (len(features), 2))
        assert features.attrs["name"] == "b.1"
        assert features.attrs["savetodir"] == "features_colour"
        said = dict(coords.attrs)
        own, places = features[...], coords[...]
    assert (said["patch_size"], said["patch_size_level0"]) == (64, 128)
    assert (said["level0_magnification"], said["target_magnification"]) == (20, 10)
    assert (said["overlap"], said["name"]) == (0, "b.1")
    bag = read_bag_file(lab.folder.bag("b.1"))
    assert np.array_equal(bag.features, own)
    assert np.array_equal(bag.coords, places)
    assert bag.facts.patch_encoder == "colour"
    patches = read_patch_file(lab.folder.grid / "patches" / "b.1_patches.h5")
    assert np.array_equal(patches.coords, places)


def test_a_folder_has_contours_pictures_patches_bags_and_a_report(lab):
    lab.run()
    made = sorted(str(p.relative_to(lab.out)) for p in lab.out.rglob("*") if p.is_file())
    grid = "10x_64px_0px_overlap"
    expected = [f"{grid}/features_colour.csv", f"{grid}/features_colour/.writer"]
    for name in ("a", "b.1", "c"):
        expected += [
            f"contours/{name}.png",
            f"contours_geojson/{name}.geojson",
            f"{grid}/features_colour/{name}.h5",
            f"{grid}/patches/{name}_patches.h5",
        ]
    assert made == sorted(expected)
    report = pd.read_csv(lab.folder.report)
    assert report["slide_id"].tolist() == ["a", "b.1", "c"]
    assert set(report["status"]) == {"extracted"}
    assert (report["patches"] > 0).all()
    assert (report["mpp"] == 0.5).all()


@pytest.mark.parametrize("changes", [{"workers": 3}, {"batch": 7}, {"batch": 1000, "workers": 2}])
def test_threads_and_batches_do_not_change_a_bag(lab, tmp_path, changes):
    lab.run()
    other = Lab(lab.slides, tmp_path / "other", settings=lab.settings)
    other.run(**changes)
    assert other.bags() == lab.bags()


def test_what_is_there_is_not_made_again(lab):
    lab.run()
    before, calls = lab.bags(), lab.encoder.calls
    outcomes = lab.run()
    assert {one.status for one in outcomes.values()} == {"already there"}
    assert {one.patches for one in outcomes.values()} == {
        one["patches"] for one in pd.read_csv(lab.folder.report).to_dict("records")
    }
    assert lab.encoder.calls == calls
    assert lab.bags() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "another encoder"},
        {"patches": replace(PATCHES, min_tissue=0.9)},
        {"force_mpp": 0.5001},
    ],
)
def test_a_bag_of_other_settings_is_kept_unless_told(lab, changes):
    lab.run()
    before = lab.bags()
    outcomes = lab.run(**changes)
    assert {one.status for one in outcomes.values()} == {"failed"}
    assert "--overwrite" in outcomes["a"].message
    assert lab.bags() == before
    assert lab.run(**changes, overwrite=True)["a"].status == "extracted"
    assert lab.run(**changes)["a"].status == "already there"


def test_a_given_resolution_is_used_where_none_is_stated_and_a_difference_is_said(lab):
    plain_tiff(lab.slides / "silent.tif", section(700, 700, 100))
    stretched = {"resolution": (20000, 19600), "resolutionunit": "CENTIMETER"}
    plain_tiff(lab.slides / "stretched.tif", section(700, 700, 100), **stretched)
    outcomes = lab.run(slide_mpp={"silent": 0.5, "a": 0.25})
    assert {one.status for one in outcomes.values()} == {"extracted"}
    assert {name: one.mpp for name, one in outcomes.items()} == pytest.approx(
        {"a": 0.5, "b.1": 0.5, "c": 0.5, "silent": 0.5, "stretched": 0.5051}, abs=1e-4
    )
    assert lab.progress.said == [
        "a: its file states 0.5 micrometres per pixel, so --mpp 0.25 is not used (--force-mpp "
        "replaces what a file states)",
        "stretched: its pixels are 0.5 x 0.5102 micrometres; their mean is used",
    ]
    table = pd.read_csv(lab.folder.report, index_col="slide_id")
    assert "--mpp 0.25 is not used" in table.loc["a", "message"]
    forced = Lab(lab.slides, lab.out.with_name("forced"))
    assert {one.mpp for one in forced.run(force_mpp=0.25).values()} == {0.25}


def test_a_call_on_a_part_of_the_slides_keeps_the_rows_of_the_others(lab):
    lab.run()
    before = pd.read_csv(lab.folder.report, dtype=str, keep_default_na=False)
    part = replace(lab, slides=lab.slides / "b.1.tif")
    write_pyramid(part.slides, section(700, 1000, 100), mpp=0.5, description="")
    assert part.run(overwrite=True)["b.1"].status == "extracted"
    after = pd.read_csv(lab.folder.report, dtype=str, keep_default_na=False)
    assert list(after["slide_id"]) == ["a", "b.1", "c"]
    assert after.drop(1).equals(before.drop(1))
    assert after["patches"][1] != before["patches"][1]
    lab.folder.report.write_bytes(b"\xff no table")
    assert [one.status for one in part.run().values()] == ["already there"]
    assert list(pd.read_csv(lab.folder.report)["slide_id"]) == ["b.1"]


def test_a_bag_of_another_program_is_kept_unless_told(lab):
    lab.folder.features.mkdir(parents=True)
    with h5py.File(lab.folder.bag("a"), "w") as handle:
        handle["features"] = np.ones((3, 5), np.float32)
    before = lab.folder.bag("a").read_bytes()
    outcomes = lab.run()
    assert outcomes["a"].status == "failed"
    assert "another program" in outcomes["a"].message
    assert outcomes["c"].status == "extracted"
    assert lab.folder.bag("a").read_bytes() == before


def test_a_replaced_slide_of_a_single_level_is_noticed(lab):
    """OpenSlide has no hash of a large level; the mirror image has the same size."""
    picture = section(2000, 2600, 100)
    plain_tiff(lab.slides / "a.tif", picture)
    assert lab.run(slide_mpp=0.5)["a"].status == "extracted"
    plain_tiff(lab.slides / "a.tif", picture[:, ::-1])
    outcome = lab.run(slide_mpp=0.5)["a"]
    assert outcome.status == "failed"
    assert "from another file" in outcome.message


def test_a_changed_slide_is_noticed(lab):
    lab.run()
    write_pyramid(lab.slides / "a.tif", section(700, 900, 150), mpp=0.5, description="")
    outcomes = lab.run()
    assert outcomes["a"].status == "failed"
    assert outcomes["c"].status == "already there"


def test_a_damaged_bag_is_made_again(lab):
    lab.run()
    whole = lab.folder.bag("c").read_bytes()
    lab.folder.bag("c").write_bytes(whole[:900])
    assert lab.run()["c"].status == "extracted"
    assert lab.folder.bag("c").read_bytes() == whole


def test_a_bag_that_the_system_refuses_to_read_is_not_written_over(lab, monkeypatch):
    """Before: a bag without permission, or locked by its writer, was made again."""
    lab.run()
    whole = lab.folder.bag("c").read_bytes()

    def refuse(path):
        raise UnreadableFile(f"{path} is locked")

    monkeypatch.setattr(bag_folder, "read_bag_header", refuse)
    outcome = lab.run()["c"]
    assert (outcome.status, outcome.message) == ("failed", f"{lab.folder.bag('c')} is locked")
    assert lab.folder.bag("c").read_bytes() == whole


def test_each_bad_slide_is_named_and_the_others_are_done(lab):
    (lab.slides / "text.svs").write_text("not a slide")
    (lab.slides / "empty.svs").write_bytes(b"")
    whole = (lab.slides / "a.tif").read_bytes()
    (lab.slides / "cut.tif").write_bytes(whole[: len(whole) // 2])
    plain_tiff(lab.slides / "no-mpp.tif", noise(600, 600))
    write_pyramid(lab.slides / "coarse.tif", section(300, 300, 20), mpp=4.0, description="")
    write_pyramid(lab.slides / "blank.tif", np.full((600, 600, 3), 243, np.uint8), mpp=0.5,
                  description="")  # fmt: skip
    write_pyramid(lab.slides / "pixel.tif", np.full((1, 1, 3), 90, np.uint8), mpp=0.5,
                  description="")  # fmt: skip
    outcomes = lab.run()
    failed = {name: one.message for name, one in outcomes.items() if one.status == "failed"}
    assert sorted(failed) == ["coarse", "cut", "empty", "no-mpp", "text"]
    assert "--mpp" in failed["no-mpp"]
    assert "coarser" in failed["coarse"]
    assert "mbench slides convert" in failed["text"]
    assert "cut short" in failed["cut"]
    assert all(name in failed[name] for name in failed)
    assert len(lab.progress.said) == 5
    empty = [name for name, one in outcomes.items() if one.status == "empty"]
    assert empty == ["blank", "pixel"]
    for name in empty:
        bag = read_bag_file(lab.folder.bag(name))
        assert bag.features.shape == (0, 3)
    assert [n for n, one in outcomes.items() if one.status == "extracted"] == ["a", "b.1", "c"]
    assert len(pd.read_csv(lab.folder.report)) == 10
    assert {one.status for one in lab.run().values()} == {"failed", "already there"}


def test_a_slide_without_glass_has_all_its_patches(tmp_path):
    slides = tmp_path / "slides"
    write_pyramid(slides / "full.tif", section(768, 1024, 0), mpp=1.0, description="")
    lab = Lab(slides, tmp_path / "out")
    assert lab.run()["full"].patches == (768 // 64) * (1024 // 64)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (InputError("colour gave NaN"), "colour gave NaN"),
        (RuntimeError("out of memory"), "patch encoder colour raised RuntimeError: out of memory"),
    ],
)
def test_an_encoder_that_fails_on_one_slide_does_not_harm_the_next(lab, trouble, message):
    lab.encoder.trouble = {2: trouble}
    outcomes = lab.run()
    assert [(n, one.status) for n, one in outcomes.items()] == [
        ("a", "failed"), ("b.1", "extracted"), ("c", "extracted"),
    ]  # fmt: skip
    assert outcomes["a"].message == message
    undisturbed = Lab(lab.slides, lab.out.with_name("undisturbed"), settings=lab.settings)
    undisturbed.run()
    assert {n: b for n, b in undisturbed.bags().items() if n != "a"} == lab.bags()


def test_an_interrupted_extraction_goes_on(lab):
    lab.run()
    undisturbed = lab.bags()
    shutil.rmtree(lab.out)
    for call in (1, 4, 5):
        lab.encoder.calls = 0
        lab.encoder.trouble = {call: KeyboardInterrupt()}
        with pytest.raises(KeyboardInterrupt):
            lab.run()
        done = lab.bags()
        assert done == {name: undisturbed[name] for name in done}
        assert not list(lab.out.rglob("*.tmp"))
        shutil.rmtree(lab.out / "contours", ignore_errors=True)
    assert {one.status for one in lab.run().values()} == {"already there", "extracted"}
    assert lab.bags() == undisturbed


def test_two_extractions_into_one_folder_are_refused(lab):
    with sole_writer(lab.folder.features), pytest.raises(InputError, match="another process"):
        lab.run()


def test_a_phantom_slide_makes_a_phantom_bag(lab):
    text = phantom_description("rendered", "drawn")
    write_pyramid(lab.slides / "p.tif", section(600, 600, 100), mpp=0.5, description=text)
    lab.run()
    assert read_bag_header(lab.folder.bag("p")).phantom == "rendered"
    assert read_bag_header(lab.folder.bag("a")).phantom is None


@pytest.fixture
def given_patches(lab, tmp_path):
    """Patch files of TRIDENT for a, of CLAM for b.1, and none for c."""
    folder = tmp_path / "patches"
    trident = {"patch_size": 64, "patch_size_level0": 128}
    write_patch_file(folder / "a_patches.h5", np.array([[128, 256], [0, 0]], "i4"), trident)
    clam = {"patch_size": 64, "patch_level": 1}
    write_patch_file(folder / "b.1.h5", np.array([[300, 400]], "i4"), clam)
    return folder


def test_patches_chosen_by_clam_or_trident_are_taken(lab, given_patches):
    outcomes = lab.run(patch_folder=given_patches)
    assert read_bag_file(lab.folder.bag("a")).coords.tolist() == [[128, 256], [0, 0]]
    assert read_bag_file(lab.folder.bag("b.1")).coords.tolist() == [[300, 400]]
    assert outcomes["c"].status == "failed"
    assert "c_patches.h5" in outcomes["c"].message


@pytest.mark.parametrize(
    ("coords", "attributes", "message"),
    [
        ([[990, 10], [5000, 10]], {"patch_size_level0": 128}, r"patch 1 at \(5000, 10\)"),
        ([[-1, 10]], {"patch_size_level0": 128}, r"patch 0 at \(-1, 10\)"),
        ([[0, 0]], {"patch_size_level0": 256}, "--patch-px"),
        ([[0, 0]], {"patch_size": 64, "patch_level": 9}, "of level 9"),
    ],
)
def test_patches_of_another_slide_are_refused(lab, tmp_path, coords, attributes, message):
    write_patch_file(tmp_path / "p" / "a_patches.h5", np.array(coords, "i4"), attributes)
    outcome = lab.run(patch_folder=tmp_path / "p")["a"]
    assert outcome.status == "failed"
    assert re.search(message, outcome.message)


@pytest.mark.parametrize(
    ("values", "option"),
    [({"workers": 0}, "--workers"), ({"batch": 0}, "--batch-size"),
     ({"patch_folder": Path("/absent")}, "--patches")],
)  # fmt: skip
def test_settings_out_of_range_name_the_option(values, option):
    with pytest.raises(InputError, match=option):
        ExtractionSettings(**values)


def test_the_real_aperio_slides(aperio, tmp_path):
    lab = Lab(
        aperio.parent,
        tmp_path / "out",
        settings=ExtractionSettings(patches=PatchSettings(patch_px=224, mpp=0.5)),
    )
    outcomes = lab.run()
    large = outcomes["CMU-1-Small-Region"]
    assert large.status == "extracted"
    assert 45 <= large.patches <= 56  # 51 of 117 tiles hold tissue in the trial of its README
    assert large.mpp == 0.499
    bag = read_bag_file(lab.folder.bag("CMU-1-Small-Region"))
    assert (bag.coords % 224 == 0).all()
    assert bag.features[:, 1].mean() < bag.features[:, 0].mean()  # H&E is pink: less green
    assert outcomes["small"].status == "empty"  # 16 x 16 pixels
