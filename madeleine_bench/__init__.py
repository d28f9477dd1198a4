"""madeleine-bench: is my slide encoder better, on which task, and are we sure?

The names below are the public face: `import madeleine_bench as mb`. Each is imported when it is
first used, so the import itself takes a moment and loads no network library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madeleine_bench.data.bags import read_bag_file
    from madeleine_bench.data.labels import build_units
    from madeleine_bench.encoders.base import BaseEncoder, SlideEncoder
    from madeleine_bench.encoders.registry import find_encoder, load_encoder
    from madeleine_bench.errors import CheckFailed, InputError
    from madeleine_bench.leaderboard.aggregate import build_boards
    from madeleine_bench.leaderboard.comparison import compare
    from madeleine_bench.protocols.evaluation import evaluate
    from madeleine_bench.protocols.scoring import score, scored_units
    from madeleine_bench.results.store import ResultStore
    from madeleine_bench.runner.plan import Request
    from madeleine_bench.runner.run import run
    from madeleine_bench.specs.catalogue import load_catalogue
    from madeleine_bench.specs.workspace import Workspace
    from madeleine_bench.stats.paired import paired_difference
    from madeleine_bench.types import Bag, Splits, Survival, Units

__version__ = "0.5.0"

_MODULES = {
    "data.bags": ["read_bag_file"],
    "data.labels": ["build_units"],
    "encoders.base": ["BaseEncoder", "SlideEncoder"],
    "encoders.registry": ["find_encoder", "load_encoder"],
    "errors": ["CheckFailed", "InputError"],
    "leaderboard.aggregate": ["build_boards"],
    "leaderboard.comparison": ["compare"],
    "protocols.evaluation": ["evaluate"],
    "protocols.scoring": ["score", "scored_units"],
    "results.store": ["ResultStore"],
    "runner.plan": ["Request"],
    "runner.run": ["run"],
    "specs.catalogue": ["load_catalogue"],
    "specs.workspace": ["Workspace"],
    "stats.paired": ["paired_difference"],
    "types": ["Bag", "Splits", "Survival", "Units"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Bag", "BaseEncoder", "CheckFailed", "InputError", "Request", "ResultStore", "SlideEncoder",
    "Splits", "Survival", "Units", "Workspace", "build_boards", "build_units", "compare",
    "evaluate", "find_encoder", "load_catalogue", "load_encoder", "paired_difference",
    "read_bag_file", "run", "score", "scored_units",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name of the public face when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'madeleine_bench' has no attribute '{name}'")
    return getattr(import_module(f"madeleine_bench.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
