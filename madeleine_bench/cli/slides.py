"""`mbench slides`: what a slide file says, plain pictures made slides, and a look at one."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.errors import InputError

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
    from madeleine_bench.slides.folder import describe_slides

    deliver(describe_slides(slides, mpp))


@app.command()
def convert(
    pictures: Annotated[list[Path], typer.Argument(help="JPEG, PNG or TIFF, or folders of them.")],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder of the slides.")] = Path("slides"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace slides.")] = False,
) -> None:
    """Turn plain pictures into slides: tiled TIFF pyramids that state their resolution.

    Example: mbench slides convert pictures/ --mpp 0.5 --out slides
    """
    from madeleine_bench.slides.folder import convert_pictures

    with LiveProgress() as progress:
        report = convert_pictures(pictures, out, mpp, progress, overwrite)
    deliver(report)


@app.command()
def show(
    slide: Annotated[Path, typer.Argument(help="A slide.")],
    out: Annotated[Path, typer.Option(help="The picture, .png.")],
    mpp: Mpp = None,
) -> None:
    """Draw a slide with its tissue and patches.

    Example: mbench slides show a.svs --out a.png
    """
    from madeleine_bench.files import write_bytes
    from madeleine_bench.slides.overlay import picture_bytes, slide_overlay
    from madeleine_bench.slides.reader import Slide

    if out.suffix.lower() != ".png":
        raise InputError(f"--out is {out}; the picture is a .png")
    with Slide(slide, mpp) as opened:
        write_bytes(out, picture_bytes(slide_overlay(opened)))
    typer.echo(f"wrote {out}")
