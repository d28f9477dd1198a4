"""Tissue told from glass: drawn sections with every trouble on its own, and real ones."""

import io
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.tissue import Tissue, TissueSettings, segment_tissue

from .conftest import SHARED

MPP = 8.0
SIZE = (300, 400)  # 2.4 x 3.2 mm
GLASS = (243, 242, 244)

# Ground colour, colour of nuclei or fibres, and share of these.
STAINS = {
    "H&E": ((222, 150, 190), (95, 60, 140), 0.2),
    "DAB": ((214, 208, 222), (120, 75, 40), 0.3),
    "dense DAB": ((140, 90, 55), (75, 45, 25), 0.4),
    "haematoxylin alone": ((205, 205, 225), (80, 80, 150), 0.2),
    "dense haematoxylin": ((90, 80, 150), (55, 45, 110), 0.5),
    "pale": ((226, 222, 229), (195, 190, 210), 0.2),
    "PAS": ((215, 150, 200), (170, 40, 130), 0.3),
    "trichrome blue": ((85, 125, 195), (62, 92, 180), 0.5),
    "trichrome red": ((185, 70, 95), (120, 40, 60), 0.3),
    "Goldner green": ((130, 190, 165), (105, 178, 150), 0.4),
    "silver": ((120, 110, 100), (22, 17, 12), 0.4),
    "black silver": ((45, 40, 35), (12, 9, 6), 0.6),
}
INKS = {"blue": (40, 60, 170), "green": (25, 125, 75), "red": (215, 25, 45), "black": (22, 22, 25)}


def ellipse(size=SIZE, centre=(150, 160), radii=(100, 110)) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1


def sensed(picture: np.ndarray, noise: float = 1.5) -> np.ndarray:
    rng = rng_for("tests", "sensor", *picture.shape)
    return np.clip(np.rint(picture + rng.normal(0, noise, picture.shape)), 0, 255).astype(np.uint8)


def glass(size=SIZE, colour=GLASS) -> np.ndarray:
    return np.broadcast_to(np.array(colour, dtype=float), (*size, 3)).copy()


def stained(where: np.ndarray, stain: str, picture: np.ndarray | None = None) -> np.ndarray:
    """The picture with tissue drawn where the mask says."""
    ground, nuclei, share = STAINS[stain]
    picture = glass(where.shape) if picture is None else picture
    rng = rng_for("tests", stain, *where.shape)
    mixed = ndimage.gaussian_filter(rng.normal(size=where.shape), 0.7)
    dark = mixed > np.quantile(mixed, 1 - share)
    picture[where] = np.where(dark[..., None], nuclei, ground)[where]
    return picture


def stroke(picture: np.ndarray, ink: str, line) -> np.ndarray:
    """Draw a stroke of a pen, 240 micrometres wide, and return where it lies."""
    canvas = Image.new("L", picture.shape[1::-1])
    ImageDraw.Draw(canvas).line(line, fill=255, width=30)
    where = np.asarray(canvas) > 0
    picture[where] = INKS[ink]
    return where


def agreement(found: np.ndarray, true: np.ndarray) -> float:
    """Overlap of two masks by union, 0-1."""
    return (found & true).sum() / (found | true).sum()


@pytest.mark.parametrize("stain", STAINS)
def test_every_stain_is_found_on_glass(stain):
    true = ellipse()
    found = segment_tissue(sensed(stained(true, stain)), MPP)
    assert agreement(found.mask, true) > 0.95
    assert set(found.rejected.values()) == {0.0}


# Pale tissue without any glass cannot be told from glass; the docstring says so.
@pytest.mark.parametrize("stain", sorted(set(STAINS) - {"pale"}))
def test_a_picture_of_tissue_alone_is_all_tissue(stain):
    found = segment_tissue(sensed(stained(np.ones(SIZE, dtype=bool), stain)), MPP)
    assert found.mask.mean() > 0.98


def vignetted(loss: float) -> np.ndarray:
    y, x = (np.linspace(-1, 1, count) for count in SIZE)
    return glass() * (1 - loss * (y[:, None] ** 2 + x**2) / 2)[..., None]


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="JPEG", quality=quality)
    return np.asarray(Image.open(out))


BLANKS = {
    "even": glass().astype(np.uint8),
    "white": np.full((*SIZE, 3), 255, dtype=np.uint8),
    "noisy": sensed(glass(), 6),
    "compressed": compressed(sensed(glass(), 6), 30),
    "yellow tint": sensed(glass(colour=(246, 240, 222))),
    "lilac tint": sensed(glass(colour=(238, 228, 244))),
    "dim": sensed(glass(colour=(216, 216, 214))),
    "vignetting": sensed(vignetted(0.15)),
    "gradient": sensed(glass() * np.linspace(0.9, 1, SIZE[1])[:, None]),
    "two whites": sensed(np.where(ellipse()[..., None], 244.0, 236.0) * np.ones(3)),
}


@pytest.mark.parametrize("mpp", [2.0, 8.0, 32.0])
@pytest.mark.parametrize("name", BLANKS)
def test_a_blank_slide_has_no_tissue(name, mpp):
    assert not segment_tissue(BLANKS[name], mpp).mask.any()


@pytest.mark.parametrize("stain", ["H&E", "pale", "silver"])
@pytest.mark.parametrize("background", ["yellow tint", "lilac tint", "dim", "vignetting"])
def test_tissue_on_glass_of_any_look(background, stain):
    true = ellipse()
    light = BLANKS[background] / np.array(GLASS)  # what the glass does, it does to tissue too
    found = segment_tissue(sensed(stained(true, stain) * light), MPP)
    assert agreement(found.mask, true) > 0.9


def test_pale_and_dark_tissue_on_one_slide_are_both_found():
    dark, pale = ellipse(centre=(150, 90), radii=(80, 70)), ellipse(centre=(150, 300))
    pale &= ~ndimage.binary_dilation(dark, iterations=20)
    picture = stained(dark, "black silver", stained(pale, "pale"))
    assert agreement(segment_tissue(sensed(picture), MPP).mask, dark | pale) > 0.93


def test_large_holes_are_kept_out_and_fat_is_filled():
    true = ellipse()
    lumen = ellipse(centre=(120, 130), radii=(25, 30))
    fat = np.zeros(SIZE, dtype=bool)
    for row in range(170, 225, 13):
        for column in range(120, 200, 13):
            fat |= ellipse(centre=(row, column), radii=(5.3, 5.3))  # 85 micrometres wide
    found = segment_tissue(sensed(stained(true & ~lumen & ~fat, "H&E")), MPP).mask
    core = ndimage.binary_erosion(lumen, iterations=3)
    assert not found[core].any()
    assert found[fat].all()
    unfilled = segment_tissue(
        sensed(stained(true & ~lumen & ~fat, "H&E")), MPP, TissueSettings(hole_um2=0, closing_um=0)
    ).mask
    assert unfilled[fat].mean() < 0.7


@pytest.mark.parametrize("stain", STAINS)
def test_pens_of_four_colours_next_to_tissue_go_and_the_tissue_stays(stain):
    true = ellipse()
    picture = stained(true, stain)
    pens = {
        ink: stroke(picture, ink, line=((300, 30 + 75 * number), (380, 45 + 75 * number)))
        for number, ink in enumerate(INKS)
    }
    found = segment_tissue(sensed(picture), MPP)
    assert [ink for ink, pen in pens.items() if found.mask[pen].any()] == []
    assert agreement(found.mask, true) > 0.95
    inked = sum(pen.mean() for pen in pens.values())
    assert inked <= found.rejected["pen"] < 2.5 * inked


def test_pen_on_tissue_and_out_of_the_picture():
    true = ellipse()
    picture = stained(true, "H&E")
    pen = stroke(picture, "green", line=((0, 150), (399, 150)))
    found = segment_tissue(sensed(picture), MPP)
    assert not found.mask[pen].any()
    assert found.rejected["dark border"] == 0
    far = ~ndimage.binary_dilation(pen, iterations=20)
    assert agreement(found.mask & far, true & far) > 0.95


def test_a_ring_of_pen_leaves_the_tissue_inside():
    true = ellipse(radii=(60, 70))
    picture = stained(true, "DAB")
    ring = ellipse(radii=(110, 120)) & ~ellipse(radii=(95, 105))
    picture[ring] = INKS["blue"]
    assert agreement(segment_tissue(sensed(picture), MPP).mask, true) > 0.95


def test_pale_grey_tissue_that_a_black_pen_touches_stays():
    true = ellipse(radii=(50, 30))
    picture = glass()
    picture[true] = (205, 204, 206)  # grey, and even: alone too wide for a stroke
    pen = stroke(picture, "black", line=((175, 20), (175, 280)))
    found = segment_tissue(sensed(picture), MPP).mask
    assert not found[pen].any()
    far = ~ndimage.binary_dilation(pen, iterations=10)
    assert agreement(found & far, true & far) > 0.95


def test_uneven_spots_of_a_black_pen_are_ink_and_move_no_threshold():
    true = ellipse(centre=(150, 90), radii=(100, 70))
    picture = stained(true, "pale")
    pen = stroke(picture, "black", line=((250, 20), (390, 280)))
    rng = rng_for("tests", "uneven ink")
    speckles = ndimage.gaussian_filter(rng.normal(size=(*SIZE, 3)), (1.2, 1.2, 0))
    spot = pen & (np.mgrid[: SIZE[0], : SIZE[1]][0] // 40 % 3 == 0)
    picture[spot] = np.clip(picture[spot] + 60 * speckles[spot], 0, 58)
    found = segment_tissue(sensed(picture), MPP).mask
    assert not found[pen].any()
    assert agreement(found, true) > 0.95


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("stain", ["H&E", "DAB", "silver", "trichrome red"])
def test_faint_ink_on_glass_goes_and_the_tissue_under_it_stays(stain, ink):
    true = ellipse()
    picture = stained(true, stain)
    drawn = picture.copy()
    pen = stroke(drawn, ink, line=((250, 10), (390, 290)))
    picture[pen] *= (np.array(INKS[ink]) / 255 + 0.02) ** 0.4  # two fifths of its density
    found = segment_tissue(sensed(picture), MPP)
    assert found.mask[pen & ~true].mean() < 0.05
    assert agreement(found.mask & ~pen, true & ~pen) > 0.9


@pytest.mark.parametrize("stain", ["H&E", "DAB", "silver", "haematoxylin alone"])
def test_an_edge_of_the_coverslip_and_dark_glass_go(stain):
    true = ellipse()
    x = np.arange(SIZE[1])
    edge = 10 ** (-0.5 * np.exp(-(((x - 330) / 8) ** 2)))
    dark = np.where(x > 370, 0.6, 1.0)
    found = segment_tissue(sensed(stained(true, stain) * (edge * dark)[:, None]), MPP)
    assert agreement(found.mask, true) > 0.95
    assert not found.mask[:, 300:].any()


@pytest.mark.parametrize("paper", [(235, 235, 230), (238, 228, 222), (225, 230, 238)])
def test_a_label_with_a_barcode_goes(paper):
    true = ellipse()
    picture = stained(true, "H&E")
    picture[:90, 310:] = paper
    bars = rng_for("tests", "bars").random(80) < 0.5
    picture[10:80, 315:395][:, bars] = 30
    found = segment_tissue(sensed(picture), MPP)
    assert not found.mask[:90, 300:].any()
    assert agreement(found.mask, true) > 0.95


def test_hed_takes_stains_of_its_own_alone():
    left, right = (ellipse(centre=(150, x), radii=(80, 70)) for x in (100, 300))
    picture = stained(left, "H&E", stained(right, "Goldner green"))
    assert agreement(segment_tissue(sensed(picture), MPP).mask, left | right) > 0.93
    assert agreement(segment_tissue(sensed(picture), MPP, method="hed").mask, left) > 0.9


def test_a_clot_of_red_cells_stays():
    true = ellipse()
    clot = ellipse(centre=(150, 150), radii=(30, 40))
    picture = stained(true, "H&E")
    picture[clot] = (190, 50, 60)
    found = segment_tissue(sensed(picture), MPP)
    assert found.mask[clot].all()
    assert found.rejected["pen"] == 0


def test_dust_goes_and_a_small_biopsy_stays():
    picture = glass()
    rng = rng_for("tests", "dust")
    dust = np.zeros(SIZE, dtype=bool)
    for row, column in rng.integers(10, 290, (30, 2)):
        dust |= ellipse(centre=(row, column), radii=(4, 4))
    biopsy = ellipse(centre=(150, 350), radii=(12, 30))  # 200 x 480 micrometres
    picture[dust] = (60, 55, 50)
    found = segment_tissue(sensed(stained(biopsy, "H&E", picture)), MPP)
    assert not found.mask[dust].any()
    assert agreement(found.mask, biopsy) > 0.85
    assert dust.mean() * 0.8 < found.rejected["dust"] < dust.mean() * 3


def frame(width: int) -> np.ndarray:
    where = np.ones(SIZE, dtype=bool)
    where[width:-width, width:-width] = False
    return where


@pytest.mark.parametrize("stain", STAINS)
def test_a_dark_border_with_its_shadow_goes(stain):
    true = ellipse(centre=(150, 200))
    away = ndimage.distance_transform_edt(~frame(12))
    shadow = np.clip(away / 6, 0.1, 1)[..., None]  # black to glass over 50 micrometres
    found = segment_tissue(sensed(stained(true, stain) * shadow), MPP)
    assert not found.mask[frame(16)].any()
    assert agreement(found.mask, true) > 0.95
    assert frame(12).mean() <= found.rejected["dark border"] < frame(22).mean()


def test_a_dark_border_on_one_side_of_a_blank_slide():
    picture = glass()
    picture[:, :25] = 15
    found = segment_tissue(sensed(picture), MPP)
    assert not found.mask.any()
    assert found.rejected["dark border"] == pytest.approx(25 / 400, abs=0.03)


@pytest.mark.parametrize("mpp", [1.5, 8.0])
@pytest.mark.parametrize("fill", [0, 255])
def test_padding_of_the_scanner_is_no_tissue(fill, mpp):
    shrunk = mpp / MPP  # the same picture, of a smaller thing
    settings = TissueSettings(closing_um=20 * shrunk, tissue_um2=30_000 * shrunk**2)
    true = ellipse()
    picture = sensed(stained(true, "pale"))
    pad = np.zeros(SIZE, dtype=bool)
    pad[:, 300:], pad[:40] = True, True
    picture[pad] = fill
    found = segment_tissue(picture, mpp, settings)
    assert not found.mask[pad].any()
    assert agreement(found.mask, true & ~pad) > 0.9
    expected = 0.0 if fill else pad.mean()
    assert found.rejected["dark border"] == pytest.approx(expected, abs=0.02)


def test_black_silver_that_runs_out_of_the_picture_stays():
    true = ellipse(centre=(150, 0), radii=(140, 300))
    found = segment_tissue(sensed(stained(true, "black silver")), MPP)
    assert agreement(found.mask, true) > 0.95
    assert found.rejected["dark border"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 700)])
@pytest.mark.parametrize("colour", [(200, 100, 150), (243, 243, 243), (0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("mpp", [0.25, 8.0, 500.0])
def test_the_smallest_pictures(size, colour, mpp):
    picture = np.full((*size, 3), colour, dtype=np.uint8)
    found = segment_tissue(picture, mpp)
    assert found.mask.shape == size
    if colour[0] == 200:
        assert found.mask.all()
    if colour[0] > 240:
        assert not found.mask.any()


@st.composite
def sections(draw) -> np.ndarray:
    """A section of one stain, of any place and size, on a picture of any size."""
    height, width = draw(st.integers(60, 150)), draw(st.integers(60, 150))
    centre = draw(st.integers(20, height - 20)), draw(st.integers(20, width - 20))
    radii = draw(st.integers(20, 40)), draw(st.integers(20, 40))
    where = ellipse((height, width), centre, radii)
    return sensed(stained(where, draw(st.sampled_from(sorted(STAINS)))))


@settings(max_examples=25, deadline=None)
@given(picture=sections(), mpp=st.sampled_from([5.0, 8.0, 20.0]), axis=st.sampled_from([0, 1]))
def test_flipping_the_picture_flips_the_mask(picture, mpp, axis):
    found = segment_tissue(picture, mpp).mask
    flipped = segment_tissue(np.flip(picture, axis).copy(), mpp).mask
    assert agreement(np.flip(flipped, axis), found) > 0.99


@settings(max_examples=25, deadline=None)
@given(picture=sections(), border=st.integers(10, 60))
def test_more_glass_around_changes_next_to_nothing(picture, border):
    found = segment_tissue(picture, MPP).mask
    wide = sensed(glass((picture.shape[0] + 2 * border, picture.shape[1] + 2 * border)))
    inside = (slice(border, -border), slice(border, -border))
    wide[inside] = picture
    more = segment_tissue(wide, MPP).mask
    assert agreement(more[inside], found) > 0.95
    reach = ndimage.binary_dilation(np.pad(found, border), iterations=5)  # of blur and closing
    assert not (more & ~reach).any()


@settings(max_examples=15, deadline=None)
@given(picture=sections(), factor=st.integers(2, 4))
def test_a_finer_picture_of_the_same_thing_has_the_same_tissue(picture, factor):
    found = segment_tissue(picture, MPP).mask
    fine = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    finer = segment_tissue(fine, MPP / factor).mask
    assert agreement(finer, found.repeat(factor, axis=0).repeat(factor, axis=1)) > 0.93


def test_the_same_picture_has_the_same_mask_and_is_left_as_it_was():
    picture = sensed(stained(ellipse(), "H&E"))
    before = picture.copy()
    picture.setflags(write=False)
    first, second = segment_tissue(picture, MPP), segment_tissue(picture, MPP)
    assert np.array_equal(first.mask, second.mask)
    assert first.rejected == second.rejected
    assert np.array_equal(picture, before)


@cache
def real_tissue(folder: str, name: str, mpp: float) -> Tissue:
    paths = sorted((SHARED / folder).glob(name))
    if not paths:
        pytest.skip(f"the real pictures are not there: {SHARED / folder / name}")
    return segment_tissue(np.asarray(Image.open(paths[0]).convert("RGB")), mpp)


# Share of the picture that is tissue (ranges around what was looked at and found right), and the
# middle of one large vessel, x and y in pixels.
LUNG = {
    "He": (0.84, 0.93, 287, 189),
    "Ki67-7": (0.84, 0.93, 351, 184),
    "CD31-3": (0.80, 0.91, 321, 139),
    "proSPC-4": (0.70, 0.85, 330, 221),
    "Cc10-5": (0.64, 0.82, 290, 208),
}


@pytest.mark.parametrize("stain", LUNG)
def test_lung_in_five_stains(stain):
    found = real_tissue("multistain_lung", f"*-{stain}-les3.jpg", 3.48)
    low, high, x, y = LUNG[stain]
    assert low < found.mask.mean() < high
    assert found.rejected["pen"] == found.rejected["dark border"] == 0
    assert not found.mask[y - 8 : y + 8, x - 8 : x + 8].any()


@pytest.mark.parametrize("stain", LUNG)
def test_landmarks_that_a_pathologist_set_lie_on_tissue(stain):
    found = real_tissue("multistain_lung", f"*-{stain}-les3.jpg", 3.48)
    path = next((SHARED / "multistain_lung").glob(f"landmarks_PS*-{stain}-les3.csv"))
    x, y = (np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:] // 10).astype(int).T
    assert len(x) == 80
    assert found.mask[y, x].mean() > 0.94  # .96 to .99; chance is the share of tissue, .71 to .88


@pytest.mark.parametrize("number", range(5))
def test_serial_sections_agree(number):
    found = real_tissue("serial_ihc", f"{number}_ihc_*.png", 4.0)
    assert 0.26 < found.mask.mean() < 0.36
    assert found.rejected["pen"] == found.rejected["dark border"] == 0
    reference = real_tissue("serial_ihc", "2_ihc_*.png", 4.0).mask
    assert agreement(found.mask, reference) > 0.8


@pytest.mark.parametrize("reduced", [4, 8, 16])
def test_tiles_of_the_aperio_slide(aperio, reduced):
    import openslide

    with openslide.OpenSlide(aperio) as slide:
        picture = slide.read_region((0, 0), 0, slide.level_dimensions[0]).convert("RGB")
    found = segment_tissue(np.asarray(picture.reduce(reduced)), 0.499 * reduced)
    side = 224 // reduced
    rows, columns = 2967 // 224, 2220 // 224
    tiles = found.mask[: rows * side, : columns * side].reshape(rows, side, columns, side)
    share = tiles.mean(axis=(1, 3))
    assert share.size == 117
    counts = {least: int((share >= least).sum()) for least in (0.25, 0.5, 0.75)}
    assert 61 <= counts[0.25] <= 66
    assert 48 <= counts[0.5] <= 54
    assert 45 <= counts[0.75] <= 49
