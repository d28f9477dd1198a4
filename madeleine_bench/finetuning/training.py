"""One fit: a network trained on some units, stopped early on others, and what it says of units."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madeleine_bench.finetuning.objectives import Objective
from madeleine_bench.finetuning.unit_bags import UnitBags
from madeleine_bench.protocols.scaling import Scaler
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.protocol import FineTune


def keep_for_validation(
    train: NDArray[np.intp],
    case: NDArray[np.object_],
    stratum: NDArray[np.object_],
    share: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the units to learn from, and those to stop early by, which may be none.

    Cases are dealt within strata (class, or event), a case by its first unit; of a stratum with
    one case none is kept. No case is on both sides.

    Args:
        train: positions of the training units.
        case: case of every unit of the task.
        stratum: class, or event, of every unit of the task.
        share: share of the cases of each stratum to keep; 0 keeps none.
        rng: of the draw.
    """
    by_stratum: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for unit in np.sort(train):
        if case[unit] not in seen:
            seen.add(case[unit])
            by_stratum[str(stratum[unit])].append(case[unit])
    kept: set[str] = set()
    for _, cases in sorted(by_stratum.items()):
        wanted = min(len(cases) - 1, max(1, round(share * len(cases)))) if share else 0
        kept.update(cases[i] for i in rng.permutation(len(cases))[:wanted])
    is_kept = np.array([case[unit] in kept for unit in train], dtype=np.bool_)
    return np.sort(train[~is_kept]), np.sort(train[is_kept])


if TYPE_CHECKING:
    from madeleine_bench.models.mil.base import BagNetwork, BagOutput


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        epochs: epochs run.
        best_epoch: the epoch (from 1) whose weights were kept.
        train_loss: mean loss of the steps of the last epoch.
        validation_loss: the lowest; None without validation units.
        reason: why it cannot be used, or None.
    """

    epochs: int
    best_epoch: int
    train_loss: float
    validation_loss: float | None
    reason: str | None = None


@dataclass
class Trainer:
    """A network with what it is trained and asked on.

    Attributes:
        network: on `device`.
        bags: of all units of the task.
        scale: what the network's patches are scaled by.
        objective: the loss.
        method: the declared protocol.
        device: where to compute.
    """

    network: "BagNetwork"
    bags: UnitBags
    scale: Scaler
    objective: Objective
    method: FineTune
    device: torch.device

    def train(self, units: NDArray[np.intp], validation: NDArray[np.intp], seed: int) -> Trained:
        """Train the network in place and return how it went; it ends in evaluation mode.

        The learning rate rises over the warm-up, then follows a cosine to zero (Loshchilov and
        Hutter, ICLR 2017), step by step; AdamW (ibid., ICLR 2019). Order of units, samples of
        patches and dropout all come from `seed`; the global random state is left as it was.

        Args:
            units: positions of the units to train on.
            validation: positions of those to stop early by; may be empty.
            seed: of all draws.
        """
        network, method = self.network.to(self.device), self.method
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=method.learning_rate, weight_decay=method.weight_decay
        )
        steps = math.ceil(len(units) / method.batch)
        stretch = max(1, math.ceil(method.min_steps / (method.epochs * steps)))
        epochs, patience = method.epochs * stretch, method.patience * stretch
        schedule = _schedule(method.warmup_epochs * stretch * steps, epochs * steps)
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule)
        best_loss, best_epoch = math.inf, 0
        best = _copy(network)
        epoch, mean_loss = 0, math.nan
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed % 2**63)
            for epoch in range(1, epochs + 1):
                rng = rng_for("finetune", seed, epoch)
                losses = []
                network.train()
                order = rng.permutation(units).tolist()
                for start in range(0, len(order), method.batch):
                    optimiser.zero_grad(set_to_none=True)
                    loss = self._loss(order[start : start + method.batch], rng)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    rate.step()
                    losses.append(loss.detach())
                mean_loss = float(torch.stack(losses).double().mean())
                if not math.isfinite(mean_loss):
                    network.eval()
                    reason = f"the loss was {mean_loss} in epoch {epoch}"
                    return Trained(epoch, 0, 0.0, None, reason)
                if not len(validation):
                    continue
                held_out = self.validation_loss(validation)
                if held_out < best_loss:
                    best_loss, best_epoch, best = held_out, epoch, _copy(network)
                elif epoch - best_epoch >= patience:
                    break
        network.eval()
        if not len(validation):
            return Trained(epoch, epoch, mean_loss, None)
        if not best_epoch:
            reason = "the loss of the validation units was never finite"
            return Trained(epoch, 0, mean_loss, None, reason)
        network.load_state_dict(best)
        return Trained(epoch, best_epoch, mean_loss, best_loss)

    def validation_loss(self, units: NDArray[np.intp]) -> float:
        """Return the loss of units from all their patches."""
        return float(self.objective.loss(self.predict(units), units.tolist()))

    @torch.inference_mode()
    def predict(self, units: NDArray[np.intp]) -> Tensor:
        """Return the logits of units from all their patches, (unit, outputs) float32 on the CPU.

        Each unit goes through the network alone, so that no other unit can change a digit of it.
        """
        self.network.eval()
        logits = [self._forward([self.bags.whole(int(unit))]).logits for unit in units]
        return torch.cat(logits).float().cpu()

    def _loss(self, rows: list[int], rng: np.random.Generator) -> Tensor:
        """Return the loss of a step: of every head, and of what the network asks besides."""
        sampled = [self.bags.sample(unit, self.method.patches, rng) for unit in rows]
        out, objective = self._forward(sampled), self.objective
        heads = [objective.loss(logits.float(), rows) for logits in (out.logits, *out.other_logits)]
        loss = torch.stack(heads).mean()
        if out.auxiliary is None or objective.class_index is None:
            return loss
        label = torch.from_numpy(objective.class_index[rows].astype(np.int64)).to(self.device)
        share = out.auxiliary_share
        return (1.0 - share) * loss + share * out.auxiliary(label)

    def _forward(self, bags: Sequence[NDArray[np.floating]]) -> "BagOutput":
        scaled = np.concatenate([self.scale.apply(bag.astype(np.float32)) for bag in bags])
        patches = torch.from_numpy(scaled).to(self.device)
        reduced = self.method.precision == "bfloat16" and self.device.type == "cuda"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced):
            out: BagOutput = self.network(patches, [len(bag) for bag in bags])
        return out


def _schedule(warm: int, total: int) -> Callable[[int], float]:
    """Return the share of the learning rate at each step."""

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    return share


def _copy(network: "BagNetwork") -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
