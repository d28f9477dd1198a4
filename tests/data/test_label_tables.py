from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.specs.cohort import Columns

COLUMNS = Columns(slide="slide_id", case="case_id", site="centre")
TEXT = "slide_id,case_id,centre,er\nb,1,X, 1.0 \na,1,X,NA\nc,2,,\n"


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_cells_stay_text_and_rows_are_sorted(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, TEXT), COLUMNS)
    assert list(table.columns) == ["slide_id", "case_id", "stain", "site", "er"]
    assert list(table["slide_id"]) == ["a", "b", "c"]
    assert list(table["er"]) == ["NA", "1.0", ""]
    assert list(table["site"]) == ["X", "X", ""]
    assert set(table["stain"]) == {"H&E"}
    assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_all_formats_give_one_table(tmp_path: Path, name: str) -> None:
    expected = read_label_table(write(tmp_path, TEXT, "base.csv"), COLUMNS)
    path = tmp_path / name
    if name == "t.parquet":
        typed = expected.rename(columns={"site": "centre"}).drop(columns="stain")
        typed["er"] = typed["er"].replace("", None)
        typed.to_parquet(path)
    else:
        write(tmp_path, TEXT.replace(",", "\t") if name == "t.tsv" else "\ufeff" + TEXT, name)
    pd.testing.assert_frame_equal(read_label_table(path, COLUMNS), expected)


def test_parquet_numbers_become_words(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = {"slide_id": [7, 8], "er": [1.0, float("nan")], "x": [2.5, 3.0], "y": [True, False]}
    pd.DataFrame(frame).to_parquet(path)
    table = read_label_table(path, Columns(case=None))
    assert table.loc[0].to_dict() | {"stain": ""} == {
        "slide_id": "7", "case_id": "7", "stain": "", "site": "", "er": "1", "x": "2.5", "y": "1"
    }  # fmt: skip
    assert list(table["er"]) == ["1", ""]


def test_without_a_case_column_each_slide_is_a_case(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "slide_id,er\n2,1\n10,0\n"), Columns(case=None), "ER")
    assert list(table["case_id"]) == list(table["slide_id"]) == ["10", "2"]
    assert set(table["stain"]) == {"ER"}


def test_empty_lines_are_passed_over_and_row_numbers_are_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'slide_id,case_id,centre,er\n\na,1,X,"two\nlines"\n,,,\n,2,X,1\n')
    with pytest.raises(InputError, match=r"table\.csv: row 6: the slide id is empty"):
        read_label_table(path, COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table has no rows"),
        ("slide_id,case_id,centre\n", "the table has no rows"),
        ("slide_id,case_id,centre,er\na,1,X\n", "row 2 has 3 cells, the header has 4"),
        ("slide_id,case_id,er,centre,er\na,1,1,X,1\n", "row 1: column 'er' occurs twice"),
        ("slide_id,case_id,centre\na,1,X\nb,2,X\na,3,X\n", "slide 'a' stands in rows 2 and 4"),
        ("slide_id,case_id,centre\na,,X\n", "row 2: the case id is empty"),
        ("slide,case_id,centre\na,1,X\n", "no column is called 'slide_id'; did you mean 'slide'"),
        ("slide_id,patient,centre\na,1,X\n", r'no column is called \'case_id\'.*case = ""'),
        ("slide_id,case_id\na,1\n", r'no column is called \'centre\'.*site = ""'),
        ("slide_id;case_id;centre\na;1;X\n", "these seem to be by ';'"),
        ('slide_id,case_id,centre\n"a,1,X\n', "row 2: unexpected end of data"),
        ("slide_id,case_id,centre,stain\na,1,X,HER2\n", "a column 'stain', but it is not declared"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"table\.csv: .*{message}"):
        read_label_table(write(tmp_path, text), COLUMNS)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the label table .*absent\.csv"):
        read_label_table(tmp_path / "absent.csv", COLUMNS)
    with pytest.raises(InputError, match=r"x\.xlsx: a label table is a \.csv, \.tsv or \.parquet"):
        read_label_table(write(tmp_path, TEXT, "x.xlsx"), COLUMNS)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("slide_id,case_id,centre\na,1,X\nb,2,Zürich\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.csv: row 3 is not UTF-8 text \(byte 0xfc\)"):
        read_label_table(latin, COLUMNS)
    with pytest.raises(InputError, match=r"x\.parquet is not a parquet file"):
        read_label_table(write(tmp_path, TEXT, "x.parquet"), COLUMNS)


@given(
    st.lists(
        st.tuples(
            st.text("abc.-_ 01", min_size=1, max_size=8).filter(str.strip),
            st.text('xyz,"\n é', max_size=6),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: canonical_id(row[0]),
    )
)
def test_any_cell_comes_back_stripped(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    pd.DataFrame(rows, columns=["slide_id", "word"]).to_csv(path, index=False)
    table = read_label_table(path, Columns(case=None))
    expected = sorted((canonical_id(slide), word.strip()) for slide, word in rows)
    assert list(zip(table["slide_id"], table["word"], strict=True)) == expected
