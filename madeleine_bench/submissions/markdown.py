"""A review as Markdown for a pull request. What the bundle says stands in code spans, inert."""

from collections.abc import Iterator, Sequence

from madeleine_bench.report import PHANTOM_NOTICE
from madeleine_bench.submissions.findings import MEANING
from madeleine_bench.submissions.review import Review
from madeleine_bench.submissions.standing import best_known, comparable
from madeleine_bench.submissions.suspicion import RULES
from madeleine_bench.submissions.text import inert

_MOST_FINDINGS = 40
_MOST_ROWS = 15
_MOST_LIKE = 5
_CAUTION = "Embeddings that encode the labels of the test slides pass V0 and V1."


def review_markdown(found: Review) -> str:
    """Return the report of a submission, ending in a newline.

    Every text that comes from the bundle, or from an error about it, is a code span without
    angle brackets, backticks, bars or @ (see `text.inert`).
    """
    sections = (
        _verdict(found), _findings(found), _scores(found), _standing(found), _suspicions(found),
        _likeness(found), _contamination(found),
    )  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _verdict(found: Review) -> Iterator[str]:
    verification = found.verification
    card, board = verification.bundle.card, verification.bundle.manifest.board
    verdict = "verified" if verification.verified else "NOT VERIFIED"
    reached = verification.reached
    yield f"## Submission {inert(card.name)} {inert(card.revision)}: {verdict}"
    yield ""
    yield f"{inert(card.title)}, {inert(card.kind)}, board {inert(board)}."
    yield f"Asked for {verification.asked}, reached {reached or 'nothing'}."
    yield ""
    if board.startswith("phantom"):
        yield f"**{PHANTOM_NOTICE}**"
        yield ""
    if reached is not None:
        caution = f". {_CAUTION}" if reached in ("V0", "V1") else "."
        yield f"- {reached}: {MEANING[reached]}{caution}"
    else:
        yield "- The bundle contradicts itself; none of its scores can be believed."
    for note in verification.notes:
        yield f"- {inert(note, 300)}"
    if found.missing:
        yield f"- {len(found.missing)} core tasks without a record: {', '.join(found.missing)}"
    yield f"- bundle sha256 `{verification.bundle.sha256}`"


def _findings(found: Review) -> Iterator[str]:
    findings = found.verification.findings
    if not findings:
        return
    yield f"### False claims ({len(findings)})"
    yield ""
    rows = [
        [f.level, inert(f.where), inert(f.field), inert(f.claimed), inert(f.found, 200),
         inert(f.advice, 400) if f.advice else ""]
        for f in findings[:_MOST_FINDINGS]
    ]  # fmt: skip
    yield from _table(["rung", "where", "what", "claimed", "found", "note"], rows)
    if (more := len(findings) - _MOST_FINDINGS) > 0:
        yield f"\nand {more} more."


def _scores(found: Review) -> Iterator[str]:
    said = "recomputed here" if found.recomputed else "CLAIMED, not recomputed"
    yield f"### Scores ({said})"
    yield ""
    rows = []
    for (task, protocol), record in sorted(found.records.items()):
        main = record.scores.main
        cell = (task, protocol)
        best = best_known(cell, record, found.known)
        mean_pool = next(
            (k.records[cell] for k in found.known
             if k.label.startswith("mean-pool ") and comparable(record, k.records.get(cell))
             and k.records[cell].features == record.features),
            None,
        )  # fmt: skip
        rows.append([
            inert(task), inert(protocol), inert(main.metric), f"{main.value:.3f}",
            # Where there is none, the method begins with why.
            f"{main.ci95[0]:.3f} to {main.ci95[1]:.3f}" if main.ci95 else inert(
                main.method.partition(":")[0]
            ),
            "-" if mean_pool is None else f"{mean_pool.scores.main.value:.3f}",
            "-" if best is None else f"{best[1].scores.main.value:.3f} {inert(best[0])}",
        ])  # fmt: skip
    yield from _table(
        ["task", "protocol", "metric", "score", "95% interval", "mean-pool", "best known"], rows
    )


def _standing(found: Review) -> Iterator[str]:
    if len(found.standing) < 2:
        return
    families = sorted(found.standing[0].families)
    yield "### Beside known encoders"
    yield ""
    yield "Means over families of chance-corrected scores, on the tasks of this submission."
    yield ""
    card = found.verification.bundle.card
    rows = []
    for row in found.standing[:_MOST_ROWS]:
        name = inert(row.label)
        own = row.label == f"{card.name} {card.revision}"
        values = [f"{row.families[family]:.3f}" for family in families]
        rows.append([f"**{name}**" if own else name, inert(row.kind), f"{row.mean:.3f}", *values])
    yield from _table(["encoder", "kind", "mean", *map(inert, families)], rows)


def _suspicions(found: Review) -> Iterator[str]:
    yield f"### To look at ({len(found.suspicions)})"
    yield ""
    if not found.suspicions:
        yield "No rule was hit: " + "; ".join(RULES) + "."
    else:
        rows = [[hit.rule, inert(hit.where), inert(hit.seen, 200)] for hit in found.suspicions]
        yield from _table(["rule", "where", "seen"], rows[:_MOST_FINDINGS])
        yield ""
        for rule in sorted({hit.rule for hit in found.suspicions}):
            yield f"- {rule}: {RULES[rule]}."
        yield "\nNo rule is a verdict: an honest encoder may hit one."
    phantom = found.verification.bundle.manifest.board.startswith("phantom")
    if phantom and not any(other.label.startswith("oracle ") for other in found.known):
        yield "\nNo record of the oracle was at hand, so no score was held against the ceiling."


def _likeness(found: Review) -> Iterator[str]:
    yield "### Closest known encoders"
    yield ""
    if not found.likeness:
        yield "No embeddings of another encoder were at hand to compare with."
        return
    rows = [
        [inert(like.encoder), inert(like.cohort), str(like.slides),
         *(_share(value) for value in (like.explained, like.explains, like.cka)), like.relation]
        for like in found.likeness[:_MOST_LIKE]
    ]  # fmt: skip
    yield from _table(
        ["encoder", "cohort", "slides", "explains of this", "explained by this", "linear CKA",
         "relation"], rows
    )  # fmt: skip
    yield ""
    yield "Shares that a linear map explains, of what the embeddings explain of themselves."


def _share(value: float | None) -> str:
    return "too few slides" if value is None else f"{value:.4f}"


def _contamination(found: Review) -> Iterator[str]:
    yield "### Contamination, by the card"
    yield ""
    rows = [[inert(cohort), verdict] for cohort, verdict in found.contamination.items()]
    yield from _table(["cohort", "verdict"], rows)
