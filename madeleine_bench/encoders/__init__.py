"""Slide encoders: the interface, the registry, and the built-in ones."""

from madeleine_bench.encoders.base import BaseEncoder, SlideEncoder

__all__ = ["BaseEncoder", "SlideEncoder"]
