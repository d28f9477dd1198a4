"""Phantom slides as pictures: the sections of a breast phantom drawn in the stain they claim.

The model, its constants and its limits are explained in docs/phantom.md, "Rendered slides".
"""

from phantom_rendering.render import RENDERED_STAINS, SectionRenderer

__all__ = ["RENDERED_STAINS", "SectionRenderer"]
