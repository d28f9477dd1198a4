"""The normal form of ids, what looks alike, and where ids enter: tables, split files, bags."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from madeleine_bench.data.audit_cohort import audit_ids, require_sound
from madeleine_bench.data.ids import canonical_id, look_alikes
from madeleine_bench.data.splits import parse_splits
from madeleine_bench.data.table_folds import split_table
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.specs.cohort import Columns
from madeleine_bench.types import Units

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
Make = Callable[..., Any]
DIGITS = 12345678901234567890, 12345678901234567891  # one float


@given(text=st.text(max_size=12))
@example(text="7.0")
@example(text=" +7.00 ")
@example(text="Ä-7")
def test_the_normal_form_is_its_own_and_is_nfc(text: str) -> None:
    found = canonical_id(text)
    assert canonical_id(found) == found
    assert found == found.strip()
    assert unicodedata.is_normalized("NFC", found)
    assert canonical_id(unicodedata.normalize("NFD", text)) == found


@given(number=st.integers(), zeros=st.integers(0, 3), sign=st.sampled_from(["", "+"]))
def test_a_whole_number_is_one_id_however_written(number: int, zeros: int, sign: str) -> None:
    plus = sign if number >= 0 else ""
    assert canonical_id(f" {plus}{number}.{'0' * zeros}") == str(number)
    assert canonical_id(str(number)) == str(number)


@pytest.mark.parametrize("text", ["007", "1e5", "7.5", "0x7", "1_000", "7-0", "٧", "00", ".0"])
def test_what_is_a_name_and_no_number_stays(text: str) -> None:
    assert canonical_id(text) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("007", "7"),
        ("P-7", "p-7"),
        ("P-07", "P-7"),
        ("P-7", "P\N{EN DASH}7"),
        ("P 7", "P\N{NO-BREAK SPACE}7"),
        ("P-7", "P\N{ZERO WIDTH SPACE}-7"),
        ("A7", "\N{FULLWIDTH LATIN CAPITAL LETTER A}7"),
        ("Straße", "STRASSE"),
        ("TCGA-A1-A0SB-01", "TCGA-A1-A0SB-06"),
        ("TCGA-A1-A0SB", "TCGA-A1-A0SB-01A"),
        ("TARGET-20-PABLDZ-09A", "TARGET-20-PABLDZ-04A"),
    ],
)
def test_spellings_look_alike(one: str, other: str) -> None:
    assert look_alikes([one, "Q-9", other], cases=True) == [tuple(sorted((one, other)))]


@pytest.mark.parametrize(
    "ids",
    [
        ("BRCA-01", "BRCA-02"),
        ("C3L-00001-21", "C3L-00001-22"),
        ("1.5", "1.05"),
        ("10", "100"),
        ("P7", "P-7"),
        ("TCGA-A1-A0SB", "TCGA-A1-A0SC"),
        ("2020-A-01", "2020-A-06"),
    ],
)
def test_other_ids_do_not(ids: tuple[str, str]) -> None:
    assert look_alikes(ids, cases=True) == []


def test_samples_are_of_one_case_and_not_one_slide() -> None:
    ids = ("TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A1-A0SB-06A-00-DX1")
    assert look_alikes(ids, cases=False) == []


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_ids_of_every_table_are_in_the_normal_form(tmp_path: Path, name: str) -> None:
    rows = [("1.0", "7", "3.00"), ("2", "7.0", "3"), ("e\u0301", "+7", "\u00e9")]
    table = pd.DataFrame(rows, columns=["slide_id", "case_id", "site"])
    if name == "t.parquet":
        table.to_parquet(tmp_path / name)
    else:
        table.to_csv(tmp_path / name, index=False, sep="\t" if name == "t.tsv" else ",")
    read = read_label_table(tmp_path / name, Columns(site="site"))
    assert list(read["slide_id"]) == ["1", "2", "\u00e9"]
    assert list(read["case_id"]) == ["7", "7", "7"]
    assert list(read["site"]) == ["3", "3", "\u00e9"]


def test_numbers_of_parquet_are_ids_to_the_last_digit(tmp_path: Path) -> None:
    frame = {"slide_id": pd.Series(DIGITS, dtype="uint64"), "case_id": [7.0, 8.0]}
    pd.DataFrame(frame).to_parquet(tmp_path / "t.parquet")
    table = read_label_table(tmp_path / "t.parquet", Columns())
    assert list(table["slide_id"]) == [str(number) for number in DIGITS]
    assert list(table["case_id"]) == ["7", "8"]


def test_a_slide_under_two_spellings_stands_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "slide_id,er\n7,1\n8,0\n7.0,1\n")
    message = r"t\.csv: slide '7' stands in rows 2 and 4, as '7' and as '7\.0'; each slide has"
    with pytest.raises(InputError, match=message):
        read_label_table(path, Columns(case=None))


def test_a_split_file_finds_units_in_the_normal_form(make_units: Make, tmp_path: Path) -> None:
    base = make_units("PN")
    units = Units(base.table.assign(unit_id=["7", "\u00e9"]), {}, {}, "hash")
    path = write(tmp_path, "repeat,fold,unit_id\n0,0,7.0\n0,1, e\u0301\n")
    splits = parse_splits(path, path.read_bytes(), units)
    assert [split.test.tolist() for split in splits] == [[0], [1]]
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    parse_splits(path, path.read_bytes(), units)
    path.write_bytes("repeat,fold,unit_id\n0,0,\u00e9\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"t\.csv: row 2 is not UTF-8 text \(byte 0xe9\); save"):
        parse_splits(path, path.read_bytes(), units)
    path = write(tmp_path, "repeat,fold,unit_id\n0,0,7\n0,0,7.0\n")
    with pytest.raises(InputError, match=r"row 3: '7' occurs twice in one split"):
        parse_splits(path, path.read_bytes(), units)


def test_a_bag_is_found_under_any_spelling(small_cohort: Make, write_bag: Make) -> None:
    for stem in ("7.0", "e\u0301", "8.33ad"):
        write_bag(stem)
    cohort = small_cohort(["7", "\u00e9", "8"])
    assert sorted(path.name for path in cohort.files.values()) == [
        "7.0.h5",
        "8.33ad.h5",
        "e\u0301.h5",
    ]
    assert cohort.extra == {}
    assert cohort.read_bag("7").features.shape == (5, 3)
    write_bag("7")
    with pytest.raises(InputError, match=r"slide '7' could be .*7\.h5 and .*7\.0\.h5; keep one"):
        small_cohort(["7", "\u00e9", "8"])


def spelled(small_cohort: Make, write_bag: Make, rows: list[tuple[str, str]]) -> Any:
    """A cohort of (slide, case) and its units by slide."""
    for slide, _ in rows:
        write_bag(slide)
    cohort = small_cohort([slide for slide, _ in rows])
    cohort.slides["case_id"] = cohort.slides["slide_id"].map(dict(rows))
    table = cohort.slides[["slide_id", "case_id", "site"]].rename(columns={"slide_id": "unit_id"})
    units = Units(table.assign(label="x"), {slide: (slide,) for slide, _ in rows}, {}, "hash")
    return cohort, units


def test_cases_that_look_alike_stop_a_run_until_the_user_says(
    small_cohort: Make, write_bag: Make, make_task: Make
) -> None:
    """The audit had no finding; chance data split over the two spellings scored .86 to 1.00."""
    rows = [("a", "007"), ("b", "7"), ("c", "8"), ("d", "7")]
    cohort, units = spelled(small_cohort, write_bag, rows)
    (finding,) = audit_ids(cohort, units, [])
    assert (finding.level, finding.kind, finding.case_id) == ("error", "look-alike", "007")
    assert finding.slide_ids == ("a", "b", "d")
    assert finding.message == (
        "case ids '007' (slide a) and '7' (slide b, d) may be spellings of one"
    )
    message = r'write one spelling in the label table; or, .* ids = "exact" under \[cohorts\.ucsb'
    with pytest.raises(InputError, match=message):
        require_sound(make_task("bcnb-er"), cohort, units, [])
    cohort.entry = cohort.entry.model_copy(update={"ids": "exact"})
    assert audit_ids(cohort, units, []) == []


def test_slides_that_look_alike(small_cohort: Make, write_bag: Make) -> None:
    rows = [("S1", "A"), ("s1", "B"), ("S2", "C"), ("s2", "C")]
    found = audit_ids(*spelled(small_cohort, write_bag, rows), [])
    assert [(f.level, f.message) for f in found] == [
        ("error", "slide ids 'S1' (case A) and 's1' (case B) may be spellings of one"),
        ("warning", "slide ids 'S2' (case C) and 's2' (case C) may be spellings of one"),
    ]
    rows = [("S1", "P-1"), ("s1", "p-1")]
    (once,) = audit_ids(*spelled(small_cohort, write_bag, rows), [])
    assert once.message.startswith("case ids 'P-1'"), "slides of such cases are not named again"


def test_sites_look_alike_where_folds_keep_them_whole(small_cohort: Make, write_bag: Make) -> None:
    cohort, units = spelled(small_cohort, write_bag, [("a", "A"), ("b", "B")])
    cohort.slides["site"] = ["BH", "bh"]
    assert audit_ids(cohort, units, [([], "case-stratified")]) == []
    (finding,) = audit_ids(cohort, units, [([], "site-preserved")])
    assert finding.message == "site ids 'BH' (slide a) and 'bh' (slide b) may be spellings of one"


@pytest.mark.parametrize(
    ("table", "case", "slide", "cases"),
    [
        ("tcga_brca/tcga_brca.csv", "case_id", "slide_id", 1062),
        ("tcga_kidney/tcga_kidney.csv", "case_id", "slide_id", 898),
        ("cptac_brca/cptac_brca.csv", "Patient ID", None, 122),
        ("acrobat/ACROBAT.csv", "slide_id", None, 750),
        ("orion_crc/samples.csv", "slideName", None, 40),
    ],
)
def test_real_ids_give_no_alarm(table: str, case: str, slide: str | None, cases: int) -> None:
    if not (SHARED / table).is_file():
        pytest.skip(f"real tables not there: {SHARED / table}")
    read = pd.read_csv(SHARED / table, dtype=str)
    ids = read[case].map(canonical_id)
    assert ids.nunique() == cases
    assert look_alikes(ids, cases=True) == []
    if slide is not None:
        assert look_alikes(read[slide].map(canonical_id), cases=False) == []
        assert list(read[slide].map(canonical_id)) == list(read[slide]), "no id is rewritten"


def test_made_folds_say_which_ids_look_alike(tmp_path: Path) -> None:
    rows = "".join(f"{i},{case},{'PN'[i % 2]}\n" for i, case in enumerate(["7", "007", "a", "b"]))
    path = write(tmp_path, f"slide_id,case_id,er\n{rows}")
    report = split_table(path, Columns(), ["er"], folds=2, out=tmp_path / "splits.csv")
    assert report.document["look_alikes"] == [("007", "7")]
