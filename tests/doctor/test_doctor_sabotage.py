"""Encoders that are broken in one way each: the right check fails, and says what to look at."""

import numpy as np
import pytest

from madeleine_bench.encoders.base import BaseEncoder
from madeleine_bench.encoders.contract import CHECKS
from madeleine_bench.seeds import rng_for
from tests.doctor.conftest import DIM, Mean, card, finding, verdicts


class NanNowAndThen(Mean):
    def encode(self, bag):
        out = super().encode(bag)
        if bag.slide_id in ("s03", "s17"):
            out[2] = np.nan
        return out


class HalfConstant(Mean):
    def encode(self, bag):
        out = super().encode(bag)
        out[: len(out) // 2] = 0.25
        return out


class Collapsed(Mean):
    """One vector, and a little that depends on the slide."""

    def encode(self, bag):
        return (3.0 + 0.01 * super().encode(bag)).astype(np.float32)


class OneDirection(Mean):
    """All slides on one line: their number on it depends on the slide."""

    def encode(self, bag):
        out = super().encode(bag)
        line = rng_for("line").standard_normal(len(out))
        return ((out @ line) * line).astype(np.float32)


class PairsShare(Mean):
    """The second slide of each pair gets what belongs to the first, as with a wrong cache key."""

    def __init__(self, bags):
        super().__init__()
        self.bags = bags

    def encode(self, bag):
        if bag.slide_id.startswith("s") and int(bag.slide_id[1:]) % 2:
            bag = self.bags[f"s{int(bag.slide_id[1:]) - 1:02d}"]
        return super().encode(bag)


class WidthSlips(Mean):
    def encode(self, bag):
        out = super().encode(bag)
        return out[:-1] if bag.slide_id == "s05" else out


class FirstPatchWeighsMore(Mean):
    def encode(self, bag):
        weight = np.ones(len(bag.features))
        weight[0] = 3.0
        return np.average(bag.features, axis=0, weights=weight).astype(np.float32)


class Random(Mean):
    def __init__(self, size=0.02, **values):
        super().__init__(**values)
        self.size, self.rng = size, np.random.default_rng(0)

    def encode(self, bag):
        out = super().encode(bag)
        return (out + self.size * self.rng.standard_normal(len(out))).astype(np.float32)


class Stateful(Mean):
    """A little of the slide before is left in the next."""

    def __init__(self):
        super().__init__()
        self.before = None

    def encode(self, bag):
        out = super().encode(bag)
        there = self.before is not None and self.before.shape == out.shape
        mixed = 0.9 * out + 0.1 * self.before if there else out
        self.before = out
        return mixed.astype(np.float32)


class Sums(Mean):
    def encode(self, bag):
        return bag.features.sum(axis=0, dtype=np.float32)


class Raises(Mean):
    def encode(self, bag):
        if bag.slide_id in ("s02", "s09"):
            raise RuntimeError("out of | memory")
        return super().encode(bag)


class LeaksSite(Mean):
    def encode(self, bag):
        out = super().encode(bag)
        return (out + 2.0 * rng_for("site", bag.site).standard_normal(len(out))).astype(np.float32)


class IgnoresPatches(Mean):
    def encode(self, bag):
        return rng_for("slide", bag.slide_id).standard_normal(DIM).astype(np.float32)


class WholeNumbers(Mean):
    def encode(self, bag):
        return (100 * super().encode(bag)).astype(np.int64)


class OneOutlier(Mean):
    def encode(self, bag):
        return super().encode(bag) * np.float32(1000.0 if bag.slide_id == "s11" else 1.0)


class ZeroForOne(Mean):
    def encode(self, bag):
        return super().encode(bag) * np.float32(bag.slide_id != "s11")


class Overflows(Mean):
    def encode(self, bag):
        out = super().encode(bag).astype(np.float64)
        return out * 1e200 if bag.slide_id == "s11" else out


SABOTAGED = [
    # encoder, checks that fail, words that the first of them must say it saw
    (NanNowAndThen, {"finite"}, "2 of 30 slides (s03, s17)"),
    (HalfConstant, {"constant dimensions"}, "6 of 12"),
    (Collapsed, {"mean cosine"}, "1.0000"),
    (OneDirection, {"effective rank", "half of the patches"}, "1.0 of 12"),
    (WidthSlips, {"width"}, "1 of 30 slides (s05): shape (11,)"),
    (FirstPatchWeighsMore, {"order of patches", "contract"}, "of the spread"),
    (Random, {"determinism", "contract"}, "of the spread apart"),
    (Stateful, {"order of slides"}, "of the spread"),
    (Sums, {"norm at half the patches"}, "0.50 of the norm"),
    (
        Raises,
        {"encodes every slide"},
        "2 of 30 slides (s02, s09): raised RuntimeError: out of | memory",
    ),
    (IgnoresPatches, {"uses the patches"}, "0 of 30 slides change"),
    (ZeroForOne, {"scale"}, "all zeros on 1 slides (s11)"),
    (Overflows, {"finite"}, "1 of 30 slides (s11)"),
]


@pytest.mark.parametrize(("broken", "checks", "seen"), SABOTAGED)
def test_the_right_check_fails_and_says_what_to_look_at(examine, broken, checks, seen):
    found = examine(broken())
    assert verdicts(found, "fail") == checks
    first = finding(found, next(check for check in CHECKS if check in checks - {"contract"}))
    assert seen in first.found
    assert len(first.advice) > 30


def test_a_sound_encoder_passes_every_check(examine):
    found = examine(Mean())
    assert [each.check for each in found.findings] == list(CHECKS)
    assert not verdicts(found, "skipped")
    assert not verdicts(found, "fail") | verdicts(found, "warn")


def test_slides_that_share_an_embedding_are_named(examine, small):
    found = examine(PairsShare(small.bags))
    assert verdicts(found, "fail") == {"duplicates"}
    assert (
        "30 of 30 slides share an embedding (s00, s01, s02 and 27 more)"
        in finding(found, "duplicates").found
    )


def test_a_leaked_site_is_a_warning_and_never_a_failure(examine):
    found = examine(LeaksSite())
    assert verdicts(found, "warn") == {"site"}
    assert not verdicts(found, "fail")
    site = finding(found, "site")
    assert site.number == 0.002
    assert "balanced accuracy 1.00, chance 0.33, p 0.002 (3 sites, 30 slides)" in site.found
    assert "Howard" in site.advice


def test_a_stain_that_is_read_out_is_a_note(examine):
    class LeaksStain(Mean):
        def encode(self, bag):
            return super().encode(bag) + np.float32(3.0 * (bag.stain == "H&E"))

    found = examine(LeaksStain())
    stain = finding(found, "stain")
    assert (stain.verdict, stain.number) == ("pass", 0.002)
    assert "p 0.002 (2 stains, 30 slides)" in stain.found


def test_one_outlier_is_a_warning_about_scale(examine):
    found = examine(OneOutlier())
    assert "1 slides stand apart (s11)" in finding(found, "scale").found
    assert finding(found, "scale").verdict == "warn"


def test_half_precision_is_a_warning_and_whole_numbers_fail(examine):
    class Half(Mean):
        def encode(self, bag):
            return super().encode(bag).astype(np.float16)

    assert finding(examine(Half()), "dtype").verdict == "warn"
    found = examine(WholeNumbers())
    assert verdicts(found, "fail") == {"contract", "dtype"}
    assert "0 slides have a usable embedding" in finding(found, "duplicates").found


def test_a_matrix_instead_of_a_vector_fails_the_width(examine):
    class Matrix(Mean):
        def encode(self, bag):
            return super().encode(bag)[None]

    found = examine(Matrix())
    assert "width" in verdicts(found, "fail")
    assert "(1, 12)" in finding(found, "width").found


def test_an_encoder_that_always_raises_leaves_nothing_to_compare(examine):
    class Dead(Mean):
        def encode(self, bag):
            raise ValueError("no")

    found = examine(Dead())
    assert verdicts(found, "fail") == {"contract", "encodes every slide"}
    assert not verdicts(found, "pass")


@pytest.mark.parametrize(
    ("dim", "verdict", "words"), [(12, "pass", "12"), (13, "fail", "the card says 13")]
)
def test_the_width_is_held_against_the_card(examine, dim, verdict, words):
    width = finding(examine(Mean(dim=dim)), "width")
    assert width.verdict == verdict
    assert words in width.found


def test_a_card_without_a_width_means_that_of_the_patches(examine):
    class Narrow(Mean):
        def encode(self, bag):
            return super().encode(bag)[:5]

    width = finding(examine(Narrow()), "width")
    assert width.verdict == "warn"
    assert "the card has no 'dim', which means 12" in width.found
    assert finding(examine(Narrow(dim=5)), "width").verdict == "pass"


def test_what_an_encoder_draws_is_allowed_where_the_card_says_so(examine):
    quiet, loud = Random(1e-5, deterministic=False), Random(0.1, deterministic=False)
    assert finding(examine(quiet), "determinism").verdict == "pass"
    found = examine(loud)
    assert finding(found, "determinism").verdict == "warn"
    assert "order of patches" in verdicts(found, "skipped")
    assert "repair that first" in finding(found, "order of slides").found


def test_an_encoder_that_dies_when_asked_again_is_not_deterministic(examine):
    class Once(Mean):
        def __init__(self):
            super().__init__()
            self.seen = {}

        def encode(self, bag):
            key = (bag.slide_id, len(bag.features))
            self.seen[key] = self.seen.get(key, 0) + 1
            if self.seen[key] > 2 and key[0] != "example":
                raise RuntimeError("used up")
            return super().encode(bag)

    found = examine(Once())
    assert verdicts(found, "fail") == {"determinism"}
    assert "when asked again" in finding(found, "determinism").found


def test_an_encoder_may_write_into_the_bag_it_is_given(examine):
    """The contract says so; the doctor's own bags stay whole."""

    class Writes(Mean):
        def encode(self, bag):
            out = super().encode(bag)
            bag.features[:] = 0.0
            return out

    assert verdicts(examine(Writes()), "fail") == {"contract"}


def test_a_class_without_our_base_is_examined_too(examine):
    class Own:
        card = card()

        def encode(self, bag):
            return bag.features.mean(axis=0)

    assert not issubclass(Own, BaseEncoder)
    assert not verdicts(examine(Own()), "fail")
