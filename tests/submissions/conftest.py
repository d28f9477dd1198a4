"""A small cohort, a third party's encoder scored on it, its bundle, and what attackers do to it."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from madeleine_bench.encoders.registry import shipped_encoders
from madeleine_bench.hashing import hash_array, hash_bytes, hash_json
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.record import record_id
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.submissions.pack import new_encoder, pack
from madeleine_bench.submissions.parsing import parse_embeddings
from madeleine_bench.types import Silence
from tests.conftest import LocalBcnb

TASKS = ("bcnb-er", "bcnb-pr")
PROTOCOL = "linear-probe/v2"


@dataclass(frozen=True)
class Submitted:
    """A cohort, a third party's encoder beside mean-pool in its results folder, and the bundle."""

    cohort: LocalBcnb
    card: Path
    results: Path
    bundle: Path

    @property
    def verify(self) -> list[str | Path]:
        """The command of a verifier with the same data and a folder of known encoders."""
        return ["submit", "verify", *self.options]

    @property
    def options(self) -> list[str | Path]:
        return ["--config", self.cohort.config, "--results", self.results, "--jobs", "1"]


@pytest.fixture(scope="session")
def catalogue():
    return load_catalogue()


_shipped = lru_cache(shipped_encoders)


@pytest.fixture(autouse=True)
def _catalogue_read_once(catalogue, monkeypatch):
    """Most of the time of a command is reading the same YAML; other tests read it each time."""

    def load(folder=None):
        return catalogue if folder is None else load_catalogue(folder)

    monkeypatch.setattr("madeleine_bench.specs.catalogue.load_catalogue", load)
    monkeypatch.setattr("madeleine_bench.submissions.report.shipped_encoders", _shipped)


@pytest.fixture(scope="session")
def first(tmp_path_factory, catalogue) -> Submitted:
    """Made once; tests copy it (`submitted`) or only read it."""
    root = tmp_path_factory.mktemp("submission")
    cohort = LocalBcnb(root / "bcnb")
    rows = ["slide_id,er,pr,her2,her2_binary,ki67_binary,ALN_status"]
    for number in range(1, 41):
        positive = number % 3 == 0
        features = rng_for("tests", number).standard_normal((5 + number % 4, 8), dtype=np.float32)
        features[:, 0] += 2.0 * positive
        cohort.write_bag(number, features)
        other = number % 2
        rows.append(f"{number},{int(positive)},{other},{other},{1 - other},{other},N0")
    cohort.labels.write_text("\n".join(rows) + "\n")
    cohort.config.write_text('[cohorts.bcnb]\nfeatures = "features"\nlabels = "labels.csv"\n')
    card = new_encoder("stranger", root)
    results = root / "results"
    report = run(
        Request(
            (str(card), "max-pool"), TASKS, (PROTOCOL,), Workspace(results, "local", cohort.config)
        ),
        Silence(),
    )
    assert not report.failures
    bundle = root / "stranger.zip"
    pack(str(card), results, bundle, None, catalogue, with_code=True)
    return Submitted(cohort, card, results, bundle)


@pytest.fixture
def submitted(first, tmp_path) -> Submitted:
    """A copy to write to."""
    root = tmp_path / "submission"
    shutil.copytree(first.bundle.parent, root)
    return Submitted(
        LocalBcnb(root / "bcnb"), root / "stranger" / "card.yaml", root / "results",
        root / "stranger.zip",
    )  # fmt: skip


def members_of(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_manifest(members: dict[str, bytes]) -> dict[str, bytes]:
    """The members with a submission.json that lists them as they are: what an attacker does."""
    manifest = json.loads(members["submission.json"])
    manifest["files"] = [
        {"path": name, "size": len(data), "sha256": hash_bytes(data)}
        for name, data in sorted(members.items())
        if name != "submission.json"
    ]
    return {**members, "submission.json": json.dumps(manifest).encode()}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture
def altered(first, tmp_path) -> Callable[..., Path]:
    """Make a bundle from the honest one with members put in (bytes) or taken out (None)."""

    def make(changes: dict[str, bytes | None], manifest: bool = True) -> Path:
        members = {**members_of(first.bundle), **changes}
        kept = {name: data for name, data in members.items() if data is not None}
        path = tmp_path / "altered.zip"
        path.write_bytes(zipped(with_manifest(kept) if manifest else kept))
        return path

    return make


def altered_record(bundle: Path, member: str, change: Callable[[dict], None]) -> bytes:
    """A claimed record after a change, with an id that fits again."""
    record = json.loads(members_of(bundle)[member])
    change(record)
    record["record_id"] = record_id(record)
    return json.dumps(record).encode()


def embeddings_file(ids: list[str], matrix: np.ndarray, **more: str) -> bytes:
    metadata = {"ids": ids, "hash": hash_array(ids, matrix), **more}
    return save({"embeddings": matrix}, {"madeleine_bench": json.dumps(metadata)})


def altered_embeddings(
    bundle: Path, change: Callable[[list[str], np.ndarray], tuple[list[str], np.ndarray]]
) -> dict[str, bytes]:
    """Embeddings after a change, and records that name them as their own: a thorough attacker."""
    members = members_of(bundle)
    member = "embeddings/bcnb.safetensors"
    found, _ = parse_embeddings(members[member], member)
    ids, matrix = change(list(found.ids), found.matrix.copy())
    new = hash_array(ids, matrix)

    def refer(record: dict) -> None:
        record["inputs"]["embeddings"] = new
        key = [new, record["task"]["task_hash"], record["protocol"], record["scoring_version"]]
        record["resume_key"] = hash_json(key)
        path = record["predictions"]["path"].split(".")
        path[-3] = record["resume_key"][:16]
        record["predictions"]["path"] = ".".join(path)

    records = {
        name: altered_record(bundle, name, refer) for name in members if name.startswith("records/")
    }
    return {member: embeddings_file(ids, matrix), **records}


def snapshot(*folders: Path) -> dict[str, int]:
    """Every file under the folders with when it was written."""
    return {
        str(path): path.stat().st_mtime_ns
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
