"""Which resolution of a slide counts, and tables of resolutions."""

from pathlib import Path

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.slides.resolution import Resolution, mpp_of, read_mpp, resolve_mpp


def properties(x=None, y=None, power=None):
    words = {"mpp-x": x, "mpp-y": x if y is None else y, "objective-power": power}
    return {f"openslide.{name}": str(value) for name, value in words.items() if value is not None}


def test_forced_counts_before_stated_before_given_before_objective():
    full = properties(0.499, power=20)
    assert resolve_mpp(full, 0.5, 0.25) == Resolution(0.25, "given")
    assert resolve_mpp(full, 0.5) == Resolution(0.499, "stated")
    assert resolve_mpp(full, 0.25)[:2] == (0.499, "stated")
    assert "--mpp 0.25 is not used" in resolve_mpp(full, 0.25).remark
    assert resolve_mpp(properties(power=20), 0.45) == Resolution(0.45, "given")
    assert resolve_mpp(properties(power=20)) == Resolution(0.5, "objective")
    assert resolve_mpp({}) == Resolution(None, None)


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200])
def test_a_print_density_is_no_resolution(dpi):
    for mpp in (25_400 / dpi, 10_000 / round(dpi / 2.54, 1)):  # dots per inch, and per centimetre
        found = resolve_mpp(properties(mpp))
        assert found.mpp is None
        assert "print density" in found.remark
        assert resolve_mpp(properties(mpp), 0.5) == Resolution(0.5, "given")


@pytest.mark.parametrize(
    ("x", "y", "mpp", "remark"),
    [
        (0.25, 0.25, 0.25, ""),
        (0.2500, 0.2512, 0.2506, ""),
        (0.25, 0.26, 0.255, "its pixels are 0.25 x 0.26 micrometres; their mean is used"),
        (0.25, 0.5, None, "its pixels are 0.25 x 0.5 micrometres, which differ by more than 5%"),
        (400, 400, None, "it states 400 micrometres per pixel, outside of 0.02 to 100"),
        (3.48, 3.48, 3.48, ""),
        ("x", "nan", None, ""),
    ],
)
def test_what_counts_as_stated(x, y, mpp, remark):
    found = resolve_mpp(properties(x, y))
    assert found.mpp == (mpp and pytest.approx(mpp))
    assert found.remark == remark


@pytest.mark.parametrize("column", ["slide", "slide_id", "wsi"])
def test_a_table_names_slides_by_name_or_by_file(tmp_path, column):
    path = tmp_path / "mpp.csv"
    path.write_text(f"{column},mpp\na,0.25\nsub/b.svs,0.5\nc.ome.tif,1\nd.1.tif,\n")
    table = read_mpp(str(path), "--mpp")
    assert table == {"a": 0.25, "b": 0.5, "c": 1.0}
    names = ("a.ndpi", "x/b.svs", "c.ome.tif", "d.1.tif", "e.svs")
    assert [mpp_of(table, Path(name)) for name in names] == [0.25, 0.5, 1.0, None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,um\na,1\n", "no column is called 'mpp'"),
        ("name,mpp\na,1\n", "no column is called 'slide'"),
        ("slide,mpp\na,1\nb,x\n", "row 3: mpp is 'x'"),
        ("slide,mpp\na,0\n", "row 2: mpp is '0'"),
        ("slide,mpp\na,1000\n", "row 2: mpp is 1000.0; expected micrometres"),
        ("slide,mpp\na.svs,1\na,2\n", "row 3: slide 'a' has mpp 2 here and 1 in a row above"),
    ],
)
def test_a_wrong_table_is_named_with_its_row(tmp_path, text, message):
    path = tmp_path / "mpp.csv"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_mpp(str(path), "--mpp")
    assert message in str(refusal.value)
    assert "mpp.csv" in str(refusal.value)
