"""How figures are drawn: Altair charts in the fonts and greys that all figures here share."""

import io
from typing import Any

INK, GREY, PALE = "#222222", "#6B6B6B", "#E4E4E4"
# Colours that readers who see no red or green tell apart (Okabe and Ito, 2008), darkest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C8C8C")
_FONT = "Helvetica, Arial, sans-serif"


def styled_svg(chart: Any) -> str:
    """Return an Altair chart as SVG; text that is SVG stays as it is."""
    if isinstance(chart, str):
        return chart
    out = io.StringIO()
    _styled(chart).save(out, format="svg")
    return out.getvalue()


def svg_png(svg: str) -> bytes:
    """Return SVG as PNG, two pixels for each unit."""
    import vl_convert  # 50 MB that few commands need

    png: bytes = vl_convert.svg_to_png(svg, scale=2.0)
    return png


def _styled(chart: Any) -> Any:
    return chart.configure(font=_FONT).configure_view(stroke=None).configure_axis(
        labelColor=GREY, labelFontSize=11, titleColor=GREY, titleFontSize=11,
        titleFontWeight="normal", domainColor=PALE, tickColor=PALE, gridColor=PALE,
    )  # fmt: skip
