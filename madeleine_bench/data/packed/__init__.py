"""The packed store: all bags of a cohort in flat files, rows in one piece, memory-mapped.

    <store>/features-0000.bin   rows in float16 or bfloat16, slide after slide by slide id
    <store>/coords-0000.bin     the coords of the same slides, where their bags have any
    <store>/index.parquet       what lies where, with a SHA-256 of every slide; written last
    <store>/packing.jsonl       the journal of a packing that has not ended
    <store>/checked.json        when a full check of these files has passed

A sample of a slide's patches is read at the speed of memory, and the whole store can be put on a
GPU in one pass. A slide never lies in two files; files may lie on several disks.
"""

from madeleine_bench.data.packed.checking import DamagedStore
from madeleine_bench.data.packed.index import INDEX, is_packed_store, read_index
from madeleine_bench.data.packed.numbers import PackedDtype
from madeleine_bench.data.packed.packing import SHARD_BYTES, pack_cohort
from madeleine_bench.data.packed.staleness import content_hash, differences
from madeleine_bench.data.packed.store import FeatureStore, open_store

__all__ = [
    "INDEX",
    "SHARD_BYTES",
    "DamagedStore",
    "FeatureStore",
    "PackedDtype",
    "content_hash",
    "differences",
    "is_packed_store",
    "open_store",
    "pack_cohort",
    "read_index",
]
