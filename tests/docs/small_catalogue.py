"""The shipped catalogue with small phantoms, and an `mbench` that takes it for the shipped one."""

import shutil
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from madeleine_bench.resources import resource_folder
from madeleine_bench.runner.lock import lock_text, make_lock
from madeleine_bench.specs.catalogue import load_catalogue

SHARE = 0.08
_LEAST_SLIDES, _LEAST_CLASS, _SHOTS = 40, 6, [1, 2]
_WRAPPER = """\
#!{python}
import sys
from pathlib import Path

import madeleine_bench.resources as resources

shipped = resources.resource_folder
resources.resource_folder = lambda name: Path({folder!r}) if name == {name!r} else shipped(name)

from madeleine_bench.cli.main import main

if __name__ == "__main__":
    main(sys.argv[1:])
"""


def small_catalogue(folder: Path) -> Path:
    """Write the catalogue with phantoms of about 8% of the slides; what they are of stays."""
    shutil.copytree(resource_folder("tasks"), folder)
    yaml = YAML()
    yaml.width = 1000  # a long key that is broken over two lines is no key
    units = {p.stem: _shrink_cohort(p, yaml) for p in sorted((folder / "cohorts").glob("*.yaml"))}
    for path in sorted(folder.glob("*.yaml")):
        task = yaml.load(path)
        if (cohort := units[task["cohort"]]) is not None:
            _shrink_task(task, cohort)
            yaml.dump(task, path)
    (folder / "tasks.lock").write_text(lock_text(make_lock(load_catalogue(folder))))
    return folder


def write_wrapper(folder: Path, stand_in: Path) -> Path:
    """Write the command `mbench` into a folder for the PATH, and return that folder.

    It takes the other folder for the one of its name that ships: a catalogue for `tasks`.
    """
    folder.mkdir(parents=True)
    script = folder / "mbench"
    script.write_text(
        _WRAPPER.format(python=sys.executable, folder=str(stand_in), name=stand_in.name)
    )
    script.chmod(0o755)
    return folder


def _shrink_cohort(path: Path, yaml: YAML) -> dict[str, Any] | None:
    """Make a cohort's phantom small and return the cohort; None where it has no phantom."""
    spec: dict[str, Any] = yaml.load(path)
    if "phantom" not in spec:
        return None
    phantom = spec["phantom"]
    for stain, count in phantom["slides"].items():
        phantom["slides"][stain] = min(count, max(_LEAST_SLIDES, round(SHARE * count)))
    spec["slides"] = sum(phantom["slides"].values())
    one_each = len(phantom["slides"]) == 1
    cases = min(spec["cases"], max(_LEAST_SLIDES, round(SHARE * spec["cases"])))
    spec["cases"] = phantom["cases"] = spec["slides"] if one_each else cases
    phantom["patches"] = [20, 40]
    yaml.dump(spec, path)
    return spec


def _shrink_task(task: dict[str, Any], cohort: dict[str, Any]) -> None:
    by_case = task.get("unit", cohort["task_defaults"].get("unit")) == "case"
    stains = task.get("stains", cohort["task_defaults"].get("stains"))
    slides = sum(cohort["phantom"]["slides"][stain] for stain in stains)
    most = cohort["cases"] if by_case else slides
    expected = task["expected"]
    if "classes" not in expected:
        expected["events"] = max(8, round(expected["events"] * most / expected["n"]))
        expected["n"] = most
        return
    share = min(1.0, most / expected["n"])
    classes = {k: max(_LEAST_CLASS, int(share * n)) for k, n in expected["classes"].items()}
    largest = max(classes, key=lambda name: classes[name])
    classes[largest] -= max(0, sum(classes.values()) - most)
    expected["classes"].update(classes)
    expected["n"] = sum(classes.values())
    task["shots"] = _SHOTS
