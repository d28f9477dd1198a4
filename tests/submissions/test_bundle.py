"""Bundles that are sound zips and lie about what is in them."""

import json
from pathlib import Path

import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.submissions.bundle import read_bundle
from tests.submissions.conftest import (
    altered_record,
    embeddings_file,
    members_of,
    snapshot,
    with_manifest,
    zipped,
)

RECORD = "records/bcnb-er.linear-probe-v2.json"
EMBEDDINGS = "embeddings/bcnb.safetensors"
PICKLE = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93."


def card(first, **changes):
    text = members_of(first.bundle)["card.yaml"].decode()
    lines = [line for line in text.splitlines() if line.split(":")[0] not in changes]
    return "\n".join(lines + [f"{k}: {json.dumps(v)}" for k, v in changes.items()]).encode()


def test_an_honest_bundle_is_read(first):
    bundle = read_bundle(first.bundle)
    assert bundle.card.name == "stranger"
    assert bundle.manifest.board == "local"
    assert [claim.record.task.id for claim in bundle.claims] == ["bcnb-er", "bcnb-pr"]
    assert bundle.embeddings["bcnb"].matrix.shape == (40, 8)
    assert list(bundle.files) == ["code/encoder.py"]


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        (RECORD, PICKLE, "not strict JSON"),
        (EMBEDDINGS, PICKLE, "pickle under another name"),
        ("weights/model.safetensors", PICKLE, "pickle under another name"),
        ("card.yaml", PICKLE, "not plain YAML"),
        (RECORD, b"[]", "expected an object"),
        (RECORD, b"{}", "missing key 'record_id'"),
        (RECORD, b'{"record_id": "x"}', "resume_key: Field required"),
        (EMBEDDINGS, embeddings_file(["1"], np.full((1, 2), np.nan, np.float32)), "NaN"),
        (EMBEDDINGS, embeddings_file(["1"], np.zeros((1, 2), np.float64)), "float32"),
        (EMBEDDINGS, embeddings_file(["1", "1"], np.zeros((2, 2), np.float32)), "occurs twice"),
        (EMBEDDINGS, None, "no records or no embeddings"),
        ("card.yaml", None, "no card.yaml"),
    ],
)
def test_a_member_that_is_not_what_its_name_says(altered, member, data, message):
    path = altered({member: data})
    with pytest.raises(InputError, match=message) as caught:
        read_bundle(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": "x" * 121}, "'title' is longer than 120"),
        ({"title": "a\u202egnp.exe"}, "cannot be shown"),
        ({"title": "a\x1b[2J"}, "cannot be shown"),
        ({"name": "<script>alert(1)</script>"}, "name: String should match"),
        ({"name": "../../x"}, "name: String should match"),
        ({"name": "n" * 65}, "at most 64"),
        ({"revision": "1/../2"}, "revision: String should match"),
        ({"name": "con"}, "name: 'con' cannot name a file on Windows"),
        ({"name": "lpt9"}, "name: 'lpt9' cannot name a file on Windows"),
        ({"revision": "NUL.1"}, "revision: 'NUL.1' cannot name a file on Windows"),
        ({"revision": "1."}, "revision: '1.' cannot name a file on Windows"),
        ({"input_dim": 100_001}, "input_dim: .* less than or equal to 100000"),
        ({"input_dim": 10**12}, "input_dim: .* less than or equal to 100000"),
        ({"dim": 10**12}, "dim: .* less than or equal to 100000"),
        ({"implementation": "prn.py:Evil"}, "plain .py file"),
        ({"implementation": "../evil.py:Evil"}, "plain .py file"),
        ({"implementation": "/tmp/evil.py:Evil"}, "plain .py file"),
        ({"weights": {"path": "../w.safetensors", "sha256": "0" * 64}}, ".safetensors file beside"),
        ({"weights": {"path": "model.pt", "sha256": "0" * 64}}, "can hold code"),
        ({"training_cohorts": ["x" * 65]}, "training_cohorts"),
        ({"licnce": "MIT"}, "unknown key 'licnce'; did you mean 'licence'"),
    ],
)
def test_a_card_that_cannot_be_shown_or_used(first, altered, changes, message):
    with pytest.raises(InputError, match=message):
        read_bundle(altered({"card.yaml": card(first, **changes)}))


def put(*place):
    """What changes one number of a record."""

    def change(record):
        for key in place[:-2]:
            record = record[key]
        record[place[-2]] = place[-1]

    return change


MAIN = ("scores", "main")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(*MAIN, "ci95", [0.4, 5e300]), r"auroc of 5e\+300 is outside \[0, 1\]"),
        (put(*MAIN, "ci95", [-5e300, 0.9]), "outside"),
        (put(*MAIN, "ci95", [0.9, 0.4]), "'ci95' begins at 0.9, above its end 0.4"),
        (put(*MAIN, "value", 1.5), "outside"),
        (put("scores", "secondary", "log-loss", -0.1), r"log-loss of -0.1 is outside \[0, 40\]"),
        (put("scores", "secondary", "log-loss", 5e300), "outside"),
        (put("scores", "secondary", "brier", 2.1), r"outside \[0, 2\]"),
        (put("scores", "secondary", "logrank-p", 1.1), "outside"),
        (put("scores", "secondary", "auroc@k=5", 1.1), "auroc@k=5 of 1.1"),
        (put("scores", "secondary", "quadratic-kappa", -1.1), r"outside \[-1, 1\]"),
        (put("folds", 0, "value", 5e300), "outside"),
        (put("folds", 0, "n_train", -1), "n_train"),
        (put("folds", 0, "n_test", 10**30), "n_test"),
        (put("folds", 0, "n_iter", -1), "n_iter"),
        (put("folds", 0, "key", "fold", 10**300), "key.fold"),
        (put("inputs", "n", 10**30), "inputs.n"),
        (put("inputs", "dim", 10**9), "inputs.dim"),
        (put("predictions", "rows", -1), "predictions.rows"),
        (put("task", "version", -1), "task.version"),
        (put("scoring_version", 10**30), "scoring_version"),
        (put("provenance", "seconds", 5e300), "number of 'provenance' is above 1e\\+15"),
        (put("provenance", "deep", [{"bytes": -(10**300)}]), "number of 'provenance'"),
    ],
)
def test_a_number_that_no_record_can_have(first, altered, change, message):
    """Ends of an interval of 5e300 passed V0: only the score itself had a range."""
    path = altered({RECORD: altered_record(first.bundle, RECORD, change)})
    with pytest.raises(InputError, match=message):
        read_bundle(path)


@pytest.mark.parametrize("board", ["phantom-x.", "local-."])
def test_a_board_whose_folder_windows_renames_is_refused(first, tmp_path, board):
    members = members_of(first.bundle)
    manifest = {**json.loads(members["submission.json"]), "board": board}
    path = tmp_path / "bundle.zip"
    path.write_bytes(zipped({**members, "submission.json": json.dumps(manifest).encode()}))
    with pytest.raises(InputError, match="cannot name a file on Windows"):
        read_bundle(path)


def test_a_card_of_aliases_is_refused(altered):
    laughs = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    with pytest.raises(InputError, match="aliases"):
        read_bundle(altered({"card.yaml": laughs}))


def test_a_title_with_a_script_is_read_as_text(first, altered):
    title = "<script>alert(1)</script> @everyone ![x](http://x)"
    assert read_bundle(altered({"card.yaml": card(first, title=title)})).card.title == title


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {**m, "code/more.py": b"x = 1"}, "code/more.py is not listed"),
        (lambda m: {k: v for k, v in m.items() if k != "code/encoder.py"}, "is listed .* absent"),
        (lambda m: {**m, RECORD: m[RECORD] + b" "}, "is not the file that submission.json lists"),
        (lambda m: {k: v for k, v in m.items() if k != "submission.json"}, "no submission.json"),
        (lambda m: {**m, "submission.json": b"[1]"}, "valid dictionary"),
        (
            lambda m: {**m, "submission.json": b'{"schema_version": 2}'},
            "schema_version: Input should be 1",
        ),
        (lambda m: {**m, "submission.json": b"[" * 999}, "nested"),
    ],
)
def test_members_must_be_those_that_the_manifest_lists(first, tmp_path, change, message):
    path = tmp_path / "bundle.zip"
    path.write_bytes(zipped(change(members_of(first.bundle))))
    with pytest.raises(InputError, match=message):
        read_bundle(path)


@pytest.mark.parametrize("board", ["../phantom", "phantom/../x", "PHANTOM", "phantom\n", ""])
def test_the_board_is_a_plain_word(first, tmp_path, board):
    members = members_of(first.bundle)
    manifest = {**json.loads(members["submission.json"]), "board": board}
    path = tmp_path / "bundle.zip"
    path.write_bytes(zipped({**members, "submission.json": json.dumps(manifest).encode()}))
    with pytest.raises(InputError, match="board: String should match"):
        read_bundle(path)


def test_a_refused_bundle_leaves_no_file(submitted, altered, mbench, monkeypatch):
    """Through the command line, with every option that writes: exit 2, and nothing is new."""
    root = submitted.bundle.parent
    monkeypatch.chdir(root)
    path = altered({EMBEDDINGS: PICKLE})
    before = snapshot(root, path.parent)
    options = ["--out", root / "report.md", "--json", root / "report.json"]
    said = mbench("submit", "verify", path, *submitted.options, *options)
    assert said.code == 2, said.err
    assert "pickle under another name" in said.err
    said = mbench("leaderboard", "add", path, *submitted.options)
    assert said.code == 2
    assert snapshot(root, path.parent) == before


def test_code_in_a_bundle_is_never_run(submitted, altered, mbench, tmp_path):
    """The implementation would write a file; verifying up to V1 and adding do not."""
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').write('ran')\n".encode()
    path = altered({"code/encoder.py": code})
    for level in ("V0", "V1"):
        said = mbench("submit", "verify", path, "--level", level, *submitted.options)
        assert said.code == 0, said.err
    for level in ("V2", "V3"):
        said = mbench("submit", "verify", path, "--level", level, *submitted.options)
        assert said.code == 2
        assert "THIRD-PARTY CODE CAN DO ALL THAT YOU CAN" in said.err
        assert "--allow-code" in said.err
    assert mbench("leaderboard", "add", path, *submitted.options).code == 0
    assert not mark.exists()


def test_what_a_bundle_says_cannot_drive_a_terminal(first, altered, mbench):
    def change(record):
        record["encoder"]["title"] = "\x1b]0;owned\x07\u202e"
        record["task"]["id"] = "\x1b[2Jbcnb-er"
        record["scores"]["main"]["chance"] = 1.0

    path = altered({RECORD: altered_record(first.bundle, RECORD, change)})
    said = mbench("submit", "verify", path, "--level", "V0")
    assert said.code == 1
    assert "encoder title" in said.err
    assert not {"\x1b", "\x07", "\u202e"} & set(said.out + said.err)


def test_packing_again_after_an_attack_is_what_makes_it_pass(first, altered):
    """The helpers of these tests alone do not make a bundle unreadable."""
    path = altered({})
    assert with_manifest(members_of(path)) == members_of(path)
    assert read_bundle(path).card == read_bundle(first.bundle).card
    assert isinstance(path, Path)
