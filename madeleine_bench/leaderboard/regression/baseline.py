"""The committed baseline of the regression gate: a results folder and the golden values.

records/  predictions/   as in any results folder, one record a cell
cells.json               record id of each cell, so that a record that was deleted is missed
scorers.json             golden values of the protocols
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.leaderboard.regression.golden_scores import (
    SCORERS_FILE,
    Golden,
    GoldenCase,
    GoldenKey,
    golden_text,
)
from madeleine_bench.leaderboard.regression.suite import Cell, newest_records
from madeleine_bench.leaderboard.regression.verdicts import EXPLAINABLE, Finding
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.record import Record

CELLS_FILE = "cells.json"
_CONTENT = {"records", "predictions", CELLS_FILE, SCORERS_FILE}
# What helps to understand other bytes. Nothing that names a machine, a person or a folder.
_PROVENANCE = ("created", "python", "packages", "blas", "cpu", "threads", "commit", "dirty")
_KEPT = ("same", "noise")


def has_baseline(folder: Path) -> bool:
    """Return whether a folder holds a baseline, after mending a renewal that was cut off."""
    aside = _aside(folder)
    if aside.is_dir() and not folder.exists():
        os.rename(aside, folder)
    return (folder / "records").is_dir() or (folder / SCORERS_FILE).is_file()


def listed_cells(folder: Path) -> dict[Cell, str]:
    """Return the record id of each cell that a baseline held when it was written.

    A results folder that was never renewed by the gate lists none.

    Raises:
        InputError: the list is broken.
    """
    path = folder / CELLS_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {Cell(*name.split(" ")): str(record) for name, record in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a readable list of cells ({error}); restore it from version control"
        ) from error


def check_renewable(findings: Sequence[Finding], explanations: Path) -> None:
    """Check that every change is wanted: passing, or explained.

    Raises:
        CheckFailed: some are not; each is named.
    """
    blocked = [
        f for f in findings if not f.passes and not (f.verdict in EXPLAINABLE and f.explained)
    ]
    if blocked:
        lines = "\n".join(
            f"  {f.verdict} {f.name} (baseline {f.baseline_id[:12]})" for f in blocked
        )
        raise CheckFailed(
            f"the baseline stays as it is: {len(blocked)} cells changed and nobody says why\n"
            f"{lines}\nmend them, or explain them in {explanations} (docs/regression.md); a "
            "cell that failed, or that has no record, cannot be explained"
        )


def renew(
    folder: Path,
    findings: Sequence[Finding],
    old: ResultStore,
    current: ResultStore,
    golden: tuple[Golden, Golden],
    board: str,
) -> int:
    """Put a new baseline in the place of the old, whole or not at all; return how many changed.

    Cells that are the same, or moved within noise, keep their old record: so a slow drift is
    always measured from where it began, and a renewal touches only the files that it must.

    Args:
        folder: the baseline.
        findings: of every cell.
        old: the baseline so far.
        current: the results to take changed cells from.
        golden: golden values so far, and now.
        board: the board of the cells.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    changed = [finding for finding in findings if finding.verdict not in _KEPT]
    if not changed:
        return 0
    _refuse_other_content(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot write beside {folder}: {error.strerror or error}") from error
    try:
        _copy_records(scratch, findings, old, current)
        write_text(scratch / CELLS_FILE, _cells_text(ResultStore(scratch), board))
        write_text(scratch / SCORERS_FILE, golden_text(_chosen(findings, *golden)))
        scratch.chmod(0o755)
        _swap(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return len(changed)


def _refuse_other_content(folder: Path) -> None:
    if not folder.exists():
        return
    found = sorted({path.name for path in folder.iterdir()} - _CONTENT) if folder.is_dir() else [""]
    if found:
        raise InputError(
            f"{folder} is no baseline: it holds {found[0] or 'a file, not a folder'}; --baseline "
            "wants a folder of its own, which --update replaces whole"
        )


def _copy_records(
    scratch: Path, findings: Sequence[Finding], old: ResultStore, current: ResultStore
) -> None:
    target = ResultStore(scratch)
    for store, wanted in (
        (old, {f.baseline_id for f in findings if f.verdict in _KEPT}),
        (current, {f.current_id for f in findings if f.verdict not in _KEPT}),
    ):
        if not wanted - {""}:
            continue
        for record in store.records():
            if record.record_id in wanted:
                _copy(record, store, target)


def _copy(record: Record, store: ResultStore, target: ResultStore) -> None:
    store.read_predictions(record)  # checks that they are there and are the record's own
    path = record.predictions.path
    write_bytes(target.folder / path, (store.folder / path).read_bytes())
    provenance = {k: record.provenance[k] for k in _PROVENANCE if k in record.provenance}
    content = record.model_dump(mode="json", exclude={"record_id"})
    target.write_record({**content, "provenance": provenance})


def _cells_text(store: ResultStore, board: str) -> str:
    cells = {" ".join(c): r.record_id for c, r in newest_records(store, board).items()}
    return json.dumps(cells, indent=1, sort_keys=True) + "\n"


def _chosen(
    findings: Sequence[Finding], old: Golden, new: Golden
) -> Mapping[GoldenKey, GoldenCase]:
    chosen: dict[GoldenKey, GoldenCase] = {}
    for finding in findings:
        if finding.layer == "scorers":
            key = (finding.subject, finding.case.split(" ")[0])
            source = old if finding.verdict in _KEPT else new
            if key in source:
                chosen[key] = source[key]
    return chosen


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; `has_baseline` mends what a crash in between leaves."""
    aside = _aside(folder)
    try:
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)
        os.rename(new, folder)
    except OSError as error:
        if aside.exists() and not folder.exists():
            os.rename(aside, folder)
        raise InputError(f"cannot renew {folder}: {error.strerror or error}") from error
    shutil.rmtree(aside, ignore_errors=True)
