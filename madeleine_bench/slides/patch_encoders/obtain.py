"""What a user is told when a package or weights that do not ship cannot be had, and what to do."""

import importlib
from types import ModuleType
from typing import Any

from madeleine_bench.errors import InputError
from madeleine_bench.specs.card import PatchEncoderCard

_REFUSED = {"GatedRepoError", "RepositoryNotFoundError", "LocalTokenNotFoundError"}
_NO_NETWORK = {
    "LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError",
    "ConnectTimeout", "ReadTimeout", "Timeout", "TimeoutException", "TimeoutError", "gaierror",
    "NetworkError",
}  # fmt: skip
_ABSENT = {"EntryNotFoundError", "RemoteEntryNotFoundError", "RevisionNotFoundError"}


def import_package(card: PatchEncoderCard, name: str) -> ModuleType:
    """Return a package that a card requires.

    Raises:
        InputError: it is not installed, or it is and cannot be imported.
    """
    pip = " ".join(f"'{requirement}'" for requirement in card.requires)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise InputError(
                f"{card.name}: {name} is installed, but not what it needs itself: {error}"
            ) from error
        raise InputError(
            f"{card.name}: the package {error.name} is not installed; pip install {pip}"
        ) from error
    except Exception as error:  # a package built for another torch raises almost anything
        raise InputError(
            f"{card.name}: {name} is installed but cannot be imported "
            f"({type(error).__name__}: {error}); its version must fit that of torch"
        ) from error


def download_failed(card: PatchEncoderCard, error: Exception) -> InputError:
    """Return the error for weights that a hub did not give, or that did not fit the model."""
    weights = card.weights
    assert weights is not None
    offline = (
        f"or download them at {weights.url} and give the file: mbench features extract "
        f"--patch-encoder {card.name} --weights FILE ..."
    )
    kind = _kind(error)
    said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    if kind == "refused":
        gate = "are gated and were refused" if weights.gated else "were refused"
        todo = f"ask for access at {weights.url}, then log in (hf auth login)"
        return InputError(
            f"{card.name}: the weights {weights.hub} {gate}; {todo}, {offline}\n{said}"
        )
    if kind == "network":
        gate = " (gated: ask for access first)" if weights.gated else ""
        return InputError(
            f"{card.name}: no network to fetch the weights {weights.hub}{gate}; connect, "
            f"{offline}\n{said}"
        )
    if kind == "absent":
        return InputError(
            f"{card.name}: {weights.hub} does not hold the file that was looked for; {offline}\n"
            f"{said}"
        )
    return InputError(
        f"{card.name}: the model could not be made from {weights.hub}: {said}; the versions of "
        f"{', '.join(card.requires)} may not fit, {offline}"
    )


def _kind(error: BaseException) -> str:
    """Return "refused", "network", "absent" or "other": what stands behind an error.

    Names are compared, not classes: the hub's client is no dependency, its HTTP library has
    changed between versions, and timm wraps what it catches.
    """
    chain = _chain(error)
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    codes = {_status(one) for one in chain}
    if names & _REFUSED or codes & {401, 403}:
        return "refused"
    if names & _NO_NETWORK:
        return "network"
    if names & _ABSENT or 404 in codes:
        return "absent"
    return "other"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and those that led to it."""
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    return chain


def _status(error: BaseException) -> Any:
    """Return the HTTP status an error carries, or None."""
    return getattr(getattr(error, "response", None), "status_code", None)
