"""How large the package is, room by room, and how far one act of each kind walks through it.

    python -m benchmarks.package_size --before REVISION   # results and table; --walks walks.json
    python -m benchmarks.package_size                     # prints the size of the working tree

Code lines are lines with code: no blank lines, comments or docstrings. A room is a folder of the
package. A walk counts the functions of the package, and the files they stand in, that are called
on the way of one cell of a run, one submission, one training step and one slide
(`benchmarks/walks.py`).
"""

import argparse
import ast
import io
import json
import subprocess
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from madeleine_bench.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "package_size.json"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- size: written by benchmarks/package_size.py -->", "<!-- end of size -->"
COUNTS = ("code lines", "modules", "dataclasses", "public names", "functions")
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip
Sizes = dict[str, dict[str, int]]


def code_lines(text: str) -> int:
    """Return the number of lines with code: no blank lines, comments or docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def measure(package: Path) -> Sizes:
    """Return the counts of each room of a package, and their sum as "total"."""
    rooms: dict[str, Counter[str]] = {}
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        nodes = list(ast.walk(tree))
        functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        decorators = [ast.unparse(d) for node in classes for d in node.decorator_list]
        count = Counter(
            {
                "code lines": code_lines(text),
                "modules": 1,
                "dataclasses": sum(d.startswith("dataclass") for d in decorators),
                "public names": sum(not name.startswith("_") for name in _names(tree)),
                "functions": len(functions),
            }
        )
        parts = path.relative_to(package).parts
        rooms.setdefault(parts[0] if len(parts) > 1 else "(top)", Counter()).update(count)
    total = sum(rooms.values(), Counter[str]())
    return {room: {name: count[name] for name in COUNTS} for room, count in
            [*sorted(rooms.items()), ("total", total)]}  # fmt: skip


def _names(tree: ast.Module) -> set[str]:
    """Return the names that the top level of a module defines."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def measure_revision(revision: str) -> Sizes:
    """Return the counts of the package at a revision of the repository."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, "madeleine_bench"],
        check=True,
        capture_output=True,
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        return measure(Path(folder) / "madeleine_bench")


def table(results: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Return the results as Markdown: before and after, a row for each room."""
    before, after = results["before"], results["after"]
    lines = [f"| room | {' | '.join(COUNTS)} |", "|---|" + "---|" * len(COUNTS)]
    for room in [*sorted({*before, *after} - {"total"}), "total"]:
        cells = [
            f"{before.get(room, {}).get(name, 0):,} → {after.get(room, {}).get(name, 0):,}"
            for name in COUNTS
        ]
        lines.append(f"| {room} | {' | '.join(cells)} |")
    if "walks" in results:
        lines += ["", "| on the way of | functions | files |", "|---|---|---|"]
        for name, walk in results["walks"].items():
            cells = [
                f"{walk[f'{n} before']} → {walk[f'{n} after']}" for n in ("functions", "files")
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(results: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
    """Write the table into docs/architecture.md."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    write_text(PAGE, f"{head}{BEGIN}\n{table(results)}\n{tail}")


def main() -> None:
    """Measure, print, and write results and table where a revision to compare with is named."""
    parser = argparse.ArgumentParser(description="Size of the package, room by room.")
    parser.add_argument("--before", help="Revision to compare with; writes results and table.")
    parser.add_argument("--walks", type=Path, help="JSON of benchmarks/walks.py, before and after.")
    arguments = parser.parse_args()
    after = measure(ROOT / "madeleine_bench")
    if arguments.before is None:
        print(json.dumps(after, indent=1))
        return
    results = {"before": measure_revision(arguments.before), "after": after}
    if arguments.walks:
        results["walks"] = json.loads(arguments.walks.read_text(encoding="utf-8"))
    elif RESULTS.exists():
        results["walks"] = json.loads(RESULTS.read_text(encoding="utf-8")).get("walks", {})
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    write_table(results)


if __name__ == "__main__":
    main()
