"""Zips that attack the reader: each is refused with a reason, and leaves nothing behind."""

import contextlib
import io
import struct
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.errors import InputError
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.parsing import kind_of, read_zip, unpack
from tests.submissions.conftest import members_of, snapshot, zipped

PARSING = "madeleine_bench.submissions.parsing"
SMALL = {"BUNDLE": 200_000, "UNPACKED": 400_000, "MEMBERS": 8}


def entry(name, data=b"x", compression=zipfile.ZIP_STORED, **fields):
    """A zip of one member with fields of its directory entry as wished."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename, info.compress_type = name, compression
        for field, value in fields.items():
            setattr(info, field, value)
        archive.writestr(info, data)
    return out.getvalue()


def directory_flag(data, flag):
    """The zip with a flag set in the directory entry of its first member."""
    place = data.index(b"PK\x01\x02") + 8
    return data[:place] + struct.pack("<H", flag) + data[place + 2 :]


def twice(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile sees it too
        for name in names:
            archive.writestr(name, b"{}")
    return out.getvalue()


def bomb(size=4_000_000):
    return entry("card.yaml", b"a" * size, zipfile.ZIP_DEFLATED)


def read_archive(path):
    return unpack(path, read_zip(path))


def lying(data, size):
    """A zip whose headers state another unpacked size."""
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(mark) + at
        data = data[:place] + struct.pack("<L", size) + data[place + 4 :]
    return data


GOOD = zipped({"submission.json": b"{}", "card.yaml": b"a: 1"})
ATTACKS = {
    "traversal": (entry("../card.yaml"), "no place"),
    "traversal inside": (entry("embeddings/../../x.safetensors"), "no place"),
    "dots in a name": (entry("embeddings/a..b.safetensors"), "no place"),
    "absolute": (entry("/etc/card.yaml"), "no place"),
    "drive": (entry("C:/card.yaml"), "no place"),
    "backslash": (entry("embeddings\\x.safetensors"), "no place"),
    "symlink": (entry("card.yaml", b"/etc/passwd", external_attr=0o120777 << 16), "a link"),
    "device": (entry("card.yaml", external_attr=0o020666 << 16), "a device"),
    "folder": (entry("card.yaml", external_attr=0x10), "a folder"),
    "folder by name": (entry("embeddings/", b""), "no place"),
    "windows device": (entry("embeddings/nul.safetensors"), "names that Windows reserves"),
    "windows device in capitals": (entry("code/COM1.py"), "names that Windows reserves"),
    "windows device with a suffix": (entry("records/Aux.linear-probe-v2.json"), "Windows"),
    "pickle": (entry("weights/model.pkl"), "no place"),
    "torch file": (entry("weights/model.pt"), "no place"),
    "shell script": (entry("code/run.sh"), "no place"),
    "not utf-8": (directory_flag(entry("card\udcff.yaml".encode("latin-1", "replace").decode())
                                 .replace(b"card?", b"card\xff"), 0x800), "damaged|no place"),
    "umlaut": (entry("cärd.yaml"), "no place"),
    "nul in a name": (entry("card.yaml").replace(b"card.yaml", b"card.y\x00ml"), "no place"),
    "twice": (twice("card.yaml", "card.yaml"), "twice"),
    "twice but for case": (twice("embeddings/A.safetensors", "embeddings/a.safetensors"), "twice"),
    "encrypted": (directory_flag(entry("card.yaml"), 0x1), "encrypted"),
    "strongly encrypted": (directory_flag(entry("card.yaml"), 0x40), "strong encryption"),
    "bzip2": (entry("card.yaml", b"x", zipfile.ZIP_BZIP2), "not deflate"),
    "bomb": (bomb(), "most allowed|zip bomb"),
    "bomb that lies of its size": (lying(bomb(), 10), "damaged"),
    "member larger than its kind": (entry("card.yaml", b"a" * 70_000), "more than 65,536"),
    "too many members": (
        zipped({f"records/r{n}.json": b"{}" for n in range(9)}), "at most 8"),
    "cut off": (GOOD[:-10], "not a plain zip"),
    "cut in the middle": (GOOD[: len(GOOD) // 2], "not a plain zip"),
    "something before": (b"#!/bin/sh\n" + GOOD, "not a plain zip"),
    "something after": (GOOD + b"x", "not a plain zip"),
    "not a zip": (b"\x80\x04\x95 a pickle", "not a plain zip"),
    "empty": (b"", "not a plain zip"),
    "no members": (zipped({}), "not a plain zip"),
    "too large": (b"PK\x03\x04" + b"0" * 200_000, "larger than"),
    "byte flipped": (GOOD.replace(b"a: 1", b"a: 2"), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_and_writes_nothing(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, most in SMALL.items():
        monkeypatch.setattr(f"{PARSING}.MAX_{name}", most)
    path = tmp_path / "bundle.zip"
    path.write_bytes(data)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_archive(path)
    assert str(caught.value).startswith(str(path))
    assert snapshot(tmp_path) == before


def test_a_directory_of_a_million_entries_never_becomes_objects(tmp_path, monkeypatch):
    one = GOOD[GOOD.index(b"PK\x01\x02") : GOOD.rindex(b"PK\x05\x06")]
    head = GOOD[: GOOD.index(b"PK\x01\x02")]
    many = one * 2_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(many), len(head), 0)
    path = tmp_path / "bundle.zip"
    path.write_bytes(head + many + end)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(InputError, match="directory"):
        read_archive(path)


def test_zip64_is_refused_before_it_can_name_other_sizes(tmp_path):
    end = GOOD.rindex(b"PK\x05\x06")
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    record = GOOD[:end] + locator + GOOD[end:]
    size = struct.unpack("<L", GOOD[end + 12 : end + 16])[0]
    place = len(record) - 22 + 12
    path = tmp_path / "bundle.zip"
    path.write_bytes(record[:place] + struct.pack("<L", size + 20) + record[place + 4 :])
    with pytest.raises(InputError, match="zip64"):
        read_archive(path)


def test_members_together_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{PARSING}.MAX_UNPACKED", 100_000)
    path = tmp_path / "bundle.zip"
    path.write_bytes(zipped({f"code/m{n}.py": b"x" * 90_000 for n in range(2)}))
    with pytest.raises(InputError, match="most allowed"):
        read_archive(path)


def test_an_honest_archive_is_read_whole(first):
    members = read_archive(first.bundle)
    assert members == members_of(first.bundle)
    assert {kind_of(name) for name in members} == {
        "manifest", "card", "embeddings", "record", "code",
    }  # fmt: skip


def test_an_absent_file_and_a_folder_are_named(tmp_path):
    for path, reason in ((tmp_path / "none.zip", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"{reason}.*; name the zip"):
            read_archive(path)


@settings(max_examples=60)
@given(data=st.data())
def test_damage_anywhere_is_refused_or_harmless(first, tmp_path_factory, data):
    """Bytes of a bundle changed, cut or doubled: a bundle or an InputError, never a traceback."""
    honest = first.bundle.read_bytes()
    place = data.draw(st.integers(0, len(honest) - 1))
    width = data.draw(st.integers(0, 8))
    new = data.draw(st.binary(max_size=12))
    path = tmp_path_factory.mktemp("damaged") / "bundle.zip"
    path.write_bytes(honest[:place] + new + honest[place + width :])
    with contextlib.suppress(InputError):
        assert read_bundle(path).card.name == "stranger"
