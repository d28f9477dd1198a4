"""Which rows of many slides make a batch, drawn where the patches are, by sorting hashed numbers.

Every row of every slide gets a number that is a hash of the slide's key and of the row. The rows
with a slide's smallest numbers are a uniform sample of its rows, without replacement and in random
order. The numbers are integers, so a GPU and a CPU draw the same rows; nothing comes back to the
host, so nobody waits.

References:
    Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (OOPSLA 2014): the
    finaliser of SplitMix64 (variant 13 of Stafford).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_HASH_BITS = 44  # of a number to sort by; the 19 above them are for the slide
_MOST_SLIDES = 1 << 19


def on_device(index: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; on a GPU without waiting for what it has to do."""
    if device.type != "cuda":
        return index.to(device)
    return index.pin_memory().to(device, non_blocking=True)


def draw_rows(
    keys: Sequence[int],
    begins: NDArray[np.int64],
    counts: NDArray[np.int64],
    most: int,
    device: torch.device,
) -> Tensor:
    """Return rows of the store, int64 on the device: of each slide a sample, slide after slide.

    A slide gives min(most, its count) rows, all different, in random order. They depend on its
    key, begin and count alone, not on the other slides.

    Args:
        keys: of each slide, from 0 to 2^64 - 1; equal ones draw alike.
        begins: first row of each slide in the store.
        counts: number of rows of each slide, at least 1.
        most: rows to draw of a slide.
        device: where the rows are drawn.

    Raises:
        ValueError: there are more slides than a number has room for.
    """
    slides = len(keys)
    if slides > _MOST_SLIDES:
        raise ValueError(f"{slides} slides in a draw; at most {_MOST_SLIDES}")
    # One copy to the device for all that is known of the slides.
    known = np.empty((4, slides), np.int64)
    known[0] = np.array(keys, np.uint64).view(np.int64)
    known[1], known[2] = begins, counts
    known[3] = np.minimum(known[2], most)
    total, drawn = int(known[2].sum()), int(known[3].sum())
    key, begin, count, taken = on_device(torch.from_numpy(known), device)
    number = torch.arange(slides, device=device)
    first = count.cumsum(0) - count
    # The sizes are told, so that the device need not be asked for them.
    slide = number.repeat_interleave(count, output_size=total)
    row = torch.arange(total, device=device) - first[slide]
    hashed = hash_counter(key[slide], row)
    order = ((slide << _HASH_BITS) | _shifted(hashed, 64 - _HASH_BITS)).argsort(stable=True)
    slide = number.repeat_interleave(taken, output_size=drawn)
    place = torch.arange(drawn, device=device) - (taken.cumsum(0) - taken)[slide]
    rows: Tensor = order[first[slide] + place] - first[slide] + begin[slide]
    return rows


def hash_counter(key: Tensor, counter: Tensor) -> Tensor:
    """Return the numbers of SplitMix64's streams: int64, by their bits from 0 to 2^64 - 1.

    Args:
        key: int64, the seeds of the streams.
        counter: int64, of the shape of `key`: places in the streams, from 0.

    Examples:
        >>> number = hash_counter(torch.tensor([1234567]), torch.tensor([0]))
        >>> number.item() % 2**64  # the first number of SplitMix64 seeded so
        6457827717110365317
    """
    mixed = key + (counter + 1) * _signed(_GOLDEN)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(_FIRST)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(_SECOND)
    return mixed ^ _shifted(mixed, 31)


def _shifted(number: Tensor, bits: int) -> Tensor:
    """Return int64 shifted to the right with zeros coming in, as torch shifts in the sign."""
    return (number >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Return the int64 with the bits of an unsigned number."""
    return number - (1 << 64) if number >> 63 else number
