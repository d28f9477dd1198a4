"""The code and the weights a card names: found, imported, made and checked by hash.

A card says `implementation: package.module:Class`, or `file.py:Class` for a file beside the card.
Slide encoders and patch encoders both come through here.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file, hash_json
from madeleine_bench.specs.loader import did_you_mean, line_of


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


def make(card_path: Path, implementation: str, *values: Any, **parameters: Any) -> Any:
    """Return `Class(*values, **parameters)` of the class a card names. This runs its code.

    Raises:
        InputError: the code cannot be imported, the class is absent, or it cannot be made.
    """
    where = _where(card_path)
    module_name, class_name = implementation.rsplit(":", 1)
    module = _import(card_path, implementation)
    maker = getattr(module, class_name, None)
    if maker is None:
        hint = did_you_mean(class_name, [n for n in vars(module) if not n.startswith("_")])
        raise InputError(f"{where}: {module_name} has no class {class_name}{hint}")
    try:
        return maker(*values, **parameters)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: {class_name}(card, weights, **parameters) raised "
            f"{type(error).__name__}: {error}"
        ) from error


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
