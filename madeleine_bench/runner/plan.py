"""The plan of a run: which cells there are, what each is made from, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from madeleine_bench.data.config import Config, load_config
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder, fingerprint
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.protocols.scoring import SCORING_VERSION
from madeleine_bench.runner.cohorts import OpenCohort, PhantomChoice, SourceChoice, open_cohort
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue, misfit, task_hash
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import CohortData, Splits, Units, board_name

Resume = Literal["only-missing", "always", "never"]


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        encoders: names or card paths.
        tasks: ids, globs or "all".
        protocols: names; empty means those each task declares.
        source: "auto" takes local files where configured.
        results: the results folder.
        jobs: worker processes.
        resume: "only-missing" computes what is not there; "always" only reads what is there;
            "never" computes everything again.
        config: path of mbench.toml; None takes the one of the working folder.
        catalogue: folder of tasks; None takes the shipped one.
        phantom: signal and seed of phantoms.
    """

    encoders: tuple[str, ...]
    tasks: tuple[str, ...]
    protocols: tuple[str, ...] = ()
    source: SourceChoice = "auto"
    results: Path = Path("results")
    jobs: int = 1
    resume: Resume = "only-missing"
    config: Path | None = None
    catalogue: Path | None = None
    phantom: PhantomChoice = field(default_factory=PhantomChoice)


@dataclass(frozen=True)
class Assessment:
    """One task under one protocol, with its units and frozen splits: all but the encoder."""

    task: TaskSpec
    protocol: ProtocolSpec
    units: Units
    splits: Splits
    task_hash: str


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know before it starts to compute.

    Attributes:
        catalogue: the catalogue the tasks are of.
        encoders: entry and fingerprint of each encoder, in the order asked for.
        cohorts: the cohorts in use, by id.
        assessments: every task under every protocol, sorted.
    """

    catalogue: Catalogue
    encoders: tuple[tuple[EncoderEntry, str], ...]
    cohorts: dict[str, OpenCohort]
    assessments: tuple[Assessment, ...]

    @property
    def boards(self) -> list[str]:
        """The boards that the records of this run belong to, sorted."""
        return sorted({board_of(cohort.data) for cohort in self.cohorts.values()})


def board_of(data: CohortData) -> str:
    """Return the board of a cohort's records: "local", "phantom", or a variant of its own."""
    return board_name(data.source, data.variant)


def make_plan(request: Request) -> Plan:
    """Return the plan of a run. All that can be wrong with the request is found here.

    Raises:
        InputError: an unknown name, a broken file, labels or splits that cannot be used.
    """
    if request.jobs < 1:
        raise InputError(f"--jobs must be at least 1, found {request.jobs}")
    catalogue = load_catalogue(request.catalogue)
    encoders = _find_encoders(request.encoders)
    chosen = catalogue.select(request.tasks)
    config = load_config(request.config)
    config.check(catalogue.cohorts, catalogue.tasks)
    cohorts = {
        cohort_id: open_cohort(
            catalogue,
            cohort_id,
            request.source,
            config,
            request.results / "cache",
            request.phantom,
        )
        for cohort_id in sorted({task.cohort for task in chosen})
    }
    _refuse_phantom_only(encoders, cohorts)
    assessments: list[Assessment] = []
    for declared in chosen:
        cohort = cohorts[declared.cohort]
        task = next(task for task in cohort.tasks if task.id == declared.id)
        protocols = _protocols(request, catalogue, task)
        assessments.extend(assess(cohort, task, protocols, config, request.results))
    return Plan(catalogue, encoders, cohorts, tuple(assessments))


def assess(
    cohort: OpenCohort,
    task: TaskSpec,
    protocols: Sequence[ProtocolSpec],
    config: Config,
    results: Path,
) -> list[Assessment]:
    """Return a task of an open cohort under each protocol: its units, and its frozen splits.

    Raises:
        InputError: labels or splits that cannot be used.
    """
    units = build_units(task, cohort.data, cohort.where)
    given = config.splits_of(task) if isinstance(cohort.data, LocalCohort) else None
    folder = results / "splits" / board_of(cohort.data)
    found = []
    for protocol in protocols:
        splits = frozen_splits(folder, task, protocol, units, given)
        declared_hash = task_hash(task, protocol, units.hash, splits.hash)
        found.append(Assessment(task, protocol, units, splits, declared_hash))
    return found


def resume_key(embeddings: str, assessment: Assessment) -> str:
    """Return the hash of all a record is made from: embeddings, task, protocol, scoring version."""
    return hash_json([embeddings, assessment.task_hash, assessment.protocol.name, SCORING_VERSION])


def embeddings_key(encoder_fingerprint: str, data: CohortData, slide_ids: Sequence[str]) -> str:
    """Return the hash of all that embeddings are made from: encoder, bags, and facts of slides."""
    facts = data.slides[["slide_id", "case_id", "stain", "site"]].itertuples(index=False)
    known = {row[0]: list(row) for row in facts}
    return hash_json([encoder_fingerprint, [[*known[s], data.content_key(s)] for s in slide_ids]])


def slides_with_bags(data: CohortData) -> list[str]:
    """Return the slide ids that have a bag, sorted."""
    return [slide for slide in data.slides["slide_id"] if slide not in data.no_bag]


def _find_encoders(names: Sequence[str]) -> tuple[tuple[EncoderEntry, str], ...]:
    if not names:
        raise InputError("no encoder given: --encoder NAME (mbench encoders list)")
    found: dict[str, EncoderEntry] = {}
    for name in names:
        entry = find_encoder(name)
        other = found.get(entry.card.name)
        if other is not None and other.path != entry.path:
            raise InputError(
                f"two encoders are called '{entry.card.name}': {other.path} and {entry.path}"
            )
        found[entry.card.name] = entry
    return tuple((entry, fingerprint(entry)) for entry in found.values())


def _protocols(request: Request, catalogue: Catalogue, task: TaskSpec) -> list[ProtocolSpec]:
    if not request.protocols:
        return [catalogue.protocols[name] for name in task.protocols]
    asked = [catalogue.protocol(name) for name in request.protocols]
    fitting = [protocol for protocol in asked if task.labels.type in protocol.labels]
    for protocol in fitting or asked:
        if fault := misfit(task, protocol):
            raise InputError(f"--protocol: {fault}")
    return fitting


def _refuse_phantom_only(
    encoders: tuple[tuple[EncoderEntry, str], ...], cohorts: dict[str, OpenCohort]
) -> None:
    files = [c for c, cohort in cohorts.items() if isinstance(cohort.data, LocalCohort)]
    for entry, _ in encoders:
        if entry.card.phantom_only and files:
            raise InputError(
                f"encoder {entry.card.name} reads what only generated phantom bags have, and "
                f"{files[0]} is read from files; leave it out, or use --source phantom"
            )
