"""What a slide shows of its latents and of its handling: the values behind its patch features."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.phantoms.world import COUNTERSTAIN, LOOK_CASE_SHARE, SITE_SHARE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ShownSigns:
    """What one slide shows, each about standard normal over slides.

    Attributes:
        morphology: `m_l` of docs/phantom.md of each latent in the form of cells.
        marker: `m_l` of the latent that the stain is made for; 0 in H&E.
        strength: how strongly form shows, 1 in H&E and less under immunohistochemistry.
        nuisance: `n_j` of docs/phantom.md, (axis,): cutting, staining, scanning.
    """

    morphology: Mapping[str, float]
    marker: float
    strength: float
    nuisance: Floats

    def form(self, latent: str) -> float:
        """Return what the form of cells shows of a latent, in units of H&E."""
        return self.strength * self.morphology[latent]


def shown_signs(cohort: PhantomCohort, slide_id: str) -> ShownSigns:
    """Return what a slide shows; with `signal` 0 it does not depend on the latents.

    Raises:
        InputError: the cohort has no such slide.
    """
    case_id, stain, _ = cohort.row(slide_id)
    world = cohort.world
    site, case, section = cohort.draws(slide_id)
    latents = cohort.latents(case_id)
    looks = sqrt(LOOK_CASE_SHARE) * case.looks + sqrt(1.0 - LOOK_CASE_SHARE) * section.looks
    signs = [*world.morphology.items(), *world.markers.get(stain, {}).items()]
    shown = [
        cohort.signal * sign.fidelity * latents[latent] + sqrt(1.0 - sign.fidelity**2) * look
        for (latent, sign), look in zip(signs, looks.tolist(), strict=False)
    ]
    form = dict(zip(world.morphology, shown, strict=False))
    share = cohort.spec.nuisance_case_share
    within = sqrt(share) * case.nuisance + sqrt(1.0 - share) * section.nuisance
    nuisance = sqrt(SITE_SHARE) * site.nuisance + sqrt(1.0 - SITE_SHARE) * within
    special = stain in world.markers
    return ShownSigns(
        form, shown[-1] if special else 0.0, COUNTERSTAIN if special else 1.0, nuisance
    )
