"""Why a part of a run failed, and how a run with failed parts ends."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from madeleine_bench.errors import CheckFailed, InputError, MbenchError


@dataclass(frozen=True)
class Failure:
    """Why something could not be made.

    Attributes:
        reason: for the user.
        of_input: whether a file or an option is wrong. Otherwise a check failed: an encoder raised,
            hung or gave NaN, a network could not be trained, or a worker died for good.
    """

    reason: str
    of_input: bool = False

    @classmethod
    def of(cls, error: MbenchError) -> Self:
        """Return the failure that an error is; its traceback is not kept."""
        return cls(str(error), isinstance(error, InputError))

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


def ending(message: str, failures: Iterable[tuple[str, Failure]]) -> MbenchError:
    """Return the error that a run with failed parts ends with.

    It is InputError (exit 2) where every failure is a wrong input, and CheckFailed (exit 1) where
    any is not.

    Args:
        message: says what failed.
        failures: what, and why.
    """
    kind = InputError if all(failure.of_input for _, failure in failures) else CheckFailed
    return kind(message)
