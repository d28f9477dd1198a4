from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from madeleine_bench.data.local import Finding, LocalCohort, verify_cohort

Make = Callable[..., LocalCohort]
Write = Callable[..., Path]


def test_sound_cohort_gives_no_finding(small_cohort: Make, write_bag: Write) -> None:
    for slide_id in "abc":
        write_bag(slide_id)
    seen: list[str] = []
    assert verify_cohort(small_cohort(), seen.append) == []
    assert seen == ["a", "b", "c"]


def test_everything_wrong_is_listed_at_once(small_cohort: Make, write_bag: Write) -> None:
    paths = {slide_id: write_bag(slide_id) for slide_id in "abcdefgh"}
    paths["b"].write_bytes(paths["b"].read_bytes()[:700])
    with h5py.File(paths["c"], "a") as handle:
        handle["features"][1, 1] = np.nan
    write_bag("d", width=4)
    write_bag("e", patches=0)
    write_bag("f", dtype=np.float16)
    paths["g"].write_bytes(paths["a"].read_bytes())
    extra = write_bag("extra")
    findings = verify_cohort(small_cohort([*"abcdefgh", "absent"]))

    def find(slide_id: str) -> list[tuple[str, str]]:
        return [(f.level, f.message) for f in findings if f.slide_id == slide_id]

    assert find("a") == find("h") == []
    (broken,) = find("b")
    assert broken[0] == "error"
    assert broken[1].startswith("cannot be read as HDF5")
    (nan,) = find("c")
    assert nan[1].startswith("nan in row 1, dimension 1 (1 of 5 rows")
    assert find("d") == [("error", "4 dimensions of patch encoder None; most files have 3 of None")]
    assert find("e") == [("warning", "no patch in the bag; skipped")]
    assert find("f") == []  # another number type is no fault
    assert find("g") == [("error", "the same features as slide 'a'")]
    assert find("absent") == [("warning", "no feature file; skipped")]
    assert findings[-1] != findings[0]
    assert Finding("warning", "", extra, "not in the label table; not used") in findings
    levels = [f.level for f in findings]
    assert levels == sorted(levels), "errors come first"


def test_duplicates_are_found_across_layouts(small_cohort: Make, write_bag: Write) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 3)).astype(np.float32)
    from tests.tool_bags import write_bag_file

    for slide_id, layout in (("a", "clam"), ("b", "stamp")):
        path = write_bag(slide_id)
        write_bag_file(path, features, layout=layout)  # type: ignore[arg-type]
    write_bag("c")
    assert [f.slide_id for f in verify_cohort(small_cohort())] == ["b"]


def test_wrong_encoder_is_an_error(small_cohort: Make, write_bag: Write) -> None:
    for slide_id in "abc":
        write_bag(slide_id, layout="trident", patch_encoder="uni" if slide_id == "b" else "conch")
    (finding,) = verify_cohort(small_cohort(patch_encoder="conch"))
    assert (finding.level, finding.slide_id) == ("error", "b")
    assert "made by the patch encoder 'uni'" in finding.message
    (finding,) = verify_cohort(small_cohort())
    assert finding.message == "3 dimensions of patch encoder uni; most files have 3 of conch"
