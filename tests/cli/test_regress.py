"""`mbench regress` from end to end: what passes, what does not, and why."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from madeleine_bench.hashing import hash_file
from madeleine_bench.leaderboard import regression_gate as gate
from madeleine_bench.leaderboard.regression_golden import golden_cases
from madeleine_bench.protocols import logistic
from madeleine_bench.resources import resource_folder

CODE = '''
import numpy as np
from safetensors.numpy import load_file
from madeleine_bench.encoders.base import BaseEncoder


class Toy(BaseEncoder):
    """A linear map of the mean; `leak` adds the label, which the slide id gives away."""

    def __init__(self, card, weights=None, *, leak=False):
        super().__init__(card, weights)
        self.leak = leak
        self.map = load_file(weights)["map"]

    def encode(self, bag):
        found = bag.features.mean(axis=0) @ self.map
        return found + 9.0 * self.leak * (int(bag.slide_id) % 3 == 0)
'''
CARD = """name: {name}
revision: "1"
title: A toy
implementation: toy.py:Toy
parameters: {{leak: {leak}}}
weights: {{path: {name}.safetensors, sha256: {sha256}}}
training_cohorts: []
licence: Apache-2.0
description: A toy.
"""
SUITE = """id: mine
title: Two toys on a small cohort
source: local
encoders: [{encoders}]
runs:
  - tasks: [bcnb-er]
    protocols: [linear-probe/v2]
"""
GOLDEN: dict[str, object] = {}


@dataclass
class Project:
    """Somebody's repository: two encoders, a cohort, a suite and its baseline."""

    folder: Path
    config: Path
    call: object

    @property
    def suite(self) -> Path:
        return self.folder / "suite.yaml"

    @property
    def baseline(self) -> Path:
        return self.folder / "baseline"

    def encoder(self, name, weights, leak=False):
        """Write card and weights; the card's name and revision stay."""
        path = self.folder / f"{name}.safetensors"
        save_file({"map": np.ascontiguousarray(weights, dtype=np.float32)}, path)
        text = CARD.format(name=name, leak=str(leak).lower(), sha256=hash_file(path))
        (self.folder / f"{name}.yaml").write_text(text)

    def regress(self, *options):
        return self.call(
            "regress", "--suite", self.suite, "--config", self.config, "--jobs", "1",
            "--results", self.folder / "results", "--catalogue", self.folder / "tasks", *options,
        )  # fmt: skip

    def findings(self, *options):
        """Run the gate; return how it ended and the findings of the encoders by name."""
        said = self.regress("--json", self.folder / "found.json", *options)
        content = json.loads((self.folder / "found.json").read_text())
        found = {f["subject"]: f for f in content["findings"] if f["layer"] == "encoders"}
        return said, found

    def explain(self, finding):
        entry = {
            "verdict": finding["verdict"], "baseline": [finding["baseline_id"][:12]],
            "reason": "meant so, see the notes",
        }  # fmt: skip
        (self.folder / "explanations.yaml").write_text(json.dumps({"explained": [entry]}))


def strong():
    """Reads the dimension that holds the label, and its neighbour."""
    return np.eye(8)[:, :2]


def blind():
    """Reads dimensions that hold nothing."""
    return np.eye(8)[:, 5:7]


def small_catalogue(folder):
    """One task, its cohort, and every protocol: quick to read."""
    shipped = resource_folder("tasks")
    shutil.copytree(shipped / "protocols", folder / "protocols")
    for name in ("bcnb-er.yaml", "cohorts/bcnb.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped / name, folder / name)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Where the first test leaves its project for the others."""
    return tmp_path_factory.mktemp("template") / "project"


@pytest.fixture
def project(bcnb, mbench, tmp_path, template, monkeypatch):
    """A project with a baseline. It and the golden values take seconds, so they are made once."""

    def remembered(catalogue):
        key = repr(catalogue.protocols)
        if key not in GOLDEN:
            GOLDEN[key] = golden_cases(catalogue)
        return GOLDEN[key]

    monkeypatch.setattr(gate, "golden_cases", remembered)
    found = Project(tmp_path / "project", bcnb.config, mbench)
    if template.is_dir():
        shutil.copytree(template, found.folder)
        return found
    small_catalogue(found.folder / "tasks")
    (found.folder / "toy.py").write_text(CODE)
    found.suite.write_text(SUITE.format(encoders="strong.yaml, weak.yaml"))
    found.encoder("strong", strong())
    found.encoder("weak", blind())
    said = found.regress("--update")
    assert said.code == 0, said.err
    assert "39 cells renewed" in said.out
    shutil.copytree(found.folder, template)
    return found


def test_an_unchanged_tree_passes(project):
    said = project.regress()
    assert said.code == 0, said.err
    assert "regression gate passed: 39 same" in said.out
    assert "PHANTOM" not in said.out
    again = project.regress("--no-run")
    assert again.code == 0
    assert "39 same" in again.out


def test_worse_weights_fail(project):
    noisy = strong() * 0.05 + np.random.default_rng(1).standard_normal((8, 2))
    noisy[0] = 0.0
    project.encoder("strong", noisy)
    said, found = project.findings()
    assert said.code == 1
    assert found["strong"]["verdict"] == "regressed"
    assert found["weak"]["verdict"] == "same"
    assert "still says revision 1" in found["strong"]["why"]
    assert "regressed encoder strong: bcnb-er linear-probe/v2" in said.err
    assert "Traceback" not in said.err


def test_better_weights_fail_until_somebody_says_why(project):
    project.encoder("weak", blind(), leak=True)
    said, found = project.findings()
    assert said.code == 1
    assert found["weak"]["verdict"] == "improved"
    refused = project.regress("--no-run", "--update")
    assert refused.code == 1
    assert "without an explanation" in refused.err
    project.explain(found["weak"])
    passed, found = project.findings("--no-run")
    assert passed.code == 0, passed.err
    assert found["weak"]["explained"] == "meant so, see the notes"
    renewed = project.regress("--no-run", "--update")
    assert (renewed.code, "1 cells renewed" in renewed.out) == (0, True)
    # The next improvement is not excused: the explanation names the old record.
    after, found = project.findings("--no-run")
    assert (after.code, found["weak"]["verdict"]) == (0, "same")


@pytest.mark.parametrize("folder", ["results", "baseline"])
def test_a_deleted_record_is_missing(project, folder):
    next((project.folder / folder / "records").rglob("*.json")).unlink()
    said, found = project.findings("--no-run")
    assert said.code == 1
    assert sorted(f["verdict"] for f in found.values()) == ["missing", "same"]


def test_an_encoder_that_breaks_is_failed_though_an_old_record_lies_there(project):
    project.encoder("strong", np.nan * strong())
    said, found = project.findings()
    assert said.code == 1
    assert (found["strong"]["verdict"], found["weak"]["verdict"]) == ("failed", "same")
    assert "nan" in found["strong"]["why"]
    assert project.regress("--update").code == 1


def edit(project, name, old, new):
    """Edit a file of the project's catalogue."""
    path = project.folder / "tasks" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_task_edited_under_its_version_is_incomparable(project):
    edit(project, "bcnb-er.yaml", "    1: positive", "    1: positive\n    2: positive")
    said, found = project.findings()
    assert said.code == 1
    assert {f["verdict"] for f in found.values()} == {"incomparable"}
    assert "without a new version of bcnb-er" in found["weak"]["why"]
    edit(project, "bcnb-er.yaml", "version: 1", "version: 2")
    said, found = project.findings()
    assert said.code == 0, said.err
    assert {f["verdict"] for f in found.values()} == {"new-version"}
    assert "renew the baseline" in found["weak"]["why"]


def test_a_changed_tolerance_in_the_yaml_has_its_own_verdict(project):
    edit(project, "protocols/linear-probe-v2.yaml", "tol: 1.0e-8", "tol: 1.0e-4")
    said = project.regress()
    assert said.code == 1
    assert "4 scorer-changed" in said.err
    assert "model.tol was 1e-08 and is 0.0001" in said.err


def test_a_solver_stopped_early_in_the_code_has_its_own_verdict(project, monkeypatch):
    full = logistic.minimise
    monkeypatch.setattr(
        logistic,
        "minimise",
        lambda *a, **k: replace(full(*a, **{**k, "max_iter": 1}), residual=np.zeros(len(a[2]))),
    )
    monkeypatch.setattr(gate, "golden_cases", golden_cases)
    said = project.regress()
    assert said.code == 1
    assert "9 scorer-changed" in said.err
    assert "predictions moved by up to" in said.err


def test_wrong_input_is_2_and_says_what_to_do(project, tmp_path):
    said = project.regress("--baseline", tmp_path / "none")
    assert (said.code, "mbench regress --update" in said.err) == (2, True)
    (project.baseline / "scorers.json").write_text("{")
    assert project.regress("--no-run").code == 2
    project.suite.write_text(SUITE.format(encoders="strongg.yaml"))
    assert project.regress("--no-run").code == 2
    project.suite.unlink()
    said = project.regress("--no-run")
    assert (said.code, "suite.yaml" in said.err) == (2, True)


def test_the_shipped_suite_and_its_baseline_agree(mbench):
    """Without running: the committed records are those the suite asks for, and name no place."""
    baseline = resource_folder("leaderboard") / "regression" / "baseline"
    said = mbench("regress", "--no-run", "--results", baseline)
    assert said.code == 0, said.err
    assert "55 same" in said.out
    assert "(PHANTOM)" in said.out
    assert sum(p.stat().st_size for p in baseline.rglob("*") if p.is_file()) < 1_000_000
    for path in baseline.rglob("*.json"):
        text = path.read_text()
        assert not any(word in text for word in ("/home", "/work", "/root", "/tmp", '"platform"'))


def test_the_workflow_asks_for_nothing_but_to_read():
    folder = Path(__file__).parents[2] / ".github" / "workflows"
    for name in ("regress.yml", "ci.yml"):
        content = YAML(typ="safe", pure=True).load((folder / name).read_text())
        assert content["permissions"] == {"contents": "read"}
        for job in content["jobs"].values():
            for step in job["steps"]:  # an input inside a script would be run as code
                assert "${{" not in step.get("run", "")
    called = YAML(typ="safe", pure=True).load((folder / "regress.yml").read_text())
    inputs = called["on"]["workflow_call"]["inputs"]
    assert {"suite", "baseline", "python-version", "version"} <= set(inputs)


@pytest.mark.slow
def test_the_shipped_suite_passes_and_noisy_madeleine_does_not(mbench, tmp_path):
    said = mbench("regress", "--results", tmp_path / "results", "--jobs", "2")
    assert said.code == 0, said.err
    shipped = resource_folder("encoders")
    weights = load_file(shipped / "madeleine.safetensors")
    rng = np.random.default_rng(0)
    noisy = {
        name: (w + 3.0 * w.std() * rng.standard_normal(w.shape)).astype(w.dtype)
        for name, w in weights.items()
    }
    with safe_open(shipped / "madeleine.safetensors", framework="numpy") as handle:
        metadata = handle.metadata()
    path = tmp_path / "madeleine.safetensors"
    save_file(noisy, path, metadata)
    card = (shipped / "madeleine.yaml").read_text()
    card = card.replace(hash_file(shipped / "madeleine.safetensors"), hash_file(path))
    (tmp_path / "madeleine.yaml").write_text(card)
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        (resource_folder("leaderboard") / "regression" / "suite.yaml")
        .read_text()
        .replace(" madeleine,", " madeleine.yaml,")
    )
    baseline = resource_folder("leaderboard") / "regression" / "baseline"
    said = mbench(
        "regress", "--suite", suite, "--baseline", baseline, "--results", tmp_path / "noisy",
        "--jobs", "2", "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert said.code == 1
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    verdicts = {f["case"]: f["verdict"] for f in found if f["subject"] == "madeleine"}
    assert verdicts["bcnb-her2 linear-probe/v2"] == "regressed"
    assert {f["verdict"] for f in found if f["subject"] != "madeleine"} == {"same"}
