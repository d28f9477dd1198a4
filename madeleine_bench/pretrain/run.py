"""One training run: the model with its optimiser, the step, the end of an epoch, what is saved."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_text
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.batches import (
    CaseBatch,
    choose_source,
    draw_batch,
    plan_epoch,
    prefetch,
    rank_share,
)
from madeleine_bench.pretrain.cases import build_cases, split_cases
from madeleine_bench.pretrain.checkpoint import (
    Checkpoint,
    RunState,
    optimiser_moments,
    read_checkpoint,
    restore_moments,
    write_checkpoint,
)
from madeleine_bench.pretrain.heldout import HeldOut, evaluate_held_out
from madeleine_bench.pretrain.log import TrainingLog, loss_curves_svg, read_log
from madeleine_bench.pretrain.objective import cross_stain_loss, view_loss
from madeleine_bench.pretrain.parallel import Group, sum_gradients, sum_over
from madeleine_bench.pretrain.recipe import OptimiserRecipe, Preset, Recipe
from madeleine_bench.seeds import seed_for

# The published warm-up begins at this share of the highest rate.
_PUBLISHED_START = 1e-5


def learning_rate_at(
    step: int,
    steps_per_epoch: int,
    epochs: int,
    optimiser: OptimiserRecipe,
    preset: Preset = "corrected",
) -> float:
    """Return the learning rate of a step.

    Corrected: the highest rate is reached at the last step of the warm-up, the final rate exactly
    at the last step of the run. Published: the warm-up begins at 1e-5 of the highest rate, one
    more epoch than declared passes before the fall begins, and so the run ends above the final
    rate.

    Args:
        step: from 0, over the whole run.
        steps_per_epoch: steps of one epoch.
        epochs: of the whole run; fewer than the warm-up's are refused by the recipe.
        optimiser: the rates, and the epochs of warm-up.
        preset: "corrected" or "published".

    Raises:
        ValueError: the step is not of the run.

    Examples:
        >>> optimiser = OptimiserRecipe(learning_rate=1e-4, warmup_epochs=2)
        >>> [f"{learning_rate_at(step, 3, 6, optimiser):.1e}" for step in (0, 5, 17)]
        ['1.7e-05', '1.0e-04', '1.0e-08']
    """
    steps = steps_per_epoch * epochs
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not one of the {steps} steps of the run")
    highest, final = optimiser.learning_rate, optimiser.final_learning_rate
    warmup = steps_per_epoch * optimiser.warmup_epochs
    if preset == "published":
        if step < warmup:
            return highest * (_PUBLISHED_START + (1.0 - _PUBLISHED_START) * step / warmup)
        fallen = max(step - warmup - steps_per_epoch, 0) / (steps - warmup)
        return _fall(highest, final, fallen)
    if step < warmup:
        return highest * (step + 1) / warmup
    peak = max(warmup - 1, 0)
    return _fall(highest, final, (step - peak) / max(steps - 1 - peak, 1))


def _fall(highest: float, final: float, fallen: float) -> float:
    """Return the rate when a share `fallen` (0-1) of the half cosine lies behind."""
    return final + (highest - final) * (1.0 + cos(pi * fallen)) / 2.0


def compile_layers(model: Madeleine) -> None:
    """Have the layers before the pooling, nearly all of the arithmetic, compiled in training.

    They are compiled once, for any number of patches, at the first step. Evaluation stays as it
    is: it is not worth a second compilation. So does the pooling, whose shapes differ from batch
    to batch where slides have fewer patches than are drawn.

    A step raises InputError where they cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second of imports

    plain = model.embed_patches
    fast = torch.compile(plain, dynamic=True)

    def embed_patches(patches: Tensor, stains: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not model.training:
            return plain(patches, stains)
        try:
            return fast(patches, stains)
        except TorchDynamoException as error:
            first = str(error).strip().splitlines()[0][:200]
            raise InputError(
                f"compile: true, but torch.compile failed ({type(error).__name__}: {first}). It "
                "needs a C++ compiler on a CPU and Triton on a GPU; --set compile=false does "
                "without"
            ) from error

    model.embed_patches = embed_patches  # type: ignore[method-assign]


class AsyncScalars:
    """Scalars to be read later, without waiting for what the device was given after them.

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


CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.csv", "curves.svg"
_TERMS = ("global", "local", "intra", "loss")
_HELD_OUT_BATCH = 32
_DRAW_EVERY_S = 30.0  # a picture takes longer than an epoch of a small run


class Run:
    """What changes while a run goes on, and what it needs for the next step."""

    def __init__(self, recipe: Recipe, store: FeatureStore, out: Path, group: Group) -> None:
        """Begin a run, or go on where its checkpoint left it."""
        self.recipe, self.store, self.out, self.group = recipe, store, out, group
        table = build_cases(
            store,
            min_patches=recipe.min_patches,
            unusable=recipe.unusable,
            encoder=recipe.encoder,
        )
        self.cases, self.held_out = split_cases(table, recipe.held_out_share, recipe.seed)
        self.model = Madeleine(
            store.dim,
            recipe.model.width,
            recipe.model.heads,
            stains=len(table.stains) if recipe.model.stain_encoding else 0,
            dropout=recipe.model.dropout,
            gate_dropout=recipe.model.gate_dropout,
        )
        initialise(self.model, seed_for("pretrain", recipe.seed))
        self.model.to(group.device)
        if recipe.compile:
            compile_layers(self.model)
        on_gpu = group.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.optimiser.learning_rate,
            weight_decay=recipe.optimiser.weight_decay,
            fused=True if on_gpu else None,  # one launch for all parameters
        )
        self.state = RunState()
        self.best: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}
        resume_epoch = None
        if (out / CHECKPOINT).is_file():
            inputs = _inputs(recipe, store, group)
            checkpoint = read_checkpoint(out / CHECKPOINT, inputs, self.model)
            self.model.load_state_dict(checkpoint.model)
            restore_moments(self.model, self.optimiser, checkpoint.moments)
            for moments in self.optimiser.state.values() if on_gpu else ():
                moments["step"] = moments["step"].to(group.device)  # where the fused one counts
            self.state, self.best = checkpoint.state, checkpoint.best
            self.average = {n: value.to(group.device) for n, value in checkpoint.average.items()}
            resume_epoch = self.state.epoch
        self.log = TrainingLog(out / LOG, resume_epoch)
        self.source = choose_source(store, group.device)
        self.pending: AsyncScalars | None = None
        self.drawn_s = float("-inf")
        self.smooth_rank: float | None = None

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
        reading = AsyncScalars(loss.terms)
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
        self.save()
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

    def save(self) -> None:
        """Write the checkpoint; in a group, the first process does."""
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
        write_checkpoint(self.out / CHECKPOINT, checkpoint)

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
        terms = ", ".join(f"{name} {row[name]:.4f}" for name in _TERMS if name in row)
        line = f"epoch {row['epoch']}/{self.recipe.epochs}: {terms}"
        if np.isnan(row["held_out_chance"]):
            return line
        return (
            f"{line}; held out: retrieval {row['held_out_retrieval']:.3f}, "
            f"chance {row['held_out_chance']:.3f}, smooth rank {row['held_out_smooth_rank']:.1f}, "
            f"token cosine {row['held_out_token_cosine']:.2f}"
        )

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
