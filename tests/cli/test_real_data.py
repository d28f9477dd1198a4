"""Real data through the command line: UCSB breast in each layout, and TCGA's real labels."""

import json
from pathlib import Path

import pytest

from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.data.ucsb import PATCH_ENCODER
from tests.local_ucsb import UCSB, write_local_ucsb
from tests.tool_bags import write_bag_file

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TCGA = SHARED / "tcga_brca" / "tcga_brca.csv"


def records(results: Path) -> list[dict]:
    found = [json.loads(p.read_text()) for p in sorted((results / "records").rglob("*.json"))]
    assert found
    return found


@pytest.mark.skipif(not UCSB.is_file(), reason=f"real data absent: no {UCSB}")
def test_ucsb_scores_as_published_and_alike_in_every_layout(tmp_path, mbench):
    found = []
    for layout in ("clam", "trident", "stamp", "atlaspatch"):
        bags = write_local_ucsb(tmp_path / layout)
        for path in bags.glob("*.h5"):
            features = read_bag_file(path).features
            write_bag_file(path, features, layout=layout, patch_encoder=PATCH_ENCODER)
        results = tmp_path / f"results-{layout}"
        said = mbench(
            "run", "--encoder", "mean-pool", "--task", "ucsb-breast-malignancy",
            "--config", tmp_path / layout / "mbench.toml", "--results", results, "--jobs", "1",
        )  # fmt: skip
        assert said.code == 0, said.err
        (record,) = records(results)
        found.append(record)
    main = found[0]["scores"]["main"]
    assert main["value"] == pytest.approx(0.888, abs=0.01)
    assert len(found[0]["folds"]) == 50
    assert found[0]["source"] == "local"
    # The bytes of the files are others, so they are other features; all else is the same.
    assert len({record["features"]["content"] for record in found}) == 4
    for record in found:
        for key in ("record_id", "features", "provenance"):
            record.pop(key)
    assert len({json.dumps(record, sort_keys=True) for record in found}) == 1


@pytest.mark.skipif(not UCSB.is_file(), reason=f"real data absent: no {UCSB}")
def test_the_readme_shows_what_the_example_prints(tmp_path, mbench, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write_local_ucsb(tmp_path / "ucsb")
    said = mbench(
        "run", "--encoder", "mean-pool", "--encoder", "max-pool", "--task",
        "ucsb-breast-malignancy", "--config", tmp_path / "ucsb" / "mbench.toml",
        "--results", tmp_path / "results", "--jobs", "1",
    )  # fmt: skip
    assert said.code == 0, said.err
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    shown = readme.partition("```text\n")[2].partition("```")[0]
    assert [line.rstrip() for line in said.out.splitlines()] == shown.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not TCGA.is_file(), reason=f"real labels absent: no {TCGA}")
def test_tcga_labels_drive_the_five_tasks(tmp_path, mbench):
    config = tmp_path / "mbench.toml"
    config.write_text(f'[cohorts.tcga-breast]\nfeatures = "phantom"\nlabels = "{TCGA}"\n')
    said = mbench(
        "run", "--encoder", "mean-pool", "--encoder", "case-id", "--task", "tcga-breast-*",
        "--config", config, "--results", tmp_path / "r",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "PHANTOM" in said.out
    found = {
        (r["encoder"]["name"], r["task"]["id"], r["protocol"]): r for r in records(tmp_path / "r")
    }
    assert len(found) == 18
    survival = found["mean-pool", "tcga-breast-os", "cox/v2"]
    assert survival["inputs"]["n"] == 1061
    assert survival["inputs"]["missing"] == {"no follow-up time": ["TCGA-OL-A66H"]}
    her2 = found["mean-pool", "tcga-breast-her2", "linear-probe/v2"]
    assert len(her2["inputs"]["missing"]["no label: 'Equivocal'"]) == 10
    # The features are made up, so real labels cannot be found in them.
    for record in found.values():
        main = record["scores"]["main"]
        if main["ci95"] is None:
            continue  # the same score in every resample
        spread = (main["ci95"][1] - main["ci95"][0]) / 3.92
        assert abs(main["value"] - main["chance"]) < 4.5 * spread
