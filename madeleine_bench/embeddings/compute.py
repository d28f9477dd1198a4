"""Running encoders over bags, with the contract checked at the door."""

import faulthandler
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.alarm import OutOfTime, alarm, can_alarm
from madeleine_bench.data.bags import BagFacts
from madeleine_bench.data.case_bags import Groups
from madeleine_bench.embeddings.store import Embeddings, EncodingCost
from madeleine_bench.encoders.base import (
    AttentiveEncoder,
    ChunkedEncoder,
    MovableEncoder,
    SlideEncoder,
    as_array,
    as_embedding,
)
from madeleine_bench.errors import CheckFailed, InputError, MbenchError
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag, CohortData, Units

GRACE_S = 3.0
# A network takes so many patches at a time where a slide does not fit into memory as a whole.
CHUNK_PATCHES = 4096


class OutOfMemory(CheckFailed):
    """A slide does not fit into memory: it has no embedding, and the encoder goes on."""


@contextmanager
def time_limit(seconds: float | None, what: str) -> Iterator[None]:
    """End the block after some seconds; None sets no limit.

    Python code is interrupted by a signal. Compiled code does not see it, nor is a thread other
    than the main one interrupted; then the whole process ends, with exit code 1, where the grace
    of 3 s passes too. So a block with a limit runs in a worker that may be lost.

    Args:
        seconds: of wall time, above 0.
        what: begins the message.

    Raises:
        CheckFailed: the block took longer.
    """
    if seconds is None:
        yield
        return
    with open(os.devnull, "w") as silent:
        # Its watch is a thread of C, which needs no lock of the interpreter to end the process.
        grace_s = GRACE_S if can_alarm() else 0.0
        faulthandler.dump_traceback_later(seconds + grace_s, exit=True, file=silent)
        try:
            with alarm(seconds):
                yield
        except OutOfTime as error:
            raise CheckFailed(
                f"{what}: took longer than {seconds:g} s; allow more time with --time-limit, or "
                "leave it out"
            ) from error
        finally:
            faulthandler.cancel_dump_traceback_later()


# Scanners of "40x" differ by some per cent, so 19.9x from micrometres a pixel is 20x.
_SAME_POWER = 0.05


def embed_slides(
    encoders: Mapping[str, SlideEncoder],
    data: CohortData,
    slide_ids: Sequence[str],
    time_limit_s: float | None = None,
) -> tuple[
    dict[str, NDArray[np.float32]],
    dict[str, EncodingCost],
    dict[str, MbenchError],
    dict[str, dict[str, str]],
]:
    """Return slide x dim float32 and its cost for each encoder, and the error of each other one.

    Last come, for each encoder, the slides that did not fit into memory and why: these have no row.
    Each bag is read once and given to every encoder; a failed encoder does not stop the others.
    The cost is that of encoding: reading the bag is not in it.

    Args:
        encoders: by name.
        data: the cohort.
        slide_ids: what to embed, in the order of the rows.
        time_limit_s: the most an encoder may take for one slide; see `time_limit`.

    Raises:
        InputError: a bag is broken; the message names the file.
    """
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in encoders}
    seconds = dict.fromkeys(encoders, 0.0)
    failed: dict[str, MbenchError] = {}
    too_large: dict[str, dict[str, str]] = {name: {} for name in encoders}
    for slide_id in slide_ids:
        bag = data.read_bag(slide_id)
        for name, encoder in encoders.items():
            if name in failed:
                continue
            started = time.perf_counter()
            try:
                with time_limit(time_limit_s, f"encoder {name}, slide {slide_id}: encode"):
                    rows[name].append(encode_checked(encoder, bag))
                seconds[name] += time.perf_counter() - started
                if rows[name][-1].shape != rows[name][0].shape:
                    raise CheckFailed(
                        f"encoder {name}: slide {slide_id} has an embedding of width "
                        f"{len(rows[name][-1])}, others have {len(rows[name][0])}"
                    )
            except OutOfMemory as error:
                too_large[name][slide_id] = str(error)
            except MbenchError as error:
                failed[name] = error.with_traceback(None)  # which holds on to the bag
    none = np.empty((0, 0), dtype=np.float32)
    done = {
        name: np.stack(each) if each else none for name, each in rows.items() if name not in failed
    }
    counts = {name: getattr(encoders[name], "n_parameters", None) for name in done}
    costs = {name: EncodingCost(len(done[name]), seconds[name], counts[name]) for name in done}
    return done, costs, failed, too_large


def encode_checked(encoder: SlideEncoder, bag: Bag) -> NDArray[np.float32]:
    """Return the embedding of one bag as float32, shape (dim,), checked against the card.

    Raises:
        InputError: the bag is not what the card expects, or the encoder says so of it.
        CheckFailed: the encoder raises; the embedding has the wrong shape or dtype, or holds NaN or
            infinity. It is `OutOfMemory` where the bag does not fit into memory in any way.
    """
    card = encoder.card
    who = f"encoder {card.name}, slide {bag.slide_id}"
    check_bag(card, bag)
    try:
        features = np.ascontiguousarray(bag.features, dtype=np.float32)
        returned = _encoded(encoder, replace(bag, features=features))
    except InputError as error:
        raise InputError(f"{who}: {error}") from error
    except OutOfMemory as error:
        raise OutOfMemory(f"{who}: {error}") from None
    except (Exception, SystemExit) as error:  # sys.exit(0) would end the run as if it were done
        raise CheckFailed(f"{who}: encode raised {type(error).__name__}: {error}") from error
    try:
        return as_embedding(returned, card.dim)
    except CheckFailed as error:
        raise CheckFailed(f"{who}: {error}") from error


def _encoded(encoder: SlideEncoder, bag: Bag) -> object:
    """Return what the encoder gives; out of memory, it tries on the CPU, then in chunks.

    Raises:
        OutOfMemory: the bag did not fit, and each other way failed, for whatever reason.
    """
    ways: dict[str, Callable[[Bag], object]] = {"": encoder.encode}
    if isinstance(encoder, MovableEncoder) and str(encoder.device) != "cpu":
        ways["on the CPU"] = partial(_on_cpu, encoder)
    if isinstance(encoder, ChunkedEncoder):
        ways["in chunks"] = partial(encoder.encode_in_chunks, size=CHUNK_PATCHES)
    reasons = []
    for way, encode in ways.items():
        try:
            return encode(bag)
        except Exception as error:
            if not way and not _is_out_of_memory(error):
                raise
            text = str(error).partition("\n")[0][:200]
            reasons.append(f"{way} {type(error).__name__}: {text}".strip())
    n_patches = f"{len(bag.features):,} patches"
    raise OutOfMemory(f"{n_patches} do not fit into memory ({'; '.join(reasons)})")


def _on_cpu(encoder: MovableEncoder, bag: Bag) -> object:
    device = encoder.device
    encoder.to("cpu")
    try:
        return encoder.encode(bag)
    finally:
        encoder.to(device)


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: of NumPy, or of torch on the CPU or a GPU."""
    names = {kind.__name__ for kind in type(error).__mro__}  # torch stays unimported
    said = any(word in str(error) for word in ("out of memory", "DefaultCPUAllocator"))
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or ("RuntimeError" in names and said)


def attention_checked(encoder: SlideEncoder, bag: Bag) -> NDArray[np.floating]:
    """Return what an encoder attends to in a bag, patch x head, checked.

    Raises:
        InputError: the encoder does not say what it attends to, the bag is not what its card
            expects, or what it says has the wrong shape or is not finite.
    """
    who = f"encoder {encoder.card.name}, slide {bag.slide_id}"
    if not isinstance(encoder, AttentiveEncoder):
        raise InputError(
            f"encoder {encoder.card.name} has no method attention(bag), so it does not say which "
            "patches it looks at; madeleine, madeleine-se, intra-ssl and untrained do"
        )
    check_bag(encoder.card, bag)
    weights = as_array(encoder.attention(bag))
    fits = weights.ndim == 2 and len(weights) == len(bag.features)
    if not fits or weights.dtype.kind not in "biuf" or not np.isfinite(weights).all():
        raise InputError(
            f"{who}: attention must return a finite number for each patch and head, found shape "
            f"{weights.shape} for {len(bag.features)} patches"
        )
    return weights


def misfit(
    card: EncoderCard, width: int, stated: Bag | BagFacts, patch_encoder: str | None
) -> str | None:
    """Return why a bag is not what a card expects, and what to do; None where it may be.

    What the card leaves open and what the bag does not state (None) fits. A size in pixels says
    something only beside its magnification, so a card that names both is not held against a bag
    that states the size alone.
    """
    magnification, patch_size = stated.magnification, stated.patch_size
    again = "; extract the features again or choose another encoder"
    if card.patch_encoder and patch_encoder and card.patch_encoder != patch_encoder:
        return f"it expects features of {card.patch_encoder}, these are of {patch_encoder}{again}"
    if card.input_dim is not None and width != card.input_dim:
        return f"it expects patch features of width {card.input_dim}, found {width}{again}"
    if card.magnification is not None:
        if magnification is None:
            return None
        if not math.isclose(magnification, card.magnification, rel_tol=_SAME_POWER):
            return (
                f"it expects patches at {card.magnification:g}x, the file states "
                f"{magnification:.3g}x{again}"
            )
    if card.patch_size is not None and patch_size not in (None, card.patch_size):
        return f"it expects patches of {card.patch_size} px, the file states {patch_size} px{again}"
    return None


def check_bag(card: EncoderCard, bag: Bag) -> None:
    """Check that a bag holds patches, and those that a card expects.

    Raises:
        InputError: it does not.
    """
    reason = misfit(card, bag.features.shape[1], bag, bag.patch_encoder)
    if not len(bag.features):
        reason = "the bag is empty; leave the slide out of the cohort"
    if reason is not None:
        raise InputError(f"encoder {card.name}, slide {bag.slide_id}: {reason}")


def unit_embeddings(
    embeddings: Embeddings, units: Units, groups: Groups | None = None
) -> NDArray[np.floating]:
    """Return unit x dim in the order of the unit table: the mean over a unit's slides.

    With `groups`, the mean over the groups of a unit of the mean over the slides of each. Means
    are float64; where every unit is one slide, the rows are as they were stored, float32.

    Raises:
        InputError: a slide of a unit has no embedding.
    """
    row_of = {slide_id: row for row, slide_id in enumerate(embeddings.ids)}
    parts = groups or {unit_id: (slides,) for unit_id, slides in units.slides.items()}
    wanted = {unit_id: parts[unit_id] for unit_id in units.table["unit_id"]}
    for unit_id, each in wanted.items():
        if absent := [slide_id for group in each for slide_id in group if slide_id not in row_of]:
            raise InputError(f"unit {unit_id}: no embedding of slide {absent[0]}")
    rows = [[[row_of[slide_id] for slide_id in group] for group in wanted[u]] for u in wanted]
    matrix = embeddings.matrix
    if all(len(each) == 1 and len(each[0]) == 1 for each in rows):
        alone = [each[0][0] for each in rows]
        return matrix if alone == list(range(len(matrix))) else matrix[alone]
    return np.array(
        [
            np.mean([matrix[group].mean(axis=0, dtype=np.float64) for group in each], axis=0)
            for each in rows
        ]
    )
