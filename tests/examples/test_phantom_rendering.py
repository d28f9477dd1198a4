import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from phantom_rendering import RENDERED_STAINS, SectionRenderer
from phantom_rendering.canvas import Tiles
from phantom_rendering.cells import VESICULAR
from phantom_rendering.ground import (
    MARGIN_UM,
    PATCH_UM,
    SIDE,
    ShownSigns,
    draws,
    evenly,
    places_in_block,
    shown_signs,
    tileable_noise,
    wrapped,
)
from phantom_rendering.ground import section as section_of
from phantom_rendering.render import Patterns, populate
from phantom_rendering.stains import (
    DAB,
    EOSIN,
    HAEMATOXYLIN,
    blur_passes,
    blurred,
    draw_look,
    transmit,
)
from phantom_rendering.stroma_and_fat import DUCT_REACH_UM
from phantom_rendering.tumour import FILE_REACH_UM, MITOSIS_INK
from scipy.ndimage import distance_transform_edt

from madeleine_bench.errors import InputError
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.phantoms.layout import field_values
from madeleine_bench.phantoms.world import BREAST, NUISANCE_DIMS, Appearance
from madeleine_bench.seeds import rng_for
from tests.phantoms.declare import make_cohort

# Patches, sum of tissue indices, of some features and of the field of one slide, at commit c53f970.
FEATURES_BEFORE = (29, 60, -5.475882814265788, -3.2989493271216066)
STAINS = {"H&E": 8, "ER": 8, "PR": 8, "HER2": 8, "Ki67": 8}
TOY = make_cohort(STAINS, 8, sites=2, labels={}, patches=(16, 30))
COHORT = PhantomCohort(TOY, [])
TISSUES = list(BREAST.tissues)
MPP = 2.0  # two pixels to a node of the ground plan


def digest(picture):
    return hashlib.sha256(picture.tobytes()).hexdigest()


def slide(case, stain="H&E"):
    return f"toy-phantom-{case:04d}-{stain.replace('&', '')}"


@pytest.fixture(scope="module")
def renderer():
    return SectionRenderer(COHORT, mpp=MPP)


@pytest.fixture(scope="module")
def pictures(renderer):
    return {stain: renderer.render(slide(1, stain)) for stain in RENDERED_STAINS}


def density(picture):
    """Optical density over the picture's own glass, row x column x 3."""
    glass = np.median(picture[:40].reshape(-1, 3), axis=0)
    return -np.log(np.maximum(picture, 1.0) / glass)


def brown(picture):
    """DAB per pixel by colour deconvolution with the published vectors."""
    third = np.cross(HAEMATOXYLIN, DAB)
    unmix = np.linalg.inv(np.array([HAEMATOXYLIN, DAB, third / np.linalg.norm(third)]))
    return density(picture) @ unmix[:, 1]


@pytest.fixture(scope="module")
def puppet():
    """A renderer of a cohort whose latents a test may set."""
    return SectionRenderer(PhantomCohort(TOY, []), mpp=MPP)


@pytest.fixture(scope="module")
def fine():
    return SectionRenderer(PhantomCohort(TOY, []), mpp=1.0)


def marked(monkeypatch, puppet, stain, latent, value):
    """A picture of case 1 whose latents are all 0 but one."""
    latents = {**dict.fromkeys(BREAST.latents, 0.0), latent: value}
    monkeypatch.setattr(puppet._cohort, "latents", lambda case: latents)
    return puppet.render(slide(1, stain))


def test_a_picture_depends_on_nothing_but_its_name(renderer, pictures):
    other = SectionRenderer(PhantomCohort(TOY, []), mpp=MPP)
    for stain in ("HER2", "H&E"):
        assert digest(other.render(slide(1, stain))) == digest(pictures[stain])
    assert len({digest(picture) for picture in pictures.values()}) == len(RENDERED_STAINS)
    reseeded = SectionRenderer(PhantomCohort(TOY, [], seed=1), mpp=MPP)
    assert digest(reseeded.render(slide(1))) != digest(pictures["H&E"])


def test_a_picture_is_the_same_in_another_process(pictures):
    script = (
        "from tests.examples.test_phantom_rendering import *;"
        "print(digest(SectionRenderer(COHORT, mpp=MPP).render(slide(1, 'HER2'))))"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == digest(pictures["HER2"])


@pytest.mark.parametrize("stain", ["H&E", "Ki67"])
def test_without_signal_a_picture_knows_no_latent(monkeypatch, stain):
    drawn = {}
    for signal in (0.0, 1.0) if stain == "H&E" else (0.0,):
        cohort = PhantomCohort(TOY, [], signal=signal)
        renderer = SectionRenderer(cohort, mpp=2.0)
        for z in (-1.5, 1.5):
            monkeypatch.setattr(
                cohort, "latents", lambda case, z=z: dict.fromkeys(BREAST.latents, z)
            )
            drawn[signal, z] = digest(renderer.render(slide(2, stain)))
    assert drawn[0.0, -1.5] == drawn[0.0, 1.5]
    assert len(set(drawn.values())) == len(drawn) - 1


def test_signs_are_those_of_the_patch_features():
    appearance = Appearance(BREAST)
    for stain in RENDERED_STAINS:
        name = slide(3, stain)
        signs = shown_signs(COHORT, name)
        site, case, section = draws(COHORT, name)
        latents = COHORT.latents("toy-phantom-0003")
        values = [*signs.morphology.values(), signs.marker]
        moved = np.zeros((len(TISSUES), 512))
        for value, sign in zip(values, appearance.signs[stain], strict=False):
            moved[sign.row] += value * sign.vector
        stated = appearance.shifts(stain, latents, case, section, COHORT.signal)
        np.testing.assert_allclose(moved, stated, atol=1e-12)
        total = sum(n * axis for n, axis in zip(signs.nuisance, appearance._nuisance, strict=True))
        share = TOY.phantom.nuisance_case_share
        expected = appearance.nuisance(site, case, section, share)
        np.testing.assert_allclose(total, expected, atol=1e-12)
        # The very draws behind the bag: with the noise averaged out they explain its mean.
        bag, tissue = COHORT.read_bag(name), section_of(COHORT, name).tissue
        typical = appearance.prototypes[stain] + expected
        left = bag.features[tissue == 2] - typical[2]
        assert len(left) == 0 or np.sqrt((left**2).mean()) == pytest.approx(0.05, rel=0.05)


def test_features_are_what_they_were_before_slides_were_rendered():
    bag, section = COHORT.read_bag(slide(1, "ER")), section_of(COHORT, slide(1, "ER"))
    parts = bag.features[:, ::64].astype(np.float64).sum(), section.heterogeneity.sum()
    assert (len(bag.features), int(section.tissue.sum())) == FEATURES_BEFORE[:2]
    np.testing.assert_allclose(parts, FEATURES_BEFORE[2:], rtol=1e-6)


def test_the_ground_shows_the_tissue_of_the_section_at_every_patch_centre(renderer):
    for case in range(1, 9):
        section = section_of(COHORT, slide(case))
        ground = renderer.ground(slide(case))
        x, y = (section.coords * 0.25 + MARGIN_UM + PATCH_UM / 2.0).T
        np.testing.assert_array_equal(ground.at(ground.tissue, x, y), section.tissue)
        assert (ground.at(ground.inside_um, x, y) > 5.0).all()


def test_places_in_the_block_are_those_that_the_section_has_cut():
    for name in (slide(1), slide(5, "Ki67")):
        section = section_of(COHORT, name)
        waves = COHORT.tissue(COHORT.row(name)[0]).waves
        values = field_values(waves, places_in_block(COHORT, name, section.coords / 512))
        np.testing.assert_allclose(values[:, -1], section.heterogeneity, atol=1e-9)


def test_tissues_look_like_themselves(renderer):
    """By colour in the middle of each: fat is bare, immune tissue the bluest, necrosis pink."""
    found = {tissue: [] for tissue in TISSUES}
    for case in range(1, 5):
        picture, ground = renderer.render(slide(case)), renderer.ground(slide(case))
        picture = density(picture)[::2, ::2]
        tissue = ground.tissue[: picture.shape[0], : picture.shape[1]]
        for index, name in enumerate(TISSUES):
            middle = picture[distance_transform_edt(tissue == index) * 4.0 > 32.0]
            if len(middle):
                found[name].append(middle.mean(axis=0))
    red, green, _ = np.array([np.mean(found[name], axis=0) for name in TISSUES]).T
    fat, immune, necrosis, stroma, tumour = (
        TISSUES.index(name) for name in ("fat", "immune", "necrosis", "stroma", "tumour")
    )
    assert green.argmin() == fat
    assert green[fat] < 0.3 * np.delete(green, fat).min()
    assert set(np.argsort(red)[-2:]) == {immune, tumour}
    assert (red / green)[[necrosis, stroma]].max() < 0.6 * (red / green)[[tumour, immune]].min()


def test_the_outline_is_smooth_and_glass_lies_all_around(renderer, pictures):
    for stain, picture in pictures.items():
        rim = int(150 / renderer.mpp)
        frame = [picture[:rim], picture[-rim:], picture[:, :rim], picture[:, -rim:]]
        for part in frame:
            assert part.min() > 225, stain
            assert np.ptp(part.reshape(-1, 3).mean(axis=0)) < 12, stain
        assert density(picture).sum(axis=2).max() > 1.0
    inside = renderer.ground(slide(1)).inside_um >= 0.0
    # Steps of 128 um would leave runs of 32 nodes at which the first row of tissue does not move.
    top = inside.argmax(axis=0)[inside.any(axis=0)]
    runs = np.diff(np.flatnonzero(np.diff(top)))
    assert np.median(runs) <= 6


@pytest.mark.parametrize(("stain", "latent"), [("ER", "er"), ("PR", "pr"), ("Ki67", "ki67")])
def test_more_brown_with_more_of_the_marker(monkeypatch, puppet, stain, latent):
    amounts = [brown(marked(monkeypatch, puppet, stain, latent, z)) for z in (-1.5, 1.5)]
    share = [(amount > 0.4).mean() for amount in amounts]
    assert share[0] < 0.5 * share[1]


def test_brown_rises_with_the_shown_er_over_cases(renderer):
    shown, amount = [], []
    for case in range(1, 9):
        name = slide(case, "ER")
        ground = renderer.ground(name)
        tumour = np.kron(ground.tissue == 0, np.ones((2, 2), bool))
        picture = brown(renderer.render(name))
        here = tumour[: picture.shape[0], : picture.shape[1]]
        amount.append((picture[here] > 0.4).mean())
        shown.append(shown_signs(COHORT, name).marker)
    assert np.corrcoef(shown, amount)[0, 1] > 0.8


def test_her2_is_brown_around_nuclei_and_er_within(monkeypatch, fine):
    within = {}
    for stain in ("HER2", "ER"):
        picture = marked(monkeypatch, fine, stain, stain.lower(), 3.0)
        stained = brown(picture) > 0.4
        assert stained.mean() > 0.01
        # A membrane is no wider than 2 um from its middle to its edge; a nucleus is.
        within[stain] = (distance_transform_edt(stained) > 2.0).sum() / stained.sum()
    assert within["HER2"] < 0.05
    assert within["ER"] > 0.2


@pytest.fixture(scope="module")
def patterns():
    return Patterns()


def population(ground, patterns, **shown):
    """The cells of an H&E slide of case 1 that shows 0 of every latent but those given."""
    signs = ShownSigns({**dict.fromkeys(BREAST.latents, 0.0), **shown}, 0.0, 1.0, np.zeros(12))
    return populate(ground, signs, "H&E", patterns, rng_for("test-population"))


def test_each_latent_shows_in_the_form_of_cells(renderer, patterns):
    ground = renderer.ground(slide(1))
    low, high = (
        {latent: population(ground, patterns, **{latent: z}) for latent in BREAST.latents}
        for z in (-1.5, 1.5)
    )

    def tumour(drawn):
        kinds = (drawn.cells["kind"] == VESICULAR) & (drawn.cells["reach_um"] != DUCT_REACH_UM)
        return drawn.cells[kinds]

    def lymphocytes(drawn):
        y, x = (np.rint(drawn.cells[side] / 4.0).astype(int) for side in ("y_um", "x_um"))
        round_ = (drawn.cells["reach_um"] == 0.0) & (drawn.cells["aspect"] < 1.25)
        return (round_ & (ground.tissue[y, x] == TISSUES.index("stroma"))).sum()

    for latent, measure, least in (
        ("grade", lambda drawn: tumour(drawn)["diameter_um"].mean(), 1.2),
        ("grade", lambda drawn: tumour(drawn)["diameter_um"].std(), 1.5),
        ("er", lambda drawn: len(drawn.lumens), 1.5),
        ("pr", lambda drawn: 1.0 / (tumour(drawn)["aspect"].mean() - 1.0), 1.3),
        ("ki67", lambda drawn: len(tumour(drawn)), 1.2),
        ("ki67", lambda drawn: (drawn.cells["ink"] == MITOSIS_INK).sum(), 3.0),
        ("her2", lambda drawn: 1.0 / len(tumour(drawn)), 1.2),
        ("hazard", lambda drawn: tumour(drawn)["ink"].mean(), 1.2),
        ("immune", lymphocytes, 3.0),
        ("subtype", lambda drawn: (tumour(drawn)["reach_um"] == FILE_REACH_UM).mean(), 4.0),
    ):
        assert measure(high[latent]) > least * measure(low[latent]), latent


def test_nodal_spread_shows_as_clefts_about_nests(monkeypatch, puppet):
    tumour = np.kron(puppet.ground(slide(1)).tissue == 0, np.ones((2, 2), bool))
    bare = []
    for z in (-2.0, 2.0):
        picture = density(marked(monkeypatch, puppet, "H&E", "aln", z)).sum(axis=2)
        bare.append((picture[tumour[: picture.shape[0], : picture.shape[1]]] < 0.2).mean())
    assert bare[1] > 1.3 * bare[0]


def test_the_size_follows_mpp_and_the_section(pictures):
    name = slide(1)
    columns, rows = section_of(COHORT, name).coords.max(axis=0) // 512 + 1
    for mpp in (1.3, MPP):
        drawn = pictures["H&E"] if mpp == MPP else SectionRenderer(COHORT, mpp=mpp).render(name)
        height, width, channels = drawn.shape
        assert channels == 3
        assert width == pytest.approx((columns * 128 + 2 * MARGIN_UM) / mpp, abs=1)
        assert height == pytest.approx((rows * 128 + 2 * MARGIN_UM) / mpp, abs=1)


def test_resolutions_show_the_same_slide(pictures, fine):
    coarse = pictures["H&E"].astype(float)
    twice = fine.render(slide(1)).astype(float)
    height, width = (side // 32 * 32 for side in coarse.shape[:2])
    small = coarse[:height, :width].reshape(height // 32, 32, width // 32, 32, 3).mean(axis=(1, 3))
    twice = twice[: 2 * height, : 2 * width]
    twice = twice.reshape(height // 32, 64, width // 32, 64, 3).mean(axis=(1, 3))
    assert np.abs(small - twice).mean() < 4.0
    assert np.corrcoef(small.ravel(), twice.ravel())[0, 1] > 0.98


def test_what_cannot_be_drawn_is_refused(renderer):
    kidney = PhantomCohort(make_cohort({"H&E": 2}, 2, organ="kidney", labels={}), [])
    with pytest.raises(InputError, match=r"toy is of kidney.*breast cohorts only.*acrobat"):
        SectionRenderer(kidney)
    with pytest.raises(InputError, match="no slide 'toy-phantom-0001-XX'"):
        renderer.render("toy-phantom-0001-XX")
    for mpp in (0.2, 2.5, float("nan")):
        with pytest.raises(InputError, match="mpp of a rendered slide"):
            SectionRenderer(COHORT, mpp=mpp)


def test_one_patch_is_enough_for_a_section():
    rows = {"slide_id": ["a"], "case_id": ["a"], "stain": ["H&E"], "site": [""]}
    tiny = make_cohort({"H&E": 1}, 1, labels={}, patches=(1, 1))
    cohort = PhantomCohort(tiny, [], table=pd.DataFrame(rows))
    assert SectionRenderer(cohort, mpp=2.0).render("a").shape == (320, 320, 3)


def test_light_follows_beer_and_lambert():
    look = draw_look("ER", np.zeros(NUISANCE_DIMS))
    blue = np.array([[0.0, 1.0, 0.0, 0.7]], np.float32)
    dab = np.array([[0.0, 0.0, 1.0, 0.4]], np.float32)
    found = transmit(blue, dab, np.zeros((1, 4), np.float32), look)[0].astype(float)
    plain = look.glass * np.exp(
        -(blue[0][:, None] * look.vectors[0] + dab[0][:, None] * look.vectors[1])
    )
    np.testing.assert_allclose(found, plain, atol=1.0)
    np.testing.assert_allclose(np.linalg.norm([HAEMATOXYLIN, EOSIN, DAB], axis=1), 1.0, atol=0.01)
    np.testing.assert_allclose(look.vectors, [HAEMATOXYLIN, DAB], atol=0.01)


def test_blur_keeps_the_stain_and_spreads_it_as_far_as_asked():
    for std_px in (0.4, 1.3):
        spot = np.zeros((41, 41), np.float32)
        spot[20, 20] = 1.0
        after = blurred(spot, std_px)
        assert after.sum() == pytest.approx(1.0, abs=1e-5)
        offsets = np.arange(41) - 20
        assert (after.sum(axis=0) * offsets**2).sum() == pytest.approx(std_px**2, rel=1e-3)
        assert np.abs(offsets[after.sum(axis=0) > 0.0]).max() <= blur_passes(std_px)


def test_noise_repeats_without_a_seam_and_spreads_evenly():
    tile = tileable_noise(rng_for("test-tile"), 12.0, 3.0)
    assert (tile.mean(), tile.std()) == pytest.approx((0.0, 1.0), abs=1e-3)
    inner, seam = np.abs(np.diff(tile, axis=0)).mean(), np.abs(tile[0] - tile[-1]).mean()
    assert seam == pytest.approx(inner, rel=0.3)
    assert np.abs(np.diff(tile, axis=1)).mean() < 0.5 * inner
    assert (evenly(tile) < 0.3).mean() == pytest.approx(0.3, abs=0.03)
    rows, columns = np.arange(1000, 1100) % SIDE, np.arange(77, 77 + 1500) % SIDE
    np.testing.assert_array_equal(wrapped(tile, 1000, 77, 100, 1500), tile[rows][:, columns])
    assert Tiles(2.0).fibre.shape == (SIDE, SIDE)
