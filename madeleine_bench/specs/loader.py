"""One way to read a YAML or TOML file into a frozen model, with errors that name file and line."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows

# What making values raises: a day that there is not, 4,301 digits, a tag !!bool on another word.
_BAD_VALUES = (ValueError, TypeError, KeyError, ArithmeticError, AttributeError)
_TOML_HEADER = re.compile(r"^\s*\[{1,2}\s*(.+?)\s*\]{1,2}\s*(?:#.*)?$")
_TOML_KEY = re.compile(r"^\s*((?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*[^\s=]+)*)\s*=")
_TOML_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")
_BACKSLASH = re.compile(r"\"[^\"]*\\")
WINDOWS_PATH = (
    "a backslash in double quotes starts an escape sequence in TOML; write a Windows path in "
    "single quotes, as 'C:\\data', or with forward slashes, as \"C:/data\""
)


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
    text = _read(path)
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError, *_BAD_VALUES) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = str(getattr(error, "problem", None) or error)[:200]
        if isinstance(error, DuplicateKeyError):
            problem = problem.split(" with value")[0]
            raise InputError(f"{where}: {problem}; each key may stand once") from error
        raise InputError(f"{where}: not valid YAML: {problem}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: expected keys and values, found {type(data).__name__}")
    return data


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table that a TOML file holds.

    Raises:
        InputError: the file is absent, is not UTF-8, or is not TOML.
    """
    text = _read(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+)", str(error))
        line = int(place.group(1)) if place else text.count("\n") + 1
        if _BACKSLASH.search(text.split("\n")[line - 1].replace("\\\\", "")):
            raise InputError(f"{path}:{line}: {WINDOWS_PATH}") from error
        raise InputError(f"{path}:{line}: not valid TOML: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig" if path.suffix == ".toml" else "utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}") from error


def parse_spec(
    model: type[SpecT],
    data: dict[str, Any],
    path: Path,
    place: Sequence[str] = (),
    context: Any = None,
) -> SpecT:
    """Return `data` as a model; `path` and `place` are where it was read, for the message.

    `context` is what validators of the model are given.

    Raises:
        InputError: a key is unknown or missing, or a value is of the wrong kind. Each fault is
            named with its line, and an unknown key with the closest valid one.
    """
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise InputError(explain(error, model, path, data, place)) from error


def explain(
    error: ValidationError,
    model: type[BaseModel],
    path: Path | str,
    data: Any = None,
    prefix: Sequence[str] = (),
) -> str:
    """Return the message for the faults pydantic found: a line each, with file and line number.

    Args:
        error: what pydantic raised.
        model: the model that the content of the file was to be.
        path: the file, or words for what is no file.
        data: its content. Pydantic names branches of unions in a place, which are no keys in it.
        prefix: where in the file the content stands.
    """
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        place = tuple(fault["loc"])
        if data is not None:
            place = _keys_alone(place, data, keep_last=fault["type"] == "missing")
        where = f"{path}:{line_of(path, (*prefix, *place))}" if isinstance(path, Path) else path
        key = ".".join(map(str, (*prefix, *place))) or "(top level)"
        if fault["type"] == "extra_forbidden":
            valid = valid_keys(model, place[:-1])
            lines.append(f"{where}: unknown key '{key}'{did_you_mean(str(place[-1]), valid)}")
        elif fault["type"] == "missing":
            lines.append(f"{where}: missing key '{key}'")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: '{key}': {message}")
    return "\n".join(dict.fromkeys(lines))


def _keys_alone(place: Sequence[Any], data: Any, *, keep_last: bool) -> tuple[Any, ...]:
    """Return the parts of a place that are keys and positions of the content."""
    keys = []
    for number, part in enumerate(place, 1):
        try:
            data = data[part]
        except (LookupError, TypeError):
            if not keep_last or number < len(place):
                continue
        keys.append(part)
    return tuple(keys)


def valid_keys(model: type[BaseModel], place: Sequence[Any]) -> list[str]:
    """Return the keys that may stand at a place inside a model, sorted.

    Parts of the place that are no key of a model are positions, or keys of a mapping.
    """
    models = [model]
    for part in place:
        fields = [kind.model_fields[part] for kind in models if part in kind.model_fields]
        if fields:
            models = [inner for field in fields for inner in _models(field.annotation)]
    return sorted({name for kind in models for name in kind.model_fields})


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside a type, such as the branches of a union."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from _models(inner)


def did_you_mean(word: str, valid: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" with the closest valid word in any case, or what is valid."""
    by_lower = {name.lower(): name for name in reversed(valid)}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{by_lower[close[0]]}'?"
    shown = ", ".join(list(valid)[:30])
    return f"; valid: {shown}" if shown else ""


def line_of(path: Path, place: Sequence[Any]) -> int:
    """Return the line (from 1) of a key path in a file; of the deepest part that is there."""
    try:
        if path.suffix == ".toml":
            return _toml_line(_read(path), [str(part) for part in place])
        node: Node | None = YAML(typ="safe", pure=True).compose(_read(path))
    except (InputError, YAMLError, RecursionError, *_BAD_VALUES):
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


def _toml_line(text: str, place: Sequence[str]) -> int:
    best, best_depth = 1, 0
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TOML_HEADER.match(line):
            table = keys = _toml_parts(header.group(1))
        elif key := _TOML_KEY.match(line):
            keys = table + _toml_parts(key.group(1))
        else:
            continue
        depth = min(len(keys), len(place))
        if keys[:depth] == list(place[:depth]) and depth > best_depth:
            best, best_depth = number, depth
    return best


def _toml_parts(dotted: str) -> list[str]:
    return ["".join(groups) for groups in _TOML_PART.findall(dotted)]
