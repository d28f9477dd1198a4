"""madeleine-bench: is my slide encoder better, on which task, and are we sure?

The names below are the public face: `import madeleine_bench as mb`. Each is imported when it is
first used, so the import itself takes a moment and loads no network library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madeleine_bench.api import (
        Results,
        Score,
        Task,
        compare,
        embed,
        evaluate,
        load_bags,
        load_results,
        load_task,
        run,
        tasks,
    )
    from madeleine_bench.data.bags import read_bag_file
    from madeleine_bench.encoders.base import BaseEncoder, SlideEncoder
    from madeleine_bench.encoders.registry import find_encoder, load_encoder
    from madeleine_bench.errors import CheckFailed, InputError
    from madeleine_bench.results.store import ResultStore
    from madeleine_bench.specs.catalogue import load_catalogue
    from madeleine_bench.specs.workspace import Workspace
    from madeleine_bench.types import Bag, Splits, Survival, Units

__version__ = "0.7.0"

_MODULES = {
    "api": [
        "Results", "Score", "Task", "compare", "embed", "evaluate", "load_bags", "load_results",
        "load_task", "run", "tasks",
    ],
    "data.bags": ["read_bag_file"],
    "encoders.base": ["BaseEncoder", "SlideEncoder"],
    "encoders.registry": ["find_encoder", "load_encoder"],
    "errors": ["CheckFailed", "InputError"],
    "results.store": ["ResultStore"],
    "specs.catalogue": ["load_catalogue"],
    "specs.workspace": ["Workspace"],
    "types": ["Bag", "Splits", "Survival", "Units"],
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Bag", "BaseEncoder", "CheckFailed", "InputError", "ResultStore", "Results", "Score",
    "SlideEncoder", "Splits", "Survival", "Task", "Units", "Workspace", "compare", "embed",
    "evaluate", "find_encoder", "load_bags", "load_catalogue", "load_encoder", "load_results",
    "load_task", "read_bag_file", "run", "tasks",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name of the public face when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'madeleine_bench' has no attribute '{name}'")
    return getattr(import_module(f"madeleine_bench.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
