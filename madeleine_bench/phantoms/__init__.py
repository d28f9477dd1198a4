"""Phantom cohorts: made-up cases that stand in for slides nobody may redistribute.

The model, its constants and its limits are explained in docs/phantom.md.
"""

from madeleine_bench.phantoms.cohort import PhantomCohort

__all__ = ["PhantomCohort"]
