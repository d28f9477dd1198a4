"""Where slide encoders are found: shipped cards, cards by path, entry points of other packages."""

from pathlib import Path
from typing import cast

from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.hashing import hash_code, hash_json
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.implementation import Entry, Registry, check_weights_file, code_file

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED, _EXTERNAL = ("baselines", "encoders"), "encoders/external"
EncoderEntry = Entry[EncoderCard]
_REGISTRY = Registry(
    EncoderCard,
    "encoder",
    SlideEncoder,
    "mbench encoders list",
    (*_SHIPPED, _EXTERNAL),
    "madeleine_bench.encoders",
)


def shipped_encoders() -> dict[str, EncoderEntry]:
    """Return the encoders that ship with the package and run with nothing else, by name, sorted.

    Raises:
        InputError: a card is broken.
    """
    return _REGISTRY.shipped(*_SHIPPED)


def external_encoders() -> dict[str, EncoderEntry]:
    """Return the encoders of which the card alone ships, by name, sorted; see encoders.trident.

    Raises:
        InputError: a card is broken.
    """
    return _REGISTRY.shipped(_EXTERNAL)


plugged_encoders, find_encoder = _REGISTRY.plugged, _REGISTRY.find


def fingerprint(entry: EncoderEntry) -> str:
    """Return the hash of the card, the weights and the code: what an embedding depends on.

    The code counts with what it does; see `hash_code`.

    Raises:
        InputError: the weights are absent or are not those of the card; the code is not found.
    """
    scored = entry.card.model_dump(
        mode="json",
        include={"name", "revision", "implementation", "parameters", "weights", "input_dim", "dim"},
    )
    check_weights(entry)
    source = code_file(entry.path, entry.card.implementation)
    is_shipped = source.is_relative_to(_PACKAGE)
    code = [_PACKAGE / "encoders", _PACKAGE / "models"] if is_shipped else [source]
    return hash_json({"card": scored, "code": hash_code(code)})


def check_weights(entry: EncoderEntry) -> None:
    """Check that the weights file of a card is there and is the one the card means.

    Raises:
        InputError: it is absent or its hash differs.
    """
    if entry.weights_path is not None and entry.card.weights is not None:
        check_weights_file(entry.path, entry.weights_path, entry.card.weights.sha256)


def load_encoder(entry: EncoderEntry) -> SlideEncoder:
    """Return the encoder, made from its card. This runs the code that the card names.

    Raises:
        InputError: the code cannot be imported, the class is absent, or it cannot be made.
    """
    check_weights(entry)
    return cast(SlideEncoder, _REGISTRY.make(entry, entry.weights_path))
