"""Which bags a packed store takes: of one width and patch encoder, finite, within its range."""

import numpy as np

from madeleine_bench.data.packed.journal import PackingHead
from madeleine_bench.data.packed.numbers import RANGES, PackedDtype
from madeleine_bench.errors import InputError
from madeleine_bench.types import Bag

_ADVICE = "One cohort has one patch encoder: extract the features of one of them again"


def check_bag(bag: Bag, dtype: PackedDtype, head: PackingHead | None, cohort_id: str) -> None:
    """Check a bag before it is packed.

    Args:
        bag: the bag.
        dtype: of the store.
        head: what the first bag has settled; None for the first.
        cohort_id: of the cohort, for messages.

    Raises:
        InputError: it is empty, not finite, out of the range of `dtype`, or not of the width or
            patch encoder of the first.
    """
    where = f"cohort {cohort_id}, slide '{bag.slide_id}'"
    if bag.features.ndim != 2 or bag.features.shape[0] == 0 or bag.features.shape[1] == 0:
        raise InputError(
            f"{where}: its bag is empty (shape {bag.features.shape}); extract it again"
        )
    dim = bag.features.shape[1]
    if head is not None and dim != head.dim:
        raise InputError(
            f"{where} has patches of {dim} dimensions, slide '{head.first}' of {head.dim}. "
            f"{_ADVICE}"
        )
    if head is not None and bag.patch_encoder != head.patch_encoder:
        raise InputError(
            f"{where} was made by patch encoder '{bag.patch_encoder}', slide '{head.first}' by "
            f"'{head.patch_encoder}'. {_ADVICE}"
        )
    # Extremes are NaN where any number is; two passes are cheaper than a mask of every number, and
    # in float32, which processors compare, than in float16, which they do not.
    numbers = bag.features.astype(np.float32, copy=False)
    low, high = float(numbers.min()), float(numbers.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{where}: its features hold NaN or infinity; extract them again")
    smallest, largest = RANGES[dtype]
    found = max(-low, high)
    if found > largest or 0.0 < found < smallest:
        raise InputError(
            f"{where}: its largest feature is {found:g} in size, outside the range of the "
            f"store's {dtype} ({smallest:.1g} to {largest:g}); scale the features of the "
            "whole cohort by one factor"
        )
