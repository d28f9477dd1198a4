"""Records of an encoder's name and revision that say something else than the run at hand."""

from collections.abc import Iterable
from pathlib import Path

from madeleine_bench.embeddings.contents import Content, content_of
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.embedding import Ready
from madeleine_bench.runner.failures import Failure
from madeleine_bench.runner.plan import Cell, Plan, Request, bags_to_embed, board_of
from madeleine_bench.specs.catalogue import embedded_name
from madeleine_bench.specs.record import Record

Contradictions = dict[str, list[tuple[Path, str]]]


def contradictions(plan: Plan, request: Request, ready: Ready | None = None) -> Contradictions:
    """Return by encoder the records that differ from this run, and what they differ in.

    Args:
        plan: of the run.
        request: of the run.
        ready: the embeddings there are; None compares cards alone.
    """
    store = ResultStore(request.workspace.results)
    found: Contradictions = {}
    for name, contents in _contents(plan, request, ready).items():
        for path, record in store.located(name):
            if record.encoder.revision == contents[0].encoder.revision:
                before = content_of(record, path, request.workspace.results, plan.catalogue)
                difference = next(filter(None, (c.contradicts(before) for c in contents)), "")
                if difference:
                    found.setdefault(name, []).append((path, difference))
    return found


def refusals(found: Contradictions, request: Request) -> Iterable[tuple[str, Failure]]:
    """Yield for each encoder that the records contradict why it is not scored, and what to do."""
    for name, records in found.items():
        path, difference = records[0]
        more = f" and {len(records) - 1} more records" if len(records) > 1 else ""
        reason = (
            f"its name and revision stand for another encoder already: it differs in {difference} "
            f"from {path}{more}. Give the changed encoder a new 'revision' in its card, or run it "
            "with --resume never, which moves the older records of this name and revision to "
            f"{request.workspace.results / 'retired'}"
        )
        yield name, Failure(reason, is_user_error=True)


def retire(plan: Plan, request: Request, found: Contradictions) -> None:
    """Move the records that contradict this run, and others of the same older code, out of sight.

    Raises:
        InputError: the results folder cannot be written.
    """
    store = ResultStore(request.workspace.results)
    prints = {cell.entry.card.name: cell for cell in plan.cells}
    for name, records in found.items():
        contradicting = {path for path, _ in records}
        for path, record in list(store.located(name)):
            if path in contradicting or _of_older_code(record, prints[name]):
                store.retire(path)


def _of_older_code(record: Record, cell: Cell) -> bool:
    same = record.encoder.revision == cell.entry.card.revision
    return same and record.encoder.fingerprint != cell.fingerprint


def _contents(plan: Plan, request: Request, ready: Ready | None) -> dict[str, list[Content]]:
    """Return what this run says of each of its encoders, once for all cells with the same bags."""
    found: dict[str, dict[str | None, Content]] = {}
    for cell in plan.cells:
        card, assessment = cell.entry.card, cell.assessment
        cohort = assessment.task.cohort
        data = plan.cohorts[cohort].data
        embedded, content = embedded_name(assessment.task, assessment.protocol), ""
        if ready is None:
            embedded = None
        elif embedded is not None:
            made = ready.get((card.name, bags_to_embed(assessment, data)[0]))
            if made is None:
                continue
            content = made[1]
        features = plan.features[cohort].content
        found.setdefault(card.name, {})[embedded] = Content(
            "this run", card, request.workspace.results, board_of(data), embedded, features, content
        )
    return {name: list(contents.values()) for name, contents in found.items()}
