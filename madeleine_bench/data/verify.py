"""Every file of a cohort opened and looked at, all that is wrong listed, nothing stopped early."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from madeleine_bench.data.bags import BagFile
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_array

_REPLACED = (
    "its content is not what was remembered; that is repaired now. Scores from before are of the "
    "former content: run again"
)


@dataclass(frozen=True)
class Finding:
    """One thing found: an error stops a run, a warning is worth a look.

    Attributes:
        level: "error" or "warning".
        slide_id: the slide, or "" for a file that belongs to none.
        path: the file, or None for a slide without one.
        message: what was found, without the path.
    """

    level: Literal["error", "warning"]
    slide_id: str
    path: Path | None
    message: str


@dataclass(frozen=True)
class _Seen:
    slide_id: str
    path: Path
    width: int
    dtype: str
    patch_encoder: str | None
    content: str


def verify_cohort(
    data: LocalCohort,
    progress: Callable[[str], None] = lambda slide_id: None,
    *,
    full: bool = False,
) -> list[Finding]:
    """Return what is wrong with the files of a cohort, errors first; an empty list is a clean bill.

    Every bag is read whole: damage, NaN, shapes, widths, types, patch encoders, coords, empty
    bags, the same content under two ids, slides without a file, files without a slide.

    Args:
        data: the cohort.
        progress: called with the slide id after each file.
        full: hash every byte of every file again, whatever its fingerprint says, and list those
            that are not what was remembered; what was remembered of them is replaced.
    """
    findings: list[Finding] = []
    seen: list[_Seen] = []
    for slide_id, path in data.files.items():
        try:
            if full and not data.is_as_remembered(slide_id):
                findings.append(Finding("error", slide_id, path, _REPLACED))
            file = data.read_file(slide_id)
        except InputError as error:
            message = str(error).removeprefix(str(path)).lstrip(": ")
            findings.append(Finding("error", slide_id, path, message))
        else:
            if len(file.features):
                seen.append(_seen(slide_id, path, file))
            else:
                findings.append(Finding("warning", slide_id, path, "no patch in the bag; left out"))
        progress(slide_id)
    findings += _odd_ones(seen, "width", "error", "patches of {} dimensions, most files have {}")
    findings += _odd_ones(seen, "dtype", "warning", "features of type {}, most files have {}")
    findings += _odd_ones(seen, "patch_encoder", "error", "patch encoder {}, most files have {}")
    findings += _twins(seen)
    for slide_id in data.slides["slide_id"]:
        if slide_id not in data.files:
            findings.append(Finding("warning", slide_id, None, "no feature file; left out"))
    for name, path in data.extra.items():
        which = "" if path.stem == name else f"slide '{name}': "
        findings.append(Finding("warning", "", path, f"{which}no row of the label table; not used"))
    return sorted(findings, key=lambda f: (f.level != "error", f.slide_id, str(f.path)))


def _seen(slide_id: str, path: Path, file: BagFile) -> _Seen:
    features = file.features
    content, dtype = hash_array([], features), str(features.dtype)
    return _Seen(slide_id, path, features.shape[1], dtype, file.patch_encoder, content)


def _odd_ones(
    seen: list[_Seen], key: str, level: Literal["error", "warning"], text: str
) -> list[Finding]:
    """Return the files that differ from most in one respect."""
    counts = Counter(getattr(file, key) for file in seen)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    return [
        Finding(level, file.slide_id, file.path, text.format(getattr(file, key), usual))
        for file in seen
        if getattr(file, key) != usual
    ]


def _twins(seen: list[_Seen]) -> list[Finding]:
    """Return the slides whose features are those of another slide, number by number."""
    same: dict[str, list[_Seen]] = defaultdict(list)
    for file in seen:
        same[file.content].append(file)
    return [
        Finding("error", twin.slide_id, twin.path, f"the same features as slide '{first.slide_id}'")
        for first, *twins in same.values()
        for twin in twins
    ]
