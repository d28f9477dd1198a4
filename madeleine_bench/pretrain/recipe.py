"""Recipes: everything that decides what a pretraining run does, in one YAML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from madeleine_bench.errors import InputError
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.loader import Spec, did_you_mean, explain, parse_spec, read_yaml
from madeleine_bench.specs.task import Identifier

EncoderKind = Literal["madeleine", "intra-ssl"]
PresetName = Literal["corrected", "published", "aligned"]
Unusable = Literal["refuse", "skip"]

# What a preset sets besides the objective, where the recipe does not.
COUPLED: dict[Any, dict[str, dict[str, Any]]] = {
    "published": {"optimiser": {"clip_norm": None}, "model": {"gate_dropout": 0.25}}
}


class ModelRecipe(Spec):
    """Size of the slide encoder.

    Attributes:
        width: dimensions of a slide embedding and of the layers before it.
        heads: attention heads, each over `width` dimensions of its own.
        dropout: share (0 to below 1) of the activations zeroed in training.
        gate_dropout: share (0 to below 1) of each attention branch zeroed in training; .25 with
            the preset "published", as in the released code; the paper does not mention it.
        stain_encoding: whether a learnt 32-d code of the stain is joined to each patch.
    """

    width: int = Field(default=512, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    gate_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    stain_encoding: bool = False


class ObjectiveRecipe(Spec):
    """What is minimised: contrast of slides, plus weighted terms of their tokens.

    Attributes:
        preset: "corrected"; "published" with the quirks of the released code; or "aligned", whose
            local loss does not collapse.
        temperature: of the contrast; cosine similarities are divided by it.
        local_weight: of the local loss between the tokens of two stains; 0 turns it off.
            Plays no part in intra-ssl.
        intra_weight: of the contrast between two halves of a slide's patches; 0 turns it off.
            Plays no part in intra-ssl, which is made of this term alone.
        tokens: tokens of a slide that enter the local loss.
        plan_cells: patches of a slide that the transport plan of "aligned" tells apart; a larger
            slide is merged into as many squares.
    """

    preset: PresetName = "corrected"
    temperature: float = Field(default=0.001, gt=0.0, allow_inf_nan=False)
    local_weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    intra_weight: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    tokens: int = Field(default=256, ge=1)
    plan_cells: int = Field(default=600, ge=16)


class OptimiserRecipe(Spec):
    """AdamW and its learning rate over the run.

    Attributes:
        learning_rate: the highest, reached at the end of the warm-up.
        weight_decay: of AdamW (decoupled).
        warmup_epochs: epochs in which the rate rises in a straight line.
        final_learning_rate: of the last step; the way down is a half cosine.
        clip_norm: largest norm of the whole gradient; null leaves it as it is, as does the preset
            "published" unless told otherwise.
    """

    learning_rate: float = Field(default=1e-4, gt=0.0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.01, ge=0.0, allow_inf_nan=False)
    warmup_epochs: int = Field(default=5, ge=0)
    final_learning_rate: float = Field(default=1e-8, ge=0.0)
    clip_norm: float | None = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _rate_falls(self) -> Self:
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate:g} is above learning_rate "
                f"{self.learning_rate:g}; the rate falls after the warm-up"
            )
        return self


class Recipe(Spec):
    """One pretraining run. The defaults are those of the paper.

    Attributes:
        name: of the recipe; a shipped one has the name of its file.
        encoder: "madeleine" (H&E against the other stains of a case) or "intra-ssl" (two views
            of an H&E slide).
        cohort: id of the pretraining cohort.
        seed: what every draw of the run depends on.
        model: size of the slide encoder.
        objective: what is minimised.
        patches: patches drawn from a slide each epoch, without replacement; all where a bag has
            fewer.
        min_patches: a bag of fewer patches is unusable.
        batch_cases: cases of a step, over all processes together.
        epochs: passes over the training cases.
        optimiser: AdamW and its learning rate.
        precision: of the model's arithmetic; losses are float32 either way.
        held_out_share: share (0-0.5) of the cases kept from training, to choose the epoch by.
        unusable: what to do with cases without H&E and with bags below `min_patches`: stop with
            a message ("refuse") or leave them out and say so ("skip").
    """

    name: Identifier
    encoder: EncoderKind
    cohort: Identifier
    seed: int = Field(default=0, ge=0)
    model: ModelRecipe = ModelRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    patches: int = Field(default=2048, ge=1)
    min_patches: int = Field(default=2, ge=1)
    batch_cases: int = Field(default=65, ge=2)
    epochs: int = Field(default=120, ge=1)
    optimiser: OptimiserRecipe = OptimiserRecipe()
    precision: Literal["bf16", "fp32"] = "bf16"
    held_out_share: float = Field(default=0.1, gt=0.0, le=0.5)
    unusable: Unusable = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _coupled(cls, data: Any) -> Any:
        """Add what the preset sets and the recipe does not."""
        objective = data.get("objective") if isinstance(data, dict) else None
        preset = objective.get("preset") if isinstance(objective, dict) else None
        for section, values in COUPLED.get(preset, {}).items():
            given = data.get(section, {})
            if isinstance(given, dict):
                data = {**data, section: {**values, **given}}
        return data

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        transports = self.encoder == "madeleine" and self.objective.local_weight > 0.0
        if self.objective.preset == "aligned" and self.objective.tokens < 2:
            raise ValueError("objective.tokens must be 2 or more: a token is told from others")
        drawn = self.objective.preset != "aligned"
        if transports and drawn and self.objective.tokens > self.patches:
            raise ValueError(
                f"objective.tokens {self.objective.tokens} is above patches {self.patches}; "
                "the tokens are some of the patches drawn"
            )
        if self.min_patches > self.patches:
            raise ValueError(f"min_patches {self.min_patches} is above patches {self.patches}")
        if self.optimiser.warmup_epochs >= self.epochs:
            raise ValueError(
                f"optimiser.warmup_epochs {self.optimiser.warmup_epochs} leaves no epoch of "
                f"{self.epochs} to train in; lower it too"
            )
        two_views = self.encoder == "intra-ssl" or self.objective.intra_weight > 0.0
        if min(self.min_patches, self.patches) < 2 and two_views:
            raise ValueError("patches and min_patches must be 2 or more: a slide is cut in halves")
        if self.encoder == "intra-ssl" and self.objective.preset == "aligned":
            raise ValueError("objective.preset aligned needs pairs of stains; intra-ssl sees one")
        if self.encoder == "intra-ssl" and self.model.stain_encoding:
            raise ValueError("model.stain_encoding must be false: intra-ssl sees one stain")
        return self


def shipped_recipes() -> dict[str, Path]:
    """Return the path of each recipe that ships with the package, by name, sorted."""
    folder = resource_folder("encoders") / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name: str | Path) -> Recipe:
    """Return a recipe by its name, or by the path of its file.

    Raises:
        InputError: there is no such recipe or file, or a key or value in it is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and path.name == str(name):
        shipped = shipped_recipes()
        if str(name) not in shipped:
            hint = did_you_mean(str(name), list(shipped))
            raise InputError(f"no recipe is called '{name}' (a path ends in .yaml){hint}")
        path = shipped[str(name)]
    return parse_spec(Recipe, read_yaml(path), path)


def with_changes(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return the recipe with some keys changed, checked again as a whole.

    Args:
        recipe: left as it is.
        changes: such as "epochs=3" or "model.width=64"; values are read as YAML.

    Raises:
        InputError: a change is not key=value, a key is unknown, or a value is refused.

    Examples:
        >>> recipe = Recipe(name="toy", encoder="madeleine", cohort="acrobat")
        >>> with_changes(recipe, ["epochs=9", "optimiser.clip_norm=null"]).optimiser.clip_norm
    """
    # What is not set stays open, as another preset may couple other values.
    data, keys = recipe.model_dump(exclude_unset=True), recipe.model_dump()
    for change in changes:
        key, equals, text = change.partition("=")
        *sections, last = key.strip().split(".")
        section: Any = data
        place: Any = keys
        for name in sections:
            place = place.get(name) if isinstance(place, dict) else None
            section = section.setdefault(name, {}) if isinstance(place, dict) else section
        if not equals or not isinstance(place, dict):
            raise InputError(
                f"--set {change}: expected key=value with a key of the recipe, such as epochs=3 or "
                "model.width=64"
            )
        try:
            section[last] = YAML(typ="safe", pure=True).load(text)
        except (YAMLError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"--set {change}: '{text}' is not a YAML value") from error
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        given = " ".join(f"--set {change}" for change in changes)
        raise InputError(explain(error, Recipe, given)) from error
