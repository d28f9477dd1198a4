"""An encoder that is not of this project: a card and a few lines of code."""

from pathlib import Path

_CODE = """
import numpy as np
class Encoder:
    def __init__(self, card, weights):
        self.card = card
    def encode(self, bag):
        {body}
"""
_CARD = """
name: {name}
revision: "1"
title: for the tests
implementation: encoder.py:Encoder
training_cohorts: {trained}
kind: {kind}
licence: MIT
description: For the tests.
{more}
"""
MEAN = "return bag.features.mean(axis=0)"


def write_stranger(
    folder: Path,
    body: str = MEAN,
    *,
    name: str = "stranger",
    trained: str = "null",
    kind: str = "encoder",
    more: str = "",
) -> Path:
    """Write an encoder into a folder, and return its card, which has the encoder's name.

    Args:
        folder: made where it is not there.
        body: of `encode(self, bag)`, in one line.
        name: of the encoder.
        trained: cohorts it was trained on, as YAML.
        kind: of the encoder.
        more: lines of the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoder.py").write_text(_CODE.format(body=body))
    card = folder / f"{name}.yaml"
    card.write_text(_CARD.format(name=name, trained=trained, kind=kind, more=more))
    return card
