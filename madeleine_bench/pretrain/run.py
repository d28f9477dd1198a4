"""One training run: the model with its optimiser, the step, the end of an epoch, what is saved."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import CheckFailed
from madeleine_bench.files import write_text
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.batches import (
    CaseBatch,
    PatchSource,
    choose_source,
    draw_batch,
    plan_epoch,
    prefetch,
    rank_share,
)
from madeleine_bench.pretrain.cases import CaseTable, build_cases, split_cases
from madeleine_bench.pretrain.checkpoint import (
    Checkpoint,
    RunState,
    optimiser_moments,
    read_checkpoint,
    restore_moments,
)
from madeleine_bench.pretrain.checkpoint_writer import CheckpointWriter
from madeleine_bench.pretrain.compiled import compile_layers
from madeleine_bench.pretrain.curves import TrainingLog, loss_curves_svg, read_log
from madeleine_bench.pretrain.heldout import HeldOut, evaluate_held_out
from madeleine_bench.pretrain.objective import cross_stain_loss, view_loss
from madeleine_bench.pretrain.parallel import (
    Group,
    sum_gradients,
    sum_over,
)
from madeleine_bench.pretrain.reading import Reading
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.pretrain.schedule import learning_rate_at
from madeleine_bench.seeds import seed_for

CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.csv", "curves.svg"
_TERMS = ("global", "local", "intra", "loss")
_HELD_OUT_BATCH = 32
_DRAW_EVERY_S = 30.0  # a picture takes longer than an epoch of a small run


@dataclass
class Run:
    """What changes while a run goes on, and what it needs for the next step."""

    recipe: Recipe
    store: FeatureStore
    out: Path
    group: Group
    cases: CaseTable
    held_out: CaseTable
    source: PatchSource
    model: Madeleine
    optimiser: torch.optim.AdamW
    state: RunState
    best: dict[str, Tensor]
    average: dict[str, Tensor]
    log: TrainingLog
    writer: CheckpointWriter
    pending: Reading | None = None
    drawn_s: float = float("-inf")
    smooth_rank: float | None = None

    @classmethod
    def start(cls, recipe: Recipe, store: FeatureStore, out: Path, group: Group) -> "Run":
        """Return a run at its beginning, or where its checkpoint left it."""
        table = build_cases(
            store,
            min_patches=recipe.min_patches,
            unusable=recipe.unusable,
            encoder=recipe.encoder,
        )
        cases, held_out = split_cases(table, recipe.held_out_share, recipe.seed)
        model = Madeleine(
            store.dim,
            recipe.model.width,
            recipe.model.heads,
            stains=len(table.stains) if recipe.model.stain_encoding else 0,
            dropout=recipe.model.dropout,
            gate_dropout=recipe.model.gate_dropout,
        )
        initialise(model, seed_for("pretrain", recipe.seed))
        model.to(group.device)
        if recipe.compile:
            compile_layers(model)
        on_gpu = group.device.type == "cuda"
        optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.optimiser.learning_rate,
            weight_decay=recipe.optimiser.weight_decay,
            fused=True if on_gpu else None,  # one launch for all parameters
        )
        state, best, average = RunState(), {}, {}
        found = (out / CHECKPOINT).is_file()
        if found:
            checkpoint = read_checkpoint(out / CHECKPOINT, _inputs(recipe, store, group), model)
            model.load_state_dict(checkpoint.model)
            restore_moments(model, optimiser, checkpoint.moments)
            for moments in optimiser.state.values() if on_gpu else ():
                moments["step"] = moments["step"].to(group.device)  # where the fused one counts
            state, best, average = checkpoint.state, checkpoint.best, checkpoint.average
        log = TrainingLog(out / LOG, resume_epoch=state.epoch if found else None)
        source = choose_source(store, group.device)
        return cls(
            recipe, store, out, group, cases, held_out, source, model, optimiser, state, best,
            {name: value.to(group.device) for name, value in average.items()}, log,
            CheckpointWriter(out / CHECKPOINT, behind=on_gpu),
        )  # fmt: skip

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the same for every epoch."""
        return len(self._plan(0))

    def rest_of_epoch(self) -> Iterator[CaseBatch]:
        """Yield this process's share of each batch that the epoch still has to come."""
        epoch = self.state.epoch
        plan = self._plan(epoch)[self.state.step :]
        return prefetch(
            draw_batch(
                self.source,
                self.cases,
                rank_share(positions, self.group.rank, self.group.size),
                patches=self.recipe.patches,
                seed=self.recipe.seed,
                epoch=epoch,
                cases=-(-len(positions) // self.group.size),
            )
            for positions in plan
        )

    def step(self, batch: CaseBatch) -> None:
        """Take one step of the optimiser down the gradient of a batch.

        The loss is copied to the host as soon as it is there and read one step later, so that a
        GPU is never waited for while it has work.
        """
        started = time.perf_counter()
        recipe, state = self.recipe, self.state
        done = state.epoch * self.steps_per_epoch + state.step
        rate = self._learning_rate(done)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate
        self.model.train()
        # The only draw of torch's own generator is dropout; each step and process has its seed.
        torch.manual_seed(seed_for("dropout", recipe.seed, done, self.group.rank))
        objective = cross_stain_loss if recipe.encoder == "madeleine" else view_loss
        with _precision(recipe, self.group.device):
            loss = objective(
                self.model, batch, len(self.cases.stains), recipe.objective, self.group
            )
        reading = Reading(loss.terms)
        self.optimiser.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self.group, self.model.parameters())
        if recipe.optimiser.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimiser.clip_norm)
        self.optimiser.step()
        self._update_average()
        self._settle()
        self.pending = reading
        state.step += 1
        state.patches += sum(batch.lengths)
        state.seconds += time.perf_counter() - started

    def end_epoch(self) -> str:
        """Return a line about the epoch that has ended; log, curves and checkpoint are written."""
        state, recipe = self.state, self.recipe
        started = time.perf_counter()
        self._settle()
        self._refuse_unless_finite()
        state.seconds += time.perf_counter() - started  # a GPU may have been behind
        last = state.epoch + 1 == recipe.epochs
        due = last or (state.epoch + 1) % recipe.validate_every == 0
        held_out = self._validate() if due else None
        self.smooth_rank = self.smooth_rank if held_out is None else held_out.smooth_rank
        # Of equal epochs the last: where retrieval is perfect early, training still goes on.
        if held_out is not None and (state.best is None or held_out.retrieval >= state.best):
            state.best, state.best_epoch = held_out.retrieval, state.epoch + 1
            self.best = {name: value.detach().clone() for name, value in self.weights().items()}
        row = self._row(held_out)
        state.epoch, state.step, state.patches = state.epoch + 1, 0, 0
        state.sums, state.seconds = {}, 0.0
        if self.group.is_first:
            self._write_log(row, draw=last)
        self.save(last=last)
        return self._describe(row)

    def describe_step(self) -> str:
        """Return a few words for the progress bar: means over the epoch so far."""
        state = self.state
        read = max(state.step - 1, 1)
        terms = " ".join(f"{name} {total / read:.3f}" for name, total in state.sums.items())
        speed = self.group.size * state.patches / max(state.seconds, 1e-9) / 1e3
        rank = "" if self.smooth_rank is None else f"  rank {self.smooth_rank:.1f}"
        return f"epoch {state.epoch + 1}  {terms}{rank}  {speed:.1f}k patches/s"

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to judge and to keep: the moving average where there is one."""
        return self.average or self.model.state_dict()

    def save(self, *, last: bool = True) -> None:
        """Write the checkpoint; in a group, the first process does.

        Unless it is the `last` of this process, a GPU is given work while it is written.
        """
        self._settle()
        self._refuse_unless_finite()
        if not self.group.is_first:
            return
        checkpoint = Checkpoint(
            state=self.state,
            model=self.model.state_dict(),
            moments=optimiser_moments(self.model, self.optimiser),
            best=self.best,
            average=self.average,
            inputs=_inputs(self.recipe, self.store, self.group),
        )
        self.writer.write(checkpoint, last=last)

    def _row(self, held_out: HeldOut | None) -> dict[str, float]:
        """Return the epoch's row of the log."""
        state = self.state
        steps = (state.epoch + 1) * self.steps_per_epoch
        terms = {name: total / state.step for name, total in sorted(state.sums.items())}
        measured = {
            f"held_out_{name}": float("nan") if held_out is None else getattr(held_out, name)
            for name in HeldOut.__dataclass_fields__
        }
        seen = sum_over(self.group, torch.tensor(float(state.patches), device=self.group.device))
        return {
            "epoch": state.epoch + 1,
            "step": steps,
            "learning_rate": self._learning_rate(steps - 1),
            **terms,
            **measured,
            "patches_per_s": float(seen) / max(state.seconds, 1e-9),
            "seconds": state.seconds,
        }

    def _write_log(self, row: dict[str, float], *, draw: bool) -> None:
        self.log.append(row)
        if draw or time.monotonic() - self.drawn_s > _DRAW_EVERY_S:
            title = f"{self.recipe.encoder} on {self.store.source} {self.store.cohort_id}"
            write_text(self.out / CURVES, loss_curves_svg(read_log(self.out / LOG), title))
            self.drawn_s = time.monotonic()

    def _describe(self, row: dict[str, float]) -> str:
        shown = {
            "retrieval": "{:.3f}", "chance": "{:.3f}", "smooth_rank": "{:.1f}",
            "token_cosine": "{:.2f}",
        }  # fmt: skip
        terms = ", ".join(f"{name} {row[name]:.4f}" for name in _TERMS if name in row)
        measured = ", ".join(
            f"{name.replace('_', ' ')} {form.format(row[f'held_out_{name}'])}"
            for name, form in shown.items()
        )
        line = f"epoch {row['epoch']}/{self.recipe.epochs}: {terms}"
        return line if np.isnan(row["held_out_chance"]) else f"{line}; held out: {measured}"

    def _learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over the whole run."""
        recipe = self.recipe
        return learning_rate_at(
            step, self.steps_per_epoch, recipe.epochs, recipe.optimiser, recipe.objective.preset
        )

    def _plan(self, epoch: int) -> list[Any]:
        return plan_epoch(
            len(self.cases),
            self.recipe.batch_cases,
            seed=self.recipe.seed,
            epoch=epoch,
            world=self.group.size,
        )

    def _validate(self) -> HeldOut:
        """Return the measures of the held-out cases; every process works them out alike."""
        batches = (
            draw_batch(
                self.source,
                self.held_out,
                np.arange(start, min(start + _HELD_OUT_BATCH, len(self.held_out))),
                patches=self.recipe.patches,
                seed=seed_for("held-out", self.recipe.seed),
                epoch=0,
            )
            for start in range(0, len(self.held_out), _HELD_OUT_BATCH)
        )
        current = self.model.state_dict()
        if self.average:
            current = {name: value.clone() for name, value in current.items()}
            self.model.load_state_dict(self.average)
        with _products(self.recipe, self.group.device):
            found = evaluate_held_out(
                self.model,
                prefetch(batches),
                len(self.cases.stains),
                views=self.recipe.encoder == "intra-ssl",
            )
        if self.average:
            self.model.load_state_dict(current)
        return found

    def _update_average(self) -> None:
        decay = self.recipe.optimiser.ema_decay
        if decay is None:
            return
        for name, value in self.model.state_dict().items():
            if name not in self.average:
                self.average[name] = value.detach().clone()
            self.average[name].lerp_(value, 1.0 - decay)

    def _settle(self) -> None:
        """Read the loss of the step before, and refuse to go on when it is not a number."""
        reading, self.pending = self.pending, None
        if reading is None:
            return
        terms = reading.values()
        if not all(np.isfinite(value) for value in terms.values()):
            raise self._diverged(", ".join(f"{name} {value:g}" for name, value in terms.items()))
        for name, value in terms.items():
            self.state.sums[name] = self.state.sums.get(name, 0.0) + value

    def _refuse_unless_finite(self) -> None:
        named = dict(self.model.named_parameters())
        # One question for all of them: each answer would be waited for.
        finite = torch.stack([torch.isfinite(value).all() for value in named.values()])
        for name, good in zip(named, finite.tolist(), strict=True):
            if not good:
                raise self._diverged(f"in the weights {name}")

    def _diverged(self, what: str) -> CheckFailed:
        kept = f"{self.out / CHECKPOINT} is of an earlier step and is kept"
        return CheckFailed(
            f"training has diverged in epoch {self.state.epoch + 1}, step {self.state.step}: not a "
            f"number ({what}). {kept if self.state.epoch else 'Nothing had been saved yet'}; try a "
            "lower optimiser.learning_rate, a smaller optimiser.clip_norm or precision: fp32, in a "
            "new folder (--out)"
        )


def _inputs(recipe: Recipe, store: FeatureStore, group: Group) -> dict[str, Any]:
    """Return what the weights depend on, for the checkpoint to compare when a run goes on."""
    return {
        # Compiled layers compute the same, to rounding, as another device does.
        "recipe": recipe.model_dump(mode="json", exclude={"compile"}),
        "data": store.content,
        "processes": group.size,
        "input_dim": store.dim,
    }


def _precision(recipe: Recipe, device: torch.device) -> Any:
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def _products(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Let products of float32 matrices on a GPU be of 10 bits where training makes do with 7."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda" and recipe.precision == "bf16":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
