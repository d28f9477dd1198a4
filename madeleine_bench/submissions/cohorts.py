"""The verifier's own cohorts: labels, splits and, where slides are encoded again, bags."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from madeleine_bench.data.config import Config, load_config
from madeleine_bench.errors import InputError
from madeleine_bench.runner.cohorts import OpenCohort, PhantomChoice, open_cohort
from madeleine_bench.runner.plan import board_of, slides_with_bags
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.workspace import SourceChoice, Workspace
from madeleine_bench.submissions.bundle import Bundle
from madeleine_bench.submissions.findings import Finding, Level
from madeleine_bench.submissions.text import shown

_PHANTOM = re.compile(r"phantom(-signal-([0-9.]{1,8}))?(-seed-([0-9]{1,9}))?")
_SHOWN_IDS = 3


@dataclass(frozen=True)
class VerifyRequest:
    """How to verify.

    Attributes:
        level: the rung of the ladder to climb to.
        source: "auto" takes generated phantoms for a phantom board, and your files for others.
        config: path of mbench.toml; None takes the one of the working folder.
        results: folder of the splits and of known encoders to compare with.
        catalogue: folder of tasks; None takes the shipped one.
        jobs: worker processes.
        allow_code: run the encoder's code although it is not part of madeleine-bench.
        sample: slides of each cohort that V2 encodes again.
        draw: what the choice of those slides hangs on; the submitter must not know it before.
        time_limit_s: the most that all of it may take.
    """

    level: Level = "V1"
    source: SourceChoice = "auto"
    config: Path | None = None
    results: Path = Path("results")
    catalogue: Path | None = None
    jobs: int = 1
    allow_code: bool = False
    sample: int = 16
    draw: str = "0"
    time_limit_s: float = 3600.0


@dataclass(frozen=True)
class OwnCohorts:
    """The verifier's cohorts by id, and where they were configured."""

    cohorts: dict[str, OpenCohort]
    config: Config


def open_own_cohorts(bundle: Bundle, request: VerifyRequest, catalogue: Catalogue) -> OwnCohorts:
    """Return the verifier's cohorts for those the bundle has records of.

    Raises:
        InputError: a cohort is not to be had here, or is of another board than the bundle's.
    """
    config = load_config(request.config)
    config.check(catalogue.cohorts, catalogue.tasks)
    board = bundle.manifest.board
    source, phantom = _source(board, request.source)
    workspace = Workspace(
        request.results, source, phantom_signal=phantom.signal, phantom_seed=phantom.seed
    )
    found: dict[str, OpenCohort] = {}
    for cohort_id in sorted({claim.record.task.cohort for claim in bundle.claims}):
        if cohort_id not in catalogue.cohorts:
            continue  # said already, as a false claim
        cohort = open_cohort(workspace, catalogue, cohort_id, config)
        if (own := board_of(cohort.data)) != board:
            raise InputError(
                f"{bundle.path} is of board '{board}', and cohort {cohort_id} is of board '{own}' "
                f"here. Name a mbench.toml with the data of that board (--config), or verify "
                "without data (--level V0)"
            )
        found[cohort_id] = cohort
    return OwnCohorts(found, config)


def check_ids(bundle: Bundle, own: OwnCohorts) -> Iterator[Finding]:
    """Yield a finding for each cohort whose slides are not the verifier's."""
    for cohort_id, cohort in own.cohorts.items():
        claimed = bundle.embeddings.get(cohort_id)
        if claimed is None:
            continue
        known = cohort.data.slides["slide_id"].tolist()
        there = set(claimed.embeddings.ids)
        unknown = sorted(there - set(known))
        missing = sorted(set(slides_with_bags(cohort.data)) - there)
        if unknown:
            hint = did_you_mean(unknown[0], missing or known) if len(unknown) < 4 else ""
            yield Finding(
                "V1", claimed.member, "slide ids", f"{len(unknown)} that are not of {cohort_id}: "
                f"{_some(unknown)}", f"no such slides in {cohort.where}{hint}",
            )  # fmt: skip
        if missing:
            yield Finding(
                "V1", claimed.member, "slide ids", f"no embedding of {len(missing)} slide(s)",
                f"slides with features here: {_some(missing)}",
                "A slide left out changes what is scored; encode every slide",
            )  # fmt: skip


def _source(board: str, asked: SourceChoice) -> tuple[SourceChoice, PhantomChoice]:
    match = _PHANTOM.fullmatch(board)
    if asked == "local" or match is None:
        # Boards such as local, phantom-rendered and phantom-own-labels come from files.
        return ("local" if asked != "phantom" else "phantom"), PhantomChoice()
    signal, seed = match.group(2), match.group(4)
    try:
        choice = PhantomChoice(float(signal) if signal else None, int(seed) if seed else None)
    except ValueError as error:
        raise InputError(f"no phantom is called {shown(board)}") from error
    return "phantom", choice


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(shown(name) for name in ids[:_SHOWN_IDS]) + more
