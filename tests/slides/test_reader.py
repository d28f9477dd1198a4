"""Opening, resolution, thumbnails and patches."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.slides import reader
from madeleine_bench.slides.pictures import write_pyramid
from madeleine_bench.slides.reader import Slide, phantom_description

from .conftest import noise, plain_tiff, section


@pytest.fixture
def noisy(tmp_path):
    """A slide of 1000 x 600 px of noise at 0.5 mpp, and its pixels."""
    picture = noise(600, 1000)
    path = tmp_path / "noise.tif"
    write_pyramid(path, picture, mpp=0.5, description="test")
    return path, picture


def test_the_real_aperio_slide_states_its_resolution(aperio):
    with Slide(aperio) as slide:
        assert (slide.width_px0, slide.height_px0) == (2220, 2967)
        assert (slide.mpp, slide.mpp_source, slide.vendor) == (0.499, "stated", "aperio")
        assert slide.slide_id == "CMU-1-Small-Region"
        assert slide.phantom is None


def test_a_pyramid_reads_back_bit_for_bit(noisy):
    path, picture = noisy
    with Slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert np.array_equal(slide.thumbnail().rgb, picture)
        plan = slide.plan(64, 0.5)
        assert plan.is_exact
        assert np.array_equal(slide.read_patch(300, 200, plan), picture[200:264, 300:364])


def test_a_coarser_level_is_the_mean_of_the_finer_one(noisy):
    path, picture = noisy
    with Slide(path) as slide:
        plan = slide.plan(32, 1.0)
        assert (plan.level, plan.level_px, plan.size_px0) == (1, 32, 64)
        means = picture[:64, :64].reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
        assert np.abs(slide.read_patch(0, 0, plan) - means).max() <= 1.0


def test_between_levels_the_finer_one_is_read_and_averaged(tmp_path):
    picture = noise(600, 900)
    path = plain_tiff(tmp_path / "one-level.tif", picture)
    with Slide(path, mpp=0.25) as slide:
        plan = slide.plan(32, 0.75)
        assert (plan.level, plan.level_px, plan.size_px0) == (0, 96, 96)
        assert not plan.is_exact
        means = picture[:96, :96].reshape(32, 3, 32, 3, 3).astype(float).mean(axis=(1, 3))
        assert np.abs(slide.read_patch(0, 0, plan) - means).max() <= 1.0


@pytest.mark.parametrize(("mpp", "size_px0"), [(0.499, 512), (0.2521, 1024), (0.45, 569)])
def test_the_calibration_of_a_scanner_is_no_other_magnification(tmp_path, mpp, size_px0):
    path = plain_tiff(tmp_path / "x.tif", noise(256, 256))
    with Slide(path, mpp=mpp) as slide:
        assert slide.plan(256, 1.0).size_px0 == size_px0


def test_a_slide_scanned_coarser_than_asked_for_is_refused(slide_file):
    with Slide(slide_file) as slide, pytest.raises(InputError, match=r"coarser than the 0\.25"):
        slide.plan(256, 0.25)


def test_unknown_resolution_says_how_to_give_it(tmp_path):
    path = plain_tiff(tmp_path / "x.tif", noise(300, 300))
    with Slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (None, None)
        with pytest.raises(InputError, match=r"--mpp 0\.25"):
            slide.plan(256, 1.0)
        with pytest.raises(InputError, match=r"--mpp 0\.25"):
            slide.thumbnail()
    with Slide(path, mpp=0.5) as slide:
        assert (slide.known_mpp(), slide.mpp_source) == (0.5, "given")


def test_the_power_of_the_objective_stands_in(tmp_path):
    words = "Aperio Image Library v10.0.51\n300x300 (256x256) JPEG/RGB Q=30|AppMag = 40|"
    path = plain_tiff(tmp_path / "x.svs", noise(300, 300), description=words)
    with Slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "objective")


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), 1000.0])
def test_an_impossible_resolution_is_refused(slide_file, mpp):
    with pytest.raises(InputError, match="--mpp is"):
        Slide(slide_file, mpp)
    with pytest.raises(InputError, match="--force-mpp is"):
        Slide(slide_file, force_mpp=mpp)


def test_large_slides_of_a_single_level_and_of_one_size_are_told_apart(tmp_path):
    """OpenSlide hashes no level above 5 MB; a little tissue lies beside blocks at equal steps."""
    picture = np.full((2048, 4096, 3), 245, dtype=np.uint8)
    picture[700:1000, 500:900] = (180, 90, 150)  # 1.4% of the slide
    blank = np.full_like(picture, 245)
    content = set()
    for name, pixels in (
        ("a.tif", picture),
        ("mirror.tif", picture[:, ::-1]),
        ("blank.tif", blank),
    ):
        with Slide(plain_tiff(tmp_path / name, pixels)) as slide:
            content.add(slide.content)
    assert len({path.stat().st_size for path in tmp_path.iterdir()}) == 1
    assert len(content) == 3


def test_what_is_no_slide_is_said(tmp_path):
    with pytest.raises(InputError, match="no slide"):
        Slide(tmp_path / "absent.svs")
    with pytest.raises(InputError, match="no slide"):
        Slide(tmp_path)
    (tmp_path / "notes.svs").write_text("a text file\n" * 100)
    with pytest.raises(InputError, match="mbench slides convert"):
        Slide(tmp_path / "notes.svs")
    (tmp_path / "empty.svs").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.svs"):
        Slide(tmp_path / "empty.svs")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_slide_cut_short_is_said(aperio, tmp_path, share):
    path = tmp_path / "cut.svs"
    data = aperio.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.svs"), Slide(path) as slide:
        slide.thumbnail()


def test_a_slide_damaged_in_the_middle_fails_where_it_is_read(tmp_path):
    path = tmp_path / "damaged.tif"
    write_pyramid(path, section(1000, 1000, 20), mpp=0.5, description="", jpeg_quality=90)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8\xff") + 20
    data[start : start + 4000] = b"\x00" * 4000
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged\.tif"), Slide(path) as slide:
        slide.thumbnail()


def test_what_was_not_scanned_is_glass(slide_file):
    with Slide(slide_file) as slide:
        patch = slide.read_patch(900, 600, slide.plan(256, 0.5))
        assert patch.shape == (256, 256, 3)
        assert (patch[200:, 200:] == 255).all()


def test_a_thumbnail_in_bands_is_that_of_the_whole(tmp_path, monkeypatch):
    picture = noise(700, 500)
    path = plain_tiff(tmp_path / "x.tif", picture)
    with Slide(path, mpp=1.0) as slide:
        whole = slide.thumbnail(7.0)
        monkeypatch.setattr(reader, "_BAND_BYTES", 4 * 500 * 7)
        bands = slide.thumbnail(7.0)
    assert np.array_equal(whole.rgb, bands.rgb)
    assert whole.rgb.shape == (100, 72, 3)
    assert whole.scale == (500 / 72, 7.0)
    assert whole.mpp == pytest.approx(500 / 72)


def test_a_thumbnail_has_a_longest_side(noisy):
    with Slide(noisy[0]) as slide:
        assert max(slide.thumbnail(longest_px=300).rgb.shape) <= 300
        assert slide.thumbnail(0.1).rgb.shape == (600, 1000, 3)  # never finer than the scan


def test_a_thumbnail_is_no_coarser_than_asked_for(noisy):
    with Slide(noisy[0], force_mpp=3.48) as slide:
        assert slide.thumbnail(4.0).mpp == pytest.approx(3.48)
        assert slide.thumbnail(8.0).mpp == pytest.approx(6.96)


def test_one_pixel(tmp_path):
    path = tmp_path / "pixel.tif"
    write_pyramid(path, np.full((1, 1, 3), 200, np.uint8), mpp=0.5, description="")
    with Slide(path) as slide:
        assert slide.thumbnail(8.0).rgb.shape == (1, 1, 3)
        assert (slide.read_patch(0, 0, slide.plan(4, 0.5))[0, 0] == 200).all()


def test_threads_read_what_one_thread_reads(noisy):
    path, picture = noisy
    with Slide(path) as slide, ThreadPoolExecutor(4) as pool:
        plan = slide.plan(64, 0.5)
        corners = [(x, y) for y in range(0, 500, 64) for x in range(0, 900, 64)]
        patches = pool.map(lambda corner: slide.read_patch(*corner, plan), corners)
        for (x, y), patch in zip(corners, patches, strict=True):
            assert np.array_equal(patch, picture[y : y + 64, x : x + 64])


def test_closing_waits_for_the_reads_under_way(noisy):
    slide = Slide(noisy[0])
    plan = slide.plan(500, 1.0)
    refused = []

    def read(_):
        try:
            assert slide.read_patch(0, 0, plan).shape == (500, 500, 3)
        except InputError as error:
            refused.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(read, number) for number in range(40)]
        futures[2].result()
        slide.close()
    for future in futures:
        future.result()
    assert refused
    assert all("has been closed" in reason for reason in refused)
    slide.close()  # again, without harm


def test_a_phantom_slide_is_known_by_its_file(tmp_path):
    path = tmp_path / "x.tif"
    text = phantom_description("rendered-signal-0", "drawn")
    write_pyramid(path, noise(64, 64), mpp=0.5, description=text)
    with Slide(path) as slide:
        assert slide.phantom == "rendered-signal-0"
