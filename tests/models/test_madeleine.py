"""The model against the golden numbers of the reference implementation, and its own properties."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from madeleine_bench.models.madeleine import (  # noqa: E402
    TOKEN_DIM,
    Madeleine,
    MultiHeadPooling,
    initialise,
    published_stain_order,
)

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"golden numbers absent: no folder {GOLDEN}"
)
VALUES = {"rtol": 1e-10, "atol": 1e-12}
CASES, STAINS, PATCHES = 2, 5, 12


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "madeleine_golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if not name.startswith("got")}


def recipe_model(**options):
    """A model in float64 with weights as the golden README says: one stream over sorted names."""
    model = Madeleine(**options).double().eval()
    stream = np.random.RandomState(101)
    state = {}
    for key, old in sorted(model.state_dict().items()):
        values = stream.standard_normal(tuple(old.shape)) * (0.05 if old.ndim > 1 else 0.1)
        if old.ndim == 1 and key.endswith("weight"):
            values = values + 1
        state[key] = torch.from_numpy(values)
    model.load_state_dict(state)
    return model


def recipe_patches():
    """The golden input, packed case by case and stain by stain."""
    bags = np.random.RandomState(102).standard_normal((CASES, STAINS, PATCHES, 512))
    return torch.from_numpy(bags.reshape(-1, 512)), [PATCHES] * (CASES * STAINS)


def golden_pooling(golden, heads):
    pooling = MultiHeadPooling(16, 12, heads, attention_dim=10).double().eval()
    prefix = f"abmil{heads}/state/"
    state = {
        key.removeprefix(prefix): torch.from_numpy(value)
        for key, value in golden.items()
        if key.startswith(prefix)
    }
    pooling.load_state_dict(state)
    return pooling


def small_model(seed=3, **options):
    model = Madeleine(7, 8, 2, **options).double().eval()
    initialise(model, seed)
    return model


def random_patches(count, dim=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64)


@needs_golden
@pytest.mark.parametrize(("key", "stains"), [("without", 0), ("with", 5)])
def test_layout_is_the_official_one(key, stains):
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())[f"{key}_stain_encoding"]
    model = Madeleine(stains=stains)
    ours = [[name, list(value.shape)] for name, value in model.state_dict().items()]
    assert ours == layout
    if not stains:
        assert sum(p.numel() for p in model.parameters()) == 4_996_740


@needs_golden
@pytest.mark.parametrize("heads", [1, 4])
def test_pooling_equals_the_reference(golden, heads):
    pooling, prefix = golden_pooling(golden, heads), f"abmil{heads}/"
    bags = torch.from_numpy(golden[prefix + "x"])
    slides, patches = bags.shape[:2]
    with torch.inference_mode():
        tokens, scores = pooling.embed(bags.flatten(0, 1))
        pooled = pooling.pool(tokens, scores, [patches] * slides)
        np.testing.assert_allclose(pooled, golden[prefix + "slide"], **VALUES)
        bag_scores = scores.unflatten(0, (slides, patches))
        np.testing.assert_allclose(bag_scores, golden[prefix + "raw_attention"][:, :, 0], **VALUES)
        np.testing.assert_allclose(
            bag_scores.softmax(dim=1), golden[prefix + "attention"][:, :, 0], **VALUES
        )
        official = tokens.unflatten(0, (slides, patches)).transpose(2, 3)
        np.testing.assert_allclose(official, golden[prefix + "tokens"], **VALUES)


@needs_golden
@pytest.mark.parametrize("heads", [1, 4])
def test_pooling_of_two_views_equals_the_reference(golden, heads):
    pooling, prefix = golden_pooling(golden, heads), f"abmil{heads}/"
    order = torch.from_numpy(golden[prefix + "views_perm"])
    views = (torch.arange(len(order)), order[: len(order) // 2], order[len(order) // 2 :])
    for bag, expected in zip(
        torch.from_numpy(golden[prefix + "views_x"]), golden[prefix + "views_slide"], strict=True
    ):
        with torch.inference_mode():
            tokens, scores = pooling.embed(bag)
            rows = torch.cat(views)
            pooled = pooling.pool(tokens[rows], scores[rows], [len(view) for view in views])
        np.testing.assert_allclose(pooled, expected, **VALUES)


@needs_golden
def test_forward_equals_the_reference(golden):
    model = recipe_model()
    patches, lengths = recipe_patches()
    with torch.inference_mode():
        slides, tokens, scores = model(patches, lengths)
        projected = model.project_tokens(tokens).view(CASES, STAINS, PATCHES, TOKEN_DIM)
        encoded = [model.encode(patches[row : row + PATCHES]) for row in (0, STAINS * PATCHES)]
    np.testing.assert_allclose(slides.view(CASES, STAINS, -1), golden["madeleine/slide"], **VALUES)
    np.testing.assert_allclose(projected[:, :, :4], golden["madeleine/tokens"], **VALUES)
    np.testing.assert_allclose(torch.stack(encoded), golden["madeleine/encode_he"], **VALUES)
    he_scores = scores.view(CASES, STAINS, PATCHES, 4)[:, 0]
    np.testing.assert_allclose(he_scores, golden["madeleine/raw_attention_he"][:, :, 0], **VALUES)


@needs_golden
def test_gradients_equal_the_reference(golden):
    model = recipe_model()
    slides, tokens, _ = model(*recipe_patches())
    # The reference returns H&E once for each of the four other stains: slides and tokens alike.
    returned = torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    squares = model.project_tokens(tokens).square().sum(-1).view(CASES, STAINS, PATCHES).sum(-1)
    squares = squares + slides.square().sum(-1).view(CASES, STAINS)
    (squares * returned).sum().backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
    for name, expected in zip(
        golden["madeleine/param_names"], golden["madeleine/grad_norms"], strict=True
    ):
        # The softmax does not see a shift of all scores, so this gradient is rounding error.
        rounding = 1e-9 if name.endswith("attention_c.bias") else 0.0
        np.testing.assert_allclose(norms[name], expected, rtol=1e-8, atol=rounding, err_msg=name)


@needs_golden
def test_stain_encodings_equal_the_reference_with_its_order(golden):
    model = recipe_model(stains=STAINS)
    patches, lengths = recipe_patches()
    stains = published_stain_order(CASES, STAINS).repeat_interleave(PATCHES)
    with torch.inference_mode():
        slides, tokens, _ = model(patches, lengths, stains)
        projected = model.project_tokens(tokens).view(CASES, STAINS, PATCHES, TOKEN_DIM)
        right = model(patches, lengths, torch.arange(CASES * STAINS * PATCHES) // PATCHES % STAINS)
    expected = golden["madeleine_se/slide"]
    np.testing.assert_allclose(slides.view(CASES, STAINS, -1), expected, **VALUES)
    np.testing.assert_allclose(projected[:, :, :4], golden["madeleine_se/tokens"], **VALUES)
    # Rows 0 and 9 get their own stain in either order, the others do not.
    same = np.isclose(right[0], expected.reshape(10, -1), rtol=1e-9).all(axis=1)
    assert same.tolist() == [True] + 8 * [False] + [True]


def test_published_stain_order_is_stain_major():
    assert published_stain_order(2, 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert published_stain_order(3, 2).tolist() == [0, 0, 0, 1, 1, 1]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    stains=st.sampled_from([0, 3]),
    equal=st.booleans(),
)
def test_packed_slides_equal_slides_one_by_one(lengths, stains, equal):
    lengths = lengths[:1] * len(lengths) if equal else lengths
    model = small_model(stains=stains)
    patches = random_patches(sum(lengths))
    stain_of_slide = [index % 3 for index in range(len(lengths))] if stains else None
    stain_of_patch = (
        torch.tensor(stain_of_slide).repeat_interleave(torch.tensor(lengths)) if stains else None
    )
    with torch.inference_mode():
        packed, tokens, scores = model(patches, lengths, stain_of_patch)
        assert tokens.shape == (sum(lengths), 2, 8)
        assert scores.shape == (sum(lengths), 2)
        for row, bag in enumerate(patches.split(lengths)):
            alone = model.encode(bag, None if stain_of_slide is None else stain_of_slide[row])
            torch.testing.assert_close(packed[row], alone, rtol=1e-12, atol=1e-13)


def test_batch_mates_change_nothing_but_their_own_slide():
    model = small_model()
    patches = random_patches(9)
    moved = patches.clone()
    moved[:4] += 5.0
    with torch.inference_mode():
        first, second = (model(p, [4, 2, 3])[0] for p in (patches, moved))
    torch.testing.assert_close(first[1:], second[1:], rtol=0, atol=1e-14)
    assert not torch.allclose(first[0], second[0])


def test_order_of_patches_does_not_matter():
    model = small_model()
    bag = random_patches(11)
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(bag), model.encode(bag.flip(0)))


def test_a_bag_of_one_patch_is_its_own_token():
    model = small_model()
    with torch.inference_mode():
        tokens, _ = model.embed_patches(random_patches(1))
        # The projector takes channels in the official order, head fastest.
        expected = model.projector(tokens.transpose(1, 2).flatten(1))[0]
        torch.testing.assert_close(model.encode(random_patches(1)), expected)


def test_projecting_some_tokens_equals_choosing_among_all_projected():
    model = small_model()
    tokens, _ = model.embed_patches(random_patches(6))
    rows = torch.tensor([[4, 1, 1], [0, 5, 2]])
    chosen = model.project_tokens(tokens[rows])
    assert chosen.shape == (2, 3, TOKEN_DIM)
    torch.testing.assert_close(chosen, model.project_tokens(tokens)[rows])


def test_each_stain_has_an_encoding_of_its_own():
    model, bag = small_model(stains=3), random_patches(5)
    with torch.inference_mode():
        embeddings = [model.encode(bag, stain) for stain in range(3)]
    assert not torch.allclose(embeddings[0], embeddings[1])
    assert not torch.allclose(embeddings[1], embeddings[2])


def test_gradients_are_exact_for_ragged_slides_with_stains():
    model = small_model(stains=2)
    patches = random_patches(6).requires_grad_()
    stains = torch.tensor([0, 0, 0, 1, 1, 0])

    def slides_and_tokens(patches, encodings):
        del encodings  # gradcheck moves it in place, inside the model
        slides, tokens, _ = model(patches, [3, 2, 1], stains)
        return slides, model.project_tokens(tokens)

    assert torch.autograd.gradcheck(slides_and_tokens, (patches, model.embedding.weight))


def test_equal_and_ragged_lengths_give_equal_gradients():
    model, patches = small_model(), random_patches(6)
    gradients = []
    for lengths in ([3, 3], [3, 2, 1]):
        model.zero_grad()
        model(patches, lengths)[0][0].square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_the_softmax_stays_in_float32_under_autocast():
    model = Madeleine(7, 8, 2).eval()
    initialise(model, 3)
    patches = random_patches(9).float()
    with torch.inference_mode():
        exact, _, _ = model(patches, [4, 5])
        with torch.autocast("cpu", torch.bfloat16):
            slides, tokens, _ = model(patches, [4, 5])
            # Scores 1000 and 1001 are one number in bfloat16, and e apart in the softmax.
            far = torch.tensor([[1000.0], [1001.0]]).expand(2, 2)
            one_hot = torch.eye(2, dtype=torch.bfloat16).unsqueeze(1).expand(2, 2, 2)
            weights = model.wsi_embedders.pool(one_hot, far, [2])
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(slides.float(), exact, rtol=0.05, atol=0.02)
    torch.testing.assert_close(
        weights[0, :, 0].float(), torch.tensor([0.2689, 0.7311]), atol=5e-3, rtol=0
    )


def test_dropout_acts_in_training_alone():
    bag = random_patches(5)
    for options in ({"dropout": 0.5}, {"dropout": 0.0, "gate_dropout": 0.5}):
        model = small_model(**options)
        still = model.encode(bag)
        torch.testing.assert_close(model.encode(bag), still, rtol=0, atol=0)
        assert not torch.allclose(model.train().encode(bag), still)
    still = small_model(dropout=0.0)
    torch.testing.assert_close(still.train().encode(bag), still.eval().encode(bag))


def test_gate_dropout_keeps_both_branches_at_once():
    # Each of two branches is dropped with 0.25: the product survives with 0.75 squared.
    assert MultiHeadPooling(3, 4, 2, 5, gate_dropout=0.25).gate_dropout == pytest.approx(0.4375)


@pytest.mark.parametrize("lengths", [[], [3, 0, 3], [3, 2], [7], [7, -1]])
def test_lengths_must_fit_the_patches(lengths):
    model = small_model()
    with pytest.raises(ValueError, match="each bag needs a patch, and all together 6"):
        model(random_patches(6), lengths)


def test_stains_are_given_just_where_there_are_encodings():
    bag = random_patches(4)
    with pytest.raises(ValueError, match="has 0 stain encodings"):
        small_model().encode(bag, 1)
    with pytest.raises(ValueError, match="has 3 stain encodings"):
        small_model(stains=3).encode(bag)


def test_initialise_is_a_function_of_its_seed():
    first, again, other = small_model(3), small_model(3), small_model(4)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first.projector.weight, other.projector.weight)


def test_initialise_fills_stain_encodings_and_leaves_global_state_alone():
    before = torch.random.get_rng_state()
    model = Madeleine(7, 8, 2, stains=40)
    after_making = torch.random.get_rng_state()
    initialise(model, 3)
    assert torch.equal(torch.random.get_rng_state(), after_making)
    assert model.embedding.weight.detach().std() == pytest.approx(0.02, rel=0.1)
    torch.random.set_rng_state(before)
