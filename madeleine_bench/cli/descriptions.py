"""What is said about a task, a lock, a schema or an encoder."""

import json
from pathlib import Path

import typer

from madeleine_bench.cli.console import print_pairs, print_table
from madeleine_bench.encoders.registry import EncoderEntry
from madeleine_bench.encoders.trident import needs, weights_page
from madeleine_bench.errors import CheckFailed
from madeleine_bench.files import write_text
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.card import EncoderCard, PatchEncoderCard
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.loader import Spec
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import ClassLabels, TaskSpec

SCHEMAS: dict[str, type[Spec]] = {
    "task": TaskSpec,
    "cohort": CohortSpec,
    "protocol": ProtocolSpec,
    "encoder": EncoderCard,
    "patch-encoder": PatchEncoderCard,
}


def describe_task(catalogue: Catalogue, name: str) -> None:
    """Print a task with the provenance of its facts.

    Raises:
        InputError: no task or several are called so.
    """
    for task in catalogue.select([name]):
        cohort = catalogue.cohorts[task.cohort]
        if isinstance(task.labels, ClassLabels):
            words = "; ".join(f"{word!r} = {name}" for word, name in task.labels.map.items())
            labels = f"column {task.labels.column!r}: {words}"
            if task.labels.missing:
                labels += f"; no label: {', '.join(map(repr, task.labels.missing))}"
        else:
            labels = (
                f"days in {task.labels.time!r}, event where {task.labels.event!r} is "
                f"{task.labels.event_value!r}"
            )
        expected: object = task.expected.classes or {"events": task.expected.events}
        print_pairs(
            [
                ("task", f"{task.name}  {task.title}"),
                ("family", f"{task.family} ({task.status})"),
                ("cohort", f"{cohort.id}: {cohort.title}"),
                ("access", f"{cohort.access.status}. {cohort.access.how}"),
                ("unit", f"{task.unit}, stains {', '.join(task.stains)}"),
                ("labels", f"{task.labels.type}, {labels}"),
                ("expected", f"n={task.expected.n}, {expected}"),
                ("splits", f"{task.splits.scheme}, {task.splits.folds} folds, "
                           f"{task.splits.repeats} repeat(s)"),
                ("metric", f"{task.metric.name}, chance {task.metric.chance}"),
                ("protocols", ", ".join(task.protocols)),
                ("citation", task.citation),
            ]
        )  # fmt: skip
        facts = [[fact, p.status, p.source] for fact, p in task.provenance.items()]
        print_table("", ["fact", "status", "source"], facts)


def describe_encoder(entry: EncoderEntry) -> None:
    """Print the card of an encoder."""
    card = entry.card.model_dump(mode="json", exclude={"training_cohorts"})
    cohorts = entry.card.training_cohorts
    trained = "unknown" if cohorts is None else ", ".join(cohorts) or "none"
    pairs = [(key, str(value)) for key, value in card.items() if value not in (None, {}, "")]
    pairs += [("training cohorts", trained)]
    if needed := needs(entry.card):
        pairs += [("needs", f"{needed}: {weights_page(entry.card)}")]
    print_pairs([*pairs, ("card", str(entry.path))])


def write_lock(folder: Path | None) -> None:
    """Write tasks.lock.

    Raises:
        CheckFailed: a task's hash changed while its version did not.
    """
    from madeleine_bench.runner.lock import changes, lock_text, make_lock, read_lock

    path = _lock_path(folder)
    new = make_lock(load_catalogue(folder))
    if path.is_file() and (moved := changes(read_lock(path), new)):
        raise CheckFailed(_moved_text(path, moved))
    write_text(path, lock_text(new))
    typer.echo(f"wrote {path}: {len(new)} tasks")


def check_lock(folder: Path | None) -> None:
    """Compare tasks.lock with the catalogue.

    Raises:
        CheckFailed: a hash moved, or a task is not locked.
    """
    from madeleine_bench.runner.lock import changes, lock_text, make_lock, read_lock

    path = _lock_path(folder)
    old, new = read_lock(path), make_lock(load_catalogue(folder))
    if moved := changes(old, new):
        raise CheckFailed(_moved_text(path, moved))
    if lock_text(old) != lock_text(new):
        raise CheckFailed(f"{path} is behind the catalogue; write it again: mbench tasks lock")
    typer.echo(f"{path}: {len(new)} tasks unchanged")


def write_schema(kind: str, out: Path | None) -> None:
    """Print the JSON Schema of a kind of YAML file, or write it to a file."""
    text = json.dumps(SCHEMAS[kind].model_json_schema(), indent=1, sort_keys=True) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}", err=True)


def _lock_path(folder: Path | None) -> Path:
    return (folder or resource_folder("tasks")) / "tasks.lock"


def _moved_text(path: Path, moved: list[str]) -> str:
    return (
        f"{path}: what moves a score changed, and the version did not:\n  "
        + "\n  ".join(moved)
        + "\nGive each of these tasks a higher 'version' and say so in CHANGELOG.md under Scores."
    )
