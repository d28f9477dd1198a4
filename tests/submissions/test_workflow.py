"""The workflows of submissions: no stranger's code is run, no stranger's text pasted."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.cohorts import VerifyRequest
from madeleine_bench.submissions.review import review, review_json
from madeleine_bench.submissions.verify import verify
from madeleine_bench.types import Silence

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
NAMES = ("submission.yml", "submission-comment.yml")
# What a stranger cannot choose: numbers and hashes that GitHub makes.
HARMLESS = {
    "github.event.pull_request.number",
    "github.event.pull_request.base.sha",
    "github.event.workflow_run.id",
    "github.server_url",
    "github.repository",
    "github.token",
    "runner.temp",
}


def workflow(name):
    found = YAML(typ="safe", pure=True).load((FOLDER / name).read_text())
    (job,) = found["jobs"].values()
    return found, job


@pytest.mark.parametrize("name", NAMES)
def test_rights_are_the_least(name):
    found, job = workflow(name)
    assert "pull_request_target" not in found["on"]
    assert "permissions" not in job
    assert found["permissions"] == (
        {"contents": "read"} if name == NAMES[0] else {"actions": "read", "pull-requests": "write"}
    )
    assert "${{ secrets" not in (FOLDER / name).read_text()
    assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_stranger_is_pasted_anywhere(name):
    text = re.sub(r"^\s*#.*$", "", (FOLDER / name).read_text(), flags=re.MULTILINE)
    used = {word.strip() for word in re.findall(r"\$\{\{(.*?)\}\}", text)}
    assert used <= HARMLESS
    _, job = workflow(name)
    for step in job["steps"]:
        script = step.get("run", "") + str(step.get("with", {}).get("script", ""))
        assert "${{" not in script


@pytest.mark.parametrize("name", NAMES)
def test_only_known_actions_by_major_version(name):
    _, job = workflow(name)
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v[0-9]+", step["uses"])


def test_only_the_base_is_checked_out_and_keeps_no_token():
    _, job = workflow(NAMES[0])
    (checkout,) = [s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout")]
    assert checkout["with"] == {
        "ref": "${{ github.event.pull_request.base.sha }}", "persist-credentials": False,
    }  # fmt: skip
    _, comment = workflow(NAMES[1])
    assert not any("checkout" in step.get("uses", "") for step in comment["steps"])


def test_verification_runs_no_code_of_a_submission():
    text = (FOLDER / NAMES[0]).read_text()
    assert set(re.findall(r"verify V\d", text)) == {"verify V0", "verify V1"}
    assert "--allow-code" not in text


def test_the_comment_trusts_neither_number_nor_text():
    _, job = workflow(NAMES[1])
    script = next(s["with"]["script"] for s in job["steps"] if "script" in s.get("with", {}))
    assert "/^[0-9]{1,9}$/.test(text)" in script
    assert "pull.head.sha !== context.payload.workflow_run.head_sha" in script
    assert ".slice(0, 60000)" in script
    assert "lstatSync" in script
    assert "fence" in script


FAKE = """#!/usr/bin/env bash
echo "$@" >> "$RUNNER_TEMP/calls"
while [ "$1" != --json ]; do shift; done
cp "$RUNNER_TEMP/canned.json" "$2"
exit "$FAKE_EXIT"
"""


@pytest.mark.parametrize(
    ("board", "exit_code", "calls"),
    [
        ("phantom", "0", 2),
        ("local", "0", 1),
        ("phantom-signal-0", "0", 2),
        ("phantom-rendered", "0", 1),
        ("phantom", "1", 1),
    ],
)
def test_phantoms_are_recomputed_and_real_boards_only_read(tmp_path, board, exit_code, calls):
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "mbench"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    for folder in ("incoming", "report"):
        (tmp_path / folder).mkdir()
    (tmp_path / "incoming" / "1.zip").write_text("a zip")
    canned = {"schema_version": 1, "board": board, "asked": "V0"}
    (tmp_path / "canned.json").write_text(json.dumps(canned, indent=1, sort_keys=True))
    _, job = workflow(NAMES[0])
    script = next(s["run"] for s in job["steps"] if s.get("name") == "Verify")
    environment = {**os.environ, "RUNNER_TEMP": str(tmp_path), "FAKE_EXIT": exit_code,
                   "PATH": f"{fake.parent}:{os.environ['PATH']}"}  # fmt: skip
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment)
    assert done.returncode == int(exit_code)
    said = (tmp_path / "calls").read_text().splitlines()
    assert ["V1" in line for line in said] == [False, True][:calls]


def test_the_report_names_the_board_where_the_workflow_looks(first, tmp_path):
    request = VerifyRequest("V0", results=tmp_path)
    found = review(verify(read_bundle(first.bundle), request, tmp_path, Silence()), tmp_path)
    assert re.search(r'^ "board": "local",$', review_json(found), flags=re.MULTILINE)


def git(folder, *words, **more):
    identity = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t",
                "GIT_COMMITTER_EMAIL": "t@t", "GIT_CONFIG_GLOBAL": os.devnull}  # fmt: skip
    done = subprocess.run(
        ["git", "-C", folder, *words], capture_output=True, text=True, check=True,
        env={**os.environ, **identity}, **more,
    )  # fmt: skip
    return done.stdout.strip()


def take(tmp_path, number="7"):
    """Run the step that takes zips out of a pull request, on a repository of our own."""
    remote, runner = tmp_path / "remote", tmp_path / "runner"
    git(tmp_path, "init", "-q", remote)
    submissions = remote / "submissions"
    submissions.mkdir()
    (submissions / "old.zip").write_text("old")
    git(remote, "add", ".")
    git(remote, "commit", "-qm", "base")
    base = git(remote, "rev-parse", "HEAD")
    git(tmp_path, "clone", "-q", remote, tmp_path / "base")
    (submissions / "new.zip").write_bytes(b"new\x00data")
    (submissions / "$(touch owned) `touch owned`\n.zip").write_text("odd name")
    (submissions / "link.zip").symlink_to("/etc/passwd")
    (submissions / "setup.py").write_text("raise SystemExit('ran')")
    (remote / "other.zip").write_text("elsewhere")
    git(remote, "add", ".")
    git(remote, "commit", "-qm", "head")
    git(remote, "update-ref", "refs/pull/7/head", "HEAD")
    _, job = workflow(NAMES[0])
    script = next(s["run"] for s in job["steps"] if "as data" in s.get("name", ""))
    environment = {**os.environ, "NUMBER": number, "BASE": base, "REPOSITORY": str(remote),
                   "RUNNER_TEMP": str(runner)}  # fmt: skip
    runner.mkdir()
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "base", env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    return done, runner, tmp_path / "base"


def test_zips_are_taken_as_data_whatever_they_are_called(tmp_path):
    done, runner, base = take(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 submissions" in done.stdout
    taken = {path.read_bytes() for path in (runner / "incoming").iterdir()}
    assert taken == {b"new\x00data", b"odd name"}
    assert sorted(p.name for p in (runner / "incoming").iterdir()) == ["1.zip", "2.zip"]
    assert (runner / "report" / "number.txt").read_text() == "7"
    assert not list(tmp_path.rglob("owned"))
    assert sorted(p.name for p in (base / "submissions").iterdir()) == ["old.zip"]


def test_a_number_that_is_none_stops_it(tmp_path):
    done, runner, _ = take(tmp_path, number="7; touch owned")
    assert done.returncode == 2
    assert list(runner.iterdir()) == []
