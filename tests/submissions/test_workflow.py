"""The workflows: no code of a submission is run, none of its text pasted, nothing moves unseen."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from madeleine_bench.report import sorted_json
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.report import review
from madeleine_bench.submissions.verify import VerifyRequest, verify
from madeleine_bench.types import Silence

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(path.name for path in FOLDER.iterdir())
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"))
)
NAMES = ("submission.yml", "submission-comment.yml")
# What a stranger cannot choose: numbers and hashes that GitHub makes.
HARMLESS = {
    "github.event.pull_request.number",
    "github.event.pull_request.base.sha",
    "github.event.pull_request.head.sha",
    "github.event.workflow_run.id",
    "github.token",
    "runner.temp",
}


def read(name):
    return YAML(typ="safe", pure=True).load((FOLDER / name).read_text())


def workflow(name):
    found = read(name)
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


def steps(name):
    return [step for job in read(name)["jobs"].values() for step in job.get("steps", [])]


def test_every_workflow_is_found():
    assert {"ci.yml", "regress.yml", *NAMES} <= set(WORKFLOWS)
    assert all(name.endswith(".yml") for name in WORKFLOWS)
    assert not list((ROOT / ".github").rglob("action.y*ml")), "check its steps here as well"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit(name):
    """They were pinned by a tag such as v4, which its owner can move to other code."""
    text = (FOLDER / name).read_text()
    lines = re.findall(r"^ *(?:- )?uses: *(.*)$", text, flags=re.MULTILINE)
    used = [part["uses"] for part in (*read(name)["jobs"].values(), *steps(name)) if "uses" in part]
    assert len(lines) == len(used) > 0
    for line in lines:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+", line)


def test_an_action_is_the_same_commit_everywhere():
    used = {step["uses"] for name in WORKFLOWS for step in steps(name) if "uses" in step}
    assert len(used) == len({action.partition("@")[0] for action in used})


@pytest.mark.parametrize("name", PAGES)
def test_workflows_shown_to_users_pin_a_commit(name):
    for action in re.findall(r"^ *(?:- )?uses: *(\S+)", (ROOT / name).read_text(), re.MULTILINE):
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@(REVISION|[0-9a-f]{40})", action), action


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_few_rights_and_runs_what_it_names(name):
    found = read(name)
    assert not {"pull_request_target", "issue_comment"} & set(found["on"])
    granted = found["permissions"]
    assert isinstance(granted, dict), "named one by one, not write-all"
    assert not any("permissions" in job for job in found["jobs"].values())
    trusted = "write" in granted.values() or "workflow_run" in found["on"]
    for job in found["jobs"].values():
        assert job["timeout-minutes"] <= 60
    for step in steps(name):
        assert "${{" not in step.get("run", "")
        if step.get("uses", "").startswith("actions/checkout@"):
            assert not trusted, "what may write runs no code of the repository"
            assert step["with"]["persist-credentials"] is False
            assert "head" not in step["with"].get("ref", "")
        assert not (trusted and "run" in step)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_workflow_follows_a_ref_that_moves(name):
    text = re.sub(r"^\s*#.*$", "", (FOLDER / name).read_text(), flags=re.MULTILINE)
    assert not re.search(r"refs/pull|head_ref|head\.ref|FETCH_HEAD|origin/", text)


def test_only_the_base_is_checked_out_and_keeps_no_token():
    _, job = workflow(NAMES[0])
    (checkout,) = [s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout")]
    assert checkout["with"] == {
        "ref": "${{ github.event.pull_request.base.sha }}", "persist-credentials": False,
        "fetch-depth": 0, "filter": "blob:none",
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


def test_the_comment_asks_github_whether_the_pull_request_may_be_verified():
    """It believed whatever the run said, which a pull request that edits the workflow can write."""
    _, job = workflow(NAMES[1])
    script = next(s["with"]["script"] for s in job["steps"] if "script" in s.get("with", {}))
    assert "github.rest.pulls.listFiles" in script
    assert "path.startsWith('submissions/')" in script
    assert "f.previous_filename" in script
    assert "files.length === pull.changed_files" in script
    assert "`${MARK}\\n${verdict}" in script
    assert "**Unverified.**" in script


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
    done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment)
    assert done.returncode == int(exit_code)
    said = (tmp_path / "calls").read_text().splitlines()
    assert ["V1" in line for line in said] == [False, True][:calls]
    (tmp_path / "incoming" / "2.zip").write_text("another")
    (tmp_path / "calls").unlink()
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment)
    again = (tmp_path / "calls").read_text().splitlines()
    assert len(again) == 2 * calls, "a zip that fails does not end the job before the next"
    (tmp_path / "calls").unlink()
    (tmp_path / "report" / "unverified.txt").write_text("Unverified: why\n")
    refused = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stdout) == (1, "Unverified: why\n")
    assert not (tmp_path / "calls").exists()


def test_the_report_names_the_board_where_the_workflow_looks(first, tmp_path):
    request = VerifyRequest(Workspace(tmp_path), "V0")
    report = review(verify(read_bundle(first.bundle), request, tmp_path, Silence()))
    assert re.search(r'^ "board": "local",$', sorted_json(report.document), flags=re.MULTILINE)


def git(folder, *words, **more):
    identity = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t",
                "GIT_COMMITTER_EMAIL": "t@t", "GIT_CONFIG_GLOBAL": os.devnull}  # fmt: skip
    done = subprocess.run(
        ["git", "-C", folder, *words], capture_output=True, text=True, check=True,
        env={**os.environ, **identity}, **more,
    )  # fmt: skip
    return done.stdout.strip()


def take(tmp_path, number="7", more=(), moved=False):
    """Run the step that takes zips out of a pull request, on a repository of our own.

    Args:
        tmp_path: where.
        number: number of the pull request.
        more: further files that it changes.
        moved: the base branch and the pull request have gone on since the event.
    """
    remote, runner = tmp_path / "remote", tmp_path / "runner"
    git(tmp_path, "init", "-q", "-b", "main", remote)
    submissions = remote / "submissions"
    submissions.mkdir()
    (submissions / "old.zip").write_text("old")
    git(remote, "add", ".")
    git(remote, "commit", "-qm", "base")
    git(remote, "switch", "-qc", "theirs")
    (submissions / "new.zip").write_bytes(b"new\x00data")
    (submissions / "$(touch owned) `touch owned`\n.zip").write_text("odd name")
    (submissions / "link.zip").symlink_to("/etc/passwd")
    (submissions / "setup.py").write_text("raise SystemExit('ran')")
    for name in more:
        (remote / name).parent.mkdir(parents=True, exist_ok=True)
        (remote / name).write_text("elsewhere")
    git(remote, "add", ".")
    git(remote, "commit", "-qm", "head")
    head = git(remote, "rev-parse", "HEAD")
    if moved:
        (submissions / "later.zip").write_text("pushed after the event")
        git(remote, "add", ".")
        git(remote, "commit", "-qm", "later")
    git(remote, "update-ref", "refs/pull/7/head", "HEAD")
    git(remote, "switch", "-q", "main")
    git(remote, "branch", "-qD", "theirs")
    if moved:
        (submissions / "old.zip").write_text("old, as the base branch has it now")
        (remote / "code.py").write_text("what the base branch added")
        git(remote, "add", ".")
        git(remote, "commit", "-qm", "meanwhile")
    base = git(remote, "rev-parse", "HEAD")
    git(tmp_path, "clone", "-q", remote, tmp_path / "base")
    _, job = workflow(NAMES[0])
    script = next(s["run"] for s in job["steps"] if "as data" in s.get("name", ""))
    environment = {**os.environ, "NUMBER": number, "BASE_SHA": base, "HEAD_SHA": head,
                   "RUNNER_TEMP": str(runner)}  # fmt: skip
    runner.mkdir()
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path / "base", env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    return done, runner, tmp_path / "base"


@pytest.mark.parametrize("moved", [False, True])
def test_zips_are_taken_as_data_whatever_they_are_called(tmp_path, moved):
    """Against the tip of the base branch, `old.zip` of a branch left behind was theirs as well.

    And the zips were those of refs/pull/7/head, whatever had been pushed since the event.
    """
    done, runner, base = take(tmp_path, moved=moved)
    assert done.returncode == 0, done.stderr
    assert "2 submissions" in done.stdout
    taken = {path.read_bytes() for path in (runner / "incoming").iterdir()}
    assert taken == {b"new\x00data", b"odd name"}
    assert sorted(p.name for p in (runner / "incoming").iterdir()) == ["1.zip", "2.zip"]
    assert (runner / "report" / "number.txt").read_text() == "7"
    assert not (runner / "report" / "unverified.txt").exists()
    assert not list(tmp_path.rglob("owned"))
    assert sorted(p.name for p in (base / "submissions").iterdir()) == ["old.zip"]


@pytest.mark.parametrize(
    "path",
    [
        "other.zip",
        ".github/workflows/submission.yml",
        ".github/actions/install/action.yml",
        ".ci/run",
        "madeleine_bench/submissions/verify.py",
        "constraints.txt",
        "nested/submissions/a.zip",
        "submissions.py",
        "x\nsubmissions/a.zip",
    ],
)
def test_a_pull_request_that_changes_anything_else_is_unverified(tmp_path, path):
    done, runner, _ = take(tmp_path, more=(path,))
    assert done.returncode == 0, done.stderr
    assert "2 submissions" in done.stdout
    text = (runner / "report" / "unverified.txt").read_text()
    assert text.startswith("Unverified: the pull request changes files outside submissions/.")


def test_a_number_that_is_none_stops_it(tmp_path):
    done, runner, _ = take(tmp_path, number="7; touch owned")
    assert done.returncode == 2
    assert list(runner.iterdir()) == []
