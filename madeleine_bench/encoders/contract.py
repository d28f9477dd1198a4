"""Contract checks of an encoder on made-up bags: what `mbench encoders check` runs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag


@dataclass(frozen=True)
class ContractCheck:
    """One check: what was asked, whether it held, and what was seen."""

    name: str
    passed: bool
    seen: str


def check_contract(encoder: SlideEncoder) -> list[ContractCheck]:
    """Return the verdict of each contract check.

    The checks: a finite float vector of the width the card says; the same twice (where the card
    says deterministic); the same for patches in another order (to 1e-4 relative); a bag of one
    patch works; the width does not depend on the number of patches; the bag is left as it was.
    """
    width = encoder.card.input_dim or 512
    bag = example_bag(width, 37)
    checks: list[ContractCheck] = []

    def check(name: str, ask: Callable[[], tuple[bool, str]]) -> None:
        try:
            passed, seen = ask()
        except Exception as error:  # noqa: BLE001  (a stranger's encoder may raise anything)
            passed, seen = False, f"raised {type(error).__name__}: {error}"
        checks.append(ContractCheck(name, bool(passed), seen))

    def vector() -> tuple[bool, str]:
        out = np.asarray(encoder.encode(bag))
        good = out.ndim == 1 and np.issubdtype(out.dtype, np.floating) and np.isfinite(out).all()
        fits = encoder.card.dim in (None, out.size)
        return bool(good and fits and out.size), f"shape {out.shape}, {out.dtype}"

    def repeatable() -> tuple[bool, str]:
        same = np.array_equal(encoder.encode(bag), encoder.encode(bag))
        return same or not encoder.card.deterministic, "equal" if same else "differs"

    def order() -> tuple[bool, str]:
        shuffled = example_bag(width, 37, order=rng_for("contract", "order").permutation(37))
        first, second = encoder.encode(bag), encoder.encode(shuffled)
        gap = float(np.max(np.abs(first - second)) / max(float(np.max(np.abs(first))), 1e-12))
        return gap < 1e-4, f"largest relative difference {gap:.1e}"

    def one_patch() -> tuple[bool, str]:
        one, many = np.asarray(encoder.encode(example_bag(width, 1))), encoder.encode(bag)
        return one.shape == many.shape and bool(np.isfinite(one).all()), f"shape {one.shape}"

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
    return checks


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
        latents=latents,
    )
