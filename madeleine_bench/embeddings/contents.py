"""One name and one revision of an encoder stand for one card and one set of embeddings.

Otherwise whoever writes last under a name takes the place of what stood there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madeleine_bench.embeddings.store import (
    ROW_TOLERANCE,
    EmbeddingStore,
    read_embeddings,
    relative_gaps,
)
from madeleine_bench.errors import InputError
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.catalogue import Catalogue, embedded_name
from madeleine_bench.specs.record import Record, RecordEncoder

_FACTS = ("title", "kind", "training_cohorts")


@dataclass(frozen=True)
class Content:
    """What a record, or a run, says that a name and a revision of an encoder stand for.

    Attributes:
        where: the file of the record, or what else names it in a message.
        encoder: what the card says.
        results: the results folder with the embeddings.
        board: the board of the scores.
        embedded: name of the bags that were embedded; None where embeddings cannot be compared.
        features: hash of the features that were embedded; "" where they are not recorded.
        embeddings: hash of the embeddings.
    """

    where: str
    encoder: RecordEncoder | EncoderCard
    results: Path
    board: str
    embedded: str | None
    features: str
    embeddings: str

    def contradicts(self, other: "Content") -> str:
        """Return what the two, of one name and revision, differ in; "" where they agree."""
        if facts := differing_facts(self.encoder, other.encoder):
            return " and ".join(facts)
        same = self.embedded is not None and self._place == other._place
        if same and self.embeddings != other.embeddings and not self._close(other):
            return f"embeddings of {self.embedded}, made from the same features"
        return ""

    @property
    def _place(self) -> tuple[str, str, str, str | None, str]:
        encoder = self.encoder
        return encoder.name, encoder.revision, self.board, self.embedded, self.features

    def _close(self, other: "Content") -> bool:
        """Return whether both are the same rows but for rounding; False where one is not there."""
        files = [
            EmbeddingStore(each.results).find(
                each.board, each.encoder.name, str(each.embedded), each.embeddings
            )
            for each in (self, other)
        ]
        try:
            one, two = (read_embeddings(path) for path in files if path is not None)
        except (InputError, ValueError):
            return False
        if one.ids != two.ids or one.matrix.shape != two.matrix.shape:
            return False
        return bool(np.all(relative_gaps(one.matrix, two.matrix) <= ROW_TOLERANCE))


def differing_facts(
    one: RecordEncoder | EncoderCard, other: RecordEncoder | EncoderCard
) -> list[str]:
    """Return the facts of a card that records keep and in which two encoders differ."""
    return [fact for fact in _FACTS if getattr(one, fact) != getattr(other, fact)]


def content_of(record: Record, where: Path, results: Path, catalogue: Catalogue) -> Content:
    """Return what a record says that the name and revision of its encoder stand for."""
    task = catalogue.tasks.get(record.task.id)
    protocol = catalogue.protocols.get(record.protocol)
    embedded = embedded_name(task, protocol) if task and protocol else None
    features = record.features.content if record.features else ""
    return Content(
        str(where), record.encoder, results, record.board, embedded, features,
        record.inputs.embeddings,
    )  # fmt: skip


def require_one_content(contents: Iterable[Content]) -> None:
    """Check that no name and revision stands for two contents.

    Raises:
        InputError: one does; the message names both places and what to do.
    """
    first: dict[tuple[object, ...], Content] = {}
    for content in contents:
        name, revision = content.encoder.name, content.encoder.revision
        for key in ((name, revision), content._place):
            before = first.setdefault(key, content)
            if difference := content.contradicts(before):
                raise InputError(
                    f"revision {revision} of encoder {name} stands for two contents: "
                    f"{before.where} and {content.where} differ in {difference}. Give one of the "
                    "encoders a new revision or another name and score it again; or replace its "
                    "older records with mbench run --resume never; or leave out one of the folders"
                )
