"""The commands that are broken, at toy size, and what of their output must be the same again."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madeleine_bench.hashing import hash_bytes
from madeleine_bench.resources import resource_folder
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.pictures import write_pyramid
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.submissions.pack import pack
from madeleine_bench.types import Silence
from tests.pretrain.conftest import DIM, RECIPE, STAINS
from tests.slides.conftest import section
from tests.stranger import MEAN, write_stranger
from tests.tool_bags import write_bag_file

SLIDES, CASES = 24, 12
_FOR_THE_NEXT = ("checkpoint.safetensors",)
_OF_THE_CLOCK = ("seconds", "patches_per_s", "status")  # whether a bag is made or found there
TASK, PROTOCOL = "bcnb-er", "linear-probe/v2"


@dataclass(frozen=True)
class Workshop:
    """A user's folder: a catalogue, two cohorts, slides, an encoder, results and a bundle."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "mbench.toml"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def bundle(self) -> Path:
        return self.folder / "toy.zip"

    def options(self, out: Path) -> list[str | Path]:
        return [
            "--config", self.config, "--catalogue", self.folder / "tasks", "--results", out,
        ]  # fmt: skip

    def encoder(self, name: str = "toy", body: str = MEAN) -> Path:
        """Write an encoder, and return its card."""
        return write_stranger(self.folder / "encoders" / name, body, name=name, trained="[]")


@dataclass(frozen=True)
class Scenario:
    """A command, and whether the same command continues where it was cut off."""

    name: str
    arguments: Callable[[Path], list[str | Path]]


def make_workshop(folder: Path) -> Workshop:
    """Write the folder; the same bytes every time."""
    shop = Workshop(folder)
    shipped = resource_folder("tasks")
    for name in (
        "bcnb-er.yaml", "cohorts/bcnb.yaml", "cohorts/acrobat.yaml",
        "protocols/linear-probe-v2.yaml", "protocols/few-shot-v2.yaml",
    ):  # fmt: skip
        (folder / "tasks" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped / name, folder / "tasks" / name)
    _write_bcnb(folder)
    _write_acrobat(folder)
    shop.config.write_text(
        '[cohorts.bcnb]\nfeatures = "bcnb"\nlabels = "bcnb.csv"\n'
        '[cohorts.acrobat]\nfeatures = "acrobat"\nlabels = "acrobat.csv"\n'
    )
    (folder / "recipe.yaml").write_text(RECIPE.format(encoder="madeleine"))
    for number in range(2):
        picture = section(300, 320 + 40 * number, 40)
        write_pyramid(folder / "slides" / f"{number}.tif", picture, mpp=0.5, description="")
    card = shop.encoder()
    tasks = folder / "tasks"
    request = Request(
        (str(card),), (TASK,), (PROTOCOL,),
        Workspace(shop.results, "local", shop.config, tasks),
    )  # fmt: skip
    report = run(request, Silence())
    assert not report.failures, report.failures
    pack(str(card), shop.results, shop.bundle, None, load_catalogue(tasks), with_code=True)
    return shop


def scenarios(shop: Workshop) -> dict[str, Scenario]:
    """The commands by name; each writes below one folder."""
    folder = shop.folder
    card = folder / "encoders" / "toy" / "toy.yaml"

    def run_arguments(out: Path) -> list[str | Path]:
        return [
            "run", "--encoder", card, "--task", TASK, "--protocol", PROTOCOL, "--jobs", "1",
            *shop.options(out),
        ]  # fmt: skip

    def pretrain(out: Path) -> list[str | Path]:
        return [
            "pretrain", folder / "recipe.yaml", "--set", "epochs=2", "--device", "cpu", "--resume",
            "--out", out / "model", *shop.options(out),
        ]  # fmt: skip

    def extract(out: Path) -> list[str | Path]:
        return [
            "features", "extract", "--slides", folder / "slides", "--cohort", "bcnb",
            "--patch-encoder", "stain-texture", "--patch-px", "64", "--workers", "1", "--out", out,
            "--catalogue", folder / "tasks",
        ]  # fmt: skip

    def pack_bags(out: Path) -> list[str | Path]:
        return [
            "data", "pack", "bcnb", "--shard-gb", "0.001", "--out", out / "store",
            *shop.options(out),
        ]  # fmt: skip

    def build(out: Path) -> list[str | Path]:
        return [
            "leaderboard", "build", "--out", out / "site", "--results", shop.results,
        ]  # fmt: skip

    def verify(out: Path) -> list[str | Path]:
        return [
            "submit", "verify", shop.bundle, "--jobs", "1", "--out", out / "report.md",
            "--json", out / "report.json", *shop.options(out / "results"),
        ]  # fmt: skip

    made = {
        "run": run_arguments, "pretrain": pretrain, "extract": extract, "pack": pack_bags,
        "build": build, "verify": verify,
    }  # fmt: skip
    return {name: Scenario(name, arguments) for name, arguments in made.items()}


def contents(out: Path) -> dict[str, str]:
    """Hash of each file below a folder that must be the same again, by its path.

    Left out is what tells the clock: provenance, costs and seconds. Caches and the checkpoint
    serve only the next run; temporary files are nobody's.
    """
    found: dict[str, str] = {}
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and (same := _same(relative, path)) is not None:
            found[relative.as_posix()] = hash_bytes(same)
    return found


def leftovers(out: Path) -> list[str]:
    """Temporary files that somebody left behind."""
    return sorted(path.name for path in out.rglob("*.tmp"))


def _same(relative: Path, path: Path) -> bytes | None:
    if "cache" in relative.parts[:-1] or path.name in _FOR_THE_NEXT:
        return None
    if "embeddings" in relative.parts and path.suffix == ".json":
        return None
    data = path.read_bytes()
    if "records" in relative.parts:
        record = json.loads(data)
        del record["provenance"]
        return json.dumps(record).encode()
    if path.name == "run.json":
        about = json.loads(data)
        del about["machine"]
        return json.dumps(about).encode()
    if path.name == "log.csv" or ("features_" in path.name and path.suffix == ".csv"):
        rows = csv.DictReader(io.StringIO(data.decode()))
        kept = [{k: v for k, v in row.items() if k not in _OF_THE_CLOCK} for row in rows]
        return json.dumps(kept).encode()
    return data


def _write_bcnb(folder: Path) -> None:
    rows = ["slide_id,er,pr"]
    for number in range(1, SLIDES + 1):
        features = rng_for("faults", number).standard_normal((5 + number % 4, 8), dtype=np.float32)
        features[:, 0] += 2.0 * (number % 2)
        _bag(folder / "bcnb" / f"{number}.h5", features)
        rows.append(f"{number},{number % 2},{number % 3 == 0:d}")
    (folder / "bcnb.csv").write_text("\n".join(rows) + "\n")


def _write_acrobat(folder: Path) -> None:
    rows = ["slide_id,case_id,stain"]
    for case in range(CASES):
        shared = rng_for("case", case).standard_normal(DIM)
        for number, stain in enumerate(STAINS):
            noise = rng_for("bag", case, number).standard_normal((9 + (case + number) % 7, DIM))
            name = f"c{case:02d}-{number}"
            _bag(folder / "acrobat" / f"{name}.h5", (2 * shared + noise).astype(np.float32))
            rows.append(f"{name},case{case:02d},{stain}")
    (folder / "acrobat.csv").write_text("\n".join(rows) + "\n")


def _bag(path: Path, features: np.ndarray) -> None:
    write_bag_file(path, features, np.zeros((len(features), 2), np.int64), layout="clam")
