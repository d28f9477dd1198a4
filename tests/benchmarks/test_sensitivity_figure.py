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
    for table in (version_table, rank_table, tau_table, swap_sentence):
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


def test_every_version_is_held_against_the_other():
    pairs = version_pairs(BOARD)
    assert [{p["first"], p["second"]} for p in pairs] == [
        {f"{name}/v1", f"{name}/v2"}
        for name in ("linear-probe", "cox", "few-shot", "linear-probe-per-stain")
    ]
    assert BOARD["rankings"][0]["protocol"] == REFERENCE


def separated(pair):
    """By the encoders that swap, under which protocols they differ."""
    return {frozenset((s["ahead"], s["behind"])): s["separated_by"] for s in pair["swaps"]}


def test_the_sentences_about_versions_hold():
    probe, _, shots, _ = version_pairs(BOARD)
    means = {r["protocol"]: r["means"] for r in BOARD["rankings"]}
    older, newer = means["linear-probe/v1"], means[REFERENCE]
    assert min(older["madeleine"], older["madeleine-se"]) > max(
        older["mean-pool"], older["max-pool"]
    )
    assert newer["mean-pool"] > newer["max-pool"] > newer["madeleine"] > newer["madeleine-se"]
    assert newer["mean-pool"] - newer["madeleine-se"] < 0.0105
    assert all(newer[label] > older[label] for label in newer)
    swaps = separated(probe)
    assert swaps[frozenset(("madeleine", "max-pool"))] == ["linear-probe/v1"]
    assert swaps[frozenset(("madeleine", "mean-pool"))] == ["linear-probe/v1"]
    assert swaps[frozenset(("intra-ssl", "max-pool"))] == [REFERENCE]
    assert shots["swaps"] == []
    for other, gaps in (("mean-pool", [0.076, 0.052]), ("max-pool", [0.031, 0.017])):
        found = [means[f"few-shot/v{v}"]["madeleine"] - means[f"few-shot/v{v}"][other]
                 for v in (1, 2)]  # fmt: skip
        assert found == pytest.approx(gaps, abs=6e-4)


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
    assert min(titan["mean-pool"], titan["max-pool"]) > max(
        titan["madeleine"], titan["madeleine-se"]
    )
    with_reference = {
        pair["second"]: pair
        for pair in BOARD["pairs"]
        if pair["first"] == REFERENCE and not pair["second"].startswith("linear-probe")
    }
    swaps = with_reference["titan-linprobe/v1"]["swaps"]
    assert swaps
    assert not any(swap["separated_by"] for swap in swaps)
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
    others = [label for label in ranks[REFERENCE] if not label.startswith("madeleine")]
    swapped = 0
    for name in CHANGES:
        under = ranks[f"{name}/v2"]
        if name != "linear-probe-fixed":
            assert [under[label] for label in others] == [ranks[REFERENCE][o] for o in others], name
            swapped += under["madeleine"] != ranks[REFERENCE]["madeleine"]
    assert swapped == 2
    fixed = means["linear-probe-fixed/v2"]
    assert ranks["linear-probe-fixed/v2"]["mean-pool"] == 1
    assert fixed["mean-pool"] - fixed["madeleine"] == pytest.approx(0.007, abs=5e-4)
    chosen, older = means[REFERENCE], means["linear-probe/v1"]
    costs = [chosen[label] - older[label] for label in ("mean-pool", "max-pool")]
    assert costs == pytest.approx([0.085, 0.175], abs=6e-4)
    assert chosen["random-projection"] < chosen["mean-pool"]
    assert older["random-projection"] > older["mean-pool"]
    gaps = [under["madeleine"] - under["mean-pool"] for under in (older, chosen)]
    assert gaps == pytest.approx([0.096, 0.018], abs=6e-4)


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
