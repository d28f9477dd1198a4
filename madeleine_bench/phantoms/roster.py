"""Who is in a phantom cohort: cases, their sites, and the slides dealt to them."""

import numpy as np
import pandas as pd

from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.cohort import PhantomSpec

ROSTER_COLUMNS = ["slide_id", "case_id", "stain", "site"]


def make_roster(cohort_id: str, spec: PhantomSpec, seed: int) -> pd.DataFrame:
    """Return one row per slide, sorted by slide_id: slide_id, case_id, stain, site.

    The slides of each stain are dealt to the cases in turn, as cards are, going on where the stain
    before stopped, so that no case has two slides more than another.

    Raises:
        InputError: fewer slides than cases.
    """
    total = sum(spec.slides.values())
    if total < spec.cases:
        raise InputError(
            f"cohort {cohort_id} (tasks/cohorts/{cohort_id}.yaml): 'phantom.cases' is {spec.cases} "
            f"but 'phantom.slides' adds up to {total}; every case needs a slide"
        )
    digits = max(4, len(str(spec.cases)))
    cases = [f"{cohort_id}-phantom-{number:0{digits}d}" for number in range(1, spec.cases + 1)]
    sites = dict(zip(cases, deal_sites(cohort_id, spec, seed), strict=True))
    rows = []
    position = 0
    for stain, count in spec.slides.items():
        for turn in range(count):
            case = cases[(position + turn) % spec.cases]
            name = [case]
            if len(spec.slides) > 1:
                name.append(stain.replace("&", ""))
            if count > spec.cases:
                name.append(str(turn // spec.cases + 1))
            rows.append(("-".join(name), case, stain, sites[case]))
        position += count
    table = pd.DataFrame(rows, columns=ROSTER_COLUMNS)
    return table.sort_values("slide_id", ignore_index=True)


def deal_sites(cohort_id: str, spec: PhantomSpec, seed: int) -> list[str]:
    """Return the site of each case: a few big sites and a tail of small ones, none empty.

    The n-th site gets cases in proportion to 1/n, as the sizes of the sites of TCGA do roughly.

    Raises:
        InputError: more sites than cases.
    """
    if spec.sites > spec.cases:
        raise InputError(
            f"cohort {cohort_id} (tasks/cohorts/{cohort_id}.yaml): 'phantom.sites' is {spec.sites} "
            f"but there are {spec.cases} cases; give at most one site per case"
        )
    weights = 1.0 / np.arange(1, spec.sites + 1)
    spare = spec.cases - spec.sites
    edges = np.rint(np.cumsum(weights) / weights.sum() * spare).astype(int)
    sizes = 1 + np.diff(edges, prepend=0)
    digits = len(str(spec.sites))
    names = [f"site-{number:0{digits}d}" for number in range(1, spec.sites + 1)]
    order = rng_for("phantom", cohort_id, seed, "sites").permutation(spec.cases)
    return [str(site) for site in np.repeat(names, sizes)[order]]
