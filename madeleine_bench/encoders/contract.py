"""Contract checks of an encoder on made-up bags: what `mbench encoders check` runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import SlideEncoder, TrainableEncoder, as_embedding, dtype_of
from madeleine_bench.errors import CheckFailed
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag

# Four times the rounding of types that hold fewer digits than the limit of all others.
_ORDER_GAP = {"float16": 4 * 2.0**-10, "bfloat16": 4 * 2.0**-7}


@dataclass(frozen=True)
class ContractCheck:
    """One check: what was asked, whether it held, and what was seen."""

    name: str
    passed: bool
    seen: str


def check_contract(encoder: SlideEncoder) -> list[ContractCheck]:
    """Return the verdict of each contract check.

    Those of a supervised encoder are of its network (see `_check_network`). The checks of all
    others: a finite float vector of the width the card says; the same twice (where the card
    says deterministic); the same for patches in another order (to 1e-4 relative, or what its own
    type rounds); a bag of one patch works; the width does not depend on the number of patches; the
    bag is left as it was. What is returned is read as a run reads it (`as_embedding`).
    """
    if encoder.card.kind == "supervised":
        return _check_network(encoder)
    width = encoder.card.input_dim or 512
    bag = example_bag(width, 37)
    checks = _Checks()
    check = checks.ask

    def embed(given: Bag) -> NDArray[np.float32]:
        return as_embedding(encoder.encode(given), encoder.card.dim)

    def vector() -> tuple[bool, str]:
        returned = encoder.encode(bag)
        return True, f"shape {as_embedding(returned, encoder.card.dim).shape}, {dtype_of(returned)}"

    def repeatable() -> tuple[bool, str]:
        same = np.array_equal(embed(bag), embed(bag))
        return same or not encoder.card.deterministic, "equal" if same else "differs"

    def order() -> tuple[bool, str]:
        shuffled = example_bag(width, 37, order=rng_for("contract", "order").permutation(37))
        returned = encoder.encode(bag)
        first, second = as_embedding(returned, encoder.card.dim), embed(shuffled)
        gap = float(np.max(np.abs(first - second)) / max(float(np.max(np.abs(first))), 1e-12))
        most = _ORDER_GAP.get(dtype_of(returned), 1e-4)
        return gap < most, f"largest relative difference {gap:.1e}"

    def one_patch() -> tuple[bool, str]:
        one, many = embed(example_bag(width, 1)), embed(bag)
        return one.shape == many.shape, f"shape {one.shape}"

    def untouched() -> tuple[bool, str]:
        given = example_bag(width, 37)
        encoder.encode(given)
        same = np.array_equal(given.features, example_bag(width, 37).features)
        return same, "unchanged" if same else "the encoder wrote into bag.features"

    check("returns a finite float vector of the card's width", vector)
    check("returns the same embedding twice", repeatable)
    check("does not depend on the order of patches", order)
    check("takes a bag of one patch", one_patch)
    check("leaves the bag as it was", untouched)
    return checks.made


class _Checks:
    """The checks made so far; one that raises has failed."""

    def __init__(self) -> None:
        self.made: list[ContractCheck] = []

    def ask(self, name: str, ask: Callable[[], tuple[bool, str]]) -> None:
        try:
            passed, seen = ask()
        except CheckFailed as error:
            passed, seen = False, str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (an encoder may do anything)
            passed, seen = False, f"raised {type(error).__name__}: {error}"
        self.made.append(ContractCheck(name, bool(passed), seen))


def _check_network(encoder: SlideEncoder) -> list[ContractCheck]:
    """Return the verdict of each check of a network that labels are to train.

    The checks: finite outputs, as many as asked for, for each bag; the same network from the same
    seed and another from another; no bag changes what is said of another (to 1e-5); a bag of one
    patch works; a loss reaches the parameters.
    """
    import torch

    width = encoder.card.input_dim or 512
    bags = [torch.from_numpy(example_bag(width, n).features) for n in (37, 9)]
    packed, lengths = torch.cat(bags), [len(bag) for bag in bags]
    checks = _Checks()

    def network(seed: int = 1) -> Any:
        assert isinstance(encoder, TrainableEncoder), "no method network(...)"
        with torch.random.fork_rng(devices=[]):
            return encoder.network(
                input_dim=width, outputs=3, organ="breast", seed=seed, from_weights=False
            ).eval()

    def logits(made: Any, patches: Any, counts: list[int]) -> Any:
        with torch.inference_mode():
            return made(patches, counts).logits

    def outputs() -> tuple[bool, str]:
        found = logits(network(), packed, lengths)
        return tuple(found.shape) == (2, 3) and bool(found.isfinite().all()), f"{found.shape}"

    def seeded() -> tuple[bool, str]:
        first, again, other = (logits(network(s), packed, lengths) for s in (1, 1, 2))
        same, differs = torch.equal(first, again), not torch.equal(first, other)
        return same and differs, f"same seed {'equal' if same else 'differs'}"

    def alone() -> tuple[bool, str]:
        made = network()
        gap = (logits(made, packed, lengths)[1] - logits(made, bags[1], lengths[1:])[0]).abs().max()
        return float(gap) < 1e-5, f"largest difference {float(gap):.1e}"

    def one_patch() -> tuple[bool, str]:
        found = logits(network(), bags[0][:1], [1])
        return bool(found.isfinite().all()), f"{found.shape}"

    def trainable() -> tuple[bool, str]:
        made = network().train()
        made(packed, lengths).logits.square().sum().backward()
        reached = [p for p in made.parameters() if p.grad is not None and p.grad.abs().max() > 0]
        return bool(reached), f"{len(reached)} of {len(list(made.parameters()))} parameters reached"

    checks.ask("returns finite outputs, as many as asked for", outputs)
    checks.ask("is the same from the same seed, another from another", seeded)
    checks.ask("no bag changes what is said of another", alone)
    checks.ask("takes a bag of one patch", one_patch)
    checks.ask("a loss reaches its parameters", trainable)
    return checks.made


def example_bag(width: int, patches: int, order: np.ndarray | None = None) -> Bag:
    """Return a made-up bag of the given size, its patches in the given order."""
    features = rng_for("contract", width).standard_normal((patches, width), dtype=np.float32)
    coords = np.stack([np.arange(patches), np.arange(patches)], axis=1) * 256
    rows = np.arange(patches) if order is None else order
    latents = {"example": 0.5}
    return Bag(
        slide_id="example",
        case_id="example",
        features=features[rows],
        coords=coords[rows],
        site="example",
        organ="breast",
        patch_size_level0=256,
        latents=latents,
    )
