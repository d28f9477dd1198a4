"""Checkpoints written while training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from madeleine_bench.pretrain.checkpoint import Checkpoint, write_checkpoint


class CheckpointWriter:
    """Writes checkpoints to one file, one after the other.

    On a GPU an epoch of a small cohort takes less time than writing its checkpoint, so there the
    next epoch goes on meanwhile. A crash then leaves the checkpoint before.
    """

    def __init__(self, path: Path, *, behind: bool) -> None:
        """Write to a file.

        Args:
            path: the file.
            behind: return from `write` before the file is written.
        """
        self.path = path
        self._behind = behind
        self._waiting: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def write(self, checkpoint: Checkpoint, *, last: bool) -> None:
        """Write a checkpoint, after the one before it.

        Args:
            checkpoint: copied first, where it is written behind.
            last: return when the file is there.

        Raises:
            InputError: the folder of this checkpoint, or of the one before, cannot be written.
        """
        self.finish()
        if not self._behind:
            write_checkpoint(self.path, checkpoint)
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._waiting = self._thread.submit(write_checkpoint, self.path, _copied(checkpoint))
        if last:
            self.finish()

    def finish(self) -> None:
        """Wait until the file is there.

        Raises:
            InputError: its folder cannot be written.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.result()


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint on the CPU that training does not change."""

    def on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value.detach().cpu() if value.is_cuda else value.detach().clone()
            for name, value in tensors.items()
        }

    return replace(
        checkpoint,
        state=deepcopy(checkpoint.state),
        model=on_host(checkpoint.model),
        moments=on_host(checkpoint.moments),
        best=on_host(checkpoint.best),
        average=on_host(checkpoint.average),
    )
