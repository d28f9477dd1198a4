"""What encode may return: `encoders check`, `run` and the doctor read it the same way."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from madeleine_bench.embeddings.compute import attention_checked, encode_checked
from madeleine_bench.encoders.base import BaseEncoder, as_array
from madeleine_bench.encoders.contract import ask, check_contract, example_bag
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.errors import CheckFailed, InputError

CARD = load_encoder(find_encoder("mean-pool")).card
BAG = example_bag(6, 37)
# The check makes bags of 512 where a card leaves the width open; these are of 6.
SIX = CARD.model_copy(update={"input_dim": 6})

TAKEN = {
    "float64": lambda x: x.astype(np.float64),
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "list of numpy floats": list,
    "list of an int and floats": lambda x: [1, *x.tolist()],
    "torch float64": lambda x: torch.tensor(x, dtype=torch.float64),
    "torch float32": torch.tensor,
    "torch float16": lambda x: torch.tensor(x).half(),
    "torch bfloat16": lambda x: torch.tensor(x).bfloat16(),
    "torch with gradients": lambda x: torch.tensor(x, requires_grad=True) * 2,
    "torch parameter": lambda x: torch.nn.Parameter(torch.tensor(x).bfloat16()),
    "torch in part": lambda x: torch.tensor(np.stack([x, x], axis=1))[:, 0],
}
REFUSED = {
    "ints": lambda x: np.arange(6),
    "list of ints": lambda x: [1, 2, 3],
    "torch ints": lambda x: torch.arange(6),
    "booleans": lambda x: x > 0,
    "NaN": lambda x: np.where(x == x[2], np.nan, x),
    "NaN in bfloat16": lambda x: torch.full((6,), torch.nan).bfloat16(),
    "infinity": lambda x: [np.inf] * 6,
    "too large for float32": lambda x: [1e300] * 6,
    "2-D": lambda x: x[None],
    "torch 2-D": lambda x: torch.tensor(x)[None],
    "0-D": lambda x: x[0],
    "a float": lambda x: 1.5,
    "empty": lambda x: x[:0],
    "empty list": lambda x: [],
    "ragged list": lambda x: [[1.0], [1.0, 2.0]],
    "complex": lambda x: x + 1j,
    "torch complex": lambda x: torch.tensor(x) + 1j,
    "objects": lambda x: x.astype(object),
    "strings": lambda x: ["1.5", "2.5"],
    "a string": lambda x: "1.5",
    "None": lambda x: None,
    "list with None": lambda x: [1.0, None],
    "a dict": lambda x: {"embedding": x},
    "a generator": lambda x: (v for v in x),
    "torch sparse": lambda x: torch.tensor(x).to_sparse(),
    "a class": lambda x: np.ndarray,
}  # fmt: skip


def encoder(returned, card=SIX):
    return SimpleNamespace(card=card, encode=lambda bag: returned(bag.features.mean(axis=0)))


@pytest.mark.parametrize("kind", TAKEN)
def test_what_a_run_scores_passes_the_check(kind):
    """`encoders check` failed lists, tensors, bfloat16 and gradients."""
    made = encode_checked(encoder(TAKEN[kind]), BAG)
    assert (made.ndim, made.dtype) == (1, np.float32)
    expected = BAG.features.mean(axis=0) * (2 if kind == "torch with gradients" else 1)
    assert made[-6:] == pytest.approx(expected, rel=2.0**-7)
    assert [c.found for c in check_contract(encoder(TAKEN[kind])) if c.verdict == "fail"] == []
    assert ask(encoder(TAKEN[kind]), BAG).vector.astype(np.float32).tolist() == made.tolist()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_run_refuses_fails_the_check_with_the_same_words(kind):
    with pytest.raises(CheckFailed) as refusal:
        encode_checked(encoder(REFUSED[kind]), BAG)
    who, _, why = str(refusal.value).partition("slide example: ")
    assert who == "encoder mean-pool, "
    first = check_contract(encoder(REFUSED[kind]))[0]
    assert first.verdict == "fail"
    assert first.found == why
    assert ask(encoder(REFUSED[kind]), BAG).vector is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ints", "a vector of floats, shape (dim,); it returned ndarray, shape (6,), int64"),
        ("torch 2-D", "it returned Tensor, shape (1, 6), float32"),
        ("None", "it returned NoneType, shape (), object"),
        ("ragged list", "it returned list, shape (), object"),
        ("torch complex", "it returned Tensor, shape (6,), complex64"),
        ("empty list", "encode returned an empty vector"),
        ("too large for float32", "component 0 of the embedding is 1e+300"),
    ],
)
def test_a_refusal_says_what_came(kind, words):
    with pytest.raises(CheckFailed) as refusal:
        encode_checked(encoder(REFUSED[kind]), BAG)
    assert words in str(refusal.value)


def test_the_width_of_the_card_holds_for_both():
    card = SIX.model_copy(update={"dim": 5})
    made = encoder(torch.tensor, card)
    with pytest.raises(CheckFailed, match="the card says dim 5, encode returned 6"):
        encode_checked(made, BAG)
    assert check_contract(made)[0].found == "the card says dim 5, encode returned 6"


@pytest.mark.parametrize("kind", ["float32", "torch bfloat16"])
def test_an_order_of_patches_that_matters_fails_in_any_type(kind):
    first = SimpleNamespace(card=SIX, encode=lambda bag: TAKEN[kind](bag.features[0]))
    assert "does not depend on the order of patches" in {
        check.check for check in check_contract(first) if check.verdict == "fail"
    }


def test_an_encoder_that_exits_fails_the_check():
    """sys.exit(0) ended the check, and with it the command, as if all had passed."""

    def leave(bag):
        sys.exit(0)

    checks = check_contract(SimpleNamespace(card=SIX, encode=leave))
    assert not any(check.verdict == "pass" for check in checks)
    assert checks[0].found == "raised SystemExit: 0"
    assert ask(SimpleNamespace(card=SIX, encode=leave), BAG).fault == "raised SystemExit: 0"


def test_attention_is_read_the_same_way():
    class Toy(BaseEncoder):
        def encode(self, bag):
            return torch.tensor(bag.features.mean(axis=0), requires_grad=True)

        def attention(self, bag):
            return torch.ones(len(bag.features), 1, requires_grad=True).bfloat16()

    made = Toy(SIX)
    assert attention_checked(made, BAG).shape == (37, 1)
    made.attention = lambda bag: [["a"]] * 37
    with pytest.raises(InputError, match="attention must return"):
        attention_checked(made, BAG)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_tensor_on_a_gpu_is_taken():
    value = torch.ones(4, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    assert as_array(value).tolist() == [1.0] * 4


def test_torch_is_not_imported_to_read_what_is_no_tensor():
    code = (
        "import sys; from madeleine_bench.encoders.base import as_embedding; "
        "as_embedding([1.0, 2.0]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
