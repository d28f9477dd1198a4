"""`mbench features`: from slides to bags of patch features."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, deliver, print_table
from madeleine_bench.cli.options import Catalogue, Device, ExecutorName, Scheduler
from madeleine_bench.cli.slides import ForceMpp, Mpp

app = typer.Typer(help="Extract patch features.", no_args_is_help=True)


@app.command()
def extract(
    slides: Annotated[Path, typer.Option(help="Folder of slides, or one slide.")],
    cohort: Annotated[str, typer.Option(help="Cohort that the slides are of.")],
    patch_encoder: Annotated[
        str, typer.Option(help="Name, or path of a card (mbench features encoders).")
    ] = "efficientnet-lite0",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bags; bags/<cohort> by default.")
    ] = None,
    patch_px: Annotated[int, typer.Option(help="Side of a patch in pixels.")] = 256,
    patch_mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of a patch; 1 (10x) by default.")
    ] = None,
    magnification: Annotated[
        float | None, typer.Option(help="The same as an objective power: 20 is --patch-mpp 0.5.")
    ] = None,
    overlap_px: Annotated[int, typer.Option(help="Pixels that neighbours share.")] = 0,
    min_tissue: Annotated[float, typer.Option(help="Least share of tissue in a patch.")] = 0.5,
    patches: Annotated[
        Path | None, typer.Option(help="Folder of patch files of CLAM or TRIDENT to take instead.")
    ] = None,
    mpp: Mpp = None,
    force_mpp: ForceMpp = None,
    weights: Annotated[
        Path | None, typer.Option(help="Your copy of gated weights (.safetensors, .bin, .pth).")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"], typer.Option(help="auto: fp16 on a GPU.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Patches encoded at once.")] = 32,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that read, and on a CPU as many that encode, in each process."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace bags made with other settings.")
    ] = False,
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="With --executor dask: workers here; one for a core by default."),
    ] = None,
    catalogue: Catalogue = None,
) -> None:
    """Extract patch features from slides.

    Writes one bag (HDF5 file) per slide. Failed slides are reported and skipped (exit code 1). You
    can interrupt the command; run it again to continue.

    Example: mbench features extract --slides slides/ --cohort bcnb --patch-encoder uni
    """
    from madeleine_bench.runner.workers import open_executor
    from madeleine_bench.slides import extraction
    from madeleine_bench.slides.bag_folder import BagFolder
    from madeleine_bench.slides.patch_encoders import find_patch_encoder
    from madeleine_bench.slides.patches import PatchSettings, resolution
    from madeleine_bench.slides.resolution import read_mpp

    cores, here = os.cpu_count() or 1, executor == "local" and scheduler is None
    threads = min(8, cores) if here else 1
    size = PatchSettings(patch_px, resolution(patch_mpp, magnification), overlap_px, min_tissue)
    settings = extraction.ExtractionSettings(
        size, read_mpp(mpp, "--mpp"), read_mpp(force_mpp, "--force-mpp"), patch_folder=patches,
        overwrite=overwrite, batch=batch_size,
        workers=threads if workers is None else workers,
    )  # fmt: skip
    entry = find_patch_encoder(patch_encoder)
    choice = extraction.EncoderChoice(entry, device, precision, weights)
    folder = BagFolder(out or Path("bags") / cohort, size, entry.card.name)
    with (
        LiveProgress() as progress,
        open_executor(executor, scheduler, jobs or cores, folder.features, progress) as opened,
    ):
        run = None if here else opened.run
        report = extraction.extract_cohort(
            slides, cohort, choice, folder, settings, progress, catalogue, run
        )
    deliver(report)


@app.command("encoders")
def list_encoders() -> None:
    """List patch encoders and what they need.

    Example: mbench features encoders
    """
    from madeleine_bench.slides.patch_encoders import shipped_patch_encoders

    cards = [entry.card for entry in shipped_patch_encoders().values()]
    rows = [
        [
            card.name,
            str(card.dim),
            "native" if card.input_px is None else f"{card.input_px} px",
            "any" if card.mpp is None else f"{card.mpp:g}",
            card.needs,
            card.title,
        ]
        for card in cards
    ]
    header = ["patch encoder", "dim", "input", "mpp", "needs", "title"]
    print_table(f"{len(rows)} patch encoders", header, rows)
