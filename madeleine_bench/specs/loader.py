"""One way to read a YAML file into a frozen model, with errors that name file and line."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows

# What making values raises: a day that there is not, 4,301 digits, a tag !!bool on another word.
_BAD_VALUES = (ValueError, TypeError, KeyError, ArithmeticError, AttributeError)


class Spec(BaseModel):
    """Base of every declared thing: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SpecT = TypeVar("SpecT", bound=Spec)


def portable_name(name: str) -> str:
    """Return a name that is to name a file, if Windows can have one of it too.

    Raises:
        ValueError: it cannot.
    """
    if reserved_on_windows(name):
        raise ValueError(
            f"{name!r} cannot name a file on Windows, which reserves CON, PRN, AUX, NUL, COM0 to "
            "COM9 and LPT0 to LPT9, and drops a dot at the end; choose another name"
        )
    return name


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML 1.2 file holds.

    Raises:
        InputError: the file is absent, is not UTF-8, is not YAML, repeats a key, or its top level
            is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}") from error
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = str(error.problem).split(" with value")[0]
        raise InputError(f"{path}:{line}: {problem}; each key may stand once") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise InputError(f"{path}: not valid YAML: brackets within brackets, too deep") from error
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    except _BAD_VALUES as error:
        raise InputError(
            f"{path}: not valid YAML: a value is not what it is written as, such as a date or a "
            f"number ({str(error)[:100]})"
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: expected keys and values, found {type(data).__name__}")
    return data


def parse_spec(model: type[SpecT], data: dict[str, Any], path: Path) -> SpecT:
    """Return `data` as a model; `path` is where it was read, for the message.

    Raises:
        InputError: a key is unknown or missing, or a value is of the wrong kind. Each fault is
            named with its line, and an unknown key with the closest valid one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(error, model, path)) from error


def explain(error: ValidationError, model: type[BaseModel], path: Path) -> str:
    """Return the message for the faults pydantic found: a line each, with file and line number."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        place = tuple(part for part in fault["loc"])
        where = f"{path}:{line_of(path, place)}"
        key = ".".join(str(part) for part in place) or "(top level)"
        if fault["type"] == "extra_forbidden":
            valid = valid_keys(model, place[:-1])
            lines.append(f"{where}: unknown key '{key}'{did_you_mean(str(place[-1]), valid)}")
        elif fault["type"] == "missing":
            lines.append(f"{where}: missing key '{key}'")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: '{key}': {message}")
    return "\n".join(lines)


def valid_keys(model: type[BaseModel], place: Sequence[Any]) -> list[str]:
    """Return the keys that may stand at a place inside a model; all field names if unsure."""
    names: set[str] = set()
    stack: list[Any] = [model]
    seen: set[int] = set()
    while stack:
        kind = stack.pop()
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not place or kind is not model:
                names.update(kind.model_fields)
            stack.extend(info.annotation for info in kind.model_fields.values() if place)
        stack.extend(getattr(kind, "__args__", ()))
    return sorted(names)


def did_you_mean(word: str, valid: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" with the closest valid word in any case, or what is valid."""
    by_lower = {name.lower(): name for name in reversed(valid)}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{by_lower[close[0]]}'?"
    shown = ", ".join(list(valid)[:30])
    return f"; valid: {shown}" if shown else ""


def line_of(path: Path, place: Sequence[Any]) -> int:
    """Return the line (from 1) of a key path in a YAML file; of the deepest part that exists."""
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError, RecursionError, *_BAD_VALUES):
        return 1
    line = 1
    for part in place:
        if isinstance(node, MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1 if node is not None else line
    return line
