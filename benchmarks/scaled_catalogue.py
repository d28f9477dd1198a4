"""Copies of the catalogue in which a phantom cohort is several times as large."""

import shutil
from pathlib import Path

from ruamel.yaml import YAML

from madeleine_bench.resources import resource_folder


def scaled_catalogue(folder: Path, cohort: str, factor: float) -> Path:
    """Return a copy of the shipped catalogue in `folder`, one cohort of another size.

    Slides, cases and the number of units of each class are multiplied and rounded; the sites of
    the cohort and everything else stay.

    Args:
        folder: of the copy; it must not exist.
        cohort: id of a cohort with a phantom of one stain.
        factor: 1 is the shipped size.
    """
    shutil.copytree(resource_folder("tasks"), folder)
    yaml = YAML()
    path = folder / "cohorts" / f"{cohort}.yaml"
    spec = yaml.load(path)
    (stain,) = spec["phantom"]["slides"]
    slides = round(spec["slides"] * factor)
    spec["slides"] = spec["phantom"]["slides"][stain] = slides
    spec["cases"] = spec["phantom"]["cases"] = round(spec["cases"] * factor)
    yaml.dump(spec, path)
    for task_path in sorted(folder.glob("*.yaml")):
        task = yaml.load(task_path)
        if task["cohort"] != cohort or "classes" not in task["expected"]:
            continue
        classes = task["expected"]["classes"]
        for name in classes:
            classes[name] = round(classes[name] * factor)
        task["expected"]["n"] = sum(classes.values())
        yaml.dump(task, task_path)
    return folder
