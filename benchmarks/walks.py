"""How many functions of the package, in how many files, one act of each kind passes through.

    python -m benchmarks.walks --package FOLDER --out walks.json

FOLDER holds `madeleine_bench`: the root of a checkout, of this or of an earlier revision. The acts
are commands, so the same script walks both: one cell of a run (mean-pool, bcnb-er, linear probe),
the verification of one submission, one training step (`Run.step`), one slide (extraction).
Functions are counted when they are called in this process, with one job.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_TRACER = """
import json, sys, threading
from pathlib import Path
import madeleine_bench
root = str(Path(madeleine_bench.__file__).parent)
inside, arguments, out = sys.argv[1], sys.argv[2].split("\\x1f"), sys.argv[3]
seen, depth = set(), [0 if inside else 1]

def watch(frame, event, _):
    code = frame.f_code
    if inside and code.co_qualname == inside:
        depth[0] += (event == "call") - (event == "return")
    if event == "call" and depth[0] and code.co_filename.startswith(root):
        if not code.co_name.startswith("<"):
            seen.add((code.co_filename, code.co_qualname))

from madeleine_bench.cli.main import main
threading.setprofile(watch)
sys.setprofile(watch)
try:
    main(arguments)
except SystemExit as end:
    if end.code:
        raise
finally:
    sys.setprofile(None)
found = {"functions": len(seen), "files": len({name for name, _ in seen})}
Path(out).write_text(json.dumps(found))
"""


def walk(package: Path, folder: Path, *arguments: str, inside: str = "") -> dict[str, int]:
    """Return how many functions and files a command passes through, or one function of it."""
    out = folder / "walk.json"
    environment = {**os.environ, "PYTHONPATH": str(package), "MBENCH_DEBUG": "1"}
    command = [sys.executable, "-c", _TRACER, inside, "\x1f".join(arguments), str(out)]
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    counts: dict[str, int] = json.loads(out.read_text(encoding="utf-8"))
    return counts


def walks(package: Path) -> dict[str, dict[str, int]]:
    """Return the walk of each act by its name."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = ["run", "--encoder", "mean-pool", "--task", "bcnb-er", "--source", "phantom",
               "--protocol", "linear-probe/v2", "--jobs", "1"]  # fmt: skip
        found = {"one cell of a run": walk(package, folder, *run)}
        walk(package, folder, "submit", "pack", "mean-pool")
        found["one submission"] = walk(
            package, folder, "submit", "verify", "mean-pool.zip", "--jobs", "1"
        )
        train = ["pretrain", "madeleine", "--source", "phantom", "--device", "cpu", "--out", "out",
                 "--set", "epochs=3", "--set", "optimiser.warmup_epochs=1"]  # fmt: skip
        found["one training step"] = walk(package, folder, *train, inside="Run.step")
        picture = Image.new("RGB", (1024, 1024), (240, 240, 240))
        picture.paste((190, 90, 160), (100, 100, 900, 900))
        picture.save(folder / "picture.png")
        walk(package, folder, "slides", "convert", "picture.png", "--mpp", "0.5", "--out", "slides")
        extract = ["features", "extract", "--slides", "slides", "--cohort", "bcnb", "--out", "bags"]
        found["one slide"] = walk(package, folder, *extract)
    return found


def main() -> None:
    """Walk each act in a package and write the counts as JSON."""
    parser = argparse.ArgumentParser(description="Functions on the way of one act of each kind.")
    parser.add_argument("--package", type=Path, required=True, help="Folder with madeleine_bench.")
    parser.add_argument("--out", type=Path, required=True, help="A JSON file.")
    arguments = parser.parse_args()
    found = walks(arguments.package.resolve())
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
