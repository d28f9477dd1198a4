"""Headers of feature files against cards, before anything is embedded."""

import re

import numpy as np
import pytest

from madeleine_bench.encoders.registry import external_encoders, shipped_encoders
from madeleine_bench.errors import InputError
from madeleine_bench.runner.checks import check_bags, unstated
from madeleine_bench.runner.cohorts import open_cohort
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import load_config
from madeleine_bench.specs.workspace import Workspace
from tests.tool_bags import write_bag_file

MEAN = shipped_encoders()["mean-pool"].card
TITAN = external_encoders()["titan"].card
FEATHER = external_encoders()["feather"].card
STATED = {"patch_size": 512, "patch_size_level0": 1024, "target_magnification": 20}


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


@pytest.fixture
def cohort(bcnb, catalogue, tmp_path):
    """Opens the small cohort after its bags were written anew, some of them otherwise."""

    def make(width=768, encoder="conch_v15", odd=(), stated=STATED, **otherwise):
        for number in range(1, 41):
            attributes = stated | (otherwise if number in odd else {})
            write_bag_file(
                bcnb.bag(number),
                np.ones((2, width), np.float32),
                np.zeros((2, 2)),
                layout="trident",
                patch_encoder=encoder,
                coords_attributes={k: v for k, v in attributes.items() if v is not None},
            )
        config = load_config(bcnb.config)
        opened = open_cohort(Workspace(tmp_path, "local"), catalogue, "bcnb", config)
        return opened.data

    return make


def test_files_that_fit_pass_and_nothing_is_said(cohort):
    data = cohort()
    check_bags([MEAN, TITAN, FEATHER], data, "labels.csv")
    assert unstated([MEAN, TITAN, FEATHER], data) == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"encoder": "uni_v1"}, ["conch_v15", "uni_v1", "40 of the 40"]),
        ({"width": 8}, ["width 768", "found 8", "40 of the 40"]),
        ({"odd": (5, 7), "target_magnification": 40}, ["20x", "40x", "2 of the 40", "5.h5"]),
        ({"odd": (5,), "patch_size": 256}, ["512 px", "256 px", "1 of the 40", "5.h5"]),
        ({"odd": (9,), "patch_size_level0": None}, ["patch_size_level0", "1 of the 40", "9.h5"]),
    ],
)
def test_the_first_file_that_does_not_fit_is_named_and_the_others_counted(cohort, made, words):
    with pytest.raises(InputError) as said:
        check_bags([MEAN, TITAN], cohort(**made), "labels.csv")
    for word in ("encoder titan", "cohort bcnb", "labels.csv", *words):
        assert word in str(said.value)


def test_a_model_without_places_does_not_ask_for_the_level0_size(cohort):
    check_bags([FEATHER], cohort(stated=STATED | {"patch_size_level0": None}), "labels.csv")


@pytest.mark.parametrize(("stated", "fits"), [(19.1, True), (21, True), (18.9, False), (22, False)])
def test_scanners_of_nearly_the_same_power_are_the_same(cohort, stated, fits):
    data = cohort(stated=STATED | {"target_magnification": stated})
    if fits:
        check_bags([TITAN], data, "labels.csv")
    else:
        with pytest.raises(InputError, match="expects patches at 20x"):
            check_bags([TITAN], data, "labels.csv")


def test_what_is_not_stated_passes_and_is_said_in_one_line_an_encoder(cohort):
    """CLAM states the size in pixels of a level; without its magnification it says nothing."""
    clam = {"patch_size": 256, "patch_level": 0, "downsample": 1.0}
    data = cohort(encoder=None, stated=clam)
    check_bags([MEAN, TITAN], data, "labels.csv")
    (line,) = unstated([MEAN, TITAN], data)
    assert re.match(r"titan on bcnb: .* do not state", line)
    for words in ("40 of the 40", "patch_encoder conch_v15", "magnification 20", "patch_size 512"):
        assert words in line


def test_only_the_files_that_leave_it_open_are_counted(cohort):
    (line,) = unstated([FEATHER], cohort(odd=(3, 4), target_magnification=None))
    assert "2 of the 40" in line


def test_a_card_of_a_size_alone_is_held_against_the_size_alone(cohort):
    card = TITAN.model_copy(update={"magnification": None})
    data = cohort(odd=(5,), patch_size=256, target_magnification=None)
    with pytest.raises(InputError, match="expects patches of 512 px"):
        check_bags([card], data, "labels.csv")


def test_the_patch_encoder_of_mbench_toml_counts_as_for_a_bag(cohort, bcnb):
    bcnb.config.write_text(bcnb.config.read_text() + 'patch_encoder = "uni_v1"\n')
    with pytest.raises(InputError, match=r"expects features of conch_v15, these are of uni_v1"):
        check_bags([TITAN], cohort(encoder=None), "labels.csv")


def test_empty_bags_are_passed_over(cohort, bcnb):
    data = cohort()
    write_bag_file(bcnb.bag(4), np.ones((0, 768), np.float32), layout="clam")
    check_bags([TITAN], data, "labels.csv")
    assert unstated([TITAN], data) == []


def test_generated_phantoms_have_no_files_to_check(bcnb, catalogue, tmp_path):
    config = load_config(bcnb.config)
    opened = open_cohort(Workspace(tmp_path, "phantom"), catalogue, "bcnb", config)
    check_bags([TITAN], opened.data, opened.where)
    assert unstated([TITAN], opened.data) == []
