"""How a job ended, why a part of a run failed, and how a run with failed parts ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from madeleine_bench.errors import CheckFailed, InputError, MbenchError
from madeleine_bench.specs.record import Record

_SHOWN = 20


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
    """How a job ended: a note, what failed by (encoder, where), and the record it wrote, if any.

    `said` are lines for the user.
    """

    note: str
    failed: dict[tuple[str, str], Failure] = field(default_factory=dict)
    record: Record | None = None
    said: tuple[str, ...] = ()


def ending(message: str, failures: Sequence[tuple[str, Failure]]) -> MbenchError | None:
    """Return the error that a run with failed parts ends with, which names 20; None without any.

    It is InputError (exit 2) where every failure is a wrong input, and CheckFailed (exit 1) where
    any is not.

    Args:
        message: begins the error.
        failures: what, and why.
    """
    if not failures:
        return None
    lines = [f"\n  {what}: {why}" for what, why in failures[:_SHOWN]]
    more = f"\n  and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    kind = InputError if all(failure.is_user_error for _, failure in failures) else CheckFailed
    return kind(f"{message}:{''.join(lines)}{more}")
