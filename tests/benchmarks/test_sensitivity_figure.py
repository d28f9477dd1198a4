"""The protocol sensitivity of the phantom board: the docs show what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks.sensitivity_figure import (
    CHANGES,
    ENCODERS,
    LEFT_OUT,
    OUT,
    REFERENCE,
    board_of,
    changed_catalogue,
    flip_table,
    protocols,
    rank_table,
    swap_sentence,
    tau_table,
    version_pairs,
    version_table,
)
from madeleine_bench.specs.catalogue import load_catalogue

DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = json.loads(OUT.read_text())
BOARD = board_of(DOCUMENT)
CHANGED = board_of({"boards": DOCUMENT["changed"]})


def test_the_docs_show_what_was_measured():
    text = (DOCS / "sensitivity.md").read_text()
    for table in (version_table, flip_table, rank_table, tau_table, swap_sentence):
        assert table(BOARD) in text
    assert rank_table(CHANGED) in text
    assert BOARD["notice"] in text


def test_what_was_measured_is_what_the_program_asks_for():
    assert BOARD["phantom"]
    assert sorted([*BOARD["ranked"], *BOARD["controls"]]) == sorted(ENCODERS)
    assert BOARD["left_out"] == {}
    assert [r["protocol"] for r in BOARD["rankings"]] == protocols()
    assert not set(LEFT_OUT) & set(protocols())
    scored = sum(len(ranking["tasks"]) for ranking in BOARD["rankings"])
    assert BOARD["records"]["count"] == scored * len(ENCODERS)


def test_every_version_is_held_against_the_other_and_comes_first():
    pairs = version_pairs(BOARD)
    assert [(p["first"], p["second"]) for p in pairs] == [
        (f"{name}/v1", f"{name}/v2")
        for name in ("linear-probe", "cox", "few-shot", "linear-probe-per-stain")
    ]
    assert BOARD["pairs"][: len(pairs)] == pairs
    assert BOARD["rankings"][0]["protocol"] == REFERENCE


def differences(pair):
    """By first and second encoder, the differences and marks of a flip."""
    return {(f["first"], f["second"]): (f["differences"], f["better"]) for f in pair["flips"]}


def test_the_sentences_about_versions_hold():
    probe, shots = (p for p in version_pairs(BOARD) if p["second"] in (REFERENCE, "few-shot/v2"))
    means = {r["protocol"]: r["means"] for r in BOARD["rankings"]}
    older, newer = means["linear-probe/v1"], means[REFERENCE]
    assert min(older["madeleine"], older["madeleine-se"]) > max(
        older["mean-pool"], older["max-pool"]
    )
    assert newer["mean-pool"] > newer["max-pool"] > newer["madeleine"] > newer["madeleine-se"]
    assert newer["mean-pool"] - newer["madeleine-se"] < 0.0085
    assert all(newer[label] > older[label] for label in newer)
    flips = differences(probe)
    assert flips["madeleine", "max-pool"][1] == ["madeleine", ""]
    assert flips["mean-pool", "intra-ssl"][1] == ["", "mean-pool"]
    assert flips["intra-ssl", "max-pool"][1] == ["", "max-pool"]
    among_the_first = [(d, b) for who, (d, b) in flips.items() if "intra-ssl" not in who]
    assert {better[1] for _, better in among_the_first} == {""}
    assert not any("intra-ssl" in who and "madeleine" in who[0] for who in flips)
    # Of few shots, Madeleine against mean-pool does not flip: better under both.
    assert set(differences(shots)) == {
        ("madeleine", "max-pool"), ("madeleine-se", "max-pool"), ("max-pool", "intra-ssl")
    }  # fmt: skip
    gaps = [means[f"few-shot/v{v}"]["madeleine"] - means[f"few-shot/v{v}"]["mean-pool"]
            for v in (1, 2)]  # fmt: skip
    assert gaps == pytest.approx([0.075, 0.055], abs=6e-4)


def test_the_sentences_about_all_protocols_hold():
    ranks = {r["protocol"]: r["ranks"] for r in BOARD["rankings"]}
    for name, rank in ranks.items():
        if not name.startswith(("linear-probe", "patho-bench-coxnet")):
            assert rank["max-pool"] < rank["mean-pool"], name
    assert set(ranks["patho-bench-coxnet-007/v1"].values()) == {1}
    means = {r["protocol"]: r["means"] for r in BOARD["rankings"]}
    for name in ("patho-bench-coxnet-001/v1", "patho-bench-coxnet-002/v1"):
        assert means[name]["mean-pool"] == means[name]["max-pool"] == 0.0 < means[name]["madeleine"]
    titan = ranks["titan-linprobe/v1"]
    assert max(titan["mean-pool"], titan["max-pool"]) < min(
        titan["madeleine"], titan["madeleine-se"]
    )
    with_reference = {
        pair["second"]: pair
        for pair in BOARD["pairs"]
        if pair["first"] == REFERENCE and not pair["second"].startswith("linear-probe")
    }
    nearest = max(with_reference.values(), key=lambda pair: pair["tau"])
    assert nearest == with_reference["titan-linprobe/v1"]
    assert not any(swap["separated_by"] for swap in nearest["swaps"])
    versions_one = {"linear-probe/v1", "linear-probe-per-stain/v1"}
    both = [
        (swap, pair)
        for pair in BOARD["pairs"]
        for swap in pair["swaps"]
        if len(swap["separated_by"]) == 2
    ]
    assert both
    for swap, pair in both:
        assert {swap["ahead"], swap["behind"]} == {"mean-pool", "max-pool"}
        assert len(versions_one & {pair["first"], pair["second"]}) == 1


def test_the_sentences_about_the_changed_probes_hold():
    means = {r["protocol"]: r["means"] for r in CHANGED["rankings"]}
    ranks = {r["protocol"]: r["ranks"] for r in CHANGED["rankings"]}
    assert [*ranks] == [REFERENCE, *(f"{name}/v2" for name in CHANGES), "linear-probe/v1"]
    for name in CHANGES:
        if name != "linear-probe-fixed":
            assert ranks[f"{name}/v2"] == ranks[REFERENCE], name
    fixed = means["linear-probe-fixed/v2"]
    assert fixed["mean-pool"] - fixed["madeleine"] == pytest.approx(0.001, abs=5e-4)
    chosen, older = means[REFERENCE], means["linear-probe/v1"]
    costs = [chosen[label] - older[label] for label in ("mean-pool", "max-pool")]
    assert costs == pytest.approx([0.085, 0.175], abs=6e-4)
    assert chosen["random-projection"] < chosen["mean-pool"]
    assert older["random-projection"] > older["mean-pool"]
    (pair,) = version_pairs(CHANGED)
    gaps, better = differences(pair)["madeleine", "mean-pool"]
    assert gaps == pytest.approx([0.082, 0.015], abs=6e-4)
    assert better == ["madeleine", ""]


def test_the_changed_protocols_differ_from_the_probe_in_what_is_named(tmp_path):
    catalogue = load_catalogue(changed_catalogue(tmp_path))
    given = catalogue.protocols[REFERENCE].method
    for name, settings in CHANGES.items():
        own = catalogue.protocols[f"{name}/v2"].method
        assert {key for key, value in own.model if value != getattr(given.model, key)} == {
            *settings
        }
        assert own.kind == given.kind


def test_figures_say_phantom():
    for name in ("protocol_sensitivity", "survival_phantom"):
        assert "PHANTOM" in (DOCS / f"{name}.svg").read_text()
