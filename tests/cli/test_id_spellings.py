"""One patient under two spellings of an id: chance data must not score above chance."""

import json

import pytest

from madeleine_bench.seeds import rng_for
from tests.tool_bags import write_bag_file

PATIENTS = 40
KINDS = {
    "whole-number": lambda n: (f"{n}", f"{n}.0"),
    "composed": lambda n: (f"\u00e9{n}", f"e\u0301{n}"),
    "zeros": lambda n: (f"{n:03d}", f"{n}"),
    "case": lambda n: (f"P-{n}", f"p-{n}"),
    "sample": lambda n: (f"TCGA-A1-A{n:03d}-01", f"TCGA-A1-A{n:03d}-06"),
}


@pytest.fixture
def chance(tmp_path):
    """A cohort of chance labels: two slides a patient, nearly equal, its id spelled twice."""

    def make(kind, ids=""):
        rows = []
        for patient in range(1, PATIENTS + 1):
            rng = rng_for("spellings", patient)
            centre, label = rng.standard_normal(64), patient % 2
            for part, case in enumerate(KINDS[kind](patient)):
                slide = f"s{patient:02d}{'ab'[part]}"
                features = centre + 0.05 * rng.standard_normal((4 + part, 64))
                path = tmp_path / "bags" / f"{slide}.h5"
                write_bag_file(path, features.astype("float32"), layout="clam")
                rows.append(f"{slide},{case},{label}\n")
        (tmp_path / "t.csv").write_text("slide_id,case_id,er\n" + "".join(rows), encoding="utf-8")
        config = tmp_path / "mbench.toml"
        config.write_text(
            f'[cohorts.bcnb]\nfeatures = "bags"\nlabels = "t.csv"\n{ids}'
            'columns = { case = "case_id" }\n'
        )
        return config

    return make


@pytest.fixture
def run(mbench, tmp_path):
    """Run the linear probe on mean-pool; return how it ended and the score, if any."""

    def call(config):
        results = tmp_path / "results"
        said = mbench(
            "run", "--encoder", "mean-pool", "--task", "bcnb-er", "--protocol", "linear-probe/v2",
            "--source", "local", "--config", config, "--results", results, "--jobs", "1",
        )  # fmt: skip
        records = [json.loads(path.read_text()) for path in results.rglob("records/**/*.json")]
        return said, [record["scores"]["main"]["value"] for record in records]

    return call


@pytest.mark.parametrize("kind", ["whole-number", "composed"])
def test_one_normal_form_makes_one_case(chance, run, mbench, tmp_path, kind):
    """The two spellings were two cases, and these chance data scored .86; now they are one."""
    config = chance(kind)
    said, (score,) = run(config)
    assert said.code == 0, said.err
    assert score < 0.7
    out = tmp_path / "audit.json"
    mbench("audit", "--task", "bcnb-er", "--config", config, "--json", out, "--results", tmp_path)
    (task,) = json.loads(out.read_text())["tasks"]
    assert (task["units"], task["cases"]) == (2 * PATIENTS, PATIENTS)
    assert "look-alike" not in [finding["kind"] for finding in task["findings"]]


@pytest.mark.parametrize("kind", ["zeros", "case", "sample"])
def test_what_looks_alike_stops_the_run_and_is_a_finding(chance, run, mbench, tmp_path, kind):
    """They were two cases, these chance data scored .86, and the audit had no finding."""
    first, second = KINDS[kind](1)
    config = chance(kind)
    said, scores = run(config)
    assert (said.code, scores) == (2, [])
    one, other = sorted((first, second))
    slide_of = {first: "s01a", second: "s01b"}
    expected = f"'{one}' (slide {slide_of[one]}) and '{other}' (slide {slide_of[other]})"
    plain = " ".join(said.err.split())
    assert expected in plain
    assert "write one spelling in the label table" in plain
    assert 'ids = "exact" under [cohorts.bcnb] in mbench.toml' in plain
    out = tmp_path / "audit.json"
    asked = ("--task", "bcnb-er", "--config", config, "--json", out, "--results", tmp_path)
    assert mbench("audit", *asked).code == 1
    (task,) = json.loads(out.read_text())["tasks"]
    kinds = [finding["kind"] for finding in task["findings"] if finding["level"] == "error"]
    assert kinds.count("look-alike") == PATIENTS


def test_the_user_may_say_that_the_ids_are_exact(chance, run):
    """What the leak is worth: taken as different patients, these chance data score .86."""
    said, (score,) = run(chance("case", 'ids = "exact"\n'))
    assert said.code == 0, said.err
    assert score == pytest.approx(0.8625)
