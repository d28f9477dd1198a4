"""Loss terms on their way from the device to the host."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Reading:
    """Loss terms to be read later, without waiting for what the device was given after them.

    On a GPU their copy is queued at once, right behind what makes them. Asked for later, a number
    would come after all that has been queued by then: a whole step.

    Attributes:
        terms: scalars on the device, without gradient.
    """

    def __init__(self, terms: Mapping[str, Tensor]) -> None:
        """Queue the copy of the terms."""
        self.terms = terms
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None
        if any(value.device.type == "cuda" for value in terms.values()):
            there = torch.stack(list(terms.values()))
            here = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
            here.copy_(there, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._copied = here, copied

    def values(self) -> dict[str, float]:
        """Return the numbers, once they are there."""
        if self._copied is None:
            return {name: float(value) for name, value in self.terms.items()}
        here, copied = self._copied
        copied.synchronize()
        return dict(zip(self.terms, here.tolist(), strict=True))
