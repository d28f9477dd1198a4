"""`mbench slides`: what a slide file says, plain pictures made slides, and a look at one."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.completion import encoder_names

app = typer.Typer(help="Whole-slide images.", no_args_is_help=True)

Mpp = Annotated[
    float | None,
    typer.Option(help="Micrometres per pixel of the slide, in place of what its file states."),
]


@app.command()
def info(
    slides: Annotated[list[Path], typer.Argument(help="Slides, or folders of slides.")],
    mpp: Mpp = None,
) -> None:
    """Say size, resolution, levels and format of slides; exit 1 where one cannot be read.

    Example: mbench slides info slides/
    """
    from madeleine_bench.cli.slide_reports import print_slides

    print_slides(slides, mpp)


@app.command()
def convert(
    pictures: Annotated[list[Path], typer.Argument(help="JPEG, PNG or TIFF, or folders of them.")],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder of the slides.")] = Path("slides"),
    jpeg_quality: Annotated[
        int | None,
        typer.Option(help="1 to 100: smaller files by JPEG; every pixel is kept by default."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace slides.")] = False,
) -> None:
    """Turn plain pictures into slides: tiled TIFF pyramids that state their resolution.

    Example: mbench slides convert pictures/ --mpp 0.5 --out slides
    """
    from madeleine_bench.cli.slide_reports import convert_pictures

    convert_pictures(pictures, mpp, out, jpeg_quality, overwrite)


@app.command()
def show(
    slide: Annotated[Path, typer.Argument(help="A slide.")],
    out: Annotated[Path, typer.Option(help="The picture, .png.")],
    bag: Annotated[
        Path | None, typer.Option(help="Its bag, for the grid and for the attention on it.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Slide encoder (name or card) whose attention is shown, per head.",
            autocompletion=encoder_names,
        ),
    ] = None,
    stain: Annotated[str, typer.Option(help="Stain, for encoders that are told it.")] = "H&E",
    organ: Annotated[
        str | None, typer.Option(help="Organ, for encoders with a model for each.")
    ] = None,
    mpp: Mpp = None,
) -> None:
    """Draw a slide with its tissue and patches; with an encoder and a bag, what it attends to.

    Example: mbench slides show a.svs --out a.png --bag features/a.h5 --encoder madeleine
    """
    from madeleine_bench.cli.slide_reports import Shown, draw_slide

    draw_slide(Shown(slide, out, bag, encoder, stain, organ, mpp))
