"""TIFF and DICOM slides that OpenSlide refuses, and the kinds of file that are read at all."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders import find_patch_encoder, load_patch_encoder
from madeleine_bench.slides.patches import PatchSettings, choose_patches, read_patches
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.tiled import TiledSlide
from tests.marked import read_marked

from . import format_table
from .conftest import SHARED, noise
from .dicom_files import write_dicom

WSI = SHARED / "wsi"
VOLUME = "1.2.826.0.1.3680043.8.498.35220404935377466417110411569853018212.dcm"


def test_the_table_of_formats_is_that_of_the_docs_and_pixels_are_right(tmp_path):
    made, pictures = format_table.table(tmp_path)
    assert made == read_marked(format_table.PAGE, "formats"), (
        "python -m tests.slides.format_table writes it"
    )
    original = format_table.smooth()
    for name, read in pictures.items():
        wanted = original
        if "grey" in name:
            wanted = np.repeat(original[..., :1], 3, axis=2)
        elif "turned" in name:
            wanted = np.rot90(original, -1)
        for rgb in read:
            assert rgb.shape == wanted.shape, name
            assert np.abs(rgb.astype(int) - wanted).mean() < 1.5, name


def webp(path, picture, **tags):
    how = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "compression": "webp"}
    tifffile.imwrite(path, picture, compressionargs={"lossless": True}, **how, **tags)
    return path


def test_patches_and_levels_of_a_second_reader_are_those_of_openslide(tmp_path):
    picture = noise(500, 700)
    both = []
    for name, code in (("a.tif", "zlib"), ("b.tif", "png")):
        with tifffile.TiffWriter(tmp_path / name) as out:
            for number, level in enumerate((picture, picture[::2, ::2])):
                out.write(
                    level, tile=(128, 128), photometric="rgb", compression=code, metadata=None,
                    subfiletype=number, resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
                )  # fmt: skip
        both.append(Slide(tmp_path / name))
    first, second = both
    assert isinstance(second._slide, TiledSlide)
    assert not isinstance(first._slide, TiledSlide)
    assert second.mpp == first.mpp == pytest.approx(0.5)
    assert second.mpp_source == "stated"
    assert second.level_sizes == first.level_sizes == ((700, 500), (350, 250))
    for mpp, x, y in ((0.5, 33, 77), (1.0, 34, 76), (1.3, 100, 300), (0.5, 600, 450)):
        plan = first.plan(100, mpp)
        assert plan == second.plan(100, mpp)
        expected = first.read_patch(x, y, plan)
        assert np.array_equal(second.read_patch(x, y, plan), expected)
        with ThreadPoolExecutor(4) as pool:
            for patch in pool.map(lambda _: second.read_patch(x, y, plan), range(4)):  # noqa: B023
                assert np.array_equal(patch, expected)


@pytest.mark.parametrize(
    ("tags", "mpp"),
    [
        ({}, None),
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (101_600, 101_600), "resolutionunit": "INCH"}, 0.25),
        ({"description": "Aperio|AppMag = 20|MPP = 0.499"}, 0.499),
    ],
)
def test_the_resolution_that_a_tiff_states(tmp_path, tags, mpp):
    with Slide(webp(tmp_path / "x.tif", noise(200, 300), **tags)) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))


def test_an_ome_tiff_has_its_levels_and_its_resolution(tmp_path):
    picture = format_table.smooth()
    format_table.ome_pyramid(tmp_path / "x.ome.tif", picture)
    with Slide(tmp_path / "x.ome.tif") as slide:
        assert (slide.mpp, slide.vendor) == (0.25, "OME-TIFF")
        assert slide.level_sizes == ((350, 300), (175, 150))
        patch = slide.read_patch(20, 40, slide.plan(50, 0.5))
        assert np.array_equal(patch, picture[40:140:2, 20:120:2])


def test_a_resolution_in_another_unit_is_not_taken_for_micrometres(tmp_path):
    format_table.ome_pyramid(tmp_path / "x.tif", format_table.smooth(), unit="mm")
    with Slide(tmp_path / "x.tif") as slide:
        assert slide.mpp is None


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_tiff_cut_short_is_said(tmp_path, share):
    path = webp(tmp_path / "cut.tif", noise(300, 300))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"cut\.tif cannot be read.*cut short"):
        Slide(path, 0.5).thumbnail()


def test_a_missing_tile_is_glass(tmp_path):
    path = webp(tmp_path / "x.tif", noise(128, 256))
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = file.pages[0].tags["TileByteCounts"]
        counts.overwrite((counts.value[0], 0))
    with Slide(path, 0.5) as slide:
        rgb = slide.thumbnail().rgb
    assert (rgb[:, 128:] == 255).all()
    assert not (rgb[:, :128] == 255).all()


def test_dicom_levels_of_one_series_are_a_pyramid(tmp_path):
    picture = format_table.smooth()
    how = {"codec": "jpeg-ls", "colours": "RGB"}
    write_dicom(tmp_path / "a.dcm", picture[::2, ::2], mpp=1.0, **how)
    write_dicom(tmp_path / "b.dcm", picture, mpp=0.5, **how)
    write_dicom(tmp_path / "label.dcm", picture, kind="LABEL", **how)
    write_dicom(tmp_path / "c.dcm", picture[::4, ::4], SeriesInstanceUID="1.2.3", **how)
    (tmp_path / "notes.dcm").write_text("no DICOM")
    for name in ("a.dcm", "b.dcm"):
        with Slide(tmp_path / name) as slide:
            assert slide.level_sizes == ((350, 300), (175, 150))
            assert (slide.mpp, slide.mpp_source, slide.vendor) == (0.5, "stated", "dicom")
            assert np.array_equal(slide.thumbnail(0.5).rgb, picture)
            patch = slide.read_patch(20, 40, slide.plan(50, 1.0))
            assert np.array_equal(patch, picture[40:140:2, 20:120:2])


def test_a_sparse_dicom_has_glass_where_it_has_no_tile(tmp_path):
    picture = format_table.smooth()
    write_dicom(tmp_path / "a.dcm", picture, codec="jpeg-ls", colours="RGB", sparse=True, skip=0)
    with Slide(tmp_path / "a.dcm") as slide:
        rgb = slide.thumbnail().rgb
    assert (rgb[256:, 256:] == 255).all()  # the last tile
    assert np.array_equal(rgb[:256], picture[:256])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "LABEL"}, "the word VOLUME"),
        ({"codec": "rle"}, "RLE Lossless, 8 bits, 3 channels"),
        ({"planes": 3}, "3 focal planes"),
        ({"NumberOfFrames": 5}, "5 frames in 9 parts"),
    ],
)
def test_a_dicom_that_is_not_read_says_why(tmp_path, facts, message):
    how = {"codec": "jpeg-ls", "colours": "RGB", **facts}
    write_dicom(tmp_path / "x.dcm", format_table.smooth(), **how)
    with pytest.raises(InputError, match=message):
        Slide(tmp_path / "x.dcm")


def test_a_dicom_cut_short_is_said(tmp_path):
    write_dicom(tmp_path / "x.dcm", format_table.smooth(), codec="jpeg-ls", colours="RGB")
    data = (tmp_path / "x.dcm").read_bytes()
    for share in (0.01, 0.5, 0.95):
        (tmp_path / "x.dcm").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match=r"x\.dcm"):
            Slide(tmp_path / "x.dcm").thumbnail()


@pytest.fixture(scope="module")
def one_slide_in_four_files():
    """Patches of a real slide, at the same places of each of its files."""
    if not (WSI / "dicom").is_dir():
        pytest.skip("the real slide in several formats is not there")
    files = {
        "svs": WSI / "CMU-1-Small-Region.svs",
        "jpeg": WSI / "CMU-1-Small-Region.jpeg.tiff",
        "webp": WSI / "CMU-1-Small-Region.webp.tiff",
        "dicom": WSI / "dicom" / VOLUME,
    }
    settings = PatchSettings(patch_px=224, mpp=0.5)
    chosen = {name: choose_patches(Slide(path, 0.499), settings) for name, path in files.items()}
    at = chosen["svs"]
    pixels = {
        name: read_patches(Slide(path, 0.499), at, slice(None)) for name, path in files.items()
    }
    return {name: one.coords for name, one in chosen.items()}, pixels


def test_one_real_slide_has_the_same_patches_in_every_format(one_slide_in_four_files):
    coords, pixels = one_slide_in_four_files
    for name in coords:
        assert np.array_equal(coords[name], coords["svs"])
    # The DICOM file holds the very JPEG frames' pixels; the TIFFs were compressed a second time.
    assert np.array_equal(pixels["dicom"], pixels["svs"])
    for name, grey_levels in (("jpeg", 8), ("webp", 12)):
        apart = np.abs(pixels[name].astype(int) - pixels["svs"])
        assert 0 < apart.mean() < grey_levels


def test_features_of_a_real_slide_agree_as_far_as_its_compression_lets_them(
    one_slide_in_four_files,
):
    """DICOM: to the bit. WebP: what the file holds, which another decoder confirms."""
    _, pixels = one_slide_in_four_files
    encoder = load_patch_encoder(find_patch_encoder("stain-texture"))
    first = slice(0, 8)
    svs, dicom = (encoder.encode(pixels[name][first]) for name in ("svs", "dicom"))
    assert np.array_equal(svs, dicom)
    whole = tifffile.imread(WSI / "CMU-1-Small-Region.webp.tiff")
    with Slide(WSI / "CMU-1-Small-Region.webp.tiff", 0.499) as slide:
        assert np.array_equal(slide.thumbnail(0.499).rgb, whole)


def test_the_bag_of_a_real_dicom_series_is_that_of_its_svs(tmp_path, mbench, aperio):
    if not (WSI / "dicom").is_dir():
        pytest.skip("the real slide as DICOM is not there")
    how = ["--patch-encoder", "stain-texture", "--patch-px", "224", "--patch-mpp", "0.5"]
    for number, slides in enumerate((aperio, WSI / "dicom")):
        what = ["--slides", slides, "--cohort", "acrobat", "--mpp", "0.499"]
        assert mbench("features", "extract", *what, *how, "--out", tmp_path / f"{number}").code == 0
    svs, dicom = (
        read_bag_file(path)
        for number in (0, 1)
        for path in (tmp_path / f"{number}").rglob("features_stain-texture/*.h5")
    )
    assert np.array_equal(svs.coords, dicom.coords)
    assert np.array_equal(svs.features, dicom.features)
