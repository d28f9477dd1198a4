"""`mbench slides`: what a slide file says, plain pictures made slides, and a look at one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from madeleine_bench.slides.reader import Slide

app = typer.Typer(help="Inspect, convert and draw slides.", no_args_is_help=True)

Mpp = Annotated[
    str | None,
    typer.Option(
        metavar="UM|TABLE",
        help="Micrometres per pixel where a file states none: a number, or a table (.csv) with "
        "the columns slide (TRIDENT: wsi) and mpp.",
    ),
]
ForceMpp = Annotated[
    str | None,
    typer.Option(metavar="UM|TABLE", help="The same, in place of what a file states."),
]


@app.command()
def info(
    slides: Annotated[list[Path], typer.Argument(help="Slides, or folders of slides.")],
    mpp: Mpp = None,
    force_mpp: ForceMpp = None,
) -> None:
    """Show size, resolution, levels and format of slides.

    Exit code 1: at least one slide cannot be read.

    Example: mbench slides info slides/
    """
    from madeleine_bench.slides.folder import describe_slides
    from madeleine_bench.slides.resolution import read_mpp

    given, forced = read_mpp(mpp, "--mpp"), read_mpp(force_mpp, "--force-mpp")
    deliver(describe_slides(slides, given, forced))


@app.command()
def convert(
    pictures: Annotated[list[Path], typer.Argument(help="JPEG, PNG or TIFF, or folders of them.")],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder of the slides.")] = Path("slides"),
    page: Annotated[
        list[int] | None,
        typer.Option(
            metavar="NUMBER",
            help="Page, from 1 (default: the only one); three are red, green, blue.",
        ),
    ] = None,
    channel: Annotated[
        list[int] | None,
        typer.Option(
            metavar="NUMBER", help="Channel, from 1 (default: all); three are red, green, blue."
        ),
    ] = None,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Values that become black and white (default: the full range of 16-bit integers, "
            "0 and 1 of floating-point numbers).",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace slides.")] = False,
) -> None:
    """Convert images to tiled TIFF pyramids.

    Example: mbench slides convert pictures/ --mpp 0.5 --out slides
    """
    from madeleine_bench.slides.pictures import PictureOptions, convert_pictures

    options = PictureOptions(tuple(page or ()), tuple(channel or ()), scale)
    with LiveProgress() as progress:
        report = convert_pictures(pictures, out, mpp, progress, options, overwrite)
    deliver(report)


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
            help="Slide encoder (name or card) whose attention is shown.",
        ),
    ] = None,
    stain: Annotated[str, typer.Option(help="Stain, for encoders that are told it.")] = "H&E",
    organ: Annotated[
        str | None, typer.Option(help="Organ, for encoders with a model for each.")
    ] = None,
    mpp: Mpp = None,
    force_mpp: ForceMpp = None,
) -> None:
    """Draw a slide with its tissue and patches.

    With --encoder and --bag, draws the attention of an encoder.

    Example: mbench slides show a.svs --out a.png --bag features/a.h5 --encoder madeleine
    """
    from madeleine_bench.files import write_bytes
    from madeleine_bench.slides.overlay import picture_bytes, slide_overlay
    from madeleine_bench.slides.reader import Slide
    from madeleine_bench.slides.resolution import read_mpp

    if out.suffix.lower() != ".png":
        raise InputError(f"--out is {out}; the picture is a .png")
    if encoder is not None and bag is None:
        raise InputError(
            "--encoder needs --bag, the features that it looks at (mbench features extract)"
        )
    given, forced = read_mpp(mpp, "--mpp"), read_mpp(force_mpp, "--force-mpp")
    with Slide(slide, given, forced) as opened:
        if bag is None or encoder is None:
            picture = slide_overlay(opened, bag)
        else:
            picture = _attention(opened, bag, encoder, stain, organ)
    write_bytes(out, picture_bytes(picture))
    typer.echo(f"wrote {out}")


def _attention(
    slide: "Slide", path: Path, encoder_name: str, stain: str, organ: str | None
) -> "Image.Image":
    """Return what an encoder attends to, the mean of its heads."""
    from madeleine_bench.embeddings.compute import attention_checked
    from madeleine_bench.encoders.registry import find_encoder, load_encoder
    from madeleine_bench.slides.overlay import attention_overlay, bag_on_slide
    from madeleine_bench.types import Bag

    encoder = load_encoder(find_encoder(encoder_name))
    file, boxes = bag_on_slide(slide, path)
    name = slide.slide_id
    features = file.features.astype("float32")
    bag = Bag(name, name, features, stain, file.coords, None, file.facts.patch_encoder, organ)
    weights = attention_checked(encoder, bag)
    return attention_overlay(slide.thumbnail(longest_px=1600), boxes, weights)
