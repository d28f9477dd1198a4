"""Readers under mutated and random bytes: words or a value come out, in bounded time and memory."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madeleine_bench.errors import MbenchError
from tests.faults.cases import FORMATS
from tests.faults.damage import DAMAGES, damaged
from tests.faults.harness import bounded
from tests.faults.readers import put

FEW, MANY = 3, 30
STEPS = st.lists(st.sampled_from(sorted(DAMAGES)), min_size=1, max_size=4).map("+".join)
# Bytes that mean something to parsers: brackets, quotes, anchors, signs, and their like in numbers.
ALPHABET = st.sampled_from(
    list("[]{}()\"'\\:,.-+&*!|>%@#=0123456789eEnNaAfF \t\n\r\x00\x85é\ud7ff")
)
TEXT = st.text(ALPHABET, max_size=80)
SPLICES = st.tuples(st.integers(0, 2**20), TEXT, st.booleans())
TEXTS = tuple(
    name for name in FORMATS
    if any(word in name for word in ("YAML", "card", "toml", "CSV", "TSV", "lock", "record",
                                     "scores", "adjud", "suite", "expl", "log", "splits", "memory"))
)  # fmt: skip
CHECKS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
    database=None,
)


def read(one, data):
    """Read other bytes; anything but a value or a message for the user is an error here."""
    with put(one.path, data), bounded(10.0):
        try:
            found = one.read()
        except MbenchError:
            return
    if one.guarded and found is not None:
        assert found == one.clean, "read as other content"


@pytest.fixture(scope="module")
def sound(harness):
    class Known:
        """A format with its content."""

        def __init__(self, one):
            self.path, self.read, self.guarded = one.path, one.read, one.guarded
            self.clean = one.read()
            self.data = one.path.read_bytes()

    return {name: Known(one) for name, one in harness.formats.items()}


def mutated(one, examples):
    @settings(CHECKS, max_examples=examples)
    @given(STEPS, st.integers(0, 2**30))
    def check(how, seed):
        read(one, damaged(one.data, how, seed))

    check()


def spliced(one, examples):
    @settings(CHECKS, max_examples=examples)
    @given(SPLICES)
    def check(splice):
        at, text, whole = splice
        piece = text.encode("utf-8", "surrogatepass")
        lines = one.data.splitlines(keepends=True) or [b""]
        where = at % len(lines)
        # In the place of a line, or after the first sign of a value in it.
        kept = b"" if whole else lines[where].partition(b":")[0] + b": "
        read(one, b"".join([*lines[:where], kept, piece, b"\n", *lines[where + 1 :]]))

    check()


def random_bytes(one, examples):
    for seed in range(examples):
        rng = Random(seed)
        head = one.data[: rng.choice((0, 4, 8, 64))]
        read(one, head + rng.randbytes(rng.randrange(400)))


@pytest.mark.parametrize("name", FORMATS)
def test_a_handful_for_each_format(sound, name):
    mutated(sound[name], FEW)
    random_bytes(sound[name], FEW)
    if name in TEXTS:
        spliced(sound[name], FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_for_each_format(sound, name):
    mutated(sound[name], MANY)
    random_bytes(sound[name], MANY)
    if name in TEXTS:
        spliced(sound[name], 2 * MANY)


# What shrinks to nothing in a random search: texts that are known to break readers of their kind.
NASTY = {
    "deep": "[" * 5000,
    "deep pairs": "{a: " * 3000,
    "no such day": "id: 2021-02-31",
    "time": "id: 2021-02-28T25:61:61",
    "a long number": "id: " + "9" * 5000,
    "base 60": "id: " + "59:" * 400 + "59",
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]",
    "itself": "a: &a [*a]",
    "a list as a key": "? [a, b]\n: c",
    "a mapping as a key": "? {a: b}\n: c",
    "a tag": "a: !!python/object/apply:os.system [true]",
    "merge": "<<: [1, 2]",
    "binary": "a: !!binary '*'",
    "not a number": "version: .nan",
    "infinite": "version: .inf",
    "half a pair": 'id: "\\ud800"',
    "directive": "%YAML 9.9\n---\na: b",
    "two documents": "a: b\n---\nc: d",
    "omap": "a: !!omap {b: c}",
    "set": "!!set {a, b}",
    "bad int": "a: !!int x",
    "bad float": "a: !!float x",
    "bad bool": "a: !!bool x",
    "bad time": "a: !!timestamp x",
    "json": '{"a": NaN, "b": 1e999}',
}


def all_nasty(one):
    for text in NASTY.values():
        read(one, text.encode())
        read(one, one.data + b"\n" + text.encode())


@pytest.mark.parametrize("name", ["explanations", "mbench.toml", "label CSV", "record"])
def test_texts_that_break_parsers(sound, name):
    all_nasty(sound[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_break_parsers_of_all_formats(sound, name):
    all_nasty(sound[name])
