import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madeleine_bench.data.audit import audit_splits
from madeleine_bench.data.splits import frozen_splits, left_out_shots
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.task import ClassLabels
from madeleine_bench.types import Splits, Units

Make = Callable[..., Any]
SLOW_FIXTURES = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# The letters that `spread` and `make_units` give as labels.
LETTERS = ClassLabels(type="binary", column="x", classes=("N", "P"), map={"N": "N", "P": "P"})


def labels_of(units: Units) -> Any:
    return units.table["label"].to_numpy()


# A cohort as lists: for each case its class and how many slides it has.
CASES = st.lists(st.tuples(st.sampled_from("NP"), st.integers(1, 4)), min_size=12, max_size=60)


def spread(cases: list[tuple[str, int]]) -> tuple[list[str], list[str]]:
    """Labels and cases of the slides, six cases of each class put in front."""
    full = [("N", 1), ("P", 2)] * 6 + cases
    labels = [label for label, count in full for _ in range(count)]
    names = [f"case{i}" for i, (_, count) in enumerate(full) for _ in range(count)]
    return labels, names


@SLOW_FIXTURES
@given(cases=CASES, repeats=st.integers(1, 3))
def test_folds_partition_and_keep_cases_whole(
    cases: list[tuple[str, int]],
    repeats: int,
    make_task: Make,
    make_units: Make,
    catalogue: Catalogue,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    labels, names = spread(cases)
    units = make_units(labels, names)
    task = make_task("bcnb-er", repeats=repeats)
    folder = tmp_path_factory.mktemp("splits")
    splits = frozen_splits(folder, task, catalogue.protocols["linear-probe/v1"], units)
    assert len(splits) == 5 * repeats
    assert splits.key_names == ("repeat", "fold")
    for repeat in range(repeats):
        tested = np.concatenate([s.test for s in splits if s.key[0] == repeat])
        assert sorted(tested) == list(range(len(labels)))
    for split in splits:
        assert sorted([*split.train, *split.test]) == list(range(len(labels)))
        assert not {names[i] for i in split.train} & {names[i] for i in split.test}
    assert [f for f in audit_splits(splits, units, "case-stratified") if f.level == "error"] == []


def test_single_slide_folds_are_balanced_to_one(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units = make_units(["P"] * 83 + ["N"] * 23)
    task = make_task("bcnb-er")
    splits = frozen_splits(tmp_path, task, catalogue.protocols["linear-probe/v1"], units)
    for name, count in (("P", 83), ("N", 23)):
        sizes = [int((labels_of(units)[s.test] == name).sum()) for s in splits]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == count


def test_slides_of_a_case_are_stratified_too(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    labels, names = spread([("N", 2), ("P", 3)] * 40)
    units = make_units(labels, names)
    splits = frozen_splits(
        tmp_path, make_task("bcnb-er"), catalogue.protocols["linear-probe/v1"], units
    )
    shares = [float((labels_of(units)[s.test] == "P").mean()) for s in splits]
    overall = float((labels_of(units) == "P").mean())
    assert max(abs(share - overall) for share in shares) < 0.1


@SLOW_FIXTURES
@given(cases=CASES, sites=st.lists(st.integers(0, 9), min_size=90, max_size=90))
def test_site_preserved_folds_keep_sites_whole(
    cases: list[tuple[str, int]],
    sites: list[int],
    make_task: Make,
    make_units: Make,
    catalogue: Catalogue,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    labels, names = spread(cases)
    # Every case has one site; the first ten cases have ten different ones.
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of_case = {name: i if i < 10 else sites[i] for name, i in number.items()}
    units = make_units(labels, names, [f"site{of_case[name]}" for name in names])
    task = make_task("bcnb-er", scheme="site-preserved")
    folder = tmp_path_factory.mktemp("splits")
    splits = frozen_splits(folder, task, catalogue.protocols["linear-probe/v1"], units)
    site = units.table["site"].to_numpy()
    assert len(splits) == 5
    for split in splits:
        assert not set(site[split.train]) & set(site[split.test])
    assert [f for f in audit_splits(splits, units, "site-preserved") if f.level == "error"] == []


@SLOW_FIXTURES
@given(cases=CASES, shots=st.sets(st.integers(1, 5), min_size=1, max_size=3))
def test_few_shot_draws_are_exact_and_leak_no_case(
    cases: list[tuple[str, int]],
    shots: set[int],
    make_task: Make,
    make_units: Make,
    catalogue: Catalogue,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    labels, names = spread(cases)
    units = make_units(labels, names)
    task = make_task("bcnb-er", shots=tuple(shots))
    folder = tmp_path_factory.mktemp("splits")
    splits = frozen_splits(folder, task, catalogue.protocols["few-shot/v1"], units)
    draws = catalogue.protocols["few-shot/v1"].method.draws  # type: ignore[union-attr]
    assert [s.key for s in splits] == [(k, d) for k in sorted(shots) for d in range(draws)]
    for split in splits:
        k = split.key[0]
        assert sorted(labels_of(units)[split.train]) == ["N"] * k + ["P"] * k
        chosen = [names[i] for i in split.train]
        assert len(set(chosen)) == 2 * k
        expected = [i for i, name in enumerate(names) if name not in chosen]
        assert list(split.test) == expected
    assert [f for f in audit_splits(splits, units, "few-shot") if f.level == "error"] == []


@SLOW_FIXTURES
@given(cases=CASES, shots=st.sets(st.integers(1, 5), min_size=1, max_size=3))
def test_draws_of_madeleine_are_exact_and_leak_no_case(
    cases: list[tuple[str, int]],
    shots: set[int],
    make_task: Make,
    make_units: Make,
    catalogue: Catalogue,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Slides are drawn, so two may be of one case; the script tests the rest of that case."""
    labels, names = spread(cases)
    units = make_units(labels, names)
    task = make_task("bcnb-er", shots=tuple(shots), labels=LETTERS)
    folder = tmp_path_factory.mktemp("splits")
    splits = frozen_splits(folder, task, catalogue.protocols["madeleine-fewshot/v2"], units)
    for split in splits:
        k, draw = split.key
        state = np.random.RandomState(draw)
        drawn = [
            row for letter in "NP"
            for row in pd.Series(np.flatnonzero(labels_of(units) == letter)).sample(
                k, random_state=state
            )
        ]  # fmt: skip
        assert split.train.tolist() == sorted(drawn)
        chosen = {names[i] for i in drawn}
        assert split.test.tolist() == [i for i, name in enumerate(names) if name not in chosen]
    assert [f for f in audit_splits(splits, units, "few-shot") if f.level == "error"] == []


def test_draws_of_madeleine_have_a_file_of_their_own(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    """With equal shots both rules would else share a file, and the second to run the draws."""
    units, task = make_units("PN" * 30), make_task("bcnb-er", shots=(1, 5), labels=LETTERS)
    ours, theirs = (catalogue.protocols[n] for n in ("few-shot/v1", "madeleine-fewshot/v2"))
    before = frozen_splits(tmp_path, task, ours, units)
    assert frozen_splits(tmp_path, task, theirs, units).hash != before.hash
    assert frozen_splits(tmp_path, task, ours, units).hash == before.hash
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == [
        "bcnb-er@1-few-shot-1-5x10-0123456789ab.csv",
        "bcnb-er@1-few-shot-madeleine-1-5x10-0123456789ab.csv",
    ]


def test_a_draw_that_leaves_a_class_untested_is_refused(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    """Each case has slides of both classes: two drawn slides can take all cases of one of them."""
    units = make_units(["P", "N"] * 3, [f"case{i // 2}" for i in range(6)])
    task = make_task("bcnb-er", shots=(2,), labels=LETTERS)
    with pytest.raises(InputError, match=r"cases hold slides of several classes, so 2 shots"):
        frozen_splits(tmp_path, task, catalogue.protocols["madeleine-fewshot/v2"], units)
    assert not list(tmp_path.iterdir())


def test_mixed_cases_still_draw_exactly(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    """Cases that hold slides of both classes serve one of them only."""
    labels = ["P", "N"] * 8
    names = [f"case{i // 2}" for i in range(16)]
    units = make_units(labels, names)
    task = make_task("bcnb-er", shots=(3,))
    splits = frozen_splits(tmp_path, task, catalogue.protocols["few-shot/v1"], units)
    for split in splits:
        assert len({names[i] for i in split.train}) == 6
        assert len(split.test) == 4
    crowded = make_task("bcnb-er", shots=(4,))
    with pytest.raises(InputError, match=r"cases hold slides of several classes, so 4 shots"):
        frozen_splits(tmp_path, crowded, catalogue.protocols["few-shot/v1"], units)


def test_draws_differ_and_cover_the_cohort(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    """Every unit is as likely to be drawn: 50 shots of 100, 10 draws, is 5 each on average."""
    units = make_units(["P"] * 100 + ["N"] * 100)
    task = make_task("bcnb-er", shots=(50,))
    splits = frozen_splits(tmp_path, task, catalogue.protocols["few-shot/v1"], units)
    drawn = np.bincount(np.concatenate([s.train for s in splits]), minlength=200)
    assert drawn.mean() == 5
    # Binomial(10, .5) over 200 units: variance 2.5, its standard error about .25.
    assert 1.75 < drawn.var() < 3.25
    assert len({tuple(s.train) for s in splits}) == len(splits)


def test_frozen_once_and_read_back(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units = make_units("PN" * 30)
    task, protocol = make_task("bcnb-er", repeats=2), catalogue.protocols["linear-probe/v1"]
    first = frozen_splits(tmp_path, task, protocol, units)
    path, noted = sorted(tmp_path.iterdir())
    assert path.name == "bcnb-er@1-case-stratified-2x5-0123456789ab.csv"
    assert first.hash == hash_file(path)
    assert noted.read_text() == f"{first.hash}  {path.name}\n"
    path.write_text("".join(path.read_text().replace("0,0,", "0,9,")))
    with pytest.raises(InputError, match=r"was changed; remove it .* not that in .*\.csv\.sha256"):
        frozen_splits(tmp_path, task, protocol, units)
    noted.unlink()  # as earlier releases left it
    changed = frozen_splits(tmp_path, task, protocol, units)
    assert changed.splits[4].key == (0, 9), "an existing file is read, not made again"
    assert changed.hash != first.hash


def test_same_bytes_in_another_process(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units = make_units("PNN" * 20, [f"case{i // 2}" for i in range(60)])
    for name in ("linear-probe/v1", "few-shot/v1"):
        task = make_task("bcnb-er", shots=(1, 5))
        frozen_splits(tmp_path / "here", task, catalogue.protocols[name], units)
    code = f"""
from pathlib import Path
import pandas as pd
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Units
ids = [f"u{{i:04d}}" for i in range(60)]
table = pd.DataFrame({{"unit_id": ids, "case_id": [f"case{{i // 2}}" for i in range(60)],
                      "site": "", "label": list("PNN" * 20)}})
units = Units(table, {{i: (i,) for i in ids}}, {{}}, "0123456789abcdef")
catalogue = load_catalogue()
task = catalogue.tasks["bcnb-er"].model_copy(update={{"shots": (1, 5)}})
for name in ("linear-probe/v1", "few-shot/v1"):
    frozen_splits(Path({str(tmp_path / "there")!r}), task, catalogue.protocols[name], units)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    here = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    there = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert len(here) == 4  # each with its SHA-256
    assert here == there


def test_version_of_the_task_moves_the_draw(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units, protocol = make_units("PN" * 30), catalogue.protocols["few-shot/v1"]
    one = frozen_splits(tmp_path, make_task("bcnb-er", shots=(5,)), protocol, units)
    two = frozen_splits(tmp_path, make_task("bcnb-er", shots=(5,), version=2), protocol, units)
    assert one.hash != two.hash


def test_a_draw_does_not_depend_on_the_other_shots(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units, protocol = make_units("PN" * 40), catalogue.protocols["few-shot/v1"]

    def fives(splits: Splits) -> list[list[int]]:
        return [list(s.train) for s in splits if s.key[0] == 5]

    both = frozen_splits(tmp_path, make_task("bcnb-er", shots=(1, 5)), protocol, units)
    alone = frozen_splits(tmp_path, make_task("bcnb-er", shots=(5,)), protocol, units)
    assert fives(both) == fives(alone)
    assert len(fives(both)) > 1


@pytest.mark.parametrize(
    ("labels", "cases", "update", "protocol", "message"),
    [
        ("PN" * 10, None, {"shots": (10,)}, "few-shot/v1", r"class 'N' has 10 case\(s\); 10 shots"),
        ("P" * 9 + "N" * 3, None, {}, "linear-probe/v1", r"3 case\(s\) of class 'N' cannot fill 5"),
        ("PN" * 9, ["a", "b"] * 9, {}, "linear-probe/v1", r"2 case\(s\) cannot fill 5 folds"),
        ("PN" * 9, None, {"scheme": "site-preserved"}, "linear-probe/v1", r"site of 18 unit\(s\)"),
    ],
)
def test_too_few_of_something(
    make_task: Make,
    make_units: Make,
    catalogue: Catalogue,
    tmp_path: Path,
    labels: str,
    cases: list[str] | None,
    update: dict[str, Any],
    protocol: str,
    message: str,
) -> None:
    task = make_task("bcnb-er", **update)
    with pytest.raises(InputError, match=rf"bcnb-er: .*{message}"):
        frozen_splits(tmp_path, task, catalogue.protocols[protocol], make_units(labels, cases))
    assert not list(tmp_path.iterdir())


def test_too_few_sites_or_too_unequal(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    task, protocol = make_task("bcnb-er", scheme="site-preserved"), "linear-probe/v1"
    units = make_units("PN" * 10, None, ["a", "b", "c", "d"] * 5)
    with pytest.raises(InputError, match=r"4 site\(s\) cannot fill 5 folds"):
        frozen_splits(tmp_path, task, catalogue.protocols[protocol], units)
    units = make_units("P" * 16 + "N" * 4, None, [f"s{i}" for i in range(20)])
    with pytest.raises(InputError, match=r"4 unit\(s\) of class 'N' cannot fill 5 folds"):
        frozen_splits(tmp_path, task, catalogue.protocols[protocol], units)


def test_survival_is_stratified_by_event_and_never_drawn_few_shot(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    base = make_units("x" * 200)
    table = base.table.drop(columns="label").assign(
        time_days=np.arange(200.0), event=np.arange(200) % 8 == 0
    )
    units = Units(table, base.slides, {}, base.hash)
    task = make_task("tcga-breast-os", scheme="case-stratified")
    splits = frozen_splits(tmp_path, task, catalogue.protocols["cox/v1"], units)
    assert [int(table["event"].to_numpy()[s.test].sum()) for s in splits] == [5] * 5
    with pytest.raises(InputError, match="few-shot draws need classes"):
        frozen_splits(tmp_path, task, catalogue.protocols["few-shot/v1"], units)


def given_file(folder: Path, text: str) -> Path:
    path = folder / "given.csv"
    path.write_text(text)
    return path


def test_given_folds_are_used_and_given_draws_left_to_few_shot(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units = make_units("PNPN")
    rows = "".join(f"0,{i // 2},u{i:04d}\n" for i in range(4))
    path = given_file(tmp_path, f"repeat,fold,unit_id\n{rows}")
    task = make_task("bcnb-er", shots=(1,))
    probe = frozen_splits(tmp_path / "s", task, catalogue.protocols["linear-probe/v1"], units, path)
    assert [(list(s.train), list(s.test)) for s in probe] == [([2, 3], [0, 1]), ([0, 1], [2, 3])]
    assert probe.hash == hash_file(path)
    assert not (tmp_path / "s").exists()
    few = frozen_splits(tmp_path / "s", task, catalogue.protocols["few-shot/v1"], units, path)
    assert few.key_names == ("shots", "draw")


def test_given_file_may_name_units_that_are_left_out(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    base = make_units("PNPN")
    units = Units(base.table, base.slides, {"no feature file": ("gone",)}, base.hash)
    rows = "".join(f"0,{i // 2},u{i:04d}\n" for i in range(4))
    path = given_file(tmp_path, f"repeat,fold,unit_id\n{rows}0,1,gone\n")
    probe = catalogue.protocols["linear-probe/v1"]
    assert len(frozen_splits(tmp_path, make_task("bcnb-er"), probe, units, path)) == 2
    with pytest.raises(InputError, match=r"given\.csv: row 6: no unit is called 'gone'"):
        frozen_splits(tmp_path, make_task("bcnb-er"), probe, base, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no splits in the file"),
        ("fold,id\n0,u0000\n", "row 1 is fold,id; expected repeat,fold,unit_id"),
        ("repeat,fold,unit_id\n0,x,u0000\n", "row 2 is '0,x,u0000'; expected two whole numbers"),
        ("repeat,fold,unit_id\n0,0\n", "row 2 is '0,0'"),
        ("repeat,fold,unit_id\n0,0,u9\n", "row 2: no unit is called 'u9'; units look like 'u0000'"),
        ("repeat,fold,unit_id\n0,0,u0000\n0,0,u0000\n", "row 3: 'u0000' occurs twice"),
        ("repeat,fold,unit_id,role\n0,0,u0000,tset\n", r"row 2 is .*a role \(train, val, test, un"),
        ("repeat,fold,unit_id,part\n0,0,u0000,test\n", "with a fourth column, role"),
        ("repeat,fold,unit_id,role\n0,0,u0000,test\n0,0,u0000,val\n", "row 3: 'u0000' occurs tw"),
    ],
)
def test_broken_given_files(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path, text: str, message: str
) -> None:
    path = given_file(tmp_path, text)
    with pytest.raises(InputError, match=rf"given\.csv: .*{message}"):
        frozen_splits(
            tmp_path, make_task("bcnb-er"), catalogue.protocols["linear-probe/v1"],
            make_units("PNPN"), path,
        )  # fmt: skip


def test_given_file_that_leaks_a_case_is_refused(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units = make_units("PPNN", ["A", "A", "B", "B"])
    path = given_file(tmp_path, "repeat,fold,unit_id\n0,0,u0000\n0,0,u0002\n0,1,u0001\n0,1,u0003\n")
    message = (
        r"given\.csv: repeat 0, fold 0: case 'A' is in train \(u0001\) and in test \(u0000\), "
        r"as are 1 other cases"
    )
    with pytest.raises(InputError, match=message):
        frozen_splits(
            tmp_path, make_task("bcnb-er"), catalogue.protocols["linear-probe/v1"], units, path
        )


def test_frozen_file_tampered_with_is_refused(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units, task = make_units("PN" * 10), make_task("bcnb-er")
    frozen_splits(tmp_path, task, catalogue.protocols["linear-probe/v1"], units)
    path, noted = sorted(tmp_path.iterdir())
    noted.unlink()
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"was changed; remove it to have it made again: repeat 0"):
        frozen_splits(tmp_path, task, catalogue.protocols["linear-probe/v1"], units)


def test_roles_of_an_official_split(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    """Validation units are not trained on; what is unused or not listed is in no part."""
    roles = ("train", "train", "val", "test", "test", "unused")
    rows = "".join(f"0,0,u{i:04d},{role}\n" for i, role in enumerate(roles))
    path = given_file(tmp_path, f"repeat,fold,unit_id,role\n{rows}")
    (split,) = frozen_splits(
        tmp_path, make_task("bcnb-er"), catalogue.protocols["linear-probe/v1"],
        make_units("PNPNPNP"), path,
    )  # fmt: skip
    assert [p.tolist() for p in (split.train, split.val, split.test)] == [[0, 1], [2], [3, 4]]


@pytest.mark.parametrize("role", ["train", "val"])
def test_a_case_in_test_may_not_train_or_validate(
    role: str, make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    roles = ("train", "train", "test", "test", role)
    rows = "".join(f"0,0,u{i:04d},{each}\n" for i, each in enumerate(roles))
    path = given_file(tmp_path, f"repeat,fold,unit_id,role\n{rows}")
    units = make_units("PNPNN", ["A", "B", "C", "D", "D"])
    message = f"case 'D' is in {role.replace('val', 'validation')} .u0004. and in test .u0003."
    with pytest.raises(InputError, match=message):
        frozen_splits(
            tmp_path, make_task("bcnb-er"), catalogue.protocols["linear-probe/v1"], units, path
        )


def test_hold_out_repeated_is_monte_carlo_with_validation(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units = make_units("PN" * 20)
    task = make_task("bcnb-er", scheme="hold-out", folds=4, repeats=6, validation=True)
    splits = list(frozen_splits(tmp_path, task, catalogue.protocols["linear-probe/v1"], units))
    assert [split.key for split in splits] == [(repeat, 0) for repeat in range(6)]
    for split in splits:
        parts = [set(split.train), set(split.val), set(split.test)]
        assert [len(part) for part in parts] == [20, 10, 10]
        assert len(set.union(*parts)) == 40
        for part in (split.train, split.val, split.test):
            assert (
                np.unique(labels_of(units)[part], return_counts=True)[1].tolist()
                == [len(part) // 2] * 2
            )
    assert len({tuple(split.test) for split in splits}) == 6


def test_the_next_fold_validates(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    units, protocol = make_units("PN" * 15), catalogue.protocols["linear-probe/v1"]
    plain = list(frozen_splits(tmp_path, make_task("bcnb-er"), protocol, units))
    task = make_task("bcnb-er", validation=True)
    splits = list(frozen_splits(tmp_path, task, protocol, units))
    for number, split in enumerate(splits):
        assert split.test.tolist() == plain[number].test.tolist()
        assert split.val.tolist() == plain[(number + 1) % 5].test.tolist()
        assert not set(split.train) & {*split.val, *split.test}


def test_shots_that_a_class_cannot_fill_are_left_out_by_name(
    make_task: Make, make_units: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    """60 cases, 8 of them of one class: 1 and 5 shots are scored, 10, 25 and 50 are not."""
    units, protocol = make_units("P" * 8 + "N" * 52), catalogue.protocols["few-shot/v2"]
    task = make_task("bcnb-er")
    splits = frozen_splits(tmp_path, task, protocol, units)
    assert {split.key[0] for split in splits} == {
        shots for shots in protocol.method.shots if shots < 8
    }
    note = left_out_shots(task, protocol, units)
    assert note is not None
    assert "shots a class are left out, as class 'P' has 8 cases; scored at 1" in note
    assert left_out_shots(task, protocol, make_units("PN" * 80)) is None
