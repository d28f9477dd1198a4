"""What happens to files: cut, flipped, filled with zeros, doubled, grown, or with parts swapped."""

from collections.abc import Callable
from random import Random

PAGE = 64  # bytes; a disk loses larger pieces, but the files here are small


def cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))] if data else data


def flip(data: bytes, rng: Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zero(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(max(len(data), 1))
    return data[:at] + bytes(len(data[at : at + PAGE])) + data[at + PAGE :]


def double(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(max(len(data), 1))
    return data[: at + PAGE] + data[at:]


def grow(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randrange(1, PAGE)) + data[at:]


def swap(data: bytes, rng: Random) -> bytes:
    first, second = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[second:] + data[first:second] + data[:first]


def empty(data: bytes, rng: Random) -> bytes:
    return b""


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    damage.__name__: damage for damage in (cut, flip, zero, double, grow, swap, empty)
}


def damaged(data: bytes, how: str, seed: int) -> bytes:
    """The bytes after one damage, or after several ("flip+cut"): the same for the same seed."""
    rng = Random(f"{how} {seed}")
    for step in how.split("+"):
        data = DAMAGES[step](data, rng)
    return data
