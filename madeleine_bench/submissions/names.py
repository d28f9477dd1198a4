"""Whose name it is: no submission takes the place of an encoder that is known already."""

from collections.abc import Iterable
from pathlib import Path

from madeleine_bench.embeddings.contents import differing_facts
from madeleine_bench.encoders.registry import external_encoders, shipped_encoders
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.loader import parse_spec, read_yaml
from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.bundle import Bundle


def card_path(results: Path, board: str, card: EncoderCard) -> Path:
    """Return where a results folder keeps the card of a submission."""
    return results / "cards" / board / f"{card.name}@{card.revision}.yaml"


def why_taken(bundle: Bundle, known: Iterable[Record], results: Path) -> str:
    """Return why a submission cannot have its name and revision; "" where it can.

    The names of encoders that ship are reserved. A name and a revision that are known stand for the
    card and the embeddings that they are known with, to the byte.

    Args:
        bundle: the submission.
        known: the records of the results folder.
        results: the results folder.

    Raises:
        InputError: a card that the folder keeps is broken.
    """
    card, board = bundle.card, bundle.manifest.board
    if card.name in shipped_encoders() or card.name in external_encoders():
        return (
            f"the name '{card.name}' is reserved, as an encoder of this name comes with "
            "madeleine-bench; choose another name and pack it again"
        )
    hashes = {cohort: claimed.embeddings.hash for cohort, claimed in bundle.embeddings.items()}
    differences: list[str] = []
    for record in known:
        if (record.encoder.name, record.encoder.revision) == (card.name, card.revision):
            differences += differing_facts(record.encoder, card)
            other = hashes.get(record.task.cohort) not in (None, record.inputs.embeddings)
            if record.board == board and other:
                differences.append(f"embeddings of {record.task.cohort}")
    for path in sorted(results.glob(f"cards/*/{card.name}@{card.revision}.yaml")):
        if parse_spec(EncoderCard, read_yaml(path), path) != card:
            differences.append(f"the card {path}")
    if not differences:
        return ""
    return (
        f"{results} holds revision {card.revision} of {card.name} already, which differs in "
        f"{differences[0]}. A name and a revision stand for one card and one set of embeddings: "
        "give the card a new revision, or another name, and pack it again"
    )
