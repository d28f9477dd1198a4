"""Several slides as one: how slides are grouped before they are averaged, and cases as one bag."""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.protocol import Fusion
from madeleine_bench.types import Bag, CohortData, Source, Units, rows_of

Groups = Mapping[str, tuple[tuple[str, ...], ...]]


def slide_groups(units: Units, fusion: Fusion, stain_of: Mapping[str, str]) -> Groups:
    """Return for each unit the groups of what is averaged: within groups first, then over them.

    "late" is one group of all slides, "per-stain" a group for each stain that the unit has, and
    "early" the unit itself, which `CaseBags` offers as one slide.
    """
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    for unit_id, slides in units.slides.items():
        if fusion == "early":
            found[unit_id] = ((unit_id,),)
        elif fusion == "late":
            found[unit_id] = (slides,)
        else:
            by_stain: dict[str, list[str]] = defaultdict(list)
            for slide in slides:
                by_stain[stain_of[slide]].append(slide)
            found[unit_id] = tuple(tuple(ids) for _, ids in sorted(by_stain.items()))
    return found


class CaseBags:
    """A cohort whose "slides" are its cases: each the patches of all its slides of some stains.

    Slides without a bag are left out of their case; a case without any has none itself. A bag of
    one stain keeps its name, one of several is of stain "several".
    """

    def __init__(self, data: CohortData, stains: Sequence[str]) -> None:
        self.cohort_id: str = data.cohort_id
        self.source: Source = data.source
        self.variant: str = data.variant
        self._data = data
        chosen = data.slides[data.slides["stain"].isin(stains)]
        members: dict[str, list[str]] = defaultdict(list)
        stain_of: dict[str, set[str]] = defaultdict(set)
        site_of: dict[str, str] = {}
        rows = chosen[["slide_id", "case_id", "stain", "site"]].itertuples(index=False)
        for slide_id, case_id, stain, site in sorted(rows):
            if slide_id not in data.no_bag:
                members[case_id].append(slide_id)
            stain_of[case_id].add(stain)
            site_of.setdefault(case_id, site)
        self._members = dict(members)
        cases = sorted(stain_of)
        self.slides = pd.DataFrame(
            {
                "slide_id": cases,
                "case_id": cases,
                "stain": [
                    next(iter(s)) if len(s) == 1 else "several"
                    for s in (stain_of[case] for case in cases)
                ],
                "site": [site_of[case] for case in cases],
            }
        )

    @property
    def no_bag(self) -> frozenset[str]:
        """Cases none of whose slides has a bag."""
        return frozenset(case for case in self.slides["slide_id"] if not self._members.get(case))

    def read_bag(self, slide_id: str) -> Bag:
        """Return the patches of all slides of a case, one slide after the other.

        Coordinates are left out: those of different slides do not belong together.

        Raises:
            InputError: a file is broken, or two slides have patches of different width.
        """
        bags = [self._data.read_bag(member) for member in self._members[slide_id]]
        widths = {bag.features.shape[1]: bag.slide_id for bag in bags}
        if len(widths) > 1:
            (one, first), (other, second) = sorted(widths.items())[:2]
            raise InputError(
                f"case '{slide_id}': slide '{first}' has patches of width {one}, slide '{second}' "
                f"of {other}; extract all slides of the cohort with one patch encoder"
            )
        stains = {bag.stain for bag in bags}
        known = {name: getattr(bags[0], name) for name in Bag.__dataclass_fields__}
        return Bag(
            **known
            | {
                "slide_id": slide_id,
                "features": np.concatenate([bag.features for bag in bags]),
                "stain": stains.pop() if len(stains) == 1 else "several",
                "coords": bags[0].coords if len(bags) == 1 else None,
            }
        )

    def content_key(self, slide_id: str) -> str:
        """Return a hash that changes when any bag of the case does."""
        members = self._members[slide_id]
        return hash_json([[member, self._data.content_key(member)] for member in members])

    def part(self, slide_ids: Sequence[str]) -> "CaseBags":
        """Return the cohort with some of its cases alone: small, to be sent to a worker."""
        own = copy.copy(self)
        own.slides = rows_of(self.slides, slide_ids)
        own._members = {case: self._members[case] for case in slide_ids if case in self._members}
        members = [member for slides in own._members.values() for member in slides]
        own._data = self._data.part(members)
        return own
