"""`mbench doctor`: an encoder examined on slides of cohorts, or this environment, as a report.

No label of a task is read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from madeleine_bench import __version__
from madeleine_bench.embeddings.cloud import (
    LEAST_SLIDES,
    Rows,
    cloud_findings,
    named,
)
from madeleine_bench.embeddings.compute import check_bag
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.contract import (
    CHECKS,
    UNSETTLED,
    Answer,
    Finding,
    Probes,
    Verdict,
    ask,
    check_contract,
    patches_of,
    repetition_findings,
    spread_of,
)
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.hashing import hash_array
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.report import Report, Table
from madeleine_bench.runner.checks import check_bags
from madeleine_bench.runner.cohorts import open_cohort
from madeleine_bench.runner.environment import examine_environment
from madeleine_bench.runner.plan import slides_with_bags
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Bag, CohortData, Progress

PROBES = 8
LEAST_PATCHES = 4
_SHOWN = {"warn": "WARN", "fail": "FAIL"}
# It has sites, and its phantom needs no file.
DEFAULT_COHORT = "tcga-breast"
PHANTOM_NOTE = "PHANTOM: synthetic slides; findings on site or stain concern the phantom only."


@dataclass(frozen=True)
class Examination:
    """What was found of an encoder on one cohort, and the embeddings it was found on.

    `rows` is None where the encoder has no embedding (it is supervised).
    """

    data: CohortData
    findings: Sequence[Finding]
    rows: Rows | None


def environment_report(results: Path) -> Report:
    """Return what is found of this environment.

    Args:
        results: the results folder; it need not exist.

    Raises:
        InputError: there is a file where results are to go.
    """
    findings = examine_environment(results)
    document = {"findings": [asdict(finding) for finding in findings]}
    return _report("environment", document, [("Environment", findings)])


def encoder_report(
    workspace: Workspace, encoder: str, cohorts: Sequence[str], slides: int, progress: Progress
) -> Report:
    """Return what is found of an encoder on each cohort; see `examine`.

    Raises:
        InputError: as `examine`.
    """
    card = find_encoder(encoder).card
    parts, documents = [], []
    for examination in examine(workspace, encoder, cohorts, slides, progress):
        data, rows = examination.data, examination.rows
        cohort, phantom = data.cohort_id, data.source == "phantom"
        patches = list(rows.slides["patches"]) if rows else []
        title = f"{card.name} {card.revision} on {'PHANTOM ' * phantom}{cohort}"
        parts.append((title, examination.findings))
        documents.append(
            {
                "cohort": cohort,
                "phantom": phantom,
                "notice": PHANTOM_NOTE * phantom,
                "usable_slides": len(patches),
                "median_patches": float(np.median(patches)) if patches else None,
                "findings": [asdict(finding) for finding in examination.findings],
            }
        )
    about = {"name": card.name, "revision": card.revision, "kind": card.kind}
    note = PHANTOM_NOTE * any(document["phantom"] for document in documents)
    return _report("encoder", {"encoder": about, "cohorts": documents}, parts, note)


def examine(
    workspace: Workspace, encoder: str, cohorts: Sequence[str], slides: int, progress: Progress
) -> list[Examination]:
    """Return what is found of an encoder on each cohort. Nothing is cached, no label is read.

    Args:
        workspace: where cohorts are.
        encoder: name, or path of a card.
        cohorts: ids; empty means those of mbench.toml, or the phantom of tcga-breast.
        slides: how many slides of each cohort are drawn.
        progress: told of each slide.

    Raises:
        InputError: an unknown name, a cohort that cannot be read, or bags that the encoder is not
            made for.
    """
    catalogue, config = workspace.open()
    entry = find_encoder(encoder)
    if not cohorts and workspace.source != "phantom":
        cohorts = tuple(config.cohorts)
    opened = []
    for cohort_id in cohorts or (DEFAULT_COHORT,):
        cohort = open_cohort(workspace, catalogue, cohort_id, config)
        check_bags([entry.card], cohort.data, cohort.where)
        opened.append(cohort.data)
    made = load_encoder(entry)
    with threadpool_limits(1):  # as embeddings are made for scores
        return [examine_encoder(made, data, draw_slides(data, slides), progress) for data in opened]


def examine_encoder(
    encoder: SlideEncoder,
    data: CohortData,
    slide_ids: Sequence[str],
    progress: Progress,
) -> Examination:
    """Return one finding for each check, in the order of `CHECKS`.

    Args:
        encoder: the encoder, made from its card.
        data: a cohort.
        slide_ids: the slides to encode, each twice and some more often; 8 at least.
        progress: told of each slide.

    Raises:
        InputError: too few slides; a bag is broken, empty, or not what the card expects.
    """
    findings, rows = [_contract(encoder)], None
    reason = "supervised: no embedding before the labels of a task have trained it"
    if encoder.card.kind != "supervised":
        if len(slide_ids) < LEAST_SLIDES:
            raise InputError(
                f"cohort {data.cohort_id}: {len(slide_ids)} slides with features; the doctor "
                f"compares slides with each other and needs {LEAST_SLIDES} at least (--slides, or "
                "another --cohort)"
            )
        sample = _sample(encoder, data, slide_ids, progress)
        wide = sample["bag"][0].features.shape[1]  # the first bag is always kept
        findings += _answer_findings(encoder.card, sample, wide)
        rows, probes = _usable(sample)
        reason = f"{len(rows.slides)} slides have a usable embedding; {LEAST_SLIDES} are needed"
        if len(rows.slides) >= LEAST_SLIDES:
            findings += cloud_findings(rows)
            reason = UNSETTLED
            if probes.bags:
                findings += _again(encoder, probes)
    by_check = {finding.check: finding for finding in findings}
    in_order = [by_check.get(name) or check.skipped(reason) for name, check in CHECKS.items()]
    return Examination(data, in_order, rows)


def draw_slides(data: CohortData, count: int) -> list[str]:
    """Return slides of a cohort that have a bag, drawn at random, the same ones each time."""
    slide_ids = slides_with_bags(data)
    drawn = rng_for("doctor", data.cohort_id).permutation(len(slide_ids))[:count]
    return [slide_ids[row] for row in sorted(drawn.tolist())]


def _contract(encoder: SlideEncoder) -> Finding:
    parts = check_contract(encoder)
    broken = [f"{part.check} ({part.found})" for part in parts if part.verdict == "fail"]
    seen = "broken: " + "; ".join(broken) if broken else f"{len(parts)} of {len(parts)} kept"
    return CHECKS["contract"].finding("fail" if broken else "pass", seen, float(len(broken)))


def _sample(
    encoder: SlideEncoder, data: CohortData, slide_ids: Sequence[str], progress: Progress
) -> pd.DataFrame:
    """Return a row for each slide: what is known of it, and what the encoder makes of it.

    `whole` and `half` are answers for all patches and for half of them, whatever is wrong with
    them; tiny bags have no half. `bag` is kept of some slides; `content` tells equal bags.

    Raises:
        InputError: a bag is broken, empty, or not what the card expects.
    """
    kept = set(np.linspace(0, len(slide_ids) - 1, PROBES).astype(int).tolist())
    progress.phase("encode", len(slide_ids))
    rows = []
    for position, slide_id in enumerate(slide_ids):
        bag = data.read_bag(slide_id)
        check_bag(encoder.card, bag)
        bag = replace(bag, features=np.ascontiguousarray(bag.features, dtype=np.float32))
        rows.append(
            {
                **{name: getattr(bag, name) for name in ("slide_id", "case_id", "stain")},
                "site": bag.site or "",
                "patches": len(bag.features),
                "content": hash_array([], bag.features),
                "whole": ask(encoder, bag),
                "half": ask(encoder, half_of(bag)) if len(bag.features) >= LEAST_PATCHES else None,
                "bag": bag if position in kept else None,
            }
        )
        progress.advance(slide_id)
    return pd.DataFrame(rows)


def half_of(bag: Bag) -> Bag:
    """Return a random half of the patches of a bag, in their order; the same half each time."""
    count = len(bag.features)
    drawn = rng_for("doctor", "half", bag.slide_id).permutation(count)
    return patches_of(bag, np.sort(drawn[: count // 2]))


def _usable(sample: pd.DataFrame) -> tuple[Rows, Probes]:
    """Return the slides whose embedding is a vector as wide as most are, and those kept to ask."""
    widths = sample["whole"].map(lambda answer: 0 if answer.fault else len(answer.value))
    width = max(Counter(widths[widths > 0]).items(), key=lambda item: item[::-1], default=(0, 0))[0]
    usable = sample[(widths > 0) & (widths == width)].reset_index(drop=True)
    matrix = np.array([answer.vector for answer in usable["whole"]]).reshape(len(usable), width)
    half = np.full_like(matrix, np.nan)
    for row, answer in enumerate(usable["half"]):
        if answer and not answer.fault and len(answer.value) == width:
            half[row] = answer.vector
    asked = usable["bag"].notna()
    spread = spread_of(matrix) if len(matrix) else 1.0
    probes = Probes(list(usable["bag"][asked]), matrix[asked], spread, sample["whole"][0].dtype)
    return Rows(usable.drop(columns=["whole", "half", "bag"]), matrix, half), probes


def _answer_findings(card: EncoderCard, sample: pd.DataFrame, wide: int) -> Iterator[Finding]:
    """Yield what is wrong with single answers: does the encoder give vectors of floats.

    Args:
        card: of the encoder.
        sample: slides and answers.
        wide: width of the patch features.
    """
    answers = dict(zip(sample["slide_id"], sample["whole"], strict=True))
    made = {slide_id: answer for slide_id, answer in answers.items() if not answer.raised}
    raised = [slide_id for slide_id in answers if slide_id not in made]
    yield _over("encodes every slide", raised, answers, f"{len(answers)} slides")
    if not made:
        return
    usual = Counter(answer.value.shape for answer in made.values()).most_common(1)[0][0]
    vectors = {i: a for i, a in made.items() if a.value.shape == usual and len(usual) == 1}
    odd = [slide_id for slide_id in made if slide_id not in vectors or not usual[0]]
    if odd:
        yield _over("width", odd, made, "")
    else:
        dim = card.dim or wide
        says = f"says {dim}" if card.dim else f"has no 'dim', which means {dim}, as wide as a patch"
        verdict: Verdict = "pass" if usual[0] == dim else "fail" if card.dim else "warn"
        seen = f"{usual[0]}" + f"; the card {says}" * (verdict != "pass")
        yield CHECKS["width"].finding(verdict, seen, float(usual[0]))
    dtypes = {answer.dtype for answer in made.values()}
    verdict = "warn" if dtypes & {"float16", "bfloat16"} else "pass"
    if any(answer.value.dtype.kind != "f" for answer in made.values()):
        verdict = "fail"
    yield CHECKS["dtype"].finding(verdict, ", ".join(sorted(dtypes)))
    floats = {i: a for i, a in vectors.items() if a.value.dtype.kind == "f"}
    if floats:
        yield _over(
            "finite", [i for i, a in floats.items() if a.fault], floats, "no NaN, no infinity"
        )


def _over(check: str, bad: Sequence[str], answers: Mapping[str, Answer], good: str) -> Finding:
    """Return a finding over slides: how many are bad, which, and what the first one gave."""
    if not bad:
        return CHECKS[check].finding("pass", good, 0.0)
    first = answers[bad[0]]
    seen = f"{len(bad)} of {len(answers)} slides ({named(bad)}): "
    seen += first.fault or f"shape {first.value.shape}"
    return CHECKS[check].finding("fail", seen, float(len(bad)))


def _again(encoder: SlideEncoder, probes: Probes) -> Iterator[Finding]:
    """Yield what is found when some slides are asked again: twice, and in another order."""
    same, patch_order, settled = repetition_findings(encoder, probes)
    yield from (same, patch_order)
    if settled is None:
        return
    # Backwards, so that each slide follows another one than the first time.
    backwards = probes.again(encoder, probes.bags[::-1])
    made = None if backwards is None else backwards[::-1]
    yield probes.compare(CHECKS["order of slides"], made, probes.first)


def _report(
    of: str,
    document: Mapping[str, Any],
    parts: Sequence[tuple[str, Sequence[Finding]]],
    note: str = "",
) -> Report:
    """Return a table of findings with its title for each part, and advice on what went wrong."""
    body: list[Table | str] = []
    for title, findings in parts:
        counts = Counter(finding.verdict for finding in findings)
        order = sorted(counts, key=["pass", "warn", "fail", "skipped"].index)
        title += ": " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in order)
        rows = [[_SHOWN.get(f.verdict, f.verdict), f.check, f.found, f.threshold] for f in findings]
        wrong = [f for f in findings if f.verdict in _SHOWN]
        body.append(Table(title, ["verdict", "check", "found", "threshold"], rows))
        body += [f"{_SHOWN[f.verdict]} {f.check}: {f.advice}" for f in wrong]
    body += [note] * bool(note)
    every = [finding for _, findings in parts for finding in findings]
    failed = dict.fromkeys(finding.check for finding in every if finding.verdict == "fail")
    seen = f"of {len(every)} checks these failed: {', '.join(failed)} (docs/doctor.md)"
    head = {
        "what": f"mbench doctor: {of}",
        "package": f"madeleine-bench {__version__}",
        "provenance": machine_provenance(),
    }
    problem = CheckFailed(seen) if failed else None
    return Report({**head, **document}, body, problem=problem)
