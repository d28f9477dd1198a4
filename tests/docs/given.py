"""What pages take for given: slides and bags of the reader's, a cluster, an installed TRIDENT."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.resources import resource_folder
from madeleine_bench.seeds import rng_for
from tests.data.peer_folders import write_peers
from tests.docs.page_commands import ROOT, steps
from tests.docs.small_catalogue import write_wrapper
from tests.docs.titan_stand_in import write_titan_bags, write_trident
from tests.docs.tool_layouts import SLIDES, write_layouts
from tests.tool_bags import write_bag_file

Shell = Callable[..., str]


@dataclass(frozen=True)
class Here:
    """What is other here than where the reader sits.

    Attributes:
        names: what a page writes and what it is here, such as the address of a machine.
        twice: beginning of a command that is given on two machines at once; here on this one.
        variables: of the environment.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    twice: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    def line(self, text: str) -> str:
        """A command of the page as it is given here."""
        line = text
        for name, ours in self.names.items():
            line = line.replace(name, ours)
        if self.twice and text.startswith(self.twice):
            stop = "trap 'kill $other 2> /dev/null || true' EXIT"
            return f"{line} & other=$!; {stop}; {line}; wait $other"
        return line


@contextmanager
def given(page: str, folder: Path, shell: Shell) -> Iterator[Here]:
    """The folder as a page finds it, and what runs beside it until the page is done."""
    write_layouts(folder)
    (folder / "examples").symlink_to(ROOT / "examples")
    with ExitStack() as running:
        yield READY[page](folder, shell, running) if page in READY else Here()


def _data(folder: Path, shell: Shell, running: ExitStack) -> Here:
    _write_toml(folder)
    return Here({"/ssd": "ssd"})


def _audit(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """A cohort of the reader's, and a table of slides in the words of the TCGA."""
    _write_toml(folder)
    case = [number // 2 for number in range(60)]
    table = {
        "slide_id": [f"slide-{number}" for number in range(60)],
        "case_id": [f"case-{number}" for number in case],
        "site": [f"site-{number % 6}" for number in case],
        "ERStatus": [("Positive", "Negative", "Not Performed")[number % 5 % 3] for number in case],
        "os_days": [100 + number for number in case],
        "os_event": [number % 2 for number in case],
    }
    pd.DataFrame(table).to_csv(folder / "tcga.csv", index=False)
    return Here()


def _readme(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """Slides, and the scores of an encoder like that which `submit new` writes."""
    _draw_slides(folder, shell)
    (folder / "earlier").mkdir()
    shell("cd earlier && mbench submit new my-encoder")
    shell("mbench run --encoder earlier/my-encoder/card.yaml --task bcnb-er")
    return Here({"my-cohort": "bcnb", "/fast": "fast"})


def _import(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """Folders of Patho-Bench, CLAM and STAMP, and bags of their slides."""
    write_peers(folder)
    return Here()


def _leaderboard(folder: Path, shell: Shell, running: ExitStack) -> Here:
    shell("mbench run --encoder mean-pool --encoder max-pool --task all")
    return Here()


def _survival(folder: Path, shell: Shell, running: ExitStack) -> Here:
    shell("mbench run --encoder mean-pool --encoder madeleine --task tcga-breast-os")
    return Here()


def _slides(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """Six slides in slides/, a picture, and a slide a.tif with a bag that madeleine takes."""
    drawn = _draw_slides(folder, shell)
    (folder / "pictures").mkdir()
    picture = rng_for("picture").integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "pictures" / "a.png")
    drawn[-1].rename(folder / "a.tif")
    (folder / "one").mkdir()
    shutil.copy(folder / "a.tif", folder / "one")
    extract = "mbench features extract --slides one --cohort bcnb --patch-encoder stain-texture"
    shell(f"{extract} --out one/bags")
    (extracted,) = (folder / "one" / "bags").glob("*/features_stain-texture/a.h5")
    coords = read_bag_file(extracted).coords
    assert coords is not None
    (folder / "features").mkdir()
    write_bag_file(
        folder / "features" / "a.h5",
        rng_for("bag of a.tif").standard_normal((len(coords), 512), dtype=np.float32),
        coords,
        layout="trident",
        patch_encoder="phantom-512",
        coords_attributes={"patch_size_level0": 256},
    )
    shutil.rmtree(folder / "one")
    return Here()


def _slide_formats(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """A picture, one of a camera with 12 bits, and a stack of pages."""
    picture = rng_for("picture").integers(0, 256, (300, 300, 3), dtype=np.uint8)
    (folder / "pictures").mkdir()
    Image.fromarray(picture).save(folder / "pictures" / "a.png")
    tifffile.imwrite(folder / "camera.tif", picture.astype(np.uint16) * 16, photometric="rgb")
    pages = np.ascontiguousarray(np.moveaxis(picture, 2, 0))
    tifffile.imwrite(folder / "stack.tif", pages, photometric="minisblack")
    return Here()


def _scale(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """Slides, a cluster of a scheduler and a worker, and a place where two machines meet."""
    _draw_slides(folder, shell)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    for words in (
        ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        ["worker", address, "--nthreads", "1", "--no-dashboard"],
    ):
        log = running.enter_context((folder / f"{words[0]}.log").open("w"))
        process = subprocess.Popen(
            [Path(sys.executable).with_name("dask"), *words],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        running.callback(process.wait)
        running.callback(process.terminate)
    names = {
        "tcp://node1:8786": address,
        "node1:29400": f"127.0.0.1:{free_port()}",
        "--nproc-per-node 4": "--nproc-per-node 1",
        "/shared/results": "shared/results",
    }
    return Here(names, twice="torchrun")


def _external_encoders(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """Bags where the page's line for TRIDENT puts them, saying what the line asks for."""
    page = steps(ROOT / "docs" / "external-encoders.md")
    (line,) = [step.text for step in page if step.text.startswith("trident batch -- ")]
    words = shlex.split(line, comments=True)[3:]
    said = dict(zip(words[::2], words[1::2], strict=True))
    grid = f"{said['--mag']}x_{said['--patch_size']}px_0px_overlap"
    bags = f"{said['--job_dir']}/{grid}/features_{said['--patch_encoder']}"
    write_titan_bags(
        folder / bags,
        SLIDES,
        patch_encoder=said["--patch_encoder"],
        magnification=int(said["--mag"]),
        patch_size=int(said["--patch_size"]),
    )
    toml = f'[cohorts.bcnb]\nfeatures = "{bags}"\nlabels = "labels.csv"\n'
    (folder / "mbench.toml").write_text(toml)
    path = [str(write_trident(folder / "site")), os.environ.get("PYTHONPATH", "")]
    return Here(variables={"PYTHONPATH": os.pathsep.join(filter(None, path))})


def _regression(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """The whole catalogue, a copy of the committed baseline, and the card of the reader's suite."""
    shipped = resource_folder("leaderboard")
    copied = shutil.copytree(shipped, folder / "checkout" / "leaderboard")
    binaries = write_wrapper(folder / "checkout" / "bin", copied)
    cards = shutil.copytree(ROOT / "examples" / "median_encoder", folder / "bench" / "cards")
    (cards / "card.yaml").rename(cards / "my-encoder.yaml")
    path = os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]])
    return Here(variables={"PATH": path})


def _embeddings(folder: Path, shell: Shell, running: ExitStack) -> Here:
    """Embeddings of the slides of built-in labels, and of those of the reader's labels."""
    table = pd.read_csv(resource_folder("tasks") / "labels" / "tcga-breast.csv")
    ids = table["slide_id"].tolist()
    rows = rng_for("titan").standard_normal((len(ids), 16), dtype=np.float32)
    np.savez(folder / "titan.npz", ids=ids, embeddings=rows)
    frame = pd.DataFrame(rows, index=pd.Index(ids, name="slide_id")).add_prefix("f")
    frame.to_parquet(folder / "titan.parquet")
    frame.groupby(table["case_id"].to_numpy()).mean().rename_axis("case_id").to_csv(
        folder / "cases.csv"
    )
    pd.to_pickle({"filenames": ids, "embeddings": rows}, folder / "titan.pkl")
    vectors = folder / "trident" / "slide_features_titan"
    vectors.mkdir(parents=True)
    for number in range(1, SLIDES + 1):
        with h5py.File(vectors / f"{number}.h5", "w") as handle:
            handle["features"] = rows[number]
    return Here()


READY: dict[str, Callable[[Path, Shell, ExitStack], Here]] = {
    "README.md": _readme,
    "audit.md": _audit,
    "data.md": _data,
    "embeddings.md": _embeddings,
    "import.md": _import,
    "leaderboard.md": _leaderboard,
    "survival.md": _survival,
    "slides.md": _slides,
    "slide-formats.md": _slide_formats,
    "scale.md": _scale,
    "external-encoders.md": _external_encoders,
    "regression.md": _regression,
}


def _write_toml(folder: Path) -> None:
    """Write mbench.toml as bring-your-data.md has it for TRIDENT."""
    (toml,) = [s for s in steps(ROOT / "docs" / "bring-your-data.md") if s.file == "trident.toml"]
    (folder / "mbench.toml").write_text(toml.text)


def _draw_slides(folder: Path, shell: Shell) -> list[Path]:
    """Draw PHANTOM slides into slides/, one of them as 1.svs, and return them."""
    shell("python examples/phantom_slides bcnb --cases 6 --mpp 1 --out .")
    first, *others = sorted((folder / "slides").glob("*.tif"))
    return [first.rename(folder / "slides" / "1.svs"), *others]


def free_port() -> int:
    """A port of this machine that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
