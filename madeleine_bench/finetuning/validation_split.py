"""Which training units are kept to stop early: whole cases, of every stratum its share."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TrainingUnits:
    """Positions of the units trained on, and of those kept to stop early (may be empty)."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]


def keep_for_validation(
    train: NDArray[np.intp],
    case: NDArray[np.object_],
    stratum: NDArray[np.object_],
    share: float,
    rng: np.random.Generator,
) -> TrainingUnits:
    """Return training units divided into those to learn from and those to stop early by.

    Cases are dealt within strata (class, or event), a case by its first unit; of a stratum with
    one case none is kept. No case is on both sides.

    Args:
        train: positions of the training units.
        case: case of every unit of the task.
        stratum: class, or event, of every unit of the task.
        share: share of the cases of each stratum to keep; 0 keeps none.
        rng: of the draw.
    """
    by_stratum: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for unit in np.sort(train):
        if case[unit] not in seen:
            seen.add(case[unit])
            by_stratum[str(stratum[unit])].append(case[unit])
    kept: set[str] = set()
    for _, cases in sorted(by_stratum.items()):
        wanted = min(len(cases) - 1, max(1, round(share * len(cases)))) if share else 0
        kept.update(cases[i] for i in rng.permutation(len(cases))[:wanted])
    is_kept = np.array([case[unit] in kept for unit in train], dtype=np.bool_)
    return TrainingUnits(np.sort(train[~is_kept]), np.sort(train[is_kept]))
