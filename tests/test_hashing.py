"""The hash of code: it follows what the code does, and so do all keys that are made from code."""

import shutil
import warnings
from pathlib import Path

import pytest
from phantom_rendering import slides as phantom_slides

from madeleine_bench.encoders import registry
from madeleine_bench.hashing import hash_bytes, hash_code, hash_json
from madeleine_bench.phantoms import PhantomCohort, cohort
from madeleine_bench.runner import embedding, plan
from madeleine_bench.specs.catalogue import load_catalogue
from tests.stranger import write_stranger

BCNB = load_catalogue().cohorts["bcnb"]
PACKAGE = Path(registry.__file__).parents[1]
CODE = '''"""Module."""

from dataclasses import dataclass

FACTOR = 2.0
"""Attribute."""


@dataclass(frozen=True)
class Pool:
    """Class."""

    name: str = "mean"

    def encode(self, bag, scale=1):
        """Function."""
        return bag.features.mean(axis=0) * scale + FACTOR  # a comment

    async def width(self):
        """Async function."""
        return f"{self.name:>{FACTOR}}", None
'''
DOCSTRINGS = ("Module", "Attribute", "Class", "Function", "Async function")


def hash_of(folder, *codes):
    folder.mkdir()
    for number, code in enumerate(codes):
        (folder / f"{number}.py").write_bytes(code.encode() if isinstance(code, str) else code)
    return hash_code([folder])


def edited(old, new):
    assert CODE.count(old) == 1
    return CODE.replace(old, new)


@pytest.mark.parametrize(
    "code",
    [
        *(edited(f'"""{each}."""', '"""Other words."""') for each in DOCSTRINGS),
        *(edited(f'"""{each}."""', "") for each in DOCSTRINGS),
        edited("# a comment", "# another comment\n"),
        edited("\n\n\n@", "\n@"),
        edited("* scale + FACTOR", "* (scale) + (\n            FACTOR\n        )"),
        edited('"mean"', "u'mean'"),
        edited("FACTOR = 2.0", "FACTOR = 2.00  # type: float"),
        edited('        """Function."""\n', "        pass\n"),
        CODE.replace("\n", "\r\n"),
    ],
)
def test_what_does_nothing_keeps_the_hash(tmp_path, code):
    """Before: each byte counted, so a docstring edit threw away all embeddings and records."""
    assert hash_of(tmp_path / "before", CODE) == hash_of(tmp_path / "after", code)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.0", "3.0"),
        ("2.0", "2"),
        ("* scale", "/ scale"),
        ("scale=1", "scale=2"),
        ("scale=1", "scale='1'"),
        ("scale=1", "scale=True"),
        ("scale=1", "scale"),
        ("scale=1", "*, scale=1"),
        ("frozen=True", "frozen=False"),
        ("@dataclass(frozen=True)\n", ""),
        ('"mean"', '"max"'),
        ('"mean"', 'b"mean"'),
        ("name: str", "name: int"),
        ("axis=0", "axis=None"),
        (", None", ", []"),
        (", None", ", ..."),
        (", None", ", 'None'"),
        (":>{", ":<{"),
        ("async def", "def"),
        ("bag.features.mean(axis=0)", "(yield)"),
    ],
)
def test_what_does_something_changes_the_hash(tmp_path, old, new):
    assert hash_of(tmp_path / "before", CODE) != hash_of(tmp_path / "after", edited(old, new))


def test_names_and_order_of_files_do_not_count_but_their_number_does(tmp_path):
    one = hash_of(tmp_path / "one", CODE, "x = 1")
    assert one == hash_of(tmp_path / "two", "x = 1", CODE)
    assert one == hash_code([tmp_path / "two" / "1.py", tmp_path / "one" / "1.py"])
    assert one != hash_of(tmp_path / "three", CODE, "x = 1", "x = 1")
    assert one != hash_of(tmp_path / "four", CODE + "x = 1\n")
    with pytest.raises(FileNotFoundError):
        hash_code([tmp_path / "absent"])


@pytest.mark.parametrize(
    "code", [b"x = = 1", b"\x7fELF\x00\x01", b"x = '\xff'", b"x = " + b"(" * 999]
)
def test_what_is_no_python_counts_with_its_bytes(tmp_path, code):
    assert hash_of(tmp_path / "a", code) == hash_json([hash_bytes(code)])
    assert hash_of(tmp_path / "b", code + b" ") == hash_json([hash_bytes(code + b" ")])


def test_the_warning_filter_does_not_count(tmp_path):
    """An unknown escape is a syntax error where warnings are errors, as they are in these tests."""
    strict = hash_of(tmp_path / "strict", 'x = "\\d"  # one')
    with warnings.catch_warnings(action="ignore"):
        assert hash_of(tmp_path / "lenient", 'x = "\\d"  # two') == strict


# What versions of Python parse or print in different ways; a new emoji is one of them. The hash was
# computed with Python 3.11, 3.12, 3.13 and 3.14. What Python 3.11 refuses is not here, because the
# file then counts with its bytes: `def f[T]()`, `type X = int`, `except A, B:`, t-strings, and
# f-strings with their own quotes or a backslash inside the braces.
GOLDEN = """
import numpy as np, os.path as where
type_, match, text = 0x_ff, 1e400, u"\u00e9 \U0001fae9"
@decorated
class A(Base, metaclass=M): n: int = 3j; t: list[int]
def f(a, /, b: "text" = -1, *c: int, d, e=None, **g) -> dict[str, int]:
    global h
    if (n := len(a)) > 10 and not b: return f"{n!r:>{b}} {{}} {a=} {b:%H:%M}{a:{b}.{n}}" "end"
    with open(a) as x, (yield): pass
    try: del a[0:1, ..., ::2]
    except* (ValueError, TypeError) as error: raise error from None
    else: h = lambda *a, k=1: (k if a else b"0", *a)
    return {**g, 1: {2}, **{k: v for k, v in g.items() if k for _ in v}}
async def g(x):
    match x:
        case {"a": 1, **rest} | [1, *rest] if rest: await x
        case A(n=None) | -1 | True as y: x @= [z async for z in y][0] if x is not y else f""
        case _: assert x, f"{'nested'}"
"""


def test_the_hash_is_the_same_in_all_versions_of_python(tmp_path):
    """`ast.dump` gives this code other texts in Python 3.11, 3.12 and 3.13."""
    (tmp_path / "code.py").write_text(GOLDEN, encoding="utf-8")
    assert hash_code([tmp_path]) == (
        "18046631f0b22870f034f8dd0f59a03c5cb0f00ab845128717fb64ce34c0902d"
    )


def key_of_a_shipped_encoder(folder, monkeypatch):
    monkeypatch.setattr(registry, "_PACKAGE", folder)
    monkeypatch.setattr(registry, "code_file", lambda *_: folder / "encoders" / "pooling.py")
    return registry.fingerprint(registry.shipped_encoders()["mean-pool"])


def key_of_a_phantom_bag(folder, monkeypatch):
    monkeypatch.setattr(cohort, "__file__", str(folder / "phantoms" / "cohort.py"))
    phantom = PhantomCohort(BCNB, [])
    return phantom.content_key(phantom.slides["slide_id"][0])


def key_of_a_drawn_slide(folder, monkeypatch):
    monkeypatch.setattr(phantom_slides, "__file__", str(folder / "phantom_rendering" / "x.py"))
    phantom = PhantomCohort(BCNB, [])
    job = phantom_slides._DrawJob(phantom, phantom.slides["slide_id"][0], folder, 2.0)
    return phantom_slides._description(job)


def key_of_trained_networks(folder, monkeypatch):
    monkeypatch.setattr(plan, "__file__", str(folder / "runner" / "plan.py"))
    return plan._training_code.__wrapped__()


@pytest.mark.parametrize(
    ("key", "file"),
    [
        (key_of_a_shipped_encoder, "encoders/base.py"),
        (key_of_a_shipped_encoder, "models/madeleine.py"),
        (key_of_a_phantom_bag, "phantoms/world.py"),
        (key_of_a_drawn_slide, "phantom_rendering/cells.py"),
        (key_of_trained_networks, "finetuning/training.py"),
        (key_of_trained_networks, "models/mil/attention_pooling.py"),
        (key_of_trained_networks, "losses/cosine.py"),
    ],
)
def test_keys_follow_what_our_code_does(tmp_path, monkeypatch, key, file):
    """Before: a docstring edit or a renamed file threw away all that was kept under such a key."""
    folder = tmp_path / "package"
    for part in ("encoders", "models", "phantoms", "finetuning", "losses"):
        shutil.copytree(PACKAGE / part, folder / part)
    rendering = Path(phantom_slides.__file__).parent
    shutil.copytree(rendering, folder / rendering.name)
    path = folder / file
    code, before = path.read_text(), key(folder, monkeypatch)
    assert code.startswith('"""')
    path.write_text('"""Other words: ' + code[3:].replace("\n\n", "\n\n# a comment\n\n", 1))
    renamed = path.rename(path.with_name("renamed.py"))
    assert key(folder, monkeypatch) == before
    renamed.write_text(renamed.read_text() + "x = 1\n")
    assert key(folder, monkeypatch) != before


def test_an_encoder_stays_loaded_until_its_code_does_something_else(tmp_path):
    entry = registry.find_encoder(str(write_stranger(tmp_path)))
    path = tmp_path / "encoder.py"
    loaded = embedding.loaded_encoder(entry)
    path.write_text(path.read_text() + "# a comment\n")
    assert embedding.loaded_encoder(entry) is loaded
    path.write_text(path.read_text() + "x = 1\n")
    assert embedding.loaded_encoder(entry) is not loaded
