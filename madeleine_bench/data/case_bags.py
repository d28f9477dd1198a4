"""Several slides as one: how slides are grouped before they are averaged, and cases as one bag."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.protocol import Fusion
from madeleine_bench.types import Bag, CohortData, Source, Units, rows_of

Groups = Mapping[str, tuple[tuple[str, ...], ...]]


def slide_groups(units: Units, fusion: Fusion, stain_of: Mapping[str, str]) -> Groups:
    """Return for each unit the groups of what is averaged: within groups first, then over them.

    "late" is one group of all slides, "per-stain" a group for each stain that the unit has, and
    "early" the unit itself, which `CaseBags` offers as one slide.
    """
    groups: dict[str, tuple[tuple[str, ...], ...]] = {}
    for unit_id, slides in units.slides.items():
        if fusion == "early":
            groups[unit_id] = ((unit_id,),)
        elif fusion == "late":
            groups[unit_id] = (slides,)
        else:
            by_stain: dict[str, list[str]] = defaultdict(list)
            for slide in slides:
                by_stain[stain_of[slide]].append(slide)
            groups[unit_id] = tuple(tuple(ids) for _, ids in sorted(by_stain.items()))
    return groups


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
        table = data.slides[data.slides["stain"].isin(stains)].sort_values("slide_id")
        with_bag = table[~table["slide_id"].isin(data.no_bag)]
        members = with_bag.groupby("case_id")["slide_id"]
        self._members = {str(case): list(slides) for case, slides in members}
        cases = table.groupby("case_id").agg({"stain": _one_or_several, "site": "first"})
        cases.insert(0, "slide_id", cases.index)
        cases.insert(1, "case_id", cases.index)
        self.slides = cases.reset_index(drop=True)

    @property
    def no_bag(self) -> frozenset[str]:
        """Cases none of whose slides has a bag."""
        return frozenset(case for case in self.slides["slide_id"] if not self._members.get(case))

    def read_bag(self, slide_id: str) -> Bag:
        """Return the patches of all slides of a case, one slide after the other.

        Coordinates are left out: those of different slides do not belong together.

        Raises:
            InputError: a file is broken.
        """
        bags = [self._data.read_bag(member) for member in self._members[slide_id]]
        return replace(
            bags[0],
            slide_id=slide_id,
            features=np.concatenate([bag.features for bag in bags]),
            stain=_one_or_several([bag.stain for bag in bags]),
            coords=bags[0].coords if len(bags) == 1 else None,
        )

    def content_key(self, slide_id: str) -> str:
        """Return a hash that changes when any bag of the case does."""
        members = self._members[slide_id]
        return hash_json([[member, self._data.content_key(member)] for member in members])

    def part(self, slide_ids: Sequence[str]) -> "CaseBags":
        """Return the cohort with some of its cases alone: small, to be sent to a worker."""
        some = copy.copy(self)
        some.slides = rows_of(self.slides, slide_ids)
        some._members = {case: self._members[case] for case in slide_ids if case in self._members}
        members = [member for slides in some._members.values() for member in slides]
        some._data = self._data.part(members)
        return some


def _one_or_several(stains: Iterable[str]) -> str:
    one, *others = sorted(set(stains))
    return "several" if others else one
