"""Tasks by case on cohorts of several stains: fusions compared, and stains dropped one by one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from madeleine_bench.data.case_bags import CaseBags
from madeleine_bench.embeddings.store import Embeddings, read_embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.runner.cohorts import PhantomChoice
from madeleine_bench.runner.embedding import Ready, ToEmbed, embed
from madeleine_bench.runner.failures import Failure
from madeleine_bench.runner.plan import Assessment, Cell, Plan, Request, bags_to_embed, make_plan
from madeleine_bench.runner.run import to_embed
from madeleine_bench.runner.stain_subsets import (
    FusionScore,
    SubsetScore,
    score_fusions,
    score_stain_subsets,
)
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.protocol import Fusion
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import SourceChoice, Workspace
from madeleine_bench.types import CohortData, Progress


@dataclass(frozen=True)
class MultistainRequest:
    """What the user asked for; see `runner.plan.Request` for what is not said here.

    Attributes:
        protocol: id of a protocol that starts from embeddings; its -early and -per-stain
            siblings, where there are such, are compared with it.
        alone: the stain that all stains are held against.
    """

    encoders: tuple[str, ...]
    tasks: tuple[str, ...]
    protocol: str = "linear-probe"
    alone: str = "H&E"
    source: SourceChoice = "auto"
    results: Path = Path("results")
    jobs: int = 1
    config: Path | None = None
    catalogue: Path | None = None
    phantom: PhantomChoice = field(default_factory=PhantomChoice)


@dataclass(frozen=True)
class TaskByStains:
    """What one encoder makes of one task: fusions, and every subset of the stains."""

    encoder: str
    task: TaskSpec
    data: CohortData
    lacking: Mapping[str, int]
    fusions: tuple[FusionScore, ...]
    subsets: tuple[SubsetScore, ...]


@dataclass(frozen=True)
class MultistainReport:
    """What was found, by task and encoder, and why an encoder could not be used."""

    protocol: str
    alone: str
    found: tuple[TaskByStains, ...]
    failures: tuple[tuple[str, Failure], ...]


def multistain(request: MultistainRequest, progress: Progress) -> MultistainReport:
    """Return what fusions and subsets of stains are worth. Embeddings are those of `mbench run`.

    Raises:
        InputError: the request cannot be carried out, or a task has no case of several stains.
    """
    catalogue = load_catalogue(request.catalogue)
    base = catalogue.protocol(request.protocol)
    if base.trains_networks or base.fusion != "late":
        raise InputError(
            f"--protocol {base.name}: name one that starts from embeddings and fuses late, such as "
            "linear-probe; its other fusions are compared by themselves"
        )
    siblings = [
        p.name
        for p in catalogue.protocols.values()
        if p.id in (f"{base.id}-early", f"{base.id}-per-stain") and p.version == base.version
    ]
    for task in catalogue.select(request.tasks):
        _check(task, request.alone)
    plan = make_plan(
        Request(
            request.encoders, request.tasks, (base.name, *siblings),
            Workspace(request.results, request.source, request.config, request.catalogue,
                      request.jobs, request.phantom.signal, request.phantom.seed),
        )
    )  # fmt: skip
    ready, failed = embed(
        _wanted(plan, request.alone), request.results, request.jobs, "only-missing", progress
    )
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        cells.setdefault((cell.assessment.task.id, cell.entry.card.name), []).append(cell)
    broken = {encoder for encoder, _ in failed}
    usable = {place: own for place, own in cells.items() if place[1] not in broken}
    progress.phase("score", len(usable))
    found = []
    for (task_id, encoder), own in usable.items():
        found.append(_by_stains(plan, own, request.alone, ready))
        progress.advance(f"{encoder} {task_id}")
    failures = tuple((f"{encoder} on {name}", why) for (encoder, name), why in failed.items())
    return MultistainReport(base.name, request.alone, tuple(found), failures)


def _check(task: TaskSpec, alone: str) -> None:
    if task.unit != "case" or len(task.stains) < 2:
        raise InputError(
            f"{task.id} is no task by case on several stains (unit {task.unit}, stains "
            f"{', '.join(task.stains)}); name one that is, such as bwh-kidney-amr"
        )
    if alone not in task.stains:
        raise InputError(f"--alone '{alone}': {task.id} has stains {', '.join(task.stains)}")


def _wanted(plan: Plan, alone: str) -> list[ToEmbed]:
    """Return what a run embeds, and cases as bags of the one stain."""
    wanted = {each.name: each for each in to_embed(plan)}
    for cell in plan.cells:
        if cell.assessment.cases_as_bags:
            data = plan.cohorts[cell.assessment.task.cohort].data
            encoders = wanted[bags_to_embed(cell.assessment, data)[0]].encoders
            name = _one_stain(cell.assessment, alone)
            wanted.setdefault(name, ToEmbed(name, CaseBags(data, (alone,)), encoders))
    return list(wanted.values())


def _one_stain(assessment: Assessment, alone: str) -> str:
    """Return the name of the cases of a cohort as bags of one stain."""
    word = "".join(c for c in alone.lower() if c.isalnum())
    return f"{assessment.task.cohort}-cases-{word}"


def _by_stains(plan: Plan, cells: list[Cell], alone: str, ready: Ready) -> TaskByStains:
    task, encoder = cells[0].assessment.task, cells[0].entry.card.name
    data = plan.cohorts[task.cohort].data
    slides = data.slides
    stain_of = dict(zip(slides["slide_id"], slides["stain"], strict=True))
    assessments: dict[Fusion, Assessment] = {}
    of_cases: dict[tuple[str, ...], Embeddings] = {}
    for cell in cells:
        assessments[cell.assessment.protocol.fusion] = cell.assessment
        if cell.assessment.cases_as_bags:
            whole, _ = bags_to_embed(cell.assessment, data)
            for stains, name in (
                (task.stains, whole),
                ((alone,), _one_stain(cell.assessment, alone)),
            ):
                of_cases[stains] = read_embeddings(ready[encoder, name][0])
    of_slides = read_embeddings(ready[encoder, task.cohort][0])
    late = assessments["late"]
    return TaskByStains(
        encoder=encoder,
        task=task,
        data=data,
        lacking={stain: _lacking(late, stain, stain_of) for stain in task.stains},
        fusions=tuple(score_fusions(assessments, of_slides, of_cases, alone, stain_of)),
        subsets=tuple(score_stain_subsets(late, of_slides, stain_of)),
    )


def _lacking(assessment: Assessment, stain: str, stain_of: Mapping[str, str]) -> int:
    """Return how many cases have no slide of a stain."""
    own = assessment.units.slides.values()
    return sum(all(stain_of[slide] != stain for slide in slides) for slides in own)
