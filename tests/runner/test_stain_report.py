"""What `mbench stains` says of a fusion without an interval, and draws of a single point."""

import pytest

from madeleine_bench.figures import styled_svg, svg_png
from madeleine_bench.runner.stain_ablation import gain_text, stain_chart

FUSIONS = [
    {"fusion": "late", "stains": ["H&E"], "value": 0.7, "difference": None, "ci95": None},
    {"fusion": "late", "stains": ["H&E", "PAS"], "value": 0.75, "difference": 0.05,
     "ci95": (0.01, 0.09)},
    {"fusion": "early", "stains": ["H&E", "PAS"], "value": 0.7, "difference": 0.0, "ci95": None},
]  # fmt: skip


@pytest.mark.parametrize(
    ("fusion", "said"),
    list(zip(FUSIONS, ["-", "+0.050 (+0.010 to +0.090)", "+0.000"], strict=True)),
)
def test_a_gain_without_an_interval_stands_alone(fusion, said):
    """Equal predictions have no interval; the command ended in a traceback there."""
    assert gain_text(fusion) == said


def test_the_figure_of_a_single_point_is_drawn():
    curve = [{"stains": 1, "mean": 0.7, "lowest": 0.7, "highest": 0.7}]
    task = {
        "task": "toy", "metric": "auroc", "encoder": "mean-pool", "fusions": FUSIONS,
        "chance": 0.5, "curves": {"alike": curve, "dropped": curve},
    }  # fmt: skip
    chart = stain_chart(
        {"phantom": True, "board": "phantom", "cohort": "toy", "protocol": "linear-probe/v2",
         "alone": "H&E", "tasks": [task]}
    )  # fmt: skip
    assert "trained with all stains" in styled_svg(chart)
    assert svg_png(styled_svg(chart)).startswith(b"\x89PNG")
