"""The encoder of docs/new-user.md: what a new user put in place of the scaffold's class."""

import numpy as np

from madeleine_bench.encoders.base import BaseEncoder


class SpreadPoolEncoder(BaseEncoder):
    """The mean of each patch feature, and its standard deviation beside it."""

    def encode(self, bag):
        """Return the embedding of one slide, shape (2 x dim of the patch features,)."""
        return np.concatenate([bag.features.mean(axis=0), bag.features.std(axis=0)])
