"""How figures are drawn: Altair charts in the fonts and greys that all figures here share."""

from typing import Any

INK, GREY, PALE = "#222222", "#6B6B6B", "#E4E4E4"
# Colours that readers who see no red or green tell apart (Okabe and Ito, 2008), darkest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C8C8C")
_FONT = "Helvetica, Arial, sans-serif"


def styled_svg(chart: Any) -> str:
    """Return an Altair chart as SVG."""
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(_styled(chart), vl_version=_version())
    return svg


def styled_png(chart: Any, scale: float = 2.0) -> bytes:
    """Return an Altair chart as PNG, `scale` pixels for each unit of the chart."""
    import vl_convert

    png: bytes = vl_convert.vegalite_to_png(_styled(chart), vl_version=_version(), scale=scale)
    return png


def _styled(chart: Any) -> dict[str, Any]:
    styled = chart.configure(font=_FONT).configure_view(stroke=None).configure_axis(
        labelColor=GREY, labelFontSize=11, titleColor=GREY, titleFontSize=11,
        titleFontWeight="normal", domainColor=PALE, tickColor=PALE, gridColor=PALE,
    )  # fmt: skip
    content: dict[str, Any] = styled.to_dict()
    return content


def _version() -> str:
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.split(".")[:2])
