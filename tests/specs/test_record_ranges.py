"""Numbers and names that records, cards and tasks may have."""

import pytest
from pydantic import TypeAdapter, ValidationError

from madeleine_bench.files import reserved_on_windows
from madeleine_bench.specs.card import EncoderCard, Revision
from madeleine_bench.specs.record import Record, record_id
from madeleine_bench.specs.task import Identifier
from tests.leaderboard.test_aggregate import CORE, make_record

DEVICES = [
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
]


@pytest.mark.parametrize("name", DEVICES)
def test_windows_devices_are_reserved_in_any_case_and_with_any_suffix(name):
    for text in (name, name.upper(), f"{name}.tar.gz", f"{name.title()}.txt", f"{name} .txt"):
        assert reserved_on_windows(text)
    for text in (f"{name}x", f"x{name}", f"x.{name}", f"{name}-1"):
        assert not reserved_on_windows(text)
    with pytest.raises(ValidationError, match="cannot name a file on Windows"):
        TypeAdapter(Identifier).validate_python(name)
    with pytest.raises(ValidationError, match="cannot name a file on Windows"):
        TypeAdapter(Revision).validate_python(f"{name.upper()}.1")


def test_a_dot_or_a_space_at_the_end_is_dropped_by_windows():
    assert [reserved_on_windows(name) for name in ("a.", "a ", "a.b", ".a")] == [
        True, True, False, False,
    ]  # fmt: skip


def card(**more):
    content = {
        "name": "a", "revision": "1", "title": "A", "implementation": "encoder.py:A",
        "training_cohorts": None, "licence": "MIT", "description": "A.",
    }  # fmt: skip
    return EncoderCard.model_validate({**content, **more})


@pytest.mark.parametrize("key", ["dim", "input_dim"])
def test_widths_have_a_bound(key):
    """A card of input_dim 10^12 made the contract checks ask for 148 TB."""
    assert getattr(card(**{key: 100_000}), key) == 100_000
    for width in (0, 100_001, 10**12):
        with pytest.raises(ValidationError, match=key):
            card(**{key: width})


def record(ci95=(0.6, 0.8), value=0.7, metric="auroc", **secondary):
    content = make_record("a", CORE[0], 0.7).model_dump(mode="json")
    content["scores"]["main"] |= {"metric": metric, "value": value, "ci95": list(ci95)}
    content["scores"]["secondary"] = {k.replace("_", "-"): v for k, v in secondary.items()}
    return Record.model_validate({**content, "record_id": record_id(content)})


def test_honest_numbers_pass_to_the_ends_of_their_ranges():
    ends = {"log_loss": 36.05, "brier": 2.0, "logrank_p": 0.0, "uno_c": None}
    assert record((0.0, 1.0), 0.0, **ends).scores.secondary["brier"] == 2.0
    assert record((-1.0, 1.0), -1.0, "quadratic-kappa").scores.main.value == -1.0
    # The value need not lie inside its interval, and rounding may pass an end by a step.
    assert record((0.2, 1.0 + 2**-52), 0.1).scores.main.value == 0.1


@pytest.mark.parametrize("metric", ["auroc", "quadratic-kappa", "harrell-c"])
@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((float("nan"), 0.8), "NaN or infinite"), ((0.6, float("inf")), "NaN or infinite"),
        ((-1.5, 0.5), "outside"), ((0.6, 5e300), "outside"), ((0.8, 0.6), "above its end"),
    ],
)  # fmt: skip
def test_an_interval_that_its_metric_cannot_have_is_refused(ends, message, metric):
    content = record(metric=metric).model_dump(mode="json")
    content["scores"]["main"]["ci95"] = list(ends)
    with pytest.raises(ValidationError, match=message):
        Record.model_validate(content)
