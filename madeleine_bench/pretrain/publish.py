"""The end of a run: weights in safetensors and the card that makes them an encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.encoders.weights import CITATION, ModelDescription, write_weights
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.hashing import canonical_json, hash_file
from madeleine_bench.pretrain.recipe import Recipe
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.specs.card import EncoderCard, Weights, card_text
from madeleine_bench.specs.task import Identifier

CARD, RUN = "card.yaml", "run.json"
TITLES = {"madeleine": "Madeleine", "intra-ssl": "Intra-SSL (H&E alone)"}


@dataclass(frozen=True)
class Trained:
    """What a run made, and from what.

    Attributes:
        recipe: as it was run.
        store: the bags.
        organ: of the cohort: "breast" or "kidney".
        stains: H&E first, in the order of the stain encodings.
        weights: the state dict that was chosen on held-out cases.
        state: how the run ended: epochs, best held-out retrieval and its epoch.
        device: where it ran.
        processes: how many took part.
    """

    recipe: Recipe
    store: FeatureStore
    organ: str
    stains: tuple[str, ...]
    weights: dict[str, Tensor]
    state: dict[str, Any]
    device: str
    processes: int


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


def publish(trained: Trained, out: Path, name: str) -> Path:
    """Return the path of the card, after writing weights, card and `run.json` into `out`.

    Raises:
        InputError: the folder cannot be written.
    """
    recipe, store = trained.recipe, trained.store
    path = out / f"{name}.safetensors"
    description = ModelDescription(
        input_dim=store.dim,
        width=recipe.model.width,
        heads=recipe.model.heads,
        stains=trained.stains,
        stain_encoding=recipe.model.stain_encoding,
        cohort=store.cohort_id,
    )
    write_weights(path, {trained.organ: (description, trained.weights)})
    weights = Weights(path=path.name, sha256=hash_file(path))
    about = {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"cohort": store.cohort_id, "source": store.source, "variant": store.variant,
                 "slides": len(store.slide_ids), "content": store.content},
        "state": trained.state,
        "weights": weights.model_dump(),
        "device": trained.device,
        "processes": trained.processes,
        "machine": machine_provenance(),
    }  # fmt: skip
    write_text(out / RUN, canonical_json(about) + "\n")
    write_text(out / CARD, card_text(_card(trained, name, weights, description)))
    return out / CARD


def _card(
    trained: Trained, name: str, weights: Weights, description: ModelDescription
) -> EncoderCard:
    recipe, store = trained.recipe, trained.store
    title = TITLES[recipe.encoder] + ", stain encodings" * recipe.model.stain_encoding
    made_up = " PHANTOM weights: trained on made-up slides." if store.source == "phantom" else ""
    return EncoderCard(
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
        f"{trained.state['best_epoch']} of {recipe.epochs} epochs chosen on held-out cases."
        + made_up,
        citation=CITATION,
    )
