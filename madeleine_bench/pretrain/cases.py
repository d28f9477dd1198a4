"""Which cases take part in pretraining, and which of their slides are of which stain."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.recipe import EncoderKind, Unusable
from madeleine_bench.seeds import seed_for

HE = "H&E"
_SHOWN = 5
_LEAST = 2


@dataclass(frozen=True)
class CaseTable:
    """Cases with their slides by stain.

    Attributes:
        case_ids: sorted.
        stains: H&E first, the others sorted by name.
        slides: `slides[case][stain]` are the slides of a case in a stain, as positions in the
            feature store: mostly one, possibly none or several.
        left_out: for each reason the ids of what is not used: slides where the reason speaks of
            patches, else cases.
    """

    case_ids: tuple[str, ...]
    stains: tuple[str, ...]
    slides: tuple[tuple[tuple[int, ...], ...], ...] = field(repr=False)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.case_ids)

    def take(self, positions: Sequence[int]) -> "CaseTable":
        """Return the cases at the given positions, with the stains and `left_out` of the table."""
        return CaseTable(
            tuple(self.case_ids[i] for i in positions),
            self.stains,
            tuple(self.slides[i] for i in positions),
            self.left_out,
        )


def build_cases(
    store: FeatureStore, *, min_patches: int, unusable: Unusable, encoder: EncoderKind
) -> CaseTable:
    """Return the cases of a store that an encoder can be trained on.

    Intra-SSL looks at H&E slides alone. For Madeleine, a case without a second stain is left out:
    it has no pair to learn from.

    Args:
        store: the packed cohort.
        min_patches: bags with fewer patches are unusable.
        unusable: "refuse" stops at cases without H&E and at unusable bags; "skip" leaves them
            out and names them in `left_out`.
        encoder: "madeleine" or "intra-ssl".

    Raises:
        InputError: the cohort has no H&E, or H&E alone for Madeleine; something is unusable under
            "refuse"; or no case is left. The message names the ids and what to do.
    """
    _check_stains(store, encoder)
    small = store.lengths < min_patches
    if encoder == "intra-ssl":
        small &= np.array(store.stains) == HE
    left_out = {
        f"fewer than {min_patches} patches": tuple(
            store.slide_ids[i] for i in np.flatnonzero(small)
        )
    }
    by_case: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (case_id, stain) in enumerate(zip(store.case_ids, store.stains, strict=True)):
        slides = by_case[case_id]
        if not small[index] and (encoder == "madeleine" or stain == HE):
            slides[stain].append(index)
    left_out["no usable H&E slide"] = tuple(sorted(c for c, s in by_case.items() if HE not in s))
    if unusable == "refuse" and any(left_out.values()):
        raise InputError(
            f"cohort {store.cohort_id}: {'; '.join(reasons(left_out))}. Repair these, or leave "
            "them out with unusable: skip in the recipe (--set unusable=skip)"
        )
    if encoder == "madeleine":
        alone = (c for c, s in by_case.items() if set(s) == {HE})
        left_out["no second stain"] = tuple(sorted(alone))
    gone = {*left_out["no usable H&E slide"], *left_out.get("no second stain", ())}
    case_ids = tuple(sorted(set(by_case) - gone))
    if not case_ids:
        raise InputError(
            f"cohort {store.cohort_id}: no case is left; {'; '.join(reasons(left_out))}"
        )
    others = {stain for case_id in case_ids for stain in by_case[case_id]} - {HE}
    stains = (HE, *sorted(others))
    return CaseTable(
        case_ids,
        stains,
        tuple(tuple(tuple(by_case[c].get(s, ())) for s in stains) for c in case_ids),
        {reason: ids for reason, ids in left_out.items() if ids},
    )


def split_cases(table: CaseTable, share: float, seed: int) -> tuple[CaseTable, CaseTable]:
    """Return the cases to train on and the held-out ones.

    Each case is held out or not by a hash of its id and the seed, so that other cases that come
    or go do not move it (save that at least 2 cases are kept on either side).

    Args:
        table: the cases.
        share: of the cases to hold out, as an expectation.
        seed: another seed holds out other cases.

    Raises:
        InputError: there are fewer than 4 cases.
    """
    if len(table) < 2 * _LEAST:
        raise InputError(
            f"{len(table)} cases can be used; pretraining needs {2 * _LEAST} or more, "
            f"{_LEAST} of them held out to choose the epoch by"
        )
    place = np.array([seed_for("held-out", seed, case_id) / 2.0**64 for case_id in table.case_ids])
    count = int(np.clip((place < share).sum(), _LEAST, len(table) - _LEAST))
    held_out = np.sort(np.argsort(place, kind="stable")[:count])
    train = np.setdiff1d(np.arange(len(table)), held_out)
    return table.take(train.tolist()), table.take(held_out.tolist())


def check_pairs(train: CaseTable, held_out: CaseTable) -> None:
    """Check that two cases or more share a stain other than H&E, among each of both.

    Raises:
        InputError: there is no such stain; then there is no loss, or no score of an epoch.
    """
    for table, name in ((train, "training"), (held_out, "held-out")):
        if not any(
            sum(map(bool, slides)) >= _LEAST
            for slides in tuple(zip(*table.slides, strict=True))[1:]
        ):
            raise InputError(
                f"no two {name} cases have the same stain besides H&E "
                f"({len(table)} cases: {', '.join(table.case_ids[:_SHOWN])}). Hold out other cases "
                "(--set seed=1) or more of them (--set held_out_share=0.3)"
            )


def slides_of(table: CaseTable) -> list[int]:
    """Return the slides of all cases, as positions in the feature store."""
    return [slide for case in table.slides for stain in case for slide in stain]


def _check_stains(store: FeatureStore, encoder: EncoderKind) -> None:
    stains = set(store.stains)
    found = ", ".join(sorted(stains))
    if HE not in stains:
        raise InputError(
            f"cohort {store.cohort_id} has no H&E slide with features (stains: {found}); "
            "pretraining needs H&E. Check the stain column of the label table"
        )
    if encoder == "madeleine" and stains == {HE}:
        raise InputError(
            f"cohort {store.cohort_id} has one stain, H&E; madeleine aligns H&E with other stains. "
            "Choose a cohort with more stains, or train intra-ssl, which needs H&E alone"
        )


def reasons(left_out: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the reasons with the number and the first few ids of each."""
    return [
        f"{reason} ({len(ids)}): {', '.join(ids[:_SHOWN])}{', ...' * (len(ids) > _SHOWN)}"
        for reason, ids in left_out.items()
        if ids
    ]
