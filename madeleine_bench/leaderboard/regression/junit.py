"""Findings of the regression gate as JUnit XML and as JSON, for machines that read tests."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from xml.etree import ElementTree

from madeleine_bench.leaderboard.regression.verdicts import VERDICTS, Finding
from madeleine_bench.report import PHANTOM_NOTICE

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(suite: str, findings: Sequence[Finding], phantom: bool) -> str:
    """Return JUnit XML: a testsuite for each encoder and protocol, a testcase for each cell.

    A cell that does not pass is a failure of the type of its verdict.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.layer, finding.subject), []).append(finding)
    root = ElementTree.Element(
        "testsuites", {"name": f"mbench regress {suite}", **_counts(findings)}
    )
    for (layer, subject), group in sorted(groups.items()):
        name = f"{layer}.{subject}"
        element = ElementTree.SubElement(root, "testsuite", {"name": name, **_counts(group)})
        if phantom:
            properties = ElementTree.SubElement(element, "properties")
            ElementTree.SubElement(properties, "property", name="data", value=PHANTOM_NOTICE)
        for finding in group:
            _add_case(element, name, finding)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def to_json(
    suite: str, board: str, findings: Sequence[Finding], stale_explanations: Sequence[str]
) -> str:
    """Return the findings with every number, and whether the gate passes, as JSON."""
    content = {
        "schema_version": 1,
        "suite": suite,
        "board": board,
        "phantom": board.startswith("phantom"),
        "passed": all(finding.passes for finding in findings),
        "counts": {word: sum(f.verdict == word for f in findings) for word in VERDICTS},
        "findings": [{**asdict(finding), "passes": finding.passes} for finding in findings],
        "stale_explanations": list(stale_explanations),
    }
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _add_case(parent: ElementTree.Element, name: str, finding: Finding) -> None:
    case = ElementTree.SubElement(
        parent, "testcase", classname=f"mbench.regress.{name}", name=finding.case, time="0"
    )
    said = _clean(f"{finding.verdict}: {finding.why}")
    if finding.explained:
        said += _clean(f" (explained: {finding.explained})")
    if finding.passes:
        ElementTree.SubElement(case, "system-out").text = said
        return
    failure = ElementTree.SubElement(case, "failure", message=said, type=finding.verdict)
    numbers = {
        "score in the baseline": finding.baseline,
        "score now": finding.current,
        "difference": finding.difference,
        "record in the baseline": finding.baseline_id or None,
        "record now": finding.current_id or None,
    }
    failure.text = "\n".join(f"{k}: {v}" for k, v in numbers.items() if v is not None)


def _counts(findings: Sequence[Finding]) -> dict[str, str]:
    failures = sum(not finding.passes for finding in findings)
    return {
        "tests": str(len(findings)),
        "failures": str(failures),
        "errors": "0",
        "skipped": "0",
        "time": "0",
    }


def _clean(text: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return _NOT_XML.sub("?", text)
