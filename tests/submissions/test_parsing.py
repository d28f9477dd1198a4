"""JSON, YAML and safetensors that attack the reader."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.errors import InputError
from madeleine_bench.submissions.parsing import (
    inert,
    parse_embeddings,
    parse_json,
    parse_yaml,
    plain,
    shown,
)
from tests.submissions.conftest import embeddings_file

# What pickle writes of a call of os.system; never loaded, here or anywhere.
PICKLE = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93."
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5).filter(str.isascii), inner),
    max_leaves=20,
)  # fmt: skip


@given(PLAIN)
def test_json_reads_what_json_writes(value):
    assert parse_json(json.dumps(value).encode(), "x") == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[NaN]", "Out of range"),
        (b"[-Infinity]", "Out of range"),
        (b"[1e999]", "Out of range"),
        (b"9" * 5_000, "strict"),
        (b'["\\ud800"]', "strict"),
        (b"\xff\xfe", "strict"),
        (b'"\\"' * 100_000, "strict"),
        (PICKLE, "strict"),
        (b"{} {}", "strict"),
        (b"", "strict"),
    ],
)
def test_hostile_json_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_json(text, "record.json")


def test_brackets_in_strings_are_not_depth():
    value = {"a": "[[[[" * 100, 'b"': '\\"[' * 100}
    assert parse_json(json.dumps(value).encode(), "x") == value


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "aliases"),
        ("a: &x 1\nb: *x", "aliases"),
        ("a: &x 1", "anchors"),
        ("<<: *x", "aliases"),
        ("a: !!python/object/apply:os.system [ls]", "tags"),
        ("a: !!binary aGk=", "tags"),
        ("a: 2020-01-01", "plain"),
        ("a: .nan", "plain"),
        ("a: .inf", "plain"),
        ("[" * 60 + "]" * 60, "nested"),
        ("a: [" + "1," * 6000 + "]", "more than"),
        ("a: 1\na: 2", "a.* duplicate|twice|duplicate"),
        ("- 1", "found list"),
        ("a: [1", "not valid YAML"),
        ("--- 1\n--- 2", "not valid YAML"),
        ("a: " + "9" * 5000, "plain"),
        ("\x00", "not valid YAML|plain"),
        ("", "found NoneType"),
    ],
)
def test_hostile_yaml_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_yaml(text.encode(), "card.yaml")


def test_a_byte_order_mark_before_yaml_is_passed_over():
    assert parse_yaml("\ufeffname: x\n".encode(), "card.yaml") == {"name": "x"}


def test_yaml_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match="plain YAML"):
        parse_yaml(b"a: \xff", "card.yaml")


@given(st.text())
def test_no_yaml_raises_anything_else(text):
    with contextlib.suppress(InputError):
        assert isinstance(parse_yaml(text.encode("utf-8", "surrogatepass"), "x"), dict)


IDS = ["a", "b", "c"]
MATRIX = np.arange(6, dtype=np.float32).reshape(3, 2)
HONEST = embeddings_file(IDS, MATRIX)


def safetensors(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(dtype="F32", shape=(3, 2), offsets=(0, 24), ids=IDS, digest="h"):
    metadata = {"madeleine_bench": json.dumps({"ids": ids, "hash": digest})}
    described = {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}
    return {"__metadata__": metadata, "embeddings": described}


BODY = MATRIX.tobytes()
DESCRIBED = json.dumps(tensor()["embeddings"])
TWICE = f'{json.dumps(tensor())[:-1]}, "embeddings": {DESCRIBED}}}'.encode()


def test_embeddings_are_read_as_they_were_written():
    found, stated = parse_embeddings(HONEST, "x")
    assert found.ids == tuple(IDS)
    np.testing.assert_array_equal(found.matrix, MATRIX)
    assert found.hash == stated


def test_ids_of_embeddings_are_in_the_normal_form_and_the_hash_is_of_the_file():
    found, stated = parse_embeddings(embeddings_file(["7.0", "e\u0301", "007"], MATRIX), "x")
    assert found.ids == ("7", "\u00e9", "007")
    assert found.hash == stated
    with pytest.raises(InputError, match="the id '7' occurs twice"):
        parse_embeddings(embeddings_file(["7.0", "7", "8"], MATRIX), "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PICKLE, "pickle under another name"),
        (safetensors(b"{}", length=10 * 1024**3), "header has 10,737,418,240 bytes"),
        (safetensors(b"{}", length=2**64 - 1), "pickle under another name"),
        (b"", "header too small"),
        (safetensors(b"[" * 99), "invalid JSON in header"),
        (safetensors([]), "invalid JSON in header"),
        (safetensors({}), "one tensor"),
        (safetensors({**tensor(), "more": tensor(offsets=(24, 48))["embeddings"]}, BODY * 2),
         "one tensor"),
        (safetensors(tensor("F64", offsets=(0, 48)), BODY * 2), "must be float32"),
        (safetensors(tensor("F16", offsets=(0, 12)), BODY[:12]), "must be float32"),
        (safetensors(tensor("I32"), BODY), "must be float32"),
        (safetensors(tensor(["F32"]), BODY), "invalid type"),
        (safetensors(tensor(shape=(2**40, 2**40)), BODY), "overflow computing buffer size"),
        (safetensors(tensor(shape=(-3, -2)), BODY), "invalid value"),
        (safetensors(tensor(shape=(3, True)), BODY), "invalid type"),
        (safetensors(tensor(shape=(2, 3)), BODY), "2, 3.* for 3 ids"),
        (safetensors(tensor(shape=(6,)), BODY), "for 3 ids"),
        (safetensors(tensor(offsets=(8, 32)), BODY + b"0" * 8), "invalid offset"),
        (safetensors(tensor(), BODY + b"tail"), "not fully covered"),
        (safetensors(tensor(), BODY[:-4]), "not fully covered"),
        (safetensors({"embeddings": 3, "__metadata__": {}}), "invalid type"),
        (safetensors({"embeddings": tensor()["embeddings"]}, BODY), "metadata has no"),
        (safetensors({**tensor(), "__metadata__": {"madeleine_bench": 3}}, BODY), "a string"),
        (safetensors(TWICE, BODY), "'embeddings' occurs twice"),
        (safetensors(tensor(ids=["a", "a", "b"]), BODY), "'a' occurs twice"),
        (safetensors(tensor(ids=["a", "b", 3]), BODY), "list of texts"),
        (safetensors(tensor(ids=["a", "b", ""]), BODY), "empty"),
        (safetensors(tensor(ids=["a", "b", "\x1b[2J"]), BODY), "not printable"),
        (safetensors(tensor(ids=["a", "b", "x" * 201]), BODY), "longer than"),
        (safetensors(tensor(digest=3), BODY), "hash of the content"),
        (embeddings_file(IDS, MATRIX * np.float32("nan")), "NaN or infinity, first slide 'a'"),
        (embeddings_file(IDS, np.full((3, 2), np.inf, np.float32)), "NaN or infinity"),
        (embeddings_file(IDS, MATRIX, code="x"), "alone"),
    ],
)  # fmt: skip
def test_hostile_embeddings_are_refused(data, reason):
    with pytest.raises(InputError, match=reason):
        parse_embeddings(data, "embeddings/bcnb.safetensors")


@given(st.data())
def test_damaged_embeddings_are_read_or_refused(data):
    place = data.draw(st.integers(0, len(HONEST) - 1))
    new = data.draw(st.binary(max_size=9))
    with contextlib.suppress(InputError):
        parse_embeddings(HONEST[:place] + new + HONEST[place + len(new) :], "x")


@given(st.text())
def test_inert_text_cannot_leave_its_code_span_or_cell(text):
    span = inert(text)
    assert span[0] == span[-1] == "`"
    assert not set(span[1:-1]) & set("`<>|@\n\r\x1b\u202e")
    assert span[1:-1].strip()


@given(st.text())
def test_text_for_a_terminal_has_no_control_characters(text):
    assert plain(text, 50).isprintable() or "\xa0" in text or not text.isascii()
    assert shown(text).isascii()
    assert shown(text).isprintable()
