"""One case, from a sound workshop to a verdict.

A case has survived where the command, given again, leaves what it leaves undisturbed, to the byte;
and where the disturbed command itself ended well, was killed, or said in words what is wrong and
left nothing half-written. It is lost where anything else is seen, and silently wrong where a
command says that all is well and it is not.
"""

import os
import resource
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from madeleine_bench.errors import MbenchError
from tests.faults.cases import ENCODERS, FORMATS, IN_WORKERS, Case, Verdict, injection
from tests.faults.damage import damaged
from tests.faults.readers import Format, formats, put
from tests.faults.scenarios import contents, leftovers, make_workshop, scenarios
from tests.faults.server import Commands, Ended

READ_S, READ_BYTES = 20.0, 1 << 31
TIME_LIMIT_S = "0.5"
_FUTURE_S = 5 * 365 * 86400


class Harness:
    """A workshop, what commands leave in it undisturbed, and the process that runs them."""

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder, self._commands = folder, commands
        self.shop = make_workshop(folder / "shop")
        self.scenarios = scenarios(self.shop)
        self._formats: dict[str, Format] = {}
        self._clean: dict[str, tuple[dict[str, int], dict[str, str]]] = {}
        self._number = 0

    def run(self, case: Case) -> Verdict:
        """Return how a case ends."""
        if case.kind == "damaged file":
            return self._read(case)
        if case.kind in ("encoder", "worker"):
            return self._encode(case)
        self._number += 1
        out = self.folder / "out" / str(self._number)
        try:
            return self._command(case, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)
            out.unlink(missing_ok=True) if out.is_file() else None

    @property
    def formats(self) -> dict[str, Format]:
        """Sound files of every format."""
        if not self._formats:
            self._formats = formats(self.folder / "files", self.shop)
            assert tuple(self._formats) == FORMATS, sorted({*self._formats} ^ {*FORMATS})
        return self._formats

    def _read(self, case: Case) -> Verdict:
        one = self.formats[case.where]
        clean = one.read()
        data = damaged(one.path.read_bytes(), case.how, case.seed)
        with put(one.path, data):
            try:
                with bounded():
                    found = one.read()
            except MbenchError as error:
                return _in_words(case, str(error))
            except BaseException as error:  # noqa: BLE001  (that is what is looked for)
                return Verdict(case, "lost", f"{type(error).__name__}: {error}"[:300])
        if found == clean:
            return Verdict(case, "survived", "no effect")
        if found is None:
            return Verdict(case, "survived", "made again")
        if one.guarded:
            return Verdict(case, "silently wrong", "read as other content")
        return Verdict(case, "survived", "as good as what was there")

    def _undisturbed(self, name: str) -> tuple[dict[str, int], dict[str, str]]:
        """Return the calls and the contents of a command that nobody disturbs."""
        if name not in self._clean:
            out = self.folder / "clean" / name
            ended = self._commands.run(self.scenarios[name].arguments(out), out)
            assert ended.code == 0, ended.said
            self._clean[name] = ended.calls, contents(out)
        return self._clean[name]

    def _command(self, case: Case, out: Path) -> Verdict:
        calls, clean = self._undisturbed(case.where)
        arguments = self.scenarios[case.where].arguments(out)
        if case.how == "at once":
            both = [self._commands.start(arguments, out) for _ in range(2)]
            struck = [self._commands.wait(pid) for pid in both]
        elif case.how == "a file in its place":
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("in the way")
            struck = [self._commands.run(arguments, out)]
            out.unlink()
        elif case.how == "input from the future":
            with _future(self.shop.folder):
                struck = [self._commands.run(arguments, out)]
        else:
            struck = [self._commands.run(arguments, out, injection(case, calls))]
            if case.how == "20 years back, then now":
                again = injection(case, calls)
                struck.append(self._commands.run(arguments, out, again))
        if fault := next(filter(None, map(_not_in_words, struck)), None):
            return Verdict(case, "lost", fault)
        if any(ended.code == 0 for ended in struck) and contents(out) != clean:
            return Verdict(case, "silently wrong", "exit 0, other files")
        if all(ended.code >= 0 for ended in struck) and (left := leftovers(out)):
            return Verdict(case, "lost", f"left {left[0]}")
        again = self._commands.run(arguments, out)
        if again.code != 0:
            return Verdict(case, "lost", f"given again: exit {again.code}: {again.said[-300:]}")
        if (found := contents(out)) != clean:
            other = sorted(k for k in {*found, *clean} if found.get(k) != clean.get(k))
            return Verdict(case, "silently wrong", f"given again: {', '.join(other[:3])}")
        return Verdict(case, "survived", _ending(struck))

    def _encode(self, case: Case) -> Verdict:
        _, clean = self._undisturbed("run")
        self._number += 1
        out = self.folder / "out" / str(self._number)
        body = ENCODERS.get(case.how) or IN_WORKERS[case.how]
        name = f"bad-{self._number}"
        arguments = [
            *self.scenarios["run"].arguments(out),
            "--encoder",
            self.shop.encoder(name, body),
        ]
        if case.kind == "worker":
            arguments += ["--time-limit", TIME_LIMIT_S]
        if case.how == "changes between calls":
            arguments += ["--check-determinism"]
        ended = self._commands.run(arguments, out)
        found = {path: same for path, same in contents(out).items() if name not in path}
        shutil.rmtree(out)
        if fault := _not_in_words(ended):
            return Verdict(case, "lost", fault)
        if ended.code not in (1, 2) or name not in ended.said:
            return Verdict(case, "silently wrong", f"exit {ended.code}: {ended.said[-300:]}")
        if found != clean:
            return Verdict(case, "lost", "the sound encoder beside it has no scores")
        return Verdict(case, "survived", "said in words")


def run_all(harness: Harness, cases: Iterable[Case]) -> Iterator[Verdict]:
    """Yield the verdict of each case."""
    for case in cases:
        yield harness.run(case)


@contextmanager
def bounded(seconds: float = READ_S, size: int = READ_BYTES) -> Iterator[None]:
    """Let a block take some seconds and bytes of memory more, and no more than that.

    Raises:
        TimeoutError: it took longer.
        MemoryError: it asked for more.
    """

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before_limit, before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, before_limit[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, before_limit)


@contextmanager
def _future(folder: Path) -> Iterator[None]:
    """Let all files of a folder be of a time to come while the block runs."""
    before = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    for path in before:
        os.utime(path, (time.time() + _FUTURE_S,) * 2)
    try:
        yield
    finally:
        for path, state in before.items():
            with suppress(FileNotFoundError):
                os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _in_words(case: Case, message: str) -> Verdict:
    if not message or "Traceback" in message or len(message) > 4000:
        return Verdict(case, "lost", f"no words: {message[:300]}")
    return Verdict(case, "survived", "said in words")


def _not_in_words(ended: Ended) -> str | None:
    """Return what is wrong with how a command ended; None for done, said in words, or killed."""
    if ended.code in (0, -signal.SIGKILL):
        return None
    if ended.code not in (1, 2) or "error:" not in ended.said or "Traceback" in ended.said:
        return f"exit {ended.code}: {ended.said[-300:]}"
    return None


def _ending(struck: list[Ended]) -> str:
    codes = {ended.code for ended in struck}
    if codes == {0}:
        return "no effect"
    return "killed, then done" if min(codes) < 0 else "said in words"
