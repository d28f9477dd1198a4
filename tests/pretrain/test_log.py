import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.log import append_row, loss_curves_svg, read_log


def make_row(epoch: int, **more: float | None) -> dict[str, float | None]:
    row = {"epoch": epoch, "loss": 2.0 / epoch, "global": 0.1 + 0.2, "held_out_chance": 0.25}
    return {**row, **more}


def make_log(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": 18 * epoch,
            "learning_rate": 1e-4,
            "global": 4 * np.exp(-epoch / 20),
            "local": 12 * np.exp(-epoch / 5),
            "loss": 4 * np.exp(-epoch / 20) + 12 * np.exp(-epoch / 5),
            "held_out_retrieval": np.where(epoch % 3, np.nan, 0.5),
            "held_out_recall_at_1": np.where(epoch % 3, np.nan, 0.0),
            "held_out_chance": np.where(epoch % 3, np.nan, 0.04),
            "held_out_smooth_rank": np.where(epoch % 3, np.nan, 41.0),
            "held_out_token_cosine": np.where(epoch % 3, np.nan, 0.3),
            "patches_per_s": 1e4,
            "seconds": 3.2,
        }
    )


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


def test_a_log_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "out" / "log.csv"
    append_row(path, make_row(1))
    append_row(path, make_row(2, loss=None))
    append_row(path, make_row(3, loss=math.nan))
    table = read_log(tmp_path / "out" / "log.csv")
    assert list(table.columns) == ["epoch", "loss", "global", "held_out_chance"]
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["global"].tolist() == [0.1 + 0.2] * 3
    assert table["loss"].isna().tolist() == [False, True, True]
    log_text = (tmp_path / "out" / "log.csv").read_text(encoding="utf-8")
    (tmp_path / "marked.csv").write_text("\ufeff" + log_text, encoding="utf-8")
    assert read_log(tmp_path / "marked.csv").equals(table), "a byte order mark is passed over"


def test_columns_stay_those_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_row(path, make_row(1))
    append_row(path, dict(reversed(make_row(2).items())))
    assert read_log(path)["loss"].tolist() == [2.0, 1.0]
    with pytest.raises(InputError, match=r"this run logs .*local"):
        append_row(path, make_row(3, local=1.0))
    with pytest.raises(InputError, match="has the columns"):
        append_row(path, {"epoch": 3})


def test_resuming_drops_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for epoch in range(1, 6):
        append_row(path, make_row(epoch))
    before = path.read_bytes()
    append_row(path, make_row(4, loss=7.0))
    table = read_log(path)
    assert table["epoch"].tolist() == [1, 2, 3, 4]
    assert table["loss"].tolist()[-1] == 7.0
    undisturbed = before.splitlines()[:4]
    assert path.read_bytes().splitlines()[:4] == undisturbed
    append_row(path, make_row(1))
    assert read_log(path)["epoch"].tolist() == [1]


def test_a_new_log_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_row(path, make_row(9))
    append_row(path, {"epoch": 1})
    assert path.read_text() == "epoch\n1\n"


def test_resuming_without_a_log_begins_one(tmp_path: Path) -> None:
    append_row(tmp_path / "log.csv", make_row(4))
    assert read_log(tmp_path / "log.csv")["epoch"].tolist() == [4]


def test_resuming_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_row(path, make_row(1))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"this run logs epoch, loss, global, .*, intra"):
        append_row(path, make_row(2, intra=1.0))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no training log"),
        ("a,b\n1,2\n", "no column 'epoch'"),
        ("epoch,loss\n1,2\n2\n3,4\n", "no cell"),
        ("epoch,loss\n1,2,3\n", "no training log"),
        ("epoch,loss\n1,two\n", "two"),
        ("epoch,loss\n1,2\n2,3.", "was cut"),
    ],
)
def test_files_that_are_no_log(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_log(path)


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training log"):
        read_log(tmp_path / "log.csv")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        append_row(tmp_path / "file" / "log.csv", make_row(1))


def test_curves_of_a_whole_run() -> None:
    log = make_log(60)
    svg = loss_curves_svg(log, "madeleine on Phantom acrobat")
    assert svg == loss_curves_svg(log.copy(), "madeleine on Phantom acrobat")
    words = texts(svg)
    assert "madeleine on PHANTOM acrobat" in words
    # Panels and curves: each stands in the legend, and what has a panel of its own above it too.
    once, twice = ({word for word in words if words.count(word) == n} for n in (1, 2))
    assert {"held_out_recall_at_1", "held_out_chance"} <= once
    panels = {"global", "local", "loss", "held_out_retrieval", "held_out_smooth_rank"}
    assert twice >= {*panels, "held_out_token_cosine"}
    assert not {"step", "learning_rate", "seconds"} & set(words)
    assert "NaN" not in svg


def test_curves_of_what_there_is() -> None:
    one = make_log(1)[["epoch", "loss", "held_out_chance"]]
    words = texts(loss_curves_svg(one.assign(intra=0.0, odd=-1.0), "intra-ssl on local acrobat"))
    assert {"odd", "intra"} <= set(words)
    assert "held_out_smooth_rank" not in words


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 3), (1, 9), (1, 120), (97, 340)])
def test_epochs_on_the_axis_are_whole_and_few(first: int, last: int) -> None:
    log = pd.DataFrame({"epoch": range(first, last + 1), "loss": 1.0})
    ticks = [int(word) for word in texts(loss_curves_svg(log, "t")) if re.fullmatch(r"\d+", word)]
    epochs = [tick for tick in ticks if first <= tick <= last]
    assert epochs
    assert len(ticks) < 18
    assert all(len(word) == len(str(int(word))) for word in map(str, epochs))
