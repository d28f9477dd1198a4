"""Import of the weights that the authors of Madeleine published: model.pt and model_config.json.

References:
    https://huggingface.co/MahmoodLab/madeleine (gated; CC BY-NC-ND 4.0). Its patches are at 10x
    ("trained on 10X breast samples", README of github.com/mahmoodlab/MADELEINE) and of 256 px
    (table of slide encoders, README of github.com/mahmoodlab/TRIDENT).
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from madeleine_bench.encoders.weights import CITATION, ModelDescription, check_state, write_weights
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.hashing import hash_file
from madeleine_bench.specs.card import EncoderCard, Weights, Width, card_text
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import Spec, parse_spec, read_yaml
from madeleine_bench.specs.task import Identifier

NAME = "madeleine-official"
# What the official code calls the stains, and what they are called here.
STAINS = {
    "HE": "H&E",
    "HER2": "HER2",
    "PGR": "PR",
    "KI67": "Ki67",
    "ER": "ER",
    "PAS": "PAS",
    "JONES": "Jones",
    "TRICHROME": "trichrome",
}


class OfficialConfig(Spec):
    """The keys of the official config that say what the model is; the others say how it learnt.

    Attributes:
        patch_embedding_dim: width of the patch features.
        wsi_encoder_hidden_dim: width of the model.
        n_heads: number of attention heads.
        wsi_encoder: "abmil", the published kind.
        activation: "softmax", the published normalisation of attention.
        add_stain_encoding: whether the stain is an input.
        MODALITIES: the stains, H&E first; the order is that of the stain encodings.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    patch_embedding_dim: Width
    wsi_encoder_hidden_dim: Width
    n_heads: int = Field(gt=0)
    wsi_encoder: Literal["abmil"] = "abmil"
    activation: Literal["softmax"] = "softmax"
    add_stain_encoding: bool = False
    MODALITIES: list[str] = Field(default=["HE", "HER2", "PGR", "KI67", "ER"], min_length=1)


def import_official(
    weights: Path,
    config: Path,
    folder: Path,
    *,
    name: str = NAME,
    cohort: str = "acrobat",
    force: bool = False,
) -> Path:
    """Write official weights as safetensors beside their card, and return the path of the card.

    Args:
        weights: model.pt, as published.
        config: model_config.json, as published.
        folder: gets `<name>.safetensors` and `<name>.yaml`.
        name: of the encoder.
        cohort: id of the cohort the model was trained on.
        force: whether files that are there already are replaced.

    Raises:
        InputError: a file cannot be read or is not what it should be, the weights are not of the
            model that the config describes, or a file is there already.
    """
    try:
        TypeAdapter(Identifier).validate_python(name)
    except ValidationError as error:
        raise InputError(
            f"'{name}' cannot name an encoder: use small letters, digits, single hyphens, "
            "and no name that Windows reserves, such as con"
        ) from error
    organ = load_catalogue().cohort(cohort).organ
    card, plain = folder / f"{name}.yaml", folder / f"{name}.safetensors"
    for path in (card, plain):
        if path.exists() and not force:
            raise InputError(f"{path} exists; choose another --name or --out, or add --force")
    from madeleine_bench.slides.patch_encoders.torch_encoder import read_state

    described = parse_spec(OfficialConfig, read_yaml(config), config)  # every JSON file is YAML
    state = read_state(weights)
    origin: Any = {"origin": "official weights", "sha256_of_origin": hash_file(weights)}
    description = ModelDescription(
        input_dim=described.patch_embedding_dim,
        width=described.wsi_encoder_hidden_dim,
        heads=described.n_heads,
        stains=_stains(described, config),
        stain_encoding=described.add_stain_encoding,
        cohort=cohort,
        **origin,
    )
    check_state(f"{weights} (as {config} describes it)", description, state)
    write_weights(plain, {organ or "unknown": (description, state)})
    write_text(card, card_text(_card(name, plain, description)))
    return card


def _stains(described: OfficialConfig, path: Path) -> tuple[str, ...]:
    names = described.MODALITIES
    stains = tuple(STAINS.get(name.upper(), "") for name in names)
    if stains[0] != "H&E" or "" in stains or len(set(stains)) != len(stains):
        raise InputError(
            f"{path}: key 'MODALITIES' is {names}; expected HE first, then each name once, of "
            f"{', '.join(STAINS)}"
        )
    return stains


def _card(name: str, weights: Path, description: ModelDescription) -> EncoderCard:
    sha256 = hash_file(weights)
    encodings = ", stain encodings" * description.stain_encoding
    return EncoderCard(
        name=name,
        revision=sha256[:12],
        title=f"Madeleine{encodings}, official weights",
        implementation="madeleine_bench.encoders.madeleine:TrainedMadeleine",
        weights=Weights(path=weights.name, sha256=sha256),
        patch_encoder="conch_v1",
        input_dim=description.input_dim,
        magnification=10,
        patch_size=256,
        dim=description.width,
        training_cohorts=(description.cohort,),
        licence="CC BY-NC-ND 4.0",
        description="The weights published by the authors of Madeleine, imported unchanged. Their "
        "licence forbids commercial use and passing on changed copies.",
        citation=CITATION,
    )
