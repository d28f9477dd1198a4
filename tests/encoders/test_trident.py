"""Encoders through TRIDENT, with a stand-in whose networks check what they are given."""

import os
import re
import shutil
import sys
import textwrap
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from madeleine_bench.embeddings.compute import encode_checked
from madeleine_bench.encoders.contract import check_contract, example_bag
from madeleine_bench.encoders.registry import (
    EncoderEntry,
    external_encoders,
    find_encoder,
    load_encoder,
    shipped_encoders,
)
from madeleine_bench.encoders.trident import MODELS, TridentEncoder, needs
from madeleine_bench.errors import InputError, MbenchError
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Bag
from tests.tool_bags import write_bag_file

EXTERNAL = external_encoders()
# Of each model: width of patches, width of the slide, the precision that TRIDENT names for it.
LOAD = """
import torch

SHAPES = {
    "titan": (768, 768, torch.float16),
    "care": (768, 512, torch.float32),
    "prism": (2560, 1280, torch.float16),
    "chief": (768, 768, torch.float32),
    "gigapath": (1536, 768, torch.float16),
    "feather": (768, 512, torch.float32),
    "madeleine": (512, 512, torch.bfloat16),
}
seen = []


class Network(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name, (self.wide, dim, self.precision) = name, SHAPES[name]
        self.scale = torch.nn.Parameter(torch.ones(dim))

    def forward(self, batch, device="cuda"):
        assert device == "cpu" and not self.training and torch.is_inference_mode_enabled()
        features = batch["features"]
        assert features.dtype == torch.float32 and features.shape[::2] == (1, self.wide)
        seen.append(batch)
        weight = torch.ones(features.shape[1])
        if self.name in ("titan", "gigapath", "care"):
            coords, side = batch["coords"], batch["attributes"]["patch_size_level0"]
            assert coords.dtype == torch.int64 and coords.shape == (1, features.shape[1], 2)
            assert type(side) is int
            # Like a sequence model, it sees in which order the patches come.
            weight = torch.arange(1.0, 1 + features.shape[1])
        pooled = (features[0] * weight[:, None]).sum(0) / weight.sum()
        return self.scale * pooled[None, : len(self.scale)]


def encoder_factory(name, pretrained=True, freeze=True, **more):
    assert pretrained and freeze and not more
    {body}
    if name not in SHAPES:
        raise ValueError(f"Unknown encoder name {{name}}")
    return Network(name)
"""
ERRORS = """
class GatedRepoError(Exception): ...
class HfHubHTTPError(Exception): ...
"""


@pytest.fixture
def trident(tmp_path, monkeypatch):
    """Puts a TRIDENT on the path whose factory runs the given lines first; returns its module."""

    def forget():
        for name in [n for n in sys.modules if n.partition(".")[0] == "trident"]:
            del sys.modules[name]

    def put(body="pass", head="", slide_models=True):
        folder = tmp_path / "site" / "trident"
        (folder / "slide_encoder_models").mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "slide_encoder_models" / "__init__.py").write_text("")
        load = LOAD.replace("{{", "{").replace("}}", "}")
        load = load.replace("{body}", textwrap.indent(textwrap.dedent(body), "    ").strip())
        (folder / "slide_encoder_models" / "load.py").write_text(head + load)
        if not slide_models:
            shutil.rmtree(folder / "slide_encoder_models")
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        forget()

    yield put
    forget()


@pytest.fixture
def without_trident(monkeypatch):
    """A machine where TRIDENT is not installed, whatever this one has."""
    monkeypatch.setattr("madeleine_bench.encoders.trident.installed", lambda: False)


def bag_for(card, patches=7, **changes):
    """A bag that a card takes, its patches in rows of three; then changed."""
    rng = rng_for("test trident", card.name, patches)
    bag = Bag(
        "slide-7",
        "case-7",
        rng.standard_normal((patches, card.input_dim), dtype=np.float32),
        coords=np.stack([np.arange(patches) % 3, np.arange(patches) // 3], axis=1) * 1024,
        patch_encoder=card.patch_encoder,
        magnification=card.magnification,
        patch_size=card.patch_size,
        patch_size_level0=1024,
    )
    return replace(bag, **changes)


def test_the_cards_are_found_by_name_and_do_not_run_with_what_ships():
    assert set(EXTERNAL) == {
        "care", "chief", "feather", "gigapath", "madeleine-trident", "prism", "titan"
    }  # fmt: skip
    assert not set(EXTERNAL) & set(shipped_encoders())
    assert {entry.card.parameters["model"] for entry in EXTERNAL.values()} == set(MODELS)
    assert find_encoder("titan") == EXTERNAL["titan"]


def test_a_card_names_cohorts_of_the_catalogue_and_all_that_is_checked():
    cohorts = set(load_catalogue().cohorts)
    for name, entry in EXTERNAL.items():
        card = entry.card
        assert entry.path.stem == name
        assert set(card.training_cohorts or ()) <= cohorts
        assert None not in (card.patch_encoder, card.input_dim, card.magnification, card.patch_size)


@pytest.mark.parametrize("name", EXTERNAL)
def test_each_model_gets_the_batch_it_takes_and_gives_a_vector(name, trident):
    trident()
    card = EXTERNAL[name].card
    encoder = load_encoder(EXTERNAL[name])
    bag = bag_for(card)
    embedding = encode_checked(encoder, bag)
    assert embedding.shape == (card.dim,)
    given = sys.modules["trident.slide_encoder_models.load"].seen[-1]
    assert given["attributes"] == {"patch_size_level0": 1024}
    places = MODELS[card.parameters["model"]].places
    assert ("coords" in given) == places
    if places:
        columns = given["coords"][0].tolist()
        assert columns == sorted(bag.coords.tolist())
        assert columns != bag.coords.tolist()
        row = bag.coords.tolist().index(columns[1])
        np.testing.assert_array_equal(given["features"][0][1], bag.features[row])
    else:
        np.testing.assert_array_equal(given["features"][0], bag.features)


@pytest.mark.parametrize("name", EXTERNAL)
def test_each_model_keeps_the_contract(name, trident):
    trident()
    checks = check_contract(load_encoder(EXTERNAL[name]))
    assert [c for c in checks if c.verdict == "fail"] == []


def test_its_parameters_are_counted(trident):
    trident()
    assert load_encoder(EXTERNAL["feather"]).n_parameters == 512


def test_without_trident_the_error_says_how_to_get_it(without_trident):
    with pytest.raises(InputError, match=r"pip install git\+https://github.com/mahmoodlab") as said:
        load_encoder(EXTERNAL["titan"])
    assert "huggingface.co/MahmoodLab/TITAN" in str(said.value)
    assert "astrophysics" in str(said.value)
    assert needs(EXTERNAL["titan"].card) == "TRIDENT, gated weights"
    assert needs(shipped_encoders()["mean-pool"].card) == ""


def test_the_astrophysics_package_is_told_apart_and_not_run(trident):
    trident(slide_models=False)
    with pytest.raises(InputError, match="pip uninstall trident"):
        load_encoder(EXTERNAL["titan"])
    assert "trident" not in sys.modules
    assert needs(EXTERNAL["titan"].card).startswith("TRIDENT")


def test_a_trident_that_cannot_be_imported(trident):
    trident(head="import no_such_module_of_trident\n")
    with pytest.raises(InputError, match=r"(?s)no_such_module_of_trident.*pip install git"):
        load_encoder(EXTERNAL["titan"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise HfHubHTTPError('401 Client Error')",
         ["401", "huggingface.co/MahmoodLab/TITAN", "hf auth login"]),
        ("raise ConnectionError('offline')", ["offline", "HF_HOME", "HF_HUB_OFFLINE=1"]),
        ("import no_such_transformers", ["no_such_transformers", "transformers>=4.51"]),
        ("del SHAPES[name]", ["titan", "pip install git+"]),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_had_are_told_in_words(trident, capfd, body, said):
    printed = "import traceback; print('noise'); traceback.print_stack()\n"
    trident(printed + body, head=ERRORS)
    with pytest.raises(InputError) as error:
        load_encoder(EXTERNAL["titan"])
    for words in ("titan: ", *said):
        assert words in str(error.value)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_chief_says_which_files_it_needs_and_leaves_the_folder_as_it_was(trident, tmp_path):
    trident(f"import os; os.chdir({str(tmp_path)!r}); raise Exception('no CHIEF_pretraining.pth')")
    before = os.getcwd()
    with pytest.raises(InputError, match=r"local_ckpts\.json") as said:
        load_encoder(EXTERNAL["chief"])
    assert "Text_emdding.pth" in str(said.value)
    assert os.getcwd() == before


def of_titan(**parameters):
    card = EXTERNAL["titan"].card.model_copy(update={"parameters": parameters})
    return load_encoder(EncoderEntry(card, EXTERNAL["titan"].path, "test"))


def test_an_unknown_model(trident):
    trident()
    with pytest.raises(InputError, match="did you mean 'titan'"):
        of_titan(model="titam")


@pytest.mark.parametrize("name", EXTERNAL)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_encoder": "uni_v1"}, ["uni_v1", "extract the features again"]),
        ({"magnification": 40.0}, ["40x", "expects patches at"]),
        ({"patch_size": 1000}, ["1000 px", "expects patches of"]),
        ({"features": np.ones((3, 9), np.float32)}, ["width", "9"]),
    ],
)
def test_bags_that_do_not_fit_are_refused_by_name(name, trident, change, words):
    trident()
    card = EXTERNAL[name].card
    with pytest.raises(InputError) as said:
        encode_checked(load_encoder(EXTERNAL[name]), bag_for(card, **change))
    for word in (card.name, "slide-7", *words):
        assert word in str(said.value)


@pytest.mark.parametrize("name", EXTERNAL)
def test_models_of_places_refuse_bags_without_them_and_others_do_not_ask(name, trident):
    trident()
    card, encoder = EXTERNAL[name].card, load_encoder(EXTERNAL[name])
    no_coords, no_size = bag_for(card, coords=None), bag_for(card, patch_size_level0=None)
    if name in ("care", "titan", "gigapath"):
        with pytest.raises(InputError, match="no coordinates in level-0 pixels"):
            encode_checked(encoder, no_coords)
        with pytest.raises(InputError, match="does not state patch_size_level0"):
            encode_checked(encoder, no_size)
    else:
        for bag in (no_coords, no_size):
            assert encode_checked(encoder, bag).shape == (card.dim,)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("torch.full((1, 512), float('nan'))", "component 0 of the embedding is nan"),
        ("torch.zeros(1, 511)", "the card says dim 512, encode returned 511"),
        ("torch.zeros(1, 513, 512)", r"must return a vector .* shape \(1, 513, 512\)"),
        ("(torch.zeros(1, 512), None)", r"must return a vector .* object"),
    ],
)
def test_what_is_no_embedding_is_refused(trident, returned, message):
    trident(f"Network.forward = lambda self, batch, device: {returned}")
    card = EXTERNAL["feather"].card
    with pytest.raises(MbenchError, match=message):
        encode_checked(load_encoder(EXTERNAL["feather"]), bag_for(card))


def test_half_precision_only_on_a_gpu_and_only_where_trident_names_it(trident):
    import torch

    trident()
    for name, dtype in (("titan", torch.float16), ("madeleine-trident", torch.bfloat16)):
        encoder = load_encoder(EXTERNAL[name])
        assert isinstance(encoder, TridentEncoder)
        assert isinstance(encoder._precision(), nullcontext)
        encoder.device = "cuda"
        with warnings.catch_warnings(action="ignore"):  # torch says that there is no GPU here
            assert encoder._precision().fast_dtype == dtype
    encoder = load_encoder(EXTERNAL["chief"])
    encoder.device = "cuda"
    assert isinstance(encoder._precision(), nullcontext)


def test_the_page_says_what_the_cards_say():
    page = (Path(__file__).parents[2] / "docs" / "external-encoders.md").read_text()
    for name, entry in EXTERNAL.items():
        card, model = entry.card, entry.card.parameters["model"]
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` | `"))
        cells = [cell.strip() for cell in row.split("|")[2:7]]
        assert cells == [
            f"`{model}`", f"`{card.patch_encoder}`",
            f"{card.patch_size} px at {card.magnification:g}x", str(card.input_dim), str(card.dim),
        ]  # fmt: skip
        assert MODELS[model].page in row
        assert ("[gated]" in row) == MODELS[model].gated
        assert re.split("[,(]", card.licence)[0].strip() in row
        seen = page.split("## Has it seen the slides?")[1].splitlines()
        known = next(line for line in seen if line.startswith("| `") and f"`{name}`" in line)
        cohorts = card.training_cohorts
        stated = "unknown" if cohorts is None else ", ".join(cohorts) or "none of ours"
        assert f"| {stated} |" in known


def test_the_order_in_the_file_does_not_count_where_places_do(trident):
    trident()
    card, encoder = EXTERNAL["gigapath"].card, load_encoder(EXTERNAL["gigapath"])
    bag = bag_for(card, patches=20)
    rows = rng_for("test trident", "order").permutation(20)
    assert bag.coords is not None
    moved = replace(bag, features=bag.features[rows], coords=bag.coords[rows])
    np.testing.assert_array_equal(encoder.encode(bag), encoder.encode(moved))


def test_the_commands_list_what_is_missing_and_refuse_with_2(mbench, without_trident):
    listed = mbench("encoders", "list")
    assert listed.code == 0
    row = next(line for line in listed.out.splitlines() if line.startswith("titan "))
    assert row.rstrip().endswith("TRIDENT, gated weights")
    shown = mbench("encoders", "show", "titan")
    assert "huggingface.co/MahmoodLab/TITAN" in shown.out
    checked = mbench("encoders", "check", "titan")
    assert checked.code == 2
    assert "github.com/mahmoodlab/TRIDENT" in checked.err
    assert "Traceback" not in checked.err


def test_a_gated_encoder_ends_the_check_with_2(mbench, trident):
    trident("raise GatedRepoError('no')", head=ERRORS)
    said = mbench("encoders", "check", "prism")
    assert said.code == 2
    assert "ask for access at https://huggingface.co/paige-ai/Prism" in said.err
    assert "Traceback" not in said.err


def fill(bcnb, **attributes):
    """Give the small cohort the features of CONCH v1.5, as TRIDENT writes them."""
    stated = {"patch_size": 512, "patch_size_level0": 1024, "level0_magnification": 40}
    stated |= {"target_magnification": 20} | attributes
    for number in range(1, 41):
        rng = rng_for("test trident", number)
        features = rng.standard_normal((4 + number % 3, 768), dtype=np.float32)
        features[:, :8] += 2.0 * (number % 3 == 0)
        coords = np.stack([np.arange(len(features)), np.zeros(len(features))], axis=1) * 1024
        write_bag_file(
            bcnb.bag(number), features, coords, layout="trident", patch_encoder="conch_v15",
            coords_attributes=stated,
        )  # fmt: skip


def run_titan(bcnb, results):
    return [
        "run", "--encoder", "titan", "--task", "bcnb-er", "--protocol", "linear-probe",
        "--jobs", "1", "--config", bcnb.config, "--results", results,
    ]  # fmt: skip


def test_a_run_of_titan_on_files_that_fit_ends_in_a_record(bcnb, tmp_path, mbench, trident):
    trident()
    fill(bcnb)
    said = mbench(*run_titan(bcnb, tmp_path / "results"))
    assert said.code == 0, said.err
    (record,) = (tmp_path / "results" / "records").rglob("*.json")
    text = record.read_text()
    assert '"name": "titan"' in text
    assert '"training_cohorts": null' in text


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"target_magnification": 10}, ["20x", "10x"]),
        ({"patch_size": 256}, ["512 px", "256 px"]),
    ],
)
def test_a_run_of_titan_on_files_that_do_not_fit_embeds_nothing(
    bcnb, tmp_path, mbench, trident, stated, words
):
    trident()
    fill(bcnb, **stated)
    said = mbench(*run_titan(bcnb, tmp_path / "results"))
    assert said.code == 2
    for word in ("titan", *words):
        assert word in said.err + said.out
    assert list((tmp_path / "results").rglob("*.safetensors")) == []


def test_the_contract_bag_says_how_large_its_patches_are():
    assert example_bag(4, 3).patch_size_level0 == 256
