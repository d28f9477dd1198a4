"""Whether a packed store is still that of a cohort: hashes of bags and tables compared."""

import hashlib
from collections.abc import Iterator

from madeleine_bench.data.packed.index import FORMAT, VERSION, StoreIndex
from madeleine_bench.data.packed.numbers import PackedDtype
from madeleine_bench.hashing import canonical_json
from madeleine_bench.types import CohortData


def content_hash(data: CohortData, dtype: PackedDtype = "float16") -> str:
    """Return the hash of all bags of a cohort and of what is known of their slides.

    Raises:
        InputError: a feature file cannot be read.
    """
    head = [FORMAT, VERSION, dtype, data.cohort_id, data.source, data.variant]
    digest = hashlib.sha256(canonical_json(head).encode())
    columns = data.slides[["slide_id", "case_id", "stain"]].itertuples(index=False)
    no_bag = data.no_bag
    for slide_id, case_id, stain in columns:
        key = None if slide_id in no_bag else data.content_key(slide_id)
        digest.update(canonical_json([slide_id, case_id, stain, key]).encode())
    return digest.hexdigest()


def differences(
    index: StoreIndex, data: CohortData, dtype: PackedDtype | None = None
) -> Iterator[str]:
    """Yield in what a store is not that of a cohort as it is now; nothing where it is.

    Args:
        index: of the store.
        data: the cohort; it may be read from this very store.
        dtype: what bags are to be rounded to; None takes what the store has. A store that holds
            the numbers of the bags as they are may have any, such as one they are read from.

    Raises:
        InputError: a feature file cannot be read.
    """
    head = index.head
    for what in ("cohort_id", "source", "variant"):
        packed, now = getattr(head, what), getattr(data, what)
        if packed != now:
            yield f"{what.removesuffix('_id')} '{packed}' was packed, it is '{now}' now"
    columns = [index.column(name) for name in ("slide_id", "case_id", "stain", "source_key")]
    packed_slides = {
        slide: (case, stain, own, source)
        for slide, case, stain, source, own in zip(*columns, index.content_keys, strict=True)
    }
    rounded = False
    left, no_bag = set(head.missing), data.no_bag
    for slide, case, stain in data.slides[["slide_id", "case_id", "stain"]].itertuples(index=False):
        known = packed_slides.pop(slide, None)
        if slide in no_bag:
            if known is not None:
                yield f"slide '{slide}' has no bag any more"
            elif slide not in left:
                yield f"slide '{slide}' is new, without a bag"
            left.discard(slide)
        elif known is None:
            yield f"slide '{slide}' has a bag and was not packed"
            left.discard(slide)
        else:
            key = data.content_key(slide)
            rounded |= key != known[2]
            yield from _changes(slide, known, (case, stain, key))
    for slide in (*packed_slides, *sorted(left)):
        yield f"slide '{slide}' is no more in the table of the cohort"
    if rounded and dtype not in (None, head.dtype):
        yield f"its numbers are {head.dtype}, wanted is {dtype}"


def _changes(
    slide: str, packed: tuple[str, str, str, str], now: tuple[str, str, str]
) -> Iterator[str]:
    for what, before, after in zip(("case", "stain"), packed, now, strict=False):
        if before != after:
            yield f"slide '{slide}' was packed as {what} {before}, it is {after} now"
    if now[2] not in packed[2:]:
        yield f"slide '{slide}': its bag has changed since it was packed"
