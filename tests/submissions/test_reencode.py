"""V2 and V3: slides encoded again, by whose code, and what differs."""

import pytest

from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.specs.card import Weights
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.pack import pack
from madeleine_bench.submissions.verify import (
    Verification,
    VerifyRequest,
    encode_again,
    open_cohorts,
    runnable_encoder,
)
from madeleine_bench.types import Silence
from tests.submissions.conftest import (
    PROTOCOL,
    altered_embeddings,
    members_of,
    with_manifest,
    zipped,
)


@pytest.fixture(scope="module")
def ours(first, catalogue, tmp_path_factory):
    """A bundle of an encoder that ships."""
    folder = tmp_path_factory.mktemp("ours")
    run(
        Request(("max-pool",), ("bcnb-er",), (PROTOCOL,),
                Workspace(folder / "results", "local", first.cohort.config)),
        Silence(),
    )  # fmt: skip
    pack("max-pool", folder / "results", folder / "max-pool.zip", None, catalogue)
    return folder / "max-pool.zip"


def test_code_that_ships_runs_unasked(ours, first, mbench):
    said = mbench("submit", "verify", ours, *first.options, "--level", "V2", "--draw", "x")
    assert said.code == 0, said.err
    assert "bcnb: 16 slides encoded again, largest relative gap 0.0e+00" in said.out
    assert "--draw x --sample 16" in said.out


def test_every_slide_again_and_every_score(first, mbench):
    more = ["--level", "V3", "--allow-code"]
    said = mbench("submit", "verify", first.bundle, *first.options, *more)
    assert said.code == 0, said.err
    assert "running code that came with the submission" in said.err
    assert "bcnb: 40 slides encoded again" in said.out
    assert "V3 reproduced" in said.out


def leak(ids, matrix):
    """Put a label where the encoder knows none: V1 cannot see it."""
    matrix[:, 1] = [float(int(name) % 3 == 0) for name in ids]
    return ids, matrix


def test_nothing_is_encoded_where_v1_does_not_hold(first, altered, mbench):
    path = altered(altered_embeddings(first.bundle, leak))
    said = mbench("submit", "verify", path, *first.options, "--level", "V2", "--allow-code")
    assert said.code == 1
    assert "no slide was encoded again: V1 does not hold" in said.out


def test_a_consistent_leak_passes_v1_and_fails_v2(first, catalogue, mbench, tmp_path):
    """The honest card and code beside embeddings that encode labels, scored properly."""
    cheat = tmp_path / "cheat"
    cheat.mkdir()
    code = (
        "import numpy as np\nfrom madeleine_bench.encoders.base import BaseEncoder\n"
        "class StrangerEncoder(BaseEncoder):\n    def encode(self, bag):\n"
        "        out = bag.features.mean(axis=0)\n"
        "        out[1] = float(int(bag.slide_id) % 3 == 0)\n        return out\n"
    )
    (cheat / "encoder.py").write_text(code)
    text = first.card.read_text().replace("parameters:\n  trim: 0.1\n", "")
    (cheat / "card.yaml").write_text(
        text.replace("stranger", "cheat").replace("cheatE", "StrangerE")
    )
    results = tmp_path / "results"
    card = str(cheat / "card.yaml")
    report = run(
        Request(
            (card,), ("bcnb-er",), (PROTOCOL,), Workspace(results, "local", first.cohort.config)
        ),
        Silence(),
    )
    assert not report.failures
    pack(card, results, tmp_path / "cheat.zip", None, catalogue, with_code=True)
    members = members_of(tmp_path / "cheat.zip")
    members["code/encoder.py"] = code.replace("out[1] =", "_ =").encode()
    path = tmp_path / "cheat-clean-code.zip"
    path.write_bytes(zipped(with_manifest(members)))
    said = mbench("submit", "verify", path, *first.options)
    assert said.code == 0, said.err
    assert "look at: readable labels: bcnb-er: column" in said.out
    said = mbench("submit", "verify", path, *first.options, "--level", "V2", "--allow-code",
                  "--draw", "1")  # fmt: skip
    assert said.code == 1
    assert "reached V1" in said.err
    assert "16 other rows" in said.err
    assert "not what card and weights make" in said.err


def test_the_draw_chooses_the_slides(ours, first, catalogue, tmp_path):
    bundle = read_bundle(ours)
    entry = runnable_encoder(bundle, False, tmp_path)

    def chosen(draw):
        workspace = Workspace(tmp_path, config=first.cohort.config)
        request = VerifyRequest(workspace, "V2", sample=3, draw=draw)
        done = Verification(bundle, request, catalogue, tmp_path / draw)
        done.cohorts = open_cohorts(bundle, workspace, catalogue)
        encode_again(done, entry, Silence())
        assert done.findings == []
        (path,) = (tmp_path / draw / "again" / "embeddings").rglob("bcnb.*.safetensors")
        return read_embeddings(path).ids

    assert len(chosen("a")) == 3
    assert chosen("a") == chosen("a")
    assert len({chosen(draw) for draw in "abcde"}) > 1


def with_card(bundle, **changes):
    found = read_bundle(bundle)
    card = found.card.model_copy(update=changes)
    return type(found)(**{**vars(found), "card": card})


def test_a_class_of_ours_with_other_parameters_is_third_party_code(ours, tmp_path):
    greedy = with_card(ours, name="greedy", parameters={"dim": 10**12})
    with pytest.raises(InputError, match="or its parameters"):
        runnable_encoder(greedy, False, tmp_path)
    for implementation in ("madeleine_bench.files:write_text", "os:system", "subprocess:Popen"):
        odd = with_card(ours, name="odd", implementation=implementation)
        with pytest.raises(InputError, match="THIRD-PARTY CODE"):
            runnable_encoder(odd, False, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_class_of_ours_under_another_name_runs_with_packed_weights(ours, tmp_path):
    entry = runnable_encoder(with_card(ours, name="my-max"), False, tmp_path)
    assert entry.path == tmp_path / "card.yaml"


def test_weights_must_be_there_and_be_those_of_the_card(ours, tmp_path):
    weights = Weights(path="w.safetensors", sha256="0" * 64)
    card = with_card(ours, name="my-max", weights=weights)
    with pytest.raises(InputError, match=r"no weights/w.safetensors in it"):
        runnable_encoder(card, False, tmp_path)
    held = type(card)(**{**vars(card), "files": {"weights/w.safetensors": b"x"}})
    with pytest.raises(InputError, match="the card says 0000000000000000"):
        runnable_encoder(held, False, tmp_path)


def test_code_that_was_not_packed_is_asked_for(first, altered, tmp_path):
    bundle = read_bundle(altered({"code/encoder.py": None}))
    with pytest.raises(InputError, match="pack it with --code"):
        runnable_encoder(bundle, True, tmp_path)


def test_an_encoder_that_raises_is_a_finding(first, altered, mbench):
    code = members_of(first.bundle)["code/encoder.py"].replace(b"patches = ", b"patches = 1 / 0 #")
    said = mbench("submit", "verify", altered({"code/encoder.py": code}), *first.options,
                  "--level", "V2", "--allow-code")  # fmt: skip
    assert said.code == 1
    assert "ZeroDivisionError" in said.err
    assert "Traceback" not in said.err
