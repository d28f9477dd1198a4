"""Patch encoders: from the pixels of a patch to its feature, found by card like slide encoders."""

from madeleine_bench.slides.patch_encoders.base import BasePatchEncoder, PatchEncoder
from madeleine_bench.slides.patch_encoders.registry import (
    DEFAULT_PATCH_ENCODER,
    PatchEncoderEntry,
    find_patch_encoder,
    load_patch_encoder,
    patch_fingerprint,
    shipped_patch_encoders,
)

__all__ = [
    "DEFAULT_PATCH_ENCODER",
    "BasePatchEncoder",
    "PatchEncoder",
    "PatchEncoderEntry",
    "find_patch_encoder",
    "load_patch_encoder",
    "patch_fingerprint",
    "shipped_patch_encoders",
]
