"""Embeddings made elsewhere and given as a file: their card, and where they are kept."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from madeleine_bench.data.embedding_files import By, EmbeddingTable
from madeleine_bench.encoders.base import BaseEncoder
from madeleine_bench.encoders.registry import EncoderEntry, shipped_encoders
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.specs.card import EncoderCard, card_text
from madeleine_bench.specs.loader import explain, parse_spec, read_yaml
from madeleine_bench.types import Bag

IMPLEMENTATION = f"{__name__}:GivenEmbeddings"
BOARD = "local"


class GivenEmbeddings(BaseEncoder):
    """The encoder of a card that was made for a file of embeddings: there is no code of it."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the embeddings of {self.card.name} were given as a file, so there is no encoder to "
            "run: mbench evaluate --embeddings"
        )


@dataclass(frozen=True)
class Given:
    """Embeddings to score, and what the user says of their encoder.

    Attributes:
        table: ids and numbers.
        by: what an id is of; None looks at the labels.
        card: of the encoder.
    """

    table: EmbeddingTable
    by: By | None
    card: EncoderCard

    def entry(self, results: Path) -> EncoderEntry:
        """Return the encoder; its card lies where those of submissions do once it is written."""
        name = f"{self.card.name}@{self.card.revision}.yaml"
        return EncoderEntry(self.card, results / "cards" / BOARD / name, "mbench evaluate")

    def write_card(self, results: Path) -> None:
        """Write the card to the results folder.

        Raises:
            InputError: the folder has another card of this name and revision.
        """
        path = self.entry(results).path
        if path.is_file():
            there = parse_spec(EncoderCard, read_yaml(path), path).model_dump()
            if fact := next((k for k, v in self.card.model_dump().items() if there[k] != v), None):
                raise InputError(
                    f"{path}: {self.card.name} of this revision has another {fact}, {there[fact]}; "
                    "give the changed encoder another --revision or --name"
                )
        write_text(path, card_text(self.card))


def given_embeddings(
    table: EmbeddingTable,
    name: str,
    by: By | None = "slide",
    *,
    revision: str = "1",
    patch_encoder: str | None = None,
    trained_on: tuple[str, ...] | None = None,
) -> Given:
    """Return embeddings with a card made of what the user says of their encoder.

    Args:
        table: ids and numbers.
        name: of the encoder.
        by: what an id is of; None looks at the labels.
        revision: changes whenever the embeddings do.
        patch_encoder: what made the patch features; None is unknown.
        trained_on: cohorts it was trained on; None is unknown.

    Raises:
        InputError: the name is that of a shipped encoder, or an option cannot stand in a card.
    """
    if name in shipped_encoders():
        raise InputError(f"'{name}' is an encoder of madeleine-bench; choose another --name")
    facts = {
        "name": name,
        "revision": revision,
        "title": f"{name}, embeddings given by {by}",
        "implementation": IMPLEMENTATION,
        "patch_encoder": patch_encoder,
        "dim": table.matrix.shape[1],
        "training_cohorts": trained_on,
        "licence": "not stated",
        "description": "Precomputed embeddings from a file.",
    }
    try:
        return Given(table, by, EncoderCard.model_validate(facts))
    except ValidationError as error:
        raise InputError(explain(error, EncoderCard, "the encoder card")) from error
