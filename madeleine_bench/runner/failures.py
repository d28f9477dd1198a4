"""How a job ended, why a part of a run failed, and how a run with failed parts ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from madeleine_bench.errors import CheckFailed, InputError, MbenchError

SHOWN_FAILURES = 20  # and as many differences


@dataclass(frozen=True)
class Failure:
    """Why something could not be made.

    Attributes:
        reason: for the user.
        is_user_error: whether a file or an option is wrong. Otherwise a check failed: an encoder
            raised, hung or gave NaN, a network could not be trained, or a worker died for good.
    """

    reason: str
    is_user_error: bool = False

    @classmethod
    def of(cls, error: MbenchError) -> Self:
        """Return the failure that an error is; its traceback is not kept."""
        return cls(str(error), isinstance(error, InputError))

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a note for the screen, and what failed by (encoder, where)."""

    note: str
    failed: dict[tuple[str, str], Failure] = field(default_factory=dict)


def ending(message: str, failures: Sequence[tuple[str, Failure]]) -> MbenchError | None:
    """Return the error that a run with failed parts ends with; None where nothing failed.

    It is InputError (exit 2) where every failure is a wrong input, and CheckFailed (exit 1) where
    any is not.

    Args:
        message: says what failed.
        failures: what, and why.
    """
    if not failures:
        return None
    kind = InputError if all(failure.is_user_error for _, failure in failures) else CheckFailed
    return kind(f"{message}:\n{listed([f'{what}: {why}' for what, why in failures])}")


def listed(lines: Sequence[str]) -> str:
    """Return the first lines under each other, and how many more there are."""
    shown = [f"  {line}" for line in lines[:SHOWN_FAILURES]]
    if (more := len(lines) - SHOWN_FAILURES) > 0:
        shown.append(f"  and {more} more")
    return "\n".join(shown)
