"""An encoder examined on a sample of slides: every check, in order."""

from collections.abc import Sequence
from dataclasses import dataclass

from madeleine_bench.embeddings.doctor.behaviour import OnDevice, behaviour_findings
from madeleine_bench.embeddings.doctor.checks import CHECKS, Finding
from madeleine_bench.embeddings.doctor.geometry import geometry_findings
from madeleine_bench.embeddings.doctor.outputs import output_findings
from madeleine_bench.embeddings.doctor.patch_count import patch_count_findings
from madeleine_bench.embeddings.doctor.readout import readout_findings
from madeleine_bench.embeddings.doctor.sample import (
    LEAST_SLIDES,
    Rows,
    take_sample,
    usable_rows,
)
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.contract import check_contract
from madeleine_bench.errors import InputError
from madeleine_bench.types import CohortData, Progress


@dataclass(frozen=True)
class Examination:
    """What was found of an encoder on one cohort, and the embeddings it was found on.

    `rows` is None where the encoder has no embedding (it is supervised).
    """

    findings: tuple[Finding, ...]
    rows: Rows | None

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(f.check for f in self.findings if f.verdict == "fail")


def examine_encoder(
    encoder: SlideEncoder,
    data: CohortData,
    slide_ids: Sequence[str],
    progress: Progress,
    on_device: OnDevice | None = None,
) -> Examination:
    """Return one finding for each check, in the order of `CHECKS`. No label is read.

    Args:
        encoder: the encoder, made from its card.
        data: a cohort.
        slide_ids: the slides to encode, each twice and some more often; 8 at least.
        progress: told of each slide.
        on_device: makes the encoder anew on "cpu" or "cuda"; None where it cannot be told to.

    Raises:
        InputError: too few slides; a bag is broken, empty, or not what the card expects.
    """
    contract = _contract(encoder)
    if encoder.card.kind == "supervised":
        reason = "supervised: no embedding before the labels of a task have trained it"
        others = [check.skipped(reason) for name, check in CHECKS.items() if name != "contract"]
        return Examination((contract, *others), None)
    if len(slide_ids) < LEAST_SLIDES:
        raise InputError(
            f"cohort {data.cohort_id}: {len(slide_ids)} slides with features; the doctor compares "
            f"slides with each other and needs {LEAST_SLIDES} at least (--slides, or another "
            "--cohort)"
        )
    sample = take_sample(encoder, data, slide_ids, progress)
    rows = usable_rows(sample)
    findings = [contract, *output_findings(encoder.card, sample)]
    if len(rows.slides) < LEAST_SLIDES:
        made = {finding.check for finding in findings}
        reason = f"{len(rows.slides)} slides have a usable embedding; {LEAST_SLIDES} are needed"
        findings += [check.skipped(reason) for name, check in CHECKS.items() if name not in made]
        return Examination(tuple(findings), rows)
    findings += geometry_findings(rows)
    findings += behaviour_findings(encoder, sample, rows, on_device)
    findings += patch_count_findings(rows)
    findings += readout_findings(rows)
    return Examination(tuple(findings), rows)


def _contract(encoder: SlideEncoder) -> Finding:
    made = check_contract(encoder)
    broken = [f"{check.name} ({check.seen})" for check in made if not check.passed]
    if broken:
        return CHECKS["contract"].finding("fail", "broken: " + "; ".join(broken), len(broken))
    return CHECKS["contract"].finding("pass", f"{len(made)} of {len(made)} kept", 0.0)
