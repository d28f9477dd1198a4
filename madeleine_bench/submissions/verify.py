"""The verification ladder, from the bottom up; it stops where the asked rung is reached.

V1 scores the submitted embeddings by the very job that `mbench run` uses, on the verifier's labels
and splits. V2 and V3 encode slides again from the weights. That runs the encoder, so whose code it
is matters: code that is part of madeleine-bench is run with weights that are data (safetensors,
hash-checked), a third party's code only where the verifier allowed it, and always in a worker.
"""

import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np

from madeleine_bench.embeddings.store import (
    ROW_TOLERANCE,
    Embeddings,
    EmbeddingStore,
    read_embeddings,
    relative_gaps,
)
from madeleine_bench.encoders.registry import (
    EncoderEntry,
    check_weights,
    fingerprint,
    shipped_encoders,
)
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_bytes
from madeleine_bench.hashing import hash_json
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner import plan
from madeleine_bench.runner.cohorts import OpenCohort, open_cohort
from madeleine_bench.runner.embedding import ToEmbed, embed
from madeleine_bench.runner.plan import board_of, slides_with_bags
from madeleine_bench.runner.run import EvaluateJob, run_evaluate_job
from madeleine_bench.runner.workers import LocalWorkers, in_parallel
from madeleine_bench.specs.card import card_text
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.submissions.bundle import Bundle, embeddings_member, files_of_card
from madeleine_bench.submissions.claims import (
    Finding,
    Level,
    check_claims,
    compare_records,
    level_reached,
    usable_task,
)
from madeleine_bench.submissions.parsing import plain, shown
from madeleine_bench.types import Progress, Units

Cell = tuple[str, str]

_PHANTOM = re.compile(r"phantom(?:-signal-(\d{1,4}(?:\.\d{1,4})?))?(?:-seed-(\d{1,9}))?", re.A)
_SHOWN_IDS = 3
_SHOWN_FINDINGS = 20


@dataclass(frozen=True)
class VerifyRequest:
    """How to verify.

    Attributes:
        workspace: the verifier's data, and the results folder of its splits and known encoders;
            "auto" takes generated phantoms for a phantom board, and files for others.
        level: the rung of the ladder to climb to.
        allow_code: run the encoder's code although it is not part of madeleine-bench.
        sample: slides of each cohort that V2 encodes again.
        draw: what the choice of those slides hangs on; None makes a random one, which no submitter
            can know before.
        time_limit_s: the most that all of it may take.
    """

    workspace: Workspace = field(default_factory=Workspace)
    level: Level = "V1"
    allow_code: bool = False
    sample: int = 16
    draw: str | None = None
    time_limit_s: float = 3600.0


@dataclass
class Verification:
    """How far up the ladder a submission came, and what was made on the way.

    Attributes:
        bundle: what is verified.
        request: how.
        catalogue: the verifier's tasks.
        scratch: folder of what is made: in results/ the recomputed records and predictions.
        cohorts: the verifier's, by id; none at V0.
        records: recomputed records by (task, protocol); none at V0.
        units: labels and slides of the recomputed tasks, by id.
        findings: every false claim.
        notes: what else there is to know.
    """

    bundle: Bundle
    request: VerifyRequest
    catalogue: Catalogue
    scratch: Path
    cohorts: dict[str, OpenCohort] = field(default_factory=dict)
    records: dict[Cell, Record] = field(default_factory=dict)
    units: dict[str, Units] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def dispute(self, level: Level, where: str, field: str, *facts: str) -> None:
        """Add a false claim: its field, what is claimed, what is so, and perhaps advice."""
        self.findings.append(Finding(level, where, field, *facts))

    @property
    def reached(self) -> Level | None:
        """The highest rung that holds; None where the bundle contradicts itself."""
        return level_reached(self.request.level, self.findings)

    def problem(self) -> CheckFailed | None:
        """Return the error that names the false claims; None where the asked rung was reached."""
        if self.reached == self.request.level:
            return None
        reached, count = self.reached or "nothing", len(self.findings)
        head = f"{self.bundle.path}: asked for {self.request.level}, reached {reached}"
        lines = [f"\n  {plain(finding.line, 1000)}" for finding in self.findings[:_SHOWN_FINDINGS]]
        more = f"\n  and {count - _SHOWN_FINDINGS} more" if count > _SHOWN_FINDINGS else ""
        return CheckFailed(f"{head}; {count} claims are false:{''.join(lines)}{more}")


def verify(
    bundle: Bundle, request: VerifyRequest, scratch: Path, progress: Progress
) -> Verification:
    """Return how far up the ladder a bundle comes; what is made on the way lies in `scratch`.

    Where a rung does not hold, the ones up to V1 are still climbed, to say what exactly differs;
    slides are encoded again only where V1 holds.

    Raises:
        InputError: the verifier's data or catalogue cannot be used, or code would have to be run
            that was not allowed.
    """
    level = request.level
    done = Verification(bundle, request, request.workspace.tasks(), scratch)
    done.findings += check_claims(bundle, done.catalogue)
    if level == "V0":
        return done
    entry = None
    if level != "V1":
        if request.allow_code:
            progress.say("--allow-code: running code that came with the submission")
        entry = runnable_encoder(bundle, request.allow_code, scratch / "encoder")
    done.cohorts = open_cohorts(bundle, request.workspace, done.catalogue)
    _check_ids(done)
    _recompute(done, progress)
    if entry is not None and done.findings:
        done.notes.append("no slide was encoded again: V1 does not hold")
    elif entry is not None:
        encode_again(done, entry, progress)
    return done


def open_cohorts(
    bundle: Bundle, workspace: Workspace, catalogue: Catalogue
) -> dict[str, OpenCohort]:
    """Return the verifier's cohorts, by id, for those the bundle has records of.

    Raises:
        InputError: a cohort is not to be had here, or is of another board than the bundle's.
    """
    config = workspace.open()[1]
    asked = bundle.manifest.board
    there = _in_workspace_of(asked, workspace)
    cohorts: dict[str, OpenCohort] = {}
    for cohort_id in sorted({claim.record.task.cohort for claim in bundle.claims}):
        if cohort_id not in catalogue.cohorts:
            continue  # a finding of V0
        cohort = open_cohort(there, catalogue, cohort_id, config)
        if (board := board_of(cohort.data)) != asked:
            raise InputError(
                f"{bundle.path} is of board '{asked}', and cohort {cohort_id} is of board "
                f"'{board}' here. Name a mbench.toml with the data of that board (--config), or "
                "verify without data (--level V0)"
            )
        cohorts[cohort_id] = cohort
    return cohorts


def _in_workspace_of(board: str, workspace: Workspace) -> Workspace:
    """Return the workspace with the source, signal and seed of a board."""
    match = _PHANTOM.fullmatch(board)
    if workspace.source == "local" or match is None:
        # Boards such as local, phantom-rendered and phantom-own-labels come from files.
        return replace(workspace, source="phantom" if workspace.source == "phantom" else "local")
    signal = float(match[1]) if match[1] else None
    seed = int(match[2]) if match[2] else None
    return replace(workspace, source="phantom", phantom_signal=signal, phantom_seed=seed)


def _check_ids(done: Verification) -> None:
    """Note each cohort whose slides are not the verifier's."""
    for cohort_id in sorted(done.cohorts.keys() & done.bundle.embeddings.keys()):
        cohort, where = done.cohorts[cohort_id], embeddings_member(cohort_id)
        slides = cohort.data.slides["slide_id"].tolist()
        submitted = set(done.bundle.embeddings[cohort_id].ids)
        missing = sorted(set(slides_with_bags(cohort.data)) - submitted)
        if unknown := sorted(submitted - set(slides)):
            hint = did_you_mean(unknown[0], missing or slides) if len(unknown) < 4 else ""
            claimed = f"{len(unknown)} that are not of {cohort_id}: {_some(unknown)}"
            actual = f"no such slides in {cohort.where}{hint}"
            done.dispute("V1", where, "slide ids", claimed, actual)
        if missing:
            claimed = f"no embedding of {len(missing)} slide(s)"
            actual = f"slides with features here: {_some(missing)}"
            advice = "A slide left out changes what is scored; encode every slide"
            done.dispute("V1", where, "slide ids", claimed, actual, advice)


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(shown(name) for name in ids[:_SHOWN_IDS]) + more


def _recompute(done: Verification, progress: Progress) -> None:
    """Score every claim again from the submitted embeddings, and note what differs."""
    claims, results = done.bundle.claims, done.scratch / "results"
    jobs = _jobs(done, results)
    progress.phase("evaluate", len(jobs))
    ordered = sorted(jobs.values(), key=lambda job: -job.cost)
    reasons: dict[str, str] = {}
    for outcome in in_parallel(run_evaluate_job, ordered, done.request.workspace.jobs):
        progress.advance(outcome.note)
        for why in outcome.failed.values():
            reasons[outcome.note] = plain(str(why), 400)
    done.records = {(r.task.id, r.protocol): r for r in ResultStore(results).records()}
    equal, largest = 0, 0.0
    for claim in claims:
        score = claim.record.scores.main.value
        if ours := done.records.get(claim.cell):
            done.findings += compare_records(claim.member, claim.record, ours)
            equal += claim.record.record_id == ours.record_id
            largest = max(largest, abs(score - ours.scores.main.value))
        elif claim.cell in jobs:
            note = f"{done.bundle.card.name} {' '.join(claim.cell)}"
            reason = reasons.get(note, "mbench.toml leaves out a class")
            facts = "score", f"{score:.6f}", "not to be computed", reason
            done.dispute("V1", claim.member, *facts)
    done.notes.append(
        f"{len(done.records)} of {len(claims)} records recomputed, {equal} equal to the last bit; "
        f"largest difference of a score {largest:.1e}"
    )


def _jobs(done: Verification, results: Path) -> dict[Cell, EvaluateJob]:
    """Return what scores each claim again, and write the submitted embeddings for it.

    Which features they were made from stays the submitter's claim.
    """
    bundle, workspace, catalogue = done.bundle, done.request.workspace, done.catalogue
    config, store = workspace.open()[1], EmbeddingStore(results)
    machine = {**machine_provenance(), "submission": {"sha256": bundle.sha256}}
    entry = EncoderEntry(bundle.card, bundle.path, "submission")
    jobs: dict[Cell, EvaluateJob] = {}
    for claim in bundle.claims:
        record, declared = claim.record, usable_task(claim.record, catalogue)
        cohort_id = record.task.cohort
        cohort, submitted = done.cohorts.get(cohort_id), bundle.embeddings.get(cohort_id)
        if declared is None or cohort is None or submitted is None:
            continue  # a finding of V0
        path = store.path(bundle.manifest.board, bundle.card.name, cohort_id, submitted.hash)
        if not path.is_file():
            store.write(path, submitted.ids, submitted.matrix)
        protocols = [catalogue.protocols[record.protocol]]
        (assessment,) = plan.assess(
            cohort, cohort.task(declared), protocols, config, workspace.results
        )
        done.units[declared.id] = assessment.units
        cell = plan.Cell(entry, record.encoder.fingerprint, assessment)
        data = cohort.data
        jobs[claim.cell] = EvaluateJob(
            results, cell, path, submitted.hash, record.features, data.source, data.variant, machine
        )
    return jobs


def runnable_encoder(bundle: Bundle, allow_code: bool, folder: Path) -> EncoderEntry:
    """Return the encoder of a bundle, its files laid into a folder; nothing is run yet.

    Raises:
        InputError: its code is a third party's and was not allowed; or code or weights are absent.
    """
    card, shipped = bundle.card, shipped_encoders()
    if card.name in shipped and shipped[card.name].card == card:
        return shipped[card.name]
    # The class and its parameters: a parameter of our class can still ask for all the memory.
    code = card.implementation, hash_json(card.parameters)
    ours = {(e.card.implementation, hash_json(e.card.parameters)) for e in shipped.values()}
    if code not in ours and not allow_code:
        raise InputError(
            f"{bundle.path}: V2 and V3 run the encoder, and its code ({shown(card.implementation)}"
            ", or its parameters) is not that of an encoder of madeleine-bench. THIRD-PARTY "
            "CODE CAN DO ALL THAT YOU CAN: read your files, send them away, delete them. Read "
            "code/ in the bundle first, use a machine without secrets or network, then add "
            "--allow-code; or stay at --level V1, which runs none of it"
        )
    entry = EncoderEntry(card, folder / "card.yaml", "submission")
    write_bytes(entry.path, card_text(card).encode())
    for name in files_of_card(card):
        if name not in bundle.files:
            raise InputError(f"{bundle.path}: no {name} in it; pack it with --code")
        write_bytes(folder / PurePath(name).name, bundle.files[name])
    check_weights(entry)
    return entry


def encode_again(done: Verification, entry: EncoderEntry, progress: Progress) -> None:
    """Encode slides again, and note where their rows differ from the submitted ones.

    The encoder runs in workers alone: it may hang, die, or reach into the process that judges it.
    """
    request = done.request
    sample, draw = None, request.draw or secrets.token_hex(4)
    if request.level == "V2":
        sample = request.sample
        done.notes.append(f"slides chosen by --draw {draw} --sample {sample}")
    print_ = fingerprint(entry)
    wanted = []
    for cohort_id, cohort in done.cohorts.items():
        submitted = set(done.bundle.embeddings[cohort_id].ids)
        ids = [slide_id for slide_id in slides_with_bags(cohort.data) if slide_id in submitted]
        order = {slide_id: hash_json([draw, cohort_id, slide_id]) for slide_id in ids}
        if ids:
            data = cohort.data.part(sorted(ids, key=order.__getitem__)[:sample])
            wanted.append(ToEmbed(cohort_id, data, ((entry, print_),)))
    there = replace(request.workspace, results=done.scratch / "again")
    workers = LocalWorkers(there.jobs, apart=True)
    ready, failed = embed(wanted, there, progress, executor=workers)
    for (_, cohort_id), reason in failed.items():
        why, where = plain(str(reason), 400), embeddings_member(cohort_id)
        done.dispute("V2", where, "encoding again", "these rows", "an error", why)
    for (_, cohort_id), (path, _) in ready.items():
        _compare_rows(done, cohort_id, read_embeddings(path))


def _compare_rows(done: Verification, cohort: str, again: Embeddings) -> None:
    """Note how close the submitted rows came, and what is wrong with them, if anything."""
    level, submitted = done.request.level, done.bundle.embeddings[cohort]
    where = embeddings_member(cohort)
    rows = submitted.matrix[[submitted.ids.index(slide_id) for slide_id in again.ids]]
    if rows.shape[1] != again.matrix.shape[1]:
        widths = str(rows.shape[1]), str(again.matrix.shape[1])
        done.dispute(level, where, "width", *widths, "The weights make embeddings of another width")
        return
    gaps = relative_gaps(rows, again.matrix)
    encoded = f"{len(again.ids)} slides encoded again"
    done.notes.append(f"{cohort}: {encoded}, largest relative gap {gaps.max():.1e}")
    if other := int((gaps > ROW_TOLERANCE).sum()):
        worst = np.argsort(-gaps)[: min(other, _SHOWN_IDS)]
        named = ", ".join(f"{shown(again.ids[row])} by {gaps[row]:.1e}" for row in worst)
        claimed = f"those the weights make, to {ROW_TOLERANCE:g} of their length"
        actual = f"{other} other rows: {named}"
        advice = "These embeddings are not what card and weights make"
        done.dispute(level, where, f"rows of {encoded}", claimed, actual, advice)
