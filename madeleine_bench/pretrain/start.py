"""Where the model of the preset "aligned" starts: at the plain features of the cohort."""

from collections.abc import Sequence

import numpy as np
import torch

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.models.aligned import AlignedMadeleine
from madeleine_bench.models.aligned_tokens import principal_directions

_TINY = 1e-12
_RANK = 1e-6
# Of the start of an embedding: what is learned soon outweighs it. From 20 cases of phantom acrobat,
# held-out retrieval came to .18 at a length of 11, .24 at 1.1, .31 at .23 (mean-pool: .18).
_LENGTH = 0.25
_PATCHES = 256  # of a slide: principal directions need no more


def start_plain(model: AlignedMadeleine, store: FeatureStore, slides: Sequence[int]) -> None:
    """Make the model that of plain features.

    Tokens are the first principal directions of patch features less the mean of their slide.
    Embeddings are the mean patch without the few directions in which the means of the stains
    differ, as these hide which slides are of one case; where the embedding is narrower than the
    features, the first principal directions of that. To their covariance the patches add as much as
    one slide: means of few slides alone would leave out what they happen not to differ in.
    Tokens have a mean square length of 1.

    Args:
        model: changed in place.
        store: the packed cohort.
        slides: those to train on.
    """
    within = np.zeros((store.dim, store.dim))
    means = np.empty((len(slides), store.dim))
    for number, slide in enumerate(slides):
        bag = store.bag(slide)
        means[number] = bag.mean(axis=0, dtype=np.float64)
        chosen = np.linspace(0, len(bag) - 1, min(_PATCHES, len(bag))).astype(np.int64)
        centred = bag[chosen].astype(np.float64) - means[number]
        within += centred.T @ centred / len(chosen)
    _, stain = np.unique([store.stains[slide] for slide in slides], return_inverse=True)
    of_stains = np.stack([means[stain == one].mean(axis=0) for one in range(stain.max() + 1)])
    centre = of_stains.mean(axis=0)
    _, sizes, axes = np.linalg.svd(of_stains - centre, full_matrices=False)
    axes = axes[sizes > _RANK * max(sizes.max(), _TINY)]
    kept = np.eye(store.dim) - axes.T @ axes
    spread = (means - of_stains[stain]) @ kept
    width = len(model.shortcut.directions)
    directions = torch.zeros_like(model.shortcut.directions)
    if width < store.dim:
        covariance = spread.T @ spread + kept @ within @ kept / len(means)
        directions += principal_directions(covariance, width)
    else:
        directions[: store.dim] = torch.from_numpy(kept)
    tokens = principal_directions(within, len(model.aligned_tokens.directions))
    # The scale of the patch features does not matter.
    scale = _LENGTH * np.sqrt(len(means) / max(np.square(spread).sum(), _TINY))
    token_scale = np.sqrt(len(means) / max(float(np.trace(within)), _TINY))
    model.set_start(tokens * token_scale, directions * scale, torch.from_numpy(centre))
