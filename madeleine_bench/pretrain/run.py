"""One training run: the model with its optimiser, the step, the end of an epoch, what is saved."""

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import CheckFailed
from madeleine_bench.files import write_text
from madeleine_bench.models.aligned import AlignedMadeleine
from madeleine_bench.models.madeleine import initialise
from madeleine_bench.pretrain.batches import (
    CaseBatch,
    RegionSource,
    choose_source,
    draw_batch,
    plan_epoch,
    prefetch,
    rank_share,
)
from madeleine_bench.pretrain.cases import build_cases, check_pairs, slides_of, split_cases
from madeleine_bench.pretrain.checkpoint import (
    Checkpoint,
    RunState,
    optimiser_moments,
    read_checkpoint,
    restore_moments,
    write_checkpoint,
)
from madeleine_bench.pretrain.heldout import HeldOut, evaluate_held_out
from madeleine_bench.pretrain.log import append_row, loss_curves_svg, read_log
from madeleine_bench.pretrain.objective import cross_stain_loss, view_loss
from madeleine_bench.pretrain.parallel import Group, sum_gradients, sum_over
from madeleine_bench.pretrain.plans import Plans
from madeleine_bench.pretrain.presets import PRESETS
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.pretrain.start import start_plain
from madeleine_bench.seeds import seed_for

CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.csv", "curves.svg"
_TERMS = ("global", "local", "intra", "loss")
_HELD_OUT_BATCH = 32
_COLLAPSED = 0.98
_COLLAPSE = (
    "warning: the tokens of a slide have become alike (mean cosine {:.3f}), so that the local loss "
    "teaches nothing more. Embeddings do not pass through these tokens, but the local objective is "
    "lost: use objective.preset=aligned, or a smaller objective.local_weight (docs/pretraining.md)"
)
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
        if recipe.encoder == "madeleine":
            check_pairs(self.cases, self.held_out)
        self.preset = PRESETS[recipe.objective.preset]
        self.model = self.preset.model(
            store.dim,
            recipe.model.width,
            recipe.model.heads,
            stains=len(table.stains) if recipe.model.stain_encoding else 0,
            dropout=recipe.model.dropout,
            gate_dropout=recipe.model.gate_dropout,
        )
        initialise(self.model, seed_for("pretrain", recipe.seed))
        if isinstance(self.model, AlignedMadeleine):
            start_plain(self.model, store, slides_of(self.cases))
        self.model.to(group.device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.optimiser.learning_rate,
            weight_decay=recipe.optimiser.weight_decay,
        )
        self.state = RunState()
        self.best: dict[str, Tensor] = {}
        if (out / CHECKPOINT).is_file():
            checkpoint = read_checkpoint(out / CHECKPOINT, _inputs(recipe, store, group))
            self.model.load_state_dict(checkpoint.model)
            restore_moments(self.model, self.optimiser, checkpoint.moments)
            self.state, self.best = checkpoint.state, checkpoint.best
        self.source = choose_source(store, group.device)
        self.regions: RegionSource | None = None
        if self.preset.draws_regions:
            slides = slides_of(self.cases) + slides_of(self.held_out)
            self.regions = RegionSource(
                Plans(store, recipe.objective.plan_cells), recipe.objective.tokens, slides
            )
        self.drawn_s = float("-inf")
        self.warned = False

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
                regions=self.regions,
            )
            for positions in plan
        )

    def step(self, batch: CaseBatch) -> None:
        """Take one step of the optimiser down the gradient of a batch, and read its loss."""
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
        self.optimiser.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self.group, self.model.parameters())
        if recipe.optimiser.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimiser.clip_norm)
        self.optimiser.step()
        state.step += 1
        self._add_terms(loss.terms)
        state.patches += sum(batch.lengths)
        state.seconds += time.perf_counter() - started

    def measure_start(self) -> str:
        """Return a line about the untrained model; its weights are kept like those of an epoch."""
        held_out = self._validate()
        self._keep(held_out, 0)
        return f"before training: {held_out.describe()}"

    def end_epoch(self) -> list[str]:
        """Return lines about the epoch that has ended; log, curves and checkpoint are written."""
        self._refuse_unless_finite()
        state, recipe = self.state, self.recipe
        held_out = self._validate()
        if self._is_best(held_out):
            self._keep(held_out, state.epoch + 1)
        row = self._row(held_out)
        state.epoch, state.step, state.patches = state.epoch + 1, 0, 0
        state.sums, state.seconds = {}, 0.0
        if self.group.is_first:
            self._write_log(row, draw=state.epoch == recipe.epochs)
        self.save()
        terms = ", ".join(f"{name} {row[name]:.4f}" for name in _TERMS if name in row)
        lines = [f"epoch {row['epoch']}/{recipe.epochs}: {terms}; {held_out.describe()}"]
        if "local" in row and held_out.token_cosine > _COLLAPSED and not self.warned:
            self.warned = True
            lines.append(_COLLAPSE.format(held_out.token_cosine))
        return lines

    def _is_best(self, held_out: HeldOut) -> bool:
        """Return whether these weights are the best so far.

        A model that starts at plain features leaves them only for a gain over mean-pool that is
        not chance: of few held-out cases, the best of many epochs is better by luck.
        """
        if self.preset.draws_regions and not (held_out.gain_low or 0.0) > 0.0:
            return False
        # Of equal epochs the last: where retrieval is perfect early, training still goes on.
        return self.state.best is None or held_out.retrieval >= self.state.best

    def _keep(self, held_out: HeldOut, epoch: int) -> None:
        """Keep the weights as the best so far, as those of an epoch (from 1; 0 is the start)."""
        self.state.best, self.state.best_epoch = held_out.retrieval, epoch
        self.best = {n: value.detach().clone() for n, value in self.model.state_dict().items()}

    def describe_step(self) -> str:
        """Return a few words for the progress bar: means over the epoch so far."""
        state = self.state
        terms = " ".join(f"{name} {total / state.step:.3f}" for name, total in state.sums.items())
        speed = self.group.size * state.patches / max(state.seconds, 1e-9) / 1e3
        return f"epoch {state.epoch + 1}  {terms}  {speed:.1f}k patches/s"

    def save(self) -> None:
        """Write the checkpoint; in a group, the first process does."""
        self._refuse_unless_finite()
        if not self.group.is_first:
            return
        checkpoint = Checkpoint(
            state=self.state,
            model=self.model.state_dict(),
            moments=optimiser_moments(self.model, self.optimiser),
            best=self.best,
            inputs=_inputs(self.recipe, self.store, self.group),
        )
        write_checkpoint(self.out / CHECKPOINT, checkpoint)

    def _row(self, held_out: HeldOut) -> dict[str, float]:
        """Return the epoch's row of the log."""
        state = self.state
        steps = (state.epoch + 1) * self.steps_per_epoch
        terms = {name: total / state.step for name, total in sorted(state.sums.items())}
        measured = {f"held_out_{name}": value for name, value in held_out.measured().items()}
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
        append_row(self.out / LOG, row)
        if draw or time.monotonic() - self.drawn_s > _DRAW_EVERY_S:
            title = f"{self.recipe.encoder} on {self.store.source} {self.store.cohort_id}"
            write_text(self.out / CURVES, loss_curves_svg(read_log(self.out / LOG), title))
            self.drawn_s = time.monotonic()

    def _learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over the whole run."""
        recipe = self.recipe
        return self.preset.learning_rate(
            step, self.steps_per_epoch, recipe.epochs, recipe.optimiser
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
                regions=self.regions,
            )
            for start in range(0, len(self.held_out), _HELD_OUT_BATCH)
        )
        return evaluate_held_out(
            self.model,
            prefetch(batches),
            len(self.cases.stains),
            self.preset,
            views=self.recipe.encoder == "intra-ssl",
        )

    def _add_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Add the loss of a step to the sums of its epoch; refuse to go on when it is no number."""
        if not terms:
            return
        values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        if not all(map(np.isfinite, values.values())):
            raise self._diverged(", ".join(f"{name} {value:g}" for name, value in values.items()))
        for name, value in values.items():
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
        "recipe": recipe.model_dump(mode="json"),
        "data": store.content,
        "processes": group.size,
        "input_dim": store.dim,
    }


def _precision(recipe: Recipe, device: torch.device) -> Any:
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
