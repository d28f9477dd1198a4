"""A run of the smallest cohort, and what its records say."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from madeleine_bench.runner.plan import Request
from madeleine_bench.specs.workspace import Workspace

RUN = ["run", "--encoder", "mean-pool", "--encoder", "patch-count", "--task", "aidpath-*"]


def start(
    results: Path, *more: str, jobs: int = 1, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run in a process of its own."""
    code = "from madeleine_bench.cli.main import main; main()"
    arguments = [*RUN, "--source", "phantom", "--results", str(results), "--jobs", str(jobs), *more]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def request(**choice: Any) -> Request:
    """A request; fields of its workspace are given beside its own."""
    names = {each.name for each in fields(Workspace)} & choice.keys()
    return Request(workspace=Workspace(**{name: choice.pop(name) for name in names}), **choice)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must succeed and return what it said."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def contents(results: Path) -> dict[str, dict]:
    """Every record without its provenance, by path; and that every prediction file is there."""
    found = {}
    for path in sorted((results / "records").rglob("*.json")):
        record = json.loads(path.read_text())
        record.pop("provenance")
        found[path.relative_to(results).as_posix()] = record
        assert (results / record["predictions"]["path"]).is_file()
    return found


def files(results: Path) -> dict[str, bytes]:
    """Every file of a results folder but the clock's (records, and what embeddings cost)."""
    return {
        path.relative_to(results).as_posix(): path.read_bytes()
        for folder in ("predictions", "embeddings", "splits")
        for path in sorted((results / folder).rglob("*"))
        if path.is_file() and path.suffix != ".json"
    }
