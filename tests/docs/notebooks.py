"""The notebooks of docs/notebooks: run them, compare what they print, show them on the site.

python -m tests.docs.notebooks        # runs all of them and stores their outputs
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.docs.page_commands import ROOT
from tests.local_ucsb import write_local_ucsb

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = tuple(sorted(FOLDER.glob("*.ipynb")))
LONGEST_S = 60
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STYLE = re.compile(r"<style.*?</style>\s*|<div>\s*|\s*</div>", re.S)
_ATTRIBUTES = re.compile(r' (?:border="1"|class="dataframe"|style="text-align: right;")')


def read(path: Path) -> Any:
    """A notebook."""
    return nbformat.read(path, as_version=4)


def executed(path: Path, folder: Path) -> Any:
    """A notebook with the outputs of a run in a folder; it fetches the data if there is no copy."""
    write_local_ucsb(folder / "data" / "ucsb-breast")
    notebook = read(path)
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    client = NotebookClient(
        notebook, timeout=LONGEST_S, record_timing=False, resources={"metadata": {"path": folder}}
    )
    client.execute(env={**os.environ, "PATH": binaries, "PYTHONPATH": python})
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """The outputs of a cell, printed text in one piece each stream and without colours."""
    joined: list[Any] = []
    for output in outputs:
        if "name" in output and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if "text" in output:
            output.text = _COLOURS.sub("", output.text)
    return joined


def outputs(notebook: Any) -> Iterator[tuple[int, Any]]:
    """Each output with the number of its cell; of a mapping of types, the one that is shown."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            yield number, output


def printed(notebook: Any) -> list[str]:
    """What the cells print, figures aside, each text with the number of its cell."""
    return [
        f"[{number}] {output.text if 'text' in output else output.data['text/plain']}".rstrip()
        for number, output in outputs(notebook)
        if "image/png" not in output.get("data", {})
    ]


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: fences of what is typed and printed, tables, and figures."""
    parts = [f"[Download this notebook]({path.name})\n"]
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace(".ipynb)", ".md)"))
            continue
        bash = cell.source.startswith("%%bash\n")
        source = cell.source.removeprefix("%%bash\n")
        parts.append(f"```{'bash' if bash else 'python'}\n{source}\n```")
        parts += [_shown(output, cell.metadata.get("alt", "")) for output in cell.outputs]
    return "\n\n".join([*parts[1:2], parts[0], *parts[2:]]) + "\n"


def _shown(output: Any, alt: str) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![{alt}](data:image/png;base64,{data['image/png'].replace(chr(10), '')})"
    if "text/html" in data:
        return _ATTRIBUTES.sub("", _STYLE.sub("", data["text/html"])).strip()
    text = output.text if "text" in output else data["text/plain"]
    return f"``` {{.text .printed}}\n{text.rstrip()}\n```"


if __name__ == "__main__":
    for each in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as scratch:
            nbformat.write(executed(each, Path(scratch)), each)
