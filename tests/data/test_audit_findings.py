"""What the audit says beyond leaks by unit: equal slides, and sites of slides."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.audit import audit_splits
from madeleine_bench.data.audit_cohort import (
    audit_contents,
    audit_slide_sites,
    require_sound,
)
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.site_folds import balanced_folds, linked_groups
from madeleine_bench.data.splits import find_splits, frozen_splits
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.types import Split, Splits, Units

TCGA = Path(__file__).parents[2].parent / "shared" / "data" / "tcga_brca" / "tcga_brca.csv"
Make = Callable[..., Any]


def folds_of(fold: list[int]) -> Splits:
    """Splits of one repeat from the fold of each unit."""
    of = np.array(fold)
    splits = [
        Split((0, f), np.flatnonzero(of != f).astype(np.intp), np.flatnonzero(of == f))
        for f in range(max(fold) + 1)
    ]
    return Splits(("repeat", "fold"), splits, "hash")


def local_units(ids: list[str], cases: list[str]) -> Units:
    columns = {"unit_id": ids, "case_id": cases, "site": "", "label": ["P", "N"] * (len(ids) // 2)}
    return Units(pd.DataFrame(columns), {i: (i,) for i in ids}, {}, "hash")


def test_equal_slides_are_named_with_their_cases(
    small_cohort: Make, write_bag: Make, tmp_path: Path, make_task: Make
) -> None:
    ids = ["a", "b", "c", "d"]
    for number, slide in enumerate(ids):
        write_bag(slide, patches=4 + number)
    (tmp_path / "bags" / "d.h5").write_bytes((tmp_path / "bags" / "b.h5").read_bytes())
    data, units = small_cohort(ids), local_units(ids, ["A", "B", "C", "D"])
    apart = folds_of([0, 0, 1, 1])
    (found,) = audit_contents(data, units)
    assert (found.level, found.kind, found.slide_ids) == ("error", "duplicate", ("b", "d"))
    assert found.message == "slide 'b' of case 'B' and slide 'd' of case 'D' have the same content"
    task = make_task("bcnb-er")
    with pytest.raises(InputError, match=r"^bcnb-er@1: slide 'b' of case 'B'.*audit --task bcnb"):
        require_sound(task, data, units, [(apart, "case-stratified")])
    one_case = local_units(ids, ["A", "B", "C", "B"])
    (found,) = audit_contents(data, one_case)
    assert found.level == "warning"
    assert found.message == "slide 'b' of case 'B' and slide 'd' of case 'B' have the same content"
    require_sound(task, data, one_case, [(apart, "case-stratified")])


def test_only_files_of_equal_size_are_hashed(
    small_cohort: Make, write_bag: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, slide in enumerate("abcd"):
        write_bag(slide, patches=4 + max(number, 1) * 300)  # a and b are of one size
    data, units = small_cohort("abcd"), local_units(list("abcd"), list("abcd"))
    hashed: list[str] = []
    real = type(data).content_key

    def content_key(self: Any, slide_id: str) -> str:
        hashed.append(slide_id)
        return real(self, slide_id)

    monkeypatch.setattr(type(data), "content_key", content_key)
    assert audit_contents(data, units) == []
    assert hashed == ["a", "b"]


def test_a_case_of_two_sites_leaks_the_second_one(make_units: Make) -> None:
    """Unit A counts as of site X, and its second slide is of site Y, as is unit B."""
    base = make_units("PN", ["A", "B"], ["X", "Y"])
    units = Units(base.table, {"u0000": ("s0", "s1"), "u0001": ("s2",)}, {}, "hash")
    table = pd.DataFrame({"slide_id": ["s0", "s1", "s2"], "site": ["X", "Y", "Y"]})
    data = SimpleNamespace(slides=table)
    splits = folds_of([0, 1])
    assert [
        f for f in audit_splits(splits, units, "site-preserved-optimal") if f.level == "error"
    ] == []
    found = audit_slide_sites(data, units, [(splits, "site-preserved-optimal")])
    assert [f.fold for f in found] == ["repeat 0, fold 0", "repeat 0, fold 1"]
    assert (found[0].kind, found[0].case_id, found[0].slide_ids) == (
        "site-leak", "A", ("u0001", "u0000"),
    )  # fmt: skip
    assert "site 'Y' is in train (u0001) and in test (u0000)" in found[0].message
    assert audit_slide_sites(data, units, [(splits, "case-stratified")]) == []
    one_site = SimpleNamespace(slides=table.assign(site=["X", "X", "Y"]))
    assert audit_slide_sites(one_site, units, [(splits, "site-preserved-optimal")]) == []


@pytest.fixture
def tcga_slides(catalogue: Catalogue, make_cohort: Make, make_task: Make) -> tuple[Any, Units]:
    """ER of TCGA by slide: a case may have several."""
    if not TCGA.is_file():
        pytest.skip(f"real TCGA labels not there: {TCGA}")
    cohort = make_cohort([("x", "x", "", {})])
    cohort.slides = read_label_table(TCGA, catalogue.cohorts["tcga-breast"].columns)
    task = make_task("tcga-breast-er", unit="slide", scheme="site-preserved-optimal")
    return task, build_units(task, cohort, str(TCGA))


def write_folds(path: Path, ids: Any, fold: Any) -> None:
    rows = "".join(f"0,{number},{unit}\n" for unit, number in zip(ids, fold, strict=True))
    path.write_text(f"repeat,fold,unit_id\n{rows}")


def test_moving_one_slide_or_one_site_of_tcga_is_caught_and_named(
    tcga_slides: tuple[Any, Units], catalogue: Catalogue, tmp_path: Path
) -> None:
    task, units = tcga_slides
    table, probe = units.table, catalogue.protocols["linear-probe/v2"]
    ids, cases = table["unit_id"].to_numpy(), table["case_id"].to_numpy()
    sites = table["site"].to_numpy()
    fold, _ = balanced_folds(table["label"].to_numpy(), linked_groups(cases, sites), ids, 5)
    given = tmp_path / "given.csv"
    write_folds(given, ids, fold)
    sound = frozen_splits(tmp_path, task, probe, units, given)
    assert [f for f in audit_splits(sound, units, task.splits.scheme) if f.level == "error"] == []

    case = next(c for c in cases if (cases == c).sum() > 1)
    slide = int(np.flatnonzero(cases == case)[0])
    moved = fold.copy()
    moved[slide] = (fold[slide] + 1) % 5
    write_folds(given, ids, moved)
    splits = find_splits(tmp_path, task, probe, units, given).splits
    found = audit_splits(splits, units, task.splits.scheme)
    leaks = [f for f in found if f.kind == "case-leak"]
    assert {f.case_id for f in leaks} == {case}
    assert all(f"case '{case}' is in train" in f.message for f in leaks)
    assert all(str(ids[slide]) in f.message for f in leaks)
    assert {f.fold for f in leaks} == {f"repeat 0, fold {n}" for n in (fold[slide], moved[slide])}
    with pytest.raises(InputError, match=f"case '{case}' is in train"):
        frozen_splits(tmp_path, task, probe, units, given)

    site = sites[slide]
    some = np.flatnonzero((sites == site) & (cases != case))[0]
    moved = fold.copy()
    moved[cases == cases[some]] = (fold[slide] + 1) % 5  # a whole case, so that only sites leak
    write_folds(given, ids, moved)
    splits = find_splits(tmp_path, task, probe, units, given).splits
    found = [f for f in audit_splits(splits, units, task.splits.scheme) if f.level == "error"]
    assert {f.kind for f in found} == {"site-leak"}
    assert all(f"site '{site}' is in train" in f.message for f in found)
    with pytest.raises(InputError, match=f"site '{site}' is in train"):
        frozen_splits(tmp_path, task, probe, units, given)


def test_splits_are_found_without_being_written_or_refused(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units, task = make_units("PN" * 30), make_task("bcnb-er")
    probe = catalogue.protocols["linear-probe/v2"]
    new = find_splits(tmp_path, task, probe, units)
    assert new.state == "new"
    assert not list(tmp_path.iterdir())
    frozen = frozen_splits(tmp_path, task, probe, units)
    assert new.splits.hash == frozen.hash
    assert find_splits(tmp_path, task, probe, units).state == "frozen"
    new.path.write_text(new.path.read_text().replace("0,0,", "0,9,"))
    assert find_splits(tmp_path, task, probe, units).state == "changed"
    given = tmp_path / "given.csv"
    write_folds(given, units.table["unit_id"], [0] * 59 + [1])
    assert find_splits(tmp_path, task, probe, units, given).state == "given"


def test_a_hundred_thousand_sound_slides_have_no_finding(make_units: Make) -> None:
    """Two slides a case; how long it takes is for benchmarks/site_splits.py."""
    n = 100_000
    units = make_units(["PN"[i // 2 % 3 == 0] for i in range(n)], [f"c{i // 2}" for i in range(n)])
    of = np.arange(n) // 2 % 5
    assert audit_splits(folds_of(list(of)), units, "case-stratified") == []
