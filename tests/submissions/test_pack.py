"""Packing: the same bytes each time, and nothing that a verifier would refuse."""

import json
import shutil

import numpy as np
import pytest

from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.errors import InputError
from madeleine_bench.results.store import ResultStore
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.claims import check_claims
from madeleine_bench.submissions.pack import pack
from tests.submissions.conftest import altered_record, members_of


def test_equal_results_pack_to_equal_bytes(first, catalogue, tmp_path):
    again = pack(str(first.card), first.results, tmp_path / "b.zip", None, catalogue,
                 with_code=True)  # fmt: skip
    assert (tmp_path / "b.zip").read_bytes() == first.bundle.read_bytes()
    packed = again.document
    assert (packed["board"], packed["records"], packed["cohorts"]) == ("local", 2, ["bcnb"])
    assert len(packed["missing"]) == 19
    assert "bcnb-er" not in packed["missing"]


def test_the_command_names_missing_tasks(first, mbench, tmp_path):
    out = tmp_path / "a.zip"
    said = mbench("submit", "pack", first.card, "--results", first.results, "--out", out)
    assert said.code == 0, said.err
    assert "19 of 21 core tasks have no record" in said.out
    assert "bcnb-aln" in said.out
    assert "code" not in str(read_bundle(out).files)


def test_the_newest_record_is_packed(submitted, catalogue, tmp_path):
    store = ResultStore(submitted.results)
    record = next(r for r in store.records() if r.encoder.name == "stranger")
    content = record.model_dump(mode="json", exclude={"record_id"})
    content["scores"]["main"]["value"] -= 0.25
    content["provenance"]["created"] = "2999-01-01"
    store.write_record(content)
    pack(str(submitted.card), submitted.results, tmp_path / "a.zip", None, catalogue)
    (claim, _) = read_bundle(tmp_path / "a.zip").claims
    assert claim.record.scores.main.value == content["scores"]["main"]["value"]


def test_changed_code_no_longer_owns_the_records(submitted, catalogue, tmp_path):
    code = submitted.card.with_name("encoder.py")
    code.write_text(
        code.read_text() + "\n# a comment, which made these records unfit to pack before\n"
    )
    assert pack(
        str(submitted.card), submitted.results, tmp_path / "a.zip", None, catalogue
    ).document
    code.write_text(code.read_text() + "x = 1\n")
    with pytest.raises(InputError, match="made by another card, code or weights"):
        pack(str(submitted.card), submitted.results, tmp_path / "a.zip", None, catalogue)


def test_records_of_other_embeddings_are_refused(submitted, catalogue, tmp_path):
    store = EmbeddingStore(submitted.results)
    (path,) = (submitted.results / "embeddings/local/stranger").glob("*.safetensors")
    store.write(path, ["1"], np.zeros((1, 8), np.float32))
    with pytest.raises(InputError, match="no embeddings of bcnb that the record"):
        pack(str(submitted.card), submitted.results, tmp_path / "a.zip", None, catalogue)


def test_records_of_two_embeddings_are_refused(submitted, catalogue, tmp_path):
    store = ResultStore(submitted.results)
    record = next(r for r in store.records() if r.encoder.name == "stranger")
    content = record.model_dump(mode="json", exclude={"record_id"})
    content["inputs"]["embeddings"] = "0" * 64
    content["provenance"]["created"] = "2999-01-01"
    store.write_record(content)
    with pytest.raises(InputError, match=r"different embeddings .bcnb-er and bcnb-pr"):
        pack(str(submitted.card), submitted.results, tmp_path / "a.zip", None, catalogue)


def test_what_cannot_be_packed_is_said_and_leaves_no_zip(submitted, catalogue, tmp_path):
    out = tmp_path / "out" / "a.zip"
    out.parent.mkdir()
    card, results = submitted.card, submitted.results
    with pytest.raises(InputError, match=r"no records of encoder mean-pool.*--encoder mean-pool "):
        pack("mean-pool", results, out, None, catalogue)
    with pytest.raises(InputError, match="no records on board 'locla'; did you mean 'local'"):
        pack(str(card), results, out, "locla", catalogue)
    other = submitted.card.parent.parent / "other"
    shutil.copytree(card.parent, other)
    text = (other / "card.yaml").read_text()
    (other / "card.yaml").write_text(text.replace("title: stranger", f"title: {'x' * 121}"))
    with pytest.raises(InputError, match=r"cannot be submitted: .*a.zip/card.yaml: 'title'"):
        pack(str(other / "card.yaml"), results, out, None, catalogue)
    assert list(out.parent.iterdir()) == []


def test_a_zip_says_nothing_of_the_machine_but_what_records_say(first):
    members = members_of(first.bundle)
    manifest = json.loads(members["submission.json"])
    assert set(manifest) == {"schema_version", "encoder", "board", "mbench", "files"}
    assert not any(str(first.results).encode() in data for data in members.values())


@pytest.mark.parametrize("protocol", ["finetune/v1", "madeleine-fewshot/v1"])
def test_records_that_no_embedding_gives_are_left_out_and_named(
    protocol, submitted, catalogue, tmp_path
):
    """A record of a version that the catalogue no longer has stopped the whole pack."""
    store = ResultStore(submitted.results)
    own = [r for r in store.records() if r.encoder.name == "stranger"]
    content = own[0].model_dump(mode="json", exclude={"record_id"})
    content["protocol"] = protocol
    store.write_record(content)
    card, out = str(submitted.card), tmp_path / "a.zip"
    packed = pack(card, submitted.results, out, None, catalogue).document
    assert packed["records"] == len(own)
    assert packed["left_out"] == [protocol]
    for path in (submitted.results / "records" / "local" / "stranger").rglob("linear-probe*"):
        path.unlink()
    with pytest.raises(InputError, match=f"all records of stranger are of {protocol}"):
        pack(card, submitted.results, tmp_path / "b.zip", None, catalogue)


def test_a_claim_that_no_embedding_gives_is_refused(first, altered, catalogue):
    member = next(name for name in members_of(first.bundle) if name.startswith("records/"))
    renamed = member.replace("linear-probe-v2", "finetune-v1")
    record = altered_record(first.bundle, member, lambda r: r.update(protocol="finetune/v1"))
    bundle = read_bundle(altered({member: None, renamed: record}))
    said = [finding.line for finding in check_claims(bundle, catalogue)]
    assert any("cannot be recomputed from a submission" in line for line in said), said


def test_of_several_features_those_with_the_most_records_are_packed(submitted, catalogue, tmp_path):
    """Before, the newest record of each task was taken, and the embeddings were then refused."""
    store = ResultStore(submitted.results)
    record = next(r for r in store.records() if r.encoder.name == "stranger")
    content = record.model_dump(mode="json", exclude={"record_id"})
    content["features"]["content"] = "0" * 64
    content["inputs"]["embeddings"] = "0" * 64
    content["provenance"]["created"] = "2999-01-01"
    store.write_record(content)
    pack(str(submitted.card), submitted.results, tmp_path / "a.zip", None, catalogue)
    claims = read_bundle(tmp_path / "a.zip").claims
    assert [claim.record.features for claim in claims] == [record.features] * 2
