"""The benchmark of the packed store runs, and docs/data.md quotes what it found."""

import json
from pathlib import Path

from benchmarks import packed_store

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = json.loads((ROOT / "benchmarks" / "results" / packed_store.REPORT).read_text())


def test_it_runs_at_toy_size(tmp_path, capsys):
    packed_store.main(["--quick", "--out", str(tmp_path), "--work", str(tmp_path)])
    found = json.loads((tmp_path / packed_store.REPORT).read_text())
    assert found["quick"]
    assert found.keys() == COMMITTED.keys()
    assert [row["name"] for row in found["rows"]] == [row["name"] for row in COMMITTED["rows"]]
    assert found["rows"][0]["times_ours"] == 1.0
    assert found["index"]["slides"] == packed_store.QUICK.index_slides
    assert packed_store.BASELINE in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [packed_store.REPORT]


def test_the_goals_were_met_at_full_size():
    assert not COMMITTED["quick"]
    assert COMMITTED["ratio_to_default_chunks"] >= COMMITTED["goal"]["ratio_at_least"] == 10
    assert COMMITTED["rows"][0]["ms"] <= COMMITTED["goal"]["ms_at_most"] == 1.0
    assert COMMITTED["index"]["slides"] == 1_000_000


def test_the_page_quotes_the_committed_results():
    page = (ROOT / "docs" / "data.md").read_text()
    for line in packed_store.markdown_rows(COMMITTED):
        assert line in page
    packing, index = COMMITTED["packing"], COMMITTED["index"]
    assert f"{packing['check_mb_per_s']} MB/s" in page
    assert f"{index['read_s']} s" in page
