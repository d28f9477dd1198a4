"""The verification ladder, from the bottom up; it stops where the asked rung is reached."""

from dataclasses import dataclass, field
from pathlib import Path

from madeleine_bench.encoders.registry import EncoderEntry
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.bundle import Bundle
from madeleine_bench.submissions.claims import check_claims
from madeleine_bench.submissions.cohorts import (
    OwnCohorts,
    VerifyRequest,
    check_ids,
    open_own_cohorts,
)
from madeleine_bench.submissions.findings import Finding, Level, level_reached
from madeleine_bench.submissions.recompute import Cell, recompute, score_claims
from madeleine_bench.submissions.reencode import reencode, runnable_encoder, stage_rows
from madeleine_bench.types import Progress, Units

# V3 scores come from rows that float noise moved; one pair of slides that changes places moves an
# AUROC by 1 / (positives x negatives), so these cannot agree to 1e-6.
REPRODUCED_TOLERANCE = 0.005


@dataclass(frozen=True)
class Verification:
    """How far up the ladder a submission came.

    Attributes:
        bundle: what was verified.
        asked: the rung that was asked for.
        reached: the highest rung that holds; None where the bundle contradicts itself.
        findings: every false claim.
        notes: what else there is to know.
        records: recomputed records by (task, protocol); empty at V0.
        units: labels and slides of the recomputed tasks.
        own: the verifier's cohorts; None at V0.
    """

    bundle: Bundle
    catalogue: Catalogue
    asked: Level
    reached: Level | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    records: dict[Cell, Record] = field(default_factory=dict)
    units: dict[str, Units] = field(default_factory=dict)
    own: OwnCohorts | None = None

    @property
    def verified(self) -> bool:
        """Whether the asked rung was reached."""
        return self.reached == self.asked


def verify(
    bundle: Bundle, request: VerifyRequest, scratch: Path, progress: Progress
) -> Verification:
    """Return how far up the ladder a bundle comes; recomputed predictions lie in `scratch`.

    Where a rung does not hold, the ones up to V1 are still climbed, to say what exactly differs;
    slides are encoded again only where V1 holds.

    Raises:
        InputError: the verifier's data or catalogue cannot be used, or code would have to be run
            that was not allowed.
    """
    catalogue = load_catalogue(request.catalogue)
    findings = check_claims(bundle, catalogue)
    if request.level == "V0":
        return _verdict(bundle, catalogue, "V0", findings, [])
    entry = None
    if request.level in ("V2", "V3"):
        entry = runnable_encoder(bundle, request.allow_code, scratch / "encoder")
    progress.phase("open cohorts", 0)
    own = open_own_cohorts(bundle, request, catalogue)
    findings += check_ids(bundle, own)
    done = recompute(bundle, own, catalogue, request, scratch / "results", progress)
    findings += done.findings
    notes = [
        f"{len(done.records)} of {len(bundle.claims)} records recomputed, {done.equal} equal to "
        f"the last bit; largest difference of a score elsewhere {done.largest:.1e}"
    ]
    if entry is not None and not findings:
        more, said = _climb_on(bundle, own, catalogue, entry, request, scratch, progress)
        findings += more
        notes += said
    elif entry is not None:
        notes.append("no slide was encoded again: V1 does not hold")
    verdict = _verdict(bundle, catalogue, request.level, findings, notes)
    return Verification(**{**vars(verdict), "records": done.records, "units": done.units,
                           "own": own})  # fmt: skip


def _climb_on(
    bundle: Bundle,
    own: OwnCohorts,
    catalogue: Catalogue,
    entry: EncoderEntry,
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> tuple[list[Finding], list[str]]:
    """Return what V2, and V3 where asked for, found and noted."""
    again = reencode(bundle, own, entry, request, scratch, progress)
    findings, notes = list(again.findings), list(again.notes)
    if request.level == "V2":
        notes.append(f"slides chosen by --draw {request.draw} --sample {request.sample}")
    elif not findings:
        staged = stage_rows(bundle, again, scratch / "reproduced")
        records, _, failed = score_claims(
            staged, own, catalogue, request, scratch / "reproduced", progress
        )
        findings += _compare_reproduced(bundle, records, failed)
    return findings, notes


def _compare_reproduced(
    bundle: Bundle, records: dict[Cell, Record], failed: dict[Cell, str]
) -> list[Finding]:
    findings = []
    for claim in bundle.claims:
        cell = (claim.record.task.id, claim.record.protocol)
        claimed = claim.record.scores.main
        found = records[cell].scores.main.value if cell in records else None
        if found is None or abs(claimed.value - found) > REPRODUCED_TOLERANCE:
            findings.append(
                Finding("V3", claim.member, claimed.metric, f"{claimed.value:.6f}",
                        "no score" if found is None else f"{found:.6f}", failed.get(cell, ""))
            )  # fmt: skip
    return findings


def _verdict(
    bundle: Bundle,
    catalogue: Catalogue,
    asked: Level,
    findings: list[Finding],
    notes: list[str],
) -> Verification:
    reached = level_reached(asked, findings)
    return Verification(bundle, catalogue, asked, reached, tuple(findings), tuple(notes))
