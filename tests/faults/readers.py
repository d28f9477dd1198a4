"""Every format that is read: a sound file of it, its reader, and whether it guards its content.

A guarded format carries a hash, so that no changed byte may pass for the content. The others are
the user's own words and numbers, where a changed byte may be as good as what was there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from madeleine_bench.data.bag_sources import FileFactsCache
from madeleine_bench.data.bags import read_bag_file, read_bag_header
from madeleine_bench.data.hdf5 import read_patch_file, write_patch_file
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.packed import open_store
from madeleine_bench.data.packing import pack_cohort
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.encoders.weights import ModelDescription, read_weights, write_weights
from madeleine_bench.finetuning.evaluation import Fit, read_fit, write_fit
from madeleine_bench.hashing import hash_file
from madeleine_bench.leaderboard.regression import read_explanations, read_suite
from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.pretrain.checkpoint import (
    Checkpoint,
    RunState,
    read_checkpoint,
    write_checkpoint,
)
from madeleine_bench.pretrain.log import append_row, read_log
from madeleine_bench.pretrain.recipe import load_recipe
from madeleine_bench.protocols.results import FitReport, FoldPrediction
from madeleine_bench.resources import resource_folder
from madeleine_bench.results.store import ResultStore, read_record
from madeleine_bench.runner.cohorts import open_cohort
from madeleine_bench.runner.lock import read_lock
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.reader import Slide
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.cohort import CohortSpec, Columns
from madeleine_bench.specs.config import load_config
from madeleine_bench.specs.implementation import check_weights_file
from madeleine_bench.specs.loader import parse_spec, read_yaml
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.reference import read_adjudications, read_published
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.types import Silence
from tests.faults.scenarios import TASK, Workshop
from tests.tool_bags import write_bag_file

COLUMNS = Columns(slide="slide_id", case="case_id", stain="stain")


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: of the format.
        path: of a sound file.
        read: returns its content as something that can be compared.
        guarded: whether every changed byte must be noticed.
    """

    name: str
    path: Path
    read: Callable[[], Any]
    guarded: bool = False


def formats(folder: Path, shop: Workshop) -> dict[str, Format]:
    """Sound files of every format, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [
        *_declared(folder, shop), *_tables(folder), *_bags(folder, shop), *_packed(folder, shop),
        *_results(folder, shop), *_networks(folder),
    ]  # fmt: skip
    return {one.name: one for one in made}


@contextmanager
def put(path: Path, data: bytes) -> Iterator[None]:
    """Give a file other bytes while the block runs."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def _declared(folder: Path, shop: Workshop) -> Iterator[Format]:
    tasks = shop.folder / "tasks"

    def spec(name: str, source: Path, read: Callable[[Path], Any]) -> Format:
        path = folder / name / source.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source.read_bytes())
        return Format(name, path, lambda: read(path))

    yield Format("task YAML", tasks / f"{TASK}.yaml", lambda: load_catalogue(tasks))
    yield spec(
        "cohort YAML", tasks / "cohorts" / "bcnb.yaml",
        lambda path: parse_spec(CohortSpec, read_yaml(path), path),
    )  # fmt: skip
    yield spec(
        "protocol YAML", tasks / "protocols" / "few-shot-v2.yaml",
        lambda path: parse_spec(ProtocolSpec, read_yaml(path), path),
    )  # fmt: skip
    yield spec(
        "encoder card", shop.folder / "encoders" / "toy" / "toy.yaml",
        lambda path: find_encoder(str(path)),
    )  # fmt: skip
    patch_card = next(resource_folder("encoders").rglob("patch/*.yaml"))
    yield spec(
        "patch encoder card", patch_card,
        lambda path: parse_spec(PatchEncoderCard, read_yaml(path), path),
    )  # fmt: skip
    yield spec("recipe YAML", shop.folder / "recipe.yaml", load_recipe)
    board = resource_folder("leaderboard")
    shipped = load_catalogue().tasks
    yield spec(
        "published scores", next((board / "published").glob("*.yaml")),
        lambda path: read_published(path.parent, shipped),
    )  # fmt: skip
    yield spec("adjudications", board / "adjudications.yaml", read_adjudications)
    suite = next((board / "regression").glob("*suite*.yaml"), None)
    if suite is not None:
        yield spec("regression suite", suite, read_suite)
    (folder / "explained.yaml").write_text(
        "explained:\n  - {verdict: improved, baseline: [0123456789ab], "
        "reason: because it is better}\n"
    )
    yield spec("explanations", folder / "explained.yaml", read_explanations)
    yield spec("tasks.lock", resource_folder("tasks") / "tasks.lock", read_lock)
    toml = folder / "mbench.toml"
    toml.write_text(
        '[cohorts.bcnb]\nfeatures = "bcnb"\nlabels = "bcnb.csv"\n'
        'columns = { slide = "slide_id", case = "" }\n[cohorts.bcnb.tasks.bcnb-er]\n'
        'map = { "1" = "positive" }\n'
    )
    yield Format("mbench.toml", toml, lambda: load_config(toml))


def _tables(folder: Path) -> Iterator[Format]:
    rows = [(f"s{n:02d}", f"c{n // 2}", "H&E" if n % 2 else "ER", str(n)) for n in range(20)]
    table = pd.DataFrame(rows, columns=["slide_id", "case_id", "stain", "er"])
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        path = folder / f"labels{suffix}"
        table.to_csv(path, sep=separator, index=False)
        yield Format(f"label {suffix[1:].upper()}", path, _table_reader(path))
    path = folder / "labels.parquet"
    table.to_parquet(path)
    yield Format("label parquet", path, _table_reader(path))


def _table_reader(path: Path) -> Callable[[], Any]:
    return lambda: read_label_table(path, COLUMNS).to_csv()


def _bags(folder: Path, shop: Workshop) -> Iterator[Format]:
    features = rng_for("faults", "bag").standard_normal((23, 6), dtype=np.float32)
    coords = np.arange(46).reshape(23, 2) * 256
    for layout in ("clam", "trident", "atlaspatch"):
        path = folder / f"{layout}.h5"
        write_bag_file(path, features, coords, layout=layout, patch_encoder="conch")
        yield Format(f"bag, {layout}", path, _bag_reader(path))
    path = folder / "bag.pt"
    torch.save(torch.from_numpy(features), path)
    yield Format("bag, .pt", path, _bag_reader(path))
    attributes = {"name": "s", "savetodir": "f", "patch_size": 256, "patch_size_level0": 512}
    patches = folder / "patches.h5"
    write_patch_file(patches, coords.astype(np.int32), attributes)
    yield Format("patch file", patches, lambda: _plain(read_patch_file(patches)))
    slide = folder / "slide.tif"
    slide.write_bytes((shop.folder / "slides" / "0.tif").read_bytes())
    yield Format("slide", slide, lambda: _pixels(slide))


def _bag_reader(path: Path) -> Callable[[], Any]:
    return lambda: (str(read_bag_header(path)), _plain(read_bag_file(path)))


def _pixels(path: Path) -> bytes:
    with Slide(path) as slide:
        return bytes(slide.thumbnail(8.0).rgb.tobytes())


def _packed(folder: Path, shop: Workshop) -> Iterator[Format]:
    catalogue = load_catalogue(shop.folder / "tasks")
    data = open_cohort(Workspace(folder, "local"), catalogue, "bcnb", load_config(shop.config)).data
    store = folder / "store"
    pack_cohort(data, store, Silence(), part_bytes=1_000)
    files = sorted(store.glob("*.safetensors"))

    def whole() -> Any:
        opened = open_store(store, verify=True)
        return opened.slide_ids, [opened.bag(i).tobytes() for i in range(len(opened))]

    for name, path in (
        ("packed index", store / "index.json"),
        ("packed first file", files[0]),
        ("packed second file", files[1]),
        ("packed last file", files[-1]),
    ):  # fmt: skip
        yield Format(name, path, whole, guarded=True)
    memory = folder / "cache" / "files.jsonl"
    memory = next((folder / "cache").iterdir()) if not memory.exists() else memory
    bag = shop.folder / "bcnb" / "1.h5"
    FileFactsCache(memory).facts(bag, None)

    def remembered() -> Any:
        fresh = FileFactsCache(memory)
        return [
            (fresh.sha256(path), fresh.facts(path, None))
            for path in sorted((shop.folder / "bcnb").glob("*.h5"))
        ]

    yield Format("file memory", memory, remembered, guarded=True)


def _results(folder: Path, shop: Workshop) -> Iterator[Format]:
    record_path = next((shop.results / "records").rglob("*.json"))
    record = read_record(record_path)
    store = ResultStore(shop.results)
    predictions = shop.results / record.predictions.path

    def scored() -> Any:
        found = read_record(record_path).model_dump(mode="json")
        return {key: found[key] for key in found if key not in ("provenance", "verification")}

    yield Format("record", record_path, scored, guarded=True)
    yield Format(
        "predictions", predictions, lambda: store.read_predictions(record).to_csv(), guarded=True
    )
    embeddings = next((shop.results / "embeddings").rglob("*.safetensors"))
    yield Format(
        "embeddings", embeddings, lambda: _plain(read_embeddings(embeddings)), guarded=True
    )
    cost = embeddings.with_suffix(".json")
    yield Format("cost of embeddings", cost, lambda: EmbeddingStore(shop.results).cost(embeddings))
    splits = next((shop.results / "splits").rglob("*.csv"))
    catalogue = load_catalogue(shop.folder / "tasks")
    data = open_cohort(Workspace(folder, "local"), catalogue, "bcnb", load_config(shop.config)).data
    task, protocol = catalogue.tasks[TASK], catalogue.protocol("linear-probe/v2")
    units = build_units(task, data, "bcnb")

    def frozen() -> Any:
        return frozen_splits(splits.parent, task, protocol, units).hash

    frozen()
    yield Format("frozen splits", splits, frozen, guarded=True)

    def claimed() -> Any:
        bundle = read_bundle(shop.bundle)
        hashes = [(cohort, rows.hash) for cohort, rows in sorted(bundle.embeddings.items())]
        return [
            bundle.card,
            bundle.claims,
            sorted(bundle.files.items()),
            bundle.stated_hashes,
            hashes,
        ]

    yield Format("submission", shop.bundle, claimed, guarded=True)


def _networks(folder: Path) -> Iterator[Format]:
    torch.manual_seed(0)
    model = Madeleine(6, 4, 2)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    about = ModelDescription(
        input_dim=6, width=4, heads=2, stains=("H&E",), stain_encoding=False, cohort="acrobat"
    )
    weights = folder / "weights.safetensors"
    write_weights(weights, {"breast": (about, state)})
    sha256 = hash_file(weights)

    def shipped() -> Any:
        check_weights_file(folder / "card.yaml", weights, sha256)
        return _plain(read_weights(weights)["breast"][1])

    yield Format("weights", weights, shipped, guarded=True)
    inputs = {"recipe": {"epochs": 3}, "data": "abc"}
    checkpoint = folder / "checkpoint.safetensors"
    best = {name: value.clone() for name, value in state.items()}
    write_checkpoint(checkpoint, Checkpoint(RunState(1, 2, {"loss": 0.5}), state, {}, best, inputs))

    def resumed() -> Any:
        found = read_checkpoint(checkpoint, inputs)
        return vars(found.state), _plain(found.model), _plain(found.best)

    yield Format("checkpoint", checkpoint, resumed, guarded=True)
    fit = folder / "fit.safetensors"
    report = FitReport((0, 1), 8, 4, True, None, 3, {"loss": 0.25})
    columns = {"score": np.arange(4, dtype=np.float64)}
    network = {name: value.numpy() for name, value in state.items()}
    write_fit(fit, Fit(FoldPrediction(report, columns), network, {"centre": np.zeros(6)}))

    def fitted() -> Any:
        found = read_fit(fit)
        if found is None:  # it is trained again
            return None
        return found.prediction.report, _plain(found.prediction.columns)

    yield Format("fit", fit, fitted, guarded=True)
    log = folder / "log.csv"
    for epoch in range(3):
        append_row(log, {"epoch": epoch + 1, "loss": 1.0 / (epoch + 1), "seconds": 2.0})
    yield Format("training log", log, lambda: read_log(log).to_csv())


def _plain(value: Any) -> Any:
    """Arrays and tensors as bytes, so that equal content compares equal."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, torch.Tensor):
        return _plain(value.numpy())
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in sorted(value.items())}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return repr(value) if not isinstance(value, (str, int, float, tuple, list)) else value
