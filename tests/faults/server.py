"""Commands in processes of their own, at the price of a fork: each is begun by one warm process.

`Commands` starts `python -m tests.faults.server`, which imports the package once, starts no thread,
and forks a child for each command. A child may be told to fail at its n-th write, fsync, rename or
open (`interpose.c`, preloaded), to have another clock, or less room for a file.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KINDS = ("write", "fsync", "rename", "open")
HOWS = ("kill", "kill-after", "torn", "fail-once", "fail-on")
TIMEOUT_S = 120.0
_SAID_BYTES = 1 << 20
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


@dataclass(frozen=True)
class Injection:
    """What goes wrong in a process.

    Attributes:
        kind: of the system call that is struck; "" for none.
        at: which of them, from 1.
        how: "kill" before it, "kill-after" it, "torn" half-way, "fail-once" or "fail-on" (from
            there on) with `error`.
        error: name of the error number.
        clock_s: added to the time of day.
        file_bytes: the most that a file may have; None sets no limit.
    """

    kind: str = ""
    at: int = 1
    how: str = "kill"
    error: str = "ENOSPC"
    clock_s: int = 0
    file_bytes: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, or minus the signal; what it said; calls it made by kind."""

    code: int
    said: str
    calls: dict[str, int]


class Commands:
    """The warm process. A context manager; safe for one thread."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={
                **os.environ,
                "LD_PRELOAD": str(_library(scratch)),
                "PYTHONPATH": str(_ROOT),
                **dict.fromkeys(
                    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
                ),
            },
        )
        self._number = 0

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)
        assert self._process.stdout
        self._process.stdout.close()

    def start(
        self, arguments: Sequence[str | Path], below: Path, injection: Injection | None = None
    ) -> int:
        """Start `mbench ARGUMENTS`; calls on files below a folder count. Return its number."""
        self._number += 1
        calls = self._scratch / f"calls-{self._number}.json"
        answer = self._ask(
            {
                "arguments": [str(argument) for argument in arguments],
                "below": str(below),
                "calls": str(calls),
                "injection": asdict(injection or Injection()),
            }
        )
        return int(answer["pid"])

    def wait(self, pid: int, timeout_s: float = TIMEOUT_S) -> Ended:
        """Return how a command ended; one that takes too long is killed, with code -14."""
        answer = self._ask({"wait": pid, "timeout_s": timeout_s})
        calls = Path(answer["calls"])
        counted = json.loads(calls.read_text()) if calls.exists() else {}
        return Ended(answer["code"], answer["said"], counted)

    def run(
        self, arguments: Sequence[str | Path], below: Path, injection: Injection | None = None
    ) -> Ended:
        """Run a command to its end."""
        return self.wait(self.start(arguments, below, injection))

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def missing() -> str | None:
    """Return why faults cannot be injected on this machine; None where they can."""
    if not sys.platform.startswith("linux"):
        return "faults are injected by a preloaded library, on Linux alone"
    return None if _compiler() else "no C compiler for the preloaded library"


def _compiler() -> str | None:
    configured = (sysconfig.get_config_var("CC") or "").split()
    return next(filter(None, map(shutil.which, [*configured[:1], "cc", "gcc", "clang"])), None)


def _library(folder: Path) -> Path:
    library = folder / "interpose.so"
    compiler = _compiler()
    assert compiler
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", library, _HERE / "interpose.c", "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def _serve() -> None:
    """Answer questions, a line each, until there are no more."""
    _warm_up()
    running: dict[int, tuple[int, str]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" not in question:
            # A pipe, since a limit on the size of files would silence a file.
            heard, said = os.pipe()
            fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, _SAID_BYTES)
            pid = os.fork()
            if pid == 0:
                _child(question, said)
            os.close(said)
            running[pid] = (heard, question["calls"])
            answer: dict[str, Any] = {"pid": pid}
        else:
            pid = question["wait"]
            code, (heard, calls) = _ended(pid, question["timeout_s"]), running.pop(pid)
            os.set_blocking(heard, False)
            with contextlib.suppress(BlockingIOError):  # a worker may still hold the other end
                answer = {"code": code, "calls": calls, "said": ""}
                answer["said"] = os.read(heard, _SAID_BYTES).decode(errors="replace")
            os.close(heard)
        print(json.dumps(answer), flush=True)


def _ended(pid: int, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGALRM


def _child(question: dict[str, Any], said: int) -> None:
    """Run the command, and end without the handlers of the process it was forked from."""
    code = 70
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        from madeleine_bench.cli.main import main

        library = ctypes.CDLL(None)
        wanted = Injection(**question["injection"])
        kind = KINDS.index(wanted.kind) if wanted.kind else -1
        how = HOWS.index(wanted.how)
        number = getattr(errno, wanted.error)
        if wanted.file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (wanted.file_bytes, resource.RLIM_INFINITY))
        library.faults_clock(ctypes.c_long(wanted.clock_s))
        library.faults_arm(question["below"].encode(), kind, ctypes.c_long(wanted.at), how, number)
        try:
            main(question["arguments"])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        counted = {name: library.faults_seen(i) for i, name in enumerate(KINDS)}
        library.faults_arm(b"", -1, ctypes.c_long(0), 0, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        Path(question["calls"]).write_text(json.dumps(counted))
    except BaseException:  # noqa: BLE001  (a child must never go on as the server)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _warm_up() -> None:
    """Import all that commands need, so that a child begins where others have spent seconds."""
    import pyarrow.parquet  # noqa: F401
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401
    import torch  # noqa: F401

    import madeleine_bench.cli.console
    import madeleine_bench.data.packing
    import madeleine_bench.leaderboard.document
    import madeleine_bench.pretrain.loop
    import madeleine_bench.runner.run
    import madeleine_bench.slides.extraction
    import madeleine_bench.submissions.report  # noqa: F401


if __name__ == "__main__":
    _serve()
