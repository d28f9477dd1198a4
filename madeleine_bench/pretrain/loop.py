"""Pretraining, top to bottom: cases, model, epochs of steps, held-out choice, weights and card.

Every random draw derives from the recipe's seed and from what it is for, never from what was drawn
before; so a run that was stopped anywhere goes on to the same weights, bit for bit on a CPU.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter, ValidationError

from madeleine_bench.data.packed import FeatureStore, open_store
from madeleine_bench.data.packing import pack_cohort
from madeleine_bench.encoders.weights import CITATION, ModelDescription, write_weights
from madeleine_bench.errors import InputError, Interrupted
from madeleine_bench.files import sole_writer, write_text
from madeleine_bench.hashing import canonical_json, hash_file
from madeleine_bench.models.aligned import AlignedMadeleine
from madeleine_bench.pretrain.cases import build_cases, reasons
from madeleine_bench.pretrain.parallel import Group, any_of, barrier, process_group
from madeleine_bench.pretrain.plans import Plans, prepare_plans
from madeleine_bench.pretrain.presets import PRESETS
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.pretrain.run import CHECKPOINT, Run
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.specs.card import EncoderCard, Weights, card_text
from madeleine_bench.specs.task import Identifier
from madeleine_bench.types import CohortData, Progress

CARD, RUN = "card.yaml", "run.json"
TITLES = {"madeleine": "Madeleine", "intra-ssl": "Intra-SSL (H&E alone)"}


def card_name(recipe: Recipe, name: str | None) -> str:
    """Return the name for the card: the one given, else recipe and cohort.

    Raises:
        InputError: the name given is no identifier.
    """
    if name is None:
        return f"{recipe.name}-{recipe.cohort}"
    try:
        return str(TypeAdapter(Identifier).validate_python(name))
    except ValidationError as error:
        raise InputError(
            f"--name '{name}': use lower-case letters and digits, in words joined by '-', "
            "and no name that Windows reserves, such as con"
        ) from error


def publish(run: Run, organ: str, out: Path, name: str) -> Path:
    """Return the path of the card, after writing weights, card and `run.json` into `out`.

    Raises:
        InputError: the folder cannot be written.
    """
    recipe, store = run.recipe, run.store
    path = out / f"{name}.safetensors"
    description = ModelDescription(
        input_dim=store.dim,
        width=recipe.model.width,
        heads=recipe.model.heads,
        stains=run.cases.stains,
        stain_encoding=recipe.model.stain_encoding,
        aligned=isinstance(run.model, AlignedMadeleine),
        cohort=store.cohort_id,
    )
    write_weights(path, {organ: (description, run.best)})
    weights = Weights(path=path.name, sha256=hash_file(path))
    about = {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"cohort": store.cohort_id, "source": store.source, "variant": store.variant,
                 "slides": len(store.slide_ids), "content": store.content},
        "state": asdict(run.state),
        "weights": weights.model_dump(),
        "device": str(run.group.device),
        "processes": run.group.size,
        "machine": machine_provenance(),
    }  # fmt: skip
    write_text(out / RUN, canonical_json(about) + "\n")
    title = TITLES[recipe.encoder] + ", stain encodings" * recipe.model.stain_encoding
    made_up = " PHANTOM weights: trained on made-up slides." if store.source == "phantom" else ""
    card = EncoderCard(
        name=name,
        revision=weights.sha256[:12],
        title=f"{title}, trained on {store.source} {store.cohort_id}",
        implementation="madeleine_bench.encoders.madeleine:TrainedMadeleine",
        weights=weights,
        patch_encoder=store.patch_encoder,
        input_dim=description.input_dim,
        dim=description.width,
        training_cohorts=(store.cohort_id,),
        licence="Apache-2.0",
        description=f"Trained by mbench pretrain with recipe {recipe.name}, seed {recipe.seed}, "
        f"{run.state.best_epoch} of {recipe.epochs} epochs chosen on held-out cases." + made_up,
        citation=CITATION,
    )
    write_text(out / CARD, card_text(card))
    return out / CARD


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def listening() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; a second one stops at once.

    Outside the main thread, where Python lets no one listen, it stays unset.
    """
    request = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.is_set():
            raise KeyboardInterrupt
        request.set()

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pretrain(
    recipe: Recipe,
    data: CohortData,
    features: Path,
    out: Path,
    progress: Progress,
    *,
    organ: str,
    device: str = "auto",
    resume: bool = False,
    name: str | None = None,
) -> Path:
    """Return the path of the card of the encoder that was trained; all files lie in `out`.

    Args:
        recipe: what to train and how.
        data: the pretraining cohort; of its table only slide, case and stain are read.
        features: folder of the packed store of its bags, made where it is not there.
        out: folder for checkpoint, log, curves, weights and card.
        progress: told of every step.
        organ: of the cohort, "breast" or "kidney"; the weights are filed under it.
        device: "cpu", "cuda" or "auto".
        resume: go on from the checkpoint in `out`; where there is none, start.
        name: of the encoder on its card; by default encoder and cohort.

    Raises:
        InputError: cases, bags or checkpoint cannot be used; `out` holds another run, or one is
            going on there.
        CheckFailed: the loss is no longer a number; the last checkpoint is kept.
        Interrupted: the user asked to stop; the checkpoint is of that step.
    """
    name = card_name(recipe, name)
    with process_group(device) as group, sole_writer(out) if group.is_first else nullcontext():
        _check_request(recipe, out, group, resume=resume)
        store = _packed(data, features, group, progress)
        if PRESETS[recipe.objective.preset].draws_regions:
            _prepare(recipe, store, group, progress)
        run = Run(recipe, store, out, group)
        _announce(run, progress)
        with listening() as stop:
            if run.preset.draws_regions and run.state.best is None:
                progress.say(run.measure_start())
            while run.state.epoch < recipe.epochs:
                for batch in run.rest_of_epoch():
                    run.step(batch)
                    progress.advance(run.describe_step())
                    if any_of(group, stop.is_set()):
                        run.save()
                        raise Interrupted(
                            f"interrupted in epoch {run.state.epoch + 1}, step {run.state.step}; "
                            f"{out / CHECKPOINT} is saved, and the same command with --resume goes "
                            "on from there"
                        )
                for line in run.end_epoch():
                    progress.say(line)
        if run.state.best_epoch == 0:
            progress.say(
                "warning: no epoch found partners significantly better than the mean of plain "
                "features (95% confidence, paired over held-out cases), so the weights are those "
                "from before training: more cases, a larger held_out_share or a lower "
                "optimiser.learning_rate may help"
            )
        return publish(run, organ, out, name) if group.is_first else out / CARD


def _prepare(recipe: Recipe, store: FeatureStore, group: Group, progress: Progress) -> None:
    """Make the transport plans of the cohort; the first process makes them, the others wait."""
    if group.is_first:
        table = build_cases(
            store,
            min_patches=recipe.min_patches,
            unusable=recipe.unusable,
            encoder=recipe.encoder,
        )
        prepare_plans(table, Plans(store, recipe.objective.plan_cells), progress)
    barrier(group)


def _announce(run: Run, progress: Progress) -> None:
    recipe, state = run.recipe, run.state
    progress.say(
        f"{recipe.encoder} on {run.store.source} {run.store.cohort_id}: {len(run.cases)} cases to "
        f"train on, {len(run.held_out)} held out, stains {', '.join(run.cases.stains)}; "
        f"{sum(p.numel() for p in run.model.parameters()):,} parameters on {run.group.device}"
        + (f", {run.group.size} processes" if run.group.size > 1 else "")
    )
    for reason in reasons(run.cases.left_out):
        progress.say(f"left out, {reason}")
    if state.epoch or state.step:
        progress.say(f"resuming at epoch {state.epoch + 1}, step {state.step + 1}")
    left = (recipe.epochs - state.epoch) * run.steps_per_epoch - state.step
    progress.phase("pretrain", left)


def _check_request(recipe: Recipe, out: Path, group: Group, *, resume: bool) -> None:
    if group.size > 1 and not PRESETS[recipe.objective.preset].several_processes:
        raise InputError(
            f"objective.preset {recipe.objective.preset} depends on which cases share a batch "
            "(thresholds and number of tokens), so it runs in one process; use another preset, or "
            "one process"
        )
    if (out / CHECKPOINT).exists() and not resume:
        raise InputError(
            f"{out} holds a run already: add --resume to go on with it, or choose another "
            "folder with --out"
        )


def _packed(data: CohortData, path: Path, group: Group, progress: Progress) -> FeatureStore:
    """Return the packed bags of a cohort; the first process packs them, the others wait."""
    # The first process has checked every slide, if only in an earlier run; the others need not.
    store = pack_cohort(data, path, progress) if group.is_first else None
    barrier(group)
    return store or open_store(path, verify=False)
