"""The cases: what is broken, where, how, and with which seed; the same on every machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.faults.server import Injection

Ending = Literal["survived", "lost", "silently wrong"]

FORMATS = (
    "task YAML", "cohort YAML", "protocol YAML", "encoder card", "patch encoder card",
    "recipe YAML", "published scores", "adjudications", "regression suite", "explanations",
    "tasks.lock", "mbench.toml", "label CSV", "label TSV", "label parquet", "bag, clam",
    "bag, trident", "bag, atlaspatch", "bag, .pt", "patch file", "slide", "packed index",
    "packed first file", "packed second file", "packed last file", "file memory", "record",
    "predictions", "embeddings", "cost of embeddings", "frozen splits", "submission", "weights",
    "checkpoint", "fit", "training log",
)  # fmt: skip
SCENARIOS = ("run", "pretrain", "extract", "pack", "build", "verify")
# Bodies of encode(bag); "toy" beside it is sound and must keep its scores.
ENCODERS = {
    "raises": "raise RuntimeError('boom')",
    "raises SystemExit(0)": "raise SystemExit(0)",
    "raises MemoryError": "raise MemoryError",
    "returns NaN": "return bag.features.mean(axis=0) * np.nan",
    "returns infinity": "return bag.features.mean(axis=0) / np.float32(0)",
    "returns a matrix": "return bag.features",
    "returns whole numbers": "return np.arange(4)",
    "returns an empty vector": "return bag.features[0, :0]",
    "returns text": "return 'vector'",
    "returns None": "return None",
    "returns ragged lists": "return [[1.0], [1.0, 2.0]]",
    "changes its width": "return bag.features.mean(axis=0)[: 3 + len(bag.features) % 2]",
}
IN_WORKERS = {
    "worker out of memory (SIGKILL)": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "worker crashes (SIGSEGV)": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hangs in Python": "import time; time.sleep(1000)",
    "hangs and holds the interpreter": "return sum(range(10**15))",
    "changes between calls": "return np.random.default_rng().standard_normal(4)",
}


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        kind: a row of the table.
        where: a format, a command, or "encoder".
        how: what happens there.
        seed: which of several alike.
    """

    kind: str
    where: str
    how: str
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """How a case ended, and what was seen: a word for the table or why it is not survived."""

    case: Case
    ending: Ending
    seen: str


def all_cases() -> list[Case]:
    """Every case, in the order of the table."""
    return [
        *(Case("damaged file", name, how, seed) for name in FORMATS for how, seed in _DAMAGES),
        *_commands("killed", _KILLS, {"run": 8, "extract": 6, "pack": 8, "build": 5, "verify": 5}),
        *_commands("killed", _KILLS[1::2], {"pretrain": 4}),
        *_commands("disk full", _FULL, dict.fromkeys(SCENARIOS, 4) | {"pretrain": 2}),
        *_commands("disk error", _BROKEN, dict.fromkeys(SCENARIOS, 1)),
        *_commands("folder that cannot be written", _BLOCKED, dict.fromkeys(SCENARIOS, 2)),
        *_commands("clock", _CLOCKS, dict.fromkeys(SCENARIOS, 1) | {"run": 3, "pack": 3}),
        *_commands("two writers", ("at once",), dict.fromkeys(SCENARIOS, 1)),
        *(Case("encoder", "run", how) for how in ENCODERS),
        *(Case("worker", "run", how) for how in IN_WORKERS),
    ]


def fast_cases() -> list[Case]:
    """Some of every kind that need no worker process: 20 that take seconds."""
    every = all_cases()
    files = [case for case in every if case.kind == "damaged file" and case.seed == 0]
    commands = [
        case
        for case in every
        if (case.where, case.kind) in _FAST and case.seed == _FAST[case.where, case.kind]
    ]
    encoders = [case for case in every if case.how in ("raises SystemExit(0)", "returns NaN")]
    return [*files[3::12], *commands, *encoders]


_DAMAGES = (("flip", 0), ("flip", 1), ("cut", 0), ("zero", 0), ("grow", 0), ("empty", 0))
_KILLS = (
    "write, torn", "rename, kill-after", "fsync, kill", "rename, kill", "open, kill",
    "write, kill", "write, torn", "rename, kill-after",
)  # fmt: skip
_FULL = ("write, fail-on", "fsync, fail-on", "1000 bytes a file", "open, fail-once")
_BROKEN = ("write, fail-once, EIO",)
_BLOCKED = ("a file in its place", "open, fail-on, EROFS")
_CLOCKS = ("20 years back", "input from the future", "20 years back, then now")
_FAST = {
    ("run", "killed"): 1, ("build", "killed"): 0, ("extract", "killed"): 2, ("pack", "killed"): 0,
    ("verify", "disk full"): 0, ("run", "disk full"): 2, ("extract", "disk full"): 0,
    ("build", "folder that cannot be written"): 0, ("run", "clock"): 0, ("run", "two writers"): 0,
}  # fmt: skip


def _commands(kind: str, hows: tuple[str, ...], counts: dict[str, int]) -> Iterator[Case]:
    for where, count in counts.items():
        for number in range(count):
            yield Case(kind, where, hows[number % len(hows)], number)


def injection(case: Case, calls: dict[str, int]) -> Injection:
    """What strikes in the process of a case, from how many calls of each kind there are in all."""
    if case.how == "1000 bytes a file":
        return Injection(file_bytes=1000)
    if case.how.startswith("20 years back"):
        return Injection(clock_s=-20 * 365 * 86400)
    kind, how, *error = case.how.split(", ")
    place = ((case.seed * 5 + 3) % 8 + 0.5) / 8  # spread over the whole of the command
    at = 1 + int(place * calls[kind])
    return Injection(kind, at, how, *error)
