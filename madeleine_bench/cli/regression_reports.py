"""One pass of the regression gate: run the suite, compare, report, and renew if asked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.regression.baseline import (
    check_renewable,
    has_baseline,
    listed_cells,
    renew,
)
from madeleine_bench.leaderboard.regression.compare import Comparison, compare, explain, stale
from madeleine_bench.leaderboard.regression.golden_scores import (
    SCORERS_FILE,
    golden_cases,
    judge_scorers,
    read_golden,
)
from madeleine_bench.leaderboard.regression.junit import to_json, to_junit
from madeleine_bench.leaderboard.regression.suite import Cell, cells_of
from madeleine_bench.leaderboard.regression.verdicts import (
    EXPLAINABLE,
    Finding,
    count_words,
    in_order,
)
from madeleine_bench.resources import resource_folder
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.regression import SuiteSpec, read_explanations, read_suite
from madeleine_bench.specs.workspace import Workspace


@dataclass(frozen=True)
class Gate:
    """What the user asked for: the options of `mbench regress`."""

    suite: Path | None
    baseline: Path | None
    results: Path
    run: bool
    json: Path | None
    junit: Path | None
    update: bool
    jobs: int | None
    config: Path | None
    catalogue: Path | None

    @property
    def suite_path(self) -> Path:
        """The suite: the user's, or the one that ships."""
        return self.suite or resource_folder("leaderboard") / "regression" / "suite.yaml"

    @property
    def baseline_path(self) -> Path:
        """The baseline: the user's, or the one beside the suite."""
        return self.baseline or self.suite_path.parent / "baseline"

    @property
    def explanations_path(self) -> Path:
        """The explanations, beside the suite."""
        return self.suite_path.parent / "explanations.yaml"


def run_gate(gate: Gate) -> None:
    """TaskScorer the suite and report; renew the baseline where asked.

    Raises:
        CheckFailed: something got worse, changed unexplained, or stops the renewal.
        InputError: suite, baseline or results cannot be used.
    """
    _refuse_installed(gate)
    suite, catalogue = read_suite(gate.suite_path), load_catalogue(gate.catalogue)
    explanations = read_explanations(gate.explanations_path)
    cells = cells_of(suite, catalogue)
    known = has_baseline(gate.baseline_path)
    if not known and not gate.update:
        raise InputError(
            f"there is no baseline in {gate.baseline_path}; make the first: mbench regress --update"
        )
    old_golden = read_golden(gate.baseline_path / SCORERS_FILE) if known else {}
    new_golden = golden_cases(catalogue)
    since, failures = _score(gate, suite, catalogue, cells)
    old, current = ResultStore(gate.baseline_path), ResultStore(gate.results)
    listed = listed_cells(gate.baseline_path)
    asked = Comparison(old, current, catalogue, cells, suite.source, listed, failures, since)
    found = (*judge_scorers(old_golden, new_golden), *compare(asked))
    findings = in_order(explain(found, explanations, cells))
    outdated = stale(explanations, findings)
    _report(gate, suite, findings, outdated)
    if gate.update:
        check_renewable(findings, gate.explanations_path)
        golden = (old_golden, new_golden)
        changed = renew(gate.baseline_path, findings, old, current, golden, suite.source)
        typer.echo(f"baseline {gate.baseline_path}: {changed} cells renewed, the rest kept")
        return
    _conclude(gate, findings)


def _refuse_installed(gate: Gate) -> None:
    if gate.update and gate.suite is None and "_resources" in gate.baseline_path.parts:
        raise InputError(
            f"{gate.baseline_path} is part of an installation; renew it in a checkout, or keep a "
            "suite and a baseline of your own: --suite FILE (docs/regression.md)"
        )


def _score(
    gate: Gate, suite: SuiteSpec, catalogue: Catalogue, cells: frozenset[Cell]
) -> tuple[str, dict[Cell, str]]:
    """Score the suite anew; return when that began, and why a cell could not be scored.

    Nothing is taken from an earlier run: what a run reuses is found by its inputs, and a change of
    the code that scores is none of them.
    """
    if not gate.run:
        return "", {}
    since = datetime.now(UTC).isoformat(timespec="microseconds")
    failed: dict[str, str] = {}
    with LiveProgress() as progress:
        for part in suite.runs:
            request = Request(
                encoders=suite.encoders,
                tasks=part.tasks,
                protocols=part.protocols,
                workspace=Workspace(
                    gate.results,
                    suite.source,
                    gate.config,
                    gate.catalogue,
                    gate.jobs or os.cpu_count() or 1,
                ),
                resume="never",
            )
            report = run(request, progress)
            failed.update((what, str(why)) for what, why in report.failures)
    failures = {}
    for cell in cells:
        task = catalogue.tasks[cell.task]
        for where in (task.cohort, task.name):
            if (reason := failed.get(f"{cell.encoder} on {where}")) is not None:
                failures[cell] = reason
    return since, failures


def _report(
    gate: Gate, suite: SuiteSpec, findings: Sequence[Finding], outdated: Sequence[str]
) -> None:
    """Print the table and write the files."""
    phantom = suite.source == "phantom"
    header = ["verdict", "", "case", "baseline", "now", "difference", "why"]
    title = f"Regression gate '{suite.id}'{' (PHANTOM)' if phantom else ''}"
    print_table(title, header, [_row(finding) for finding in findings])
    for line in outdated:
        typer.echo(f"explains nothing any more, remove it from {gate.explanations_path}: {line}")
    if gate.json is not None:
        write_text(gate.json, to_json(suite.id, suite.source, findings, outdated))
    if gate.junit is not None:
        write_text(gate.junit, to_junit(suite.id, findings, phantom))


def _row(finding: Finding) -> list[str]:
    why = finding.why + (f"; explained: {finding.explained}" if finding.explained else "")
    return [
        finding.verdict if finding.passes else finding.verdict.upper(),
        finding.subject,
        finding.case,
        _number(finding.baseline, ".4f"),
        _number(finding.current, ".4f"),
        _number(finding.difference, "+.4f"),
        why,
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _conclude(gate: Gate, findings: Sequence[Finding]) -> None:
    """Say that the gate passes, or raise what it found."""
    bad = [finding for finding in findings if not finding.passes]
    if not bad:
        typer.echo(f"regression gate passed: {count_words(findings)}")
        return
    lines = [f"  {f.verdict} {f.name}{_baseline(f)}: {f.why}" for f in bad]
    ways = "mend the change, or give the task, protocol or scoring a new version"
    if any(f.verdict in EXPLAINABLE for f in bad):
        ways += (
            f"; what is intended, explain in {gate.explanations_path}, then mbench regress --update"
            " (docs/regression.md)"
        )
    raise CheckFailed(
        f"regression gate failed: {count_words(findings)}\n" + "\n".join(lines) + f"\n{ways}"
    )


def _baseline(finding: Finding) -> str:
    return f" (baseline {finding.baseline_id[:12]})" if finding.baseline_id else ""
