"""A cohort of which a part is missing: matched, followed, said, and stopped below 90%."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from madeleine_bench.data.audit_cohort import LEAST_SHARE
from madeleine_bench.errors import InputError
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.specs.workspace import Workspace
from tests.data.made_cohort import Told


@pytest.fixture
def score(bcnb, tmp_path):
    """Score mean-pool on bcnb-er, and return what was said and the one record."""

    def call(**more):
        told = _Told()
        request = Request(
            ("mean-pool",), ("bcnb-er",), ("linear-probe",),
            Workspace(tmp_path / "results", config=bcnb.config), **more,
        )  # fmt: skip
        assert run(request, told).failures == []
        (record,) = ResultStore(tmp_path / "results").records()
        return told.said, record

    return call


class _Told(Told):
    def advance(self, note):
        """Forget what is done: what is said before counts."""


def with_suffix(bcnb, numbers, suffix=".svs"):
    """Give slides of the table the suffix of a slide file."""
    lines = [line.split(",", 1) for line in bcnb.labels.read_text().splitlines()]
    named = [f"{i}{suffix if i in numbers else ''},{rest}" for i, rest in lines]
    bcnb.labels.write_text("\n".join(named) + "\n")


def test_a_whole_cohort_is_one_line(score):
    said, record = score()
    assert "bcnb-er: 40 of 40 slides scored (negative: 27, positive: 13)" in said
    assert record.inputs.missing == {}


@pytest.mark.parametrize("suffix", [".svs", ".NDPI", ".qptiff"])
def test_ids_with_the_suffix_of_a_slide_file_find_their_bags(bcnb, score, suffix):
    """Before: the 24 rows that end so were left out, and 16 of 40 scored, without a word."""
    with_suffix(bcnb, {str(number) for number in range(17, 41)}, suffix)
    said, record = score()
    assert record.inputs.n == 40
    assert "bcnb-er: 40 of 40 slides scored (negative: 27, positive: 13)" in said
    assert (
        f"bcnb: 24 slide(s) matched with files of another name: 17{suffix} with 17, "
        f"18{suffix} with 18, 19{suffix} with 19, ..."
    ) in said


def test_bags_with_the_suffix_of_a_slide_file_find_their_rows(bcnb, score):
    for number in range(17, 41):
        bcnb.bag(number).rename(bcnb.folder / "features" / f"{number}.svs.h5")
    said, record = score()
    assert record.inputs.n == 40
    assert "bcnb: 24 slide(s) matched with files of another name: 17 with 17.svs" in [
        line.split(", 18")[0] for line in said
    ]


def test_files_matched_by_how_their_name_begins_are_listed(bcnb, score):
    bcnb.bag(7).rename(bcnb.folder / "features" / "7.33ad-uuid.h5")
    said, record = score()
    assert record.inputs.n == 40
    assert ("bcnb: 1 slide(s) matched with files of another name: 7 with 7.33ad-uuid") in said


@pytest.mark.parametrize("other", ["17.tif", "17.33ad"])
def test_a_slide_of_two_files_is_refused(bcnb, score, other):
    with_suffix(bcnb, {"17"})
    shutil.copy(bcnb.bag(18), bcnb.folder / "features" / f"{other}.h5")
    with pytest.raises(InputError, match=r"slide '17\.svs' could be .*h5 and .*h5; keep one"):
        score()


def test_a_file_of_two_slides_is_refused(bcnb, score):
    with_suffix(bcnb, {"17"})
    row = next(line for line in bcnb.labels.read_text().splitlines() if line.startswith("17"))
    bcnb.labels.write_text(bcnb.labels.read_text() + row.replace("17.svs", "17.ndpi") + "\n")
    with pytest.raises(InputError, match=r"17\.h5 could be of slide '17\.(svs|ndpi)' and of"):
        score()


def test_bags_behind_a_linked_folder_are_scored(bcnb, score, tmp_path):
    """Before: a folder behind a link was passed over, and 20 of 40 slides were scored."""
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    for number in range(21, 41):
        shutil.move(bcnb.bag(number), elsewhere)
    (bcnb.folder / "features" / "more").symlink_to(elsewhere, target_is_directory=True)
    said, record = score()
    assert record.inputs.n == 40
    assert "bcnb-er: 40 of 40 slides scored (negative: 27, positive: 13)" in said


def test_a_folder_that_cannot_be_read_stops_the_run(bcnb, score, monkeypatch):
    """Before: it was passed over in silence."""
    locked = bcnb.folder / "features" / "locked"
    locked.mkdir()
    for number in range(21, 41):
        shutil.move(bcnb.bag(number), locked)
    listing = os.scandir

    def scandir(path):
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"features/locked cannot be read: Permission denied"):
        score(allow_partial=True)


def test_half_of_the_bags_missing_stops_the_run_unless_told(bcnb, score, tmp_path):
    """Before: 20 of 40 slides were scored, rc 0, nothing said."""
    for number in range(21, 40):
        bcnb.bag(number).unlink()
    bcnb.write_bag(40, np.empty((0, 8), dtype=np.float32))
    with pytest.raises(InputError) as refusal:
        score()
    assert str(refusal.value) == (
        "bcnb-er@1: 20 of 40 slides with a label have features (50%; 90% or more are expected); "
        "left out: no feature file or an empty one: 20 (21, 22, 23, ...). Look at 'features' in "
        "mbench.toml and at the slide ids (mbench data status), or score the rest: mbench run "
        "--allow-partial"
    )
    assert not (tmp_path / "results" / "records").exists()
    assert not (tmp_path / "results" / "splits").exists()
    said, record = score(allow_partial=True)
    assert record.inputs.n == 20
    assert (
        "bcnb-er: 20 of 40 slides scored (negative: 14, positive: 6); left out: "
        "no feature file or an empty one: 20 (21, 22, 23, ...)"
    ) in said
    assert {reason: len(ids) for reason, ids in record.inputs.missing.items()} == {
        "no feature file": 20
    }, "what records say of missing slides is as before"


@pytest.mark.parametrize(("absent", "stops"), [(4, False), (5, True)])
def test_the_share_is_of_labelled_slides(bcnb, score, absent, stops):
    """36 of 40 are 90%, 35 are not; slides without a label do not count."""
    assert LEAST_SHARE == 0.9
    for number in range(1, absent + 1):
        bcnb.bag(number).unlink()
    if stops:
        with pytest.raises(InputError, match=r"35 of 40 slides with a label .*\(88%"):
            score()
        return
    said, _ = score()
    assert (
        "bcnb-er: 36 of 40 slides scored (negative: 24, positive: 12); left out: "
        "no feature file or an empty one: 4 (1, 2, 3, ...)"
    ) in said


def test_slides_without_a_label_never_stop_a_run(bcnb, score):
    lines = bcnb.labels.read_text().splitlines()
    lines[21:] = [line.split(",")[0] + ",,,,,,"[: line.count(",")] for line in lines[21:]]
    bcnb.labels.write_text("\n".join(lines) + "\n")
    for number in range(31, 41):
        bcnb.bag(number).unlink()
    said, record = score()
    assert record.inputs.n == 20
    assert (
        "bcnb-er: 20 of 40 slides scored (negative: 14, positive: 6); left out: no label: empty: "
        "20 (21, 22, 23, ...)" in said
    )


def test_the_command_ends_with_2_and_says_what_to_do(bcnb, tmp_path, mbench):
    for number in range(21, 41):
        bcnb.bag(number).unlink()
    command = (
        "run", "--encoder", "mean-pool", "--task", "bcnb-er", "--protocol", "linear-probe",
        "--config", bcnb.config, "--results", tmp_path / "r", "--jobs", "1",
    )  # fmt: skip
    stopped = mbench(*command)
    assert stopped.code == 2
    assert "no feature file or an empty one: 20 (21, 22, 23, ...)" in stopped.err
    assert "--allow-partial" in stopped.err
    told = mbench(*command, "--allow-partial")
    assert told.code == 0
    assert "20 of 40 slides scored" in told.out + told.err


def test_the_audit_reports_a_part_as_error_or_warning(bcnb, tmp_path, mbench):
    command = ("audit", "--task", "bcnb-er", "--config", bcnb.config, "--results", tmp_path / "r")
    bcnb.bag(40).unlink()
    said = mbench(*command)
    assert "partial" in said.out
    assert "39 of 40" in said.out
    for number in range(21, 40):
        bcnb.bag(number).unlink()
    assert "20 of 40" in mbench(*command).out
    assert mbench(*command).code == 1


def test_phantoms_say_what_is_scored_and_never_stop(tmp_path):
    told = _Told()
    request = Request(
        ("patch-count",),
        ("aidpath-her2",),
        ("linear-probe",),
        Workspace(tmp_path / "results", "phantom"),
    )
    assert run(request, told).failures == []
    assert told.said == ["aidpath-her2: 25 of 25 slides scored (equivocal: 8, high: 7, low: 10)"]
