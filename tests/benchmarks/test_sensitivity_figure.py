"""The protocol sensitivity of the phantom board: the docs show what was measured."""

import json
from pathlib import Path

from benchmarks.sensitivity_figure import (
    CHANGES,
    ENCODERS,
    LEFT_OUT,
    OUT,
    board_of,
    changed_catalogue,
    protocols,
    rank_table,
    swap_sentence,
    tau_table,
)
from madeleine_bench.specs.catalogue import load_catalogue

DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = json.loads(OUT.read_text())
BOARD = board_of(DOCUMENT)
CHANGED = board_of({"boards": DOCUMENT["changed"]})


def test_the_docs_show_what_was_measured():
    text = (DOCS / "sensitivity.md").read_text()
    for part in (rank_table(BOARD), tau_table(BOARD), swap_sentence(BOARD), rank_table(CHANGED)):
        assert part in text
    assert BOARD["notice"] in text


def test_what_was_measured_is_what_the_program_asks_for():
    assert BOARD["phantom"]
    assert sorted([*BOARD["ranked"], *BOARD["controls"]]) == sorted(ENCODERS)
    assert BOARD["left_out"] == {}
    assert [r["protocol"] for r in BOARD["rankings"]] == protocols()
    assert not set(LEFT_OUT) & set(protocols())
    scored = sum(len(ranking["tasks"]) for ranking in BOARD["rankings"])
    assert BOARD["records"]["count"] == scored * len(ENCODERS)


def test_the_sentences_of_the_docs_hold():
    ranks = {r["protocol"]: r["ranks"] for r in BOARD["rankings"]}
    for name in ("linear-probe/v1", "linear-probe-per-stain/v1"):
        assert ranks[name]["mean-pool"] < ranks[name]["max-pool"]
    for name in ("few-shot/v1", "madeleine-fewshot/v1", "patho-bench-linprobe/v1", "retrieval/v1"):
        assert ranks[name]["max-pool"] < ranks[name]["mean-pool"]
    assert set(ranks["patho-bench-coxnet/v1"].values()) == {1}
    for pair in BOARD["pairs"]:
        if pair["tau"] is not None:
            assert pair["mean_task_tau"] < pair["tau"]


def test_the_sentences_about_the_changed_probes_hold():
    means = {r["protocol"]: r["means"] for r in CHANGED["rankings"]}
    before = means["linear-probe/v1"]
    for name in CHANGES:
        after = means[f"{name}/v1"]
        gains = sorted(before, key=lambda label: before[label] - after[label])
        assert set(gains[:2]) == {"max-pool", "mean-pool"}
        assert after["intra-ssl"] < min(after["max-pool"], after["mean-pool"])
        assert after["random-projection"] < after["mean-pool"]
    assert before["random-projection"] > before["mean-pool"]
    assert max(CHANGED["ranked"], key=means["linear-probe-strong/v1"].get) == "mean-pool"


def test_the_changed_protocols_differ_from_the_probe_in_one_setting(tmp_path):
    catalogue = load_catalogue(changed_catalogue(tmp_path))
    given = catalogue.protocols["linear-probe/v1"].method.model_dump()
    for name in CHANGES:
        own = catalogue.protocols[f"{name}/v1"].method.model_dump()
        assert sum(own["model"][key] != given["model"][key] for key in own["model"]) == 1
        assert own["kind"] == given["kind"]


def test_figures_say_phantom():
    for name in ("protocol_sensitivity", "survival_phantom"):
        assert "PHANTOM" in (DOCS / f"{name}.svg").read_text()
