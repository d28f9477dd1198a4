"""Where encoders are found: shipped cards, cards by path, and other packages' entry points."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_code, hash_json
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.implementation import check_weights_file, code_file, make
from madeleine_bench.specs.loader import did_you_mean, line_of, parse_spec, read_yaml

ENTRY_POINT_GROUP = "madeleine_bench.encoders"
_OWN_FOLDERS = ("baselines", "encoders")
_EXTERNAL = ("encoders", "external")
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class EncoderEntry:
    """An encoder that was found: its card, where the card lies, and who brought it."""

    card: EncoderCard
    path: Path
    origin: str

    @property
    def weights_path(self) -> Path | None:
        """The weights file, beside the card; None when there are none."""
        weights = self.card.weights
        return None if weights is None else (self.path.parent / weights.path).resolve()


def shipped_encoders() -> dict[str, EncoderEntry]:
    """Return the encoders that ship with the package and run with nothing else, by name, sorted.

    Raises:
        InputError: a card is broken or two cards have the same name.
    """
    return _cards(*(resource_folder(folder) for folder in _OWN_FOLDERS))


def external_encoders() -> dict[str, EncoderEntry]:
    """Return the encoders of which the card alone ships, by name, sorted; see encoders.trident.

    Raises:
        InputError: a card is broken or two cards have the same name.
    """
    folder, inside = _EXTERNAL
    return _cards(resource_folder(folder) / inside)


def plugged_encoders() -> Mapping[str, importlib.metadata.EntryPoint]:
    """Return the entry points other packages offer, by encoder name; none is imported.

    Raises:
        InputError: two packages offer the same name.
    """
    points: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            raise InputError(
                f"encoder '{point.name}' is offered by {other.value} and by {point.value}; "
                "uninstall one of the packages"
            )
    return points


def find_encoder(name: str) -> EncoderEntry:
    """Return an encoder by its name, or by the path of its card.

    An entry point of the group `madeleine_bench.encoders` leads to the path of a card.

    Raises:
        InputError: there is no such encoder or file, or the card is broken.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_card(Path(name), origin=name)
    ours, plugged = {**shipped_encoders(), **external_encoders()}, plugged_encoders()
    if name in ours and name in plugged:
        raise InputError(
            f"encoder '{name}' is ours and is also offered by {plugged[name].value}; "
            "the other package must choose another name"
        )
    if name in ours:
        return ours[name]
    if name in plugged:
        return _plugged_entry(plugged[name])
    hint = did_you_mean(name, sorted({*ours, *plugged}))
    raise InputError(f"no encoder is called '{name}'{hint} (mbench encoders list)")


def read_card(path: Path, origin: str) -> EncoderEntry:
    """Return the encoder that a card declares.

    Raises:
        InputError: the card is absent or broken.
    """
    card = parse_spec(EncoderCard, read_yaml(path), path)
    return EncoderEntry(card, path.resolve(), origin)


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
    card = entry.card
    encoder = make(entry.path, card.implementation, card, entry.weights_path, **card.parameters)
    if not isinstance(encoder, SlideEncoder):
        where = f"{entry.path}:{line_of(entry.path, ('implementation',))}"
        class_name = card.implementation.rsplit(":", 1)[1]
        raise InputError(
            f"{where}: {class_name} is no slide encoder: it needs the attribute 'card' and the "
            "method encode(bag); see madeleine_bench.encoders.BaseEncoder"
        )
    return encoder


def _cards(*folders: Path) -> dict[str, EncoderEntry]:
    entries: dict[str, EncoderEntry] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        entry = read_card(path, origin="madeleine-bench")
        other = entries.setdefault(entry.card.name, entry)
        if other is not entry:
            raise InputError(f"{path}: '{entry.card.name}' is declared already in {other.path}")
    return dict(sorted(entries.items()))


def _plugged_entry(point: importlib.metadata.EntryPoint) -> EncoderEntry:
    try:
        target = point.load()
    except Exception as error:
        raise InputError(
            f"encoder '{point.name}': the entry point {point.value} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(target, str | Path):
        raise InputError(
            f"encoder '{point.name}': the entry point {point.value} must lead to the path of a "
            f"card (str or Path), found {type(target).__name__}"
        )
    entry = read_card(Path(target), origin=point.value)
    if entry.card.name != point.name:
        raise InputError(
            f"{entry.path}: the card is of '{entry.card.name}', its entry point says '{point.name}'"
        )
    return entry
