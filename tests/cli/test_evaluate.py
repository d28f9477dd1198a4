"""`mbench evaluate`: embeddings of a file on tasks, in every kind of file, and wrong inputs."""

import pickle  # noqa: TID251  (to show that it is refused)
import resource
import sys
from subprocess import run

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import madeleine_bench as mb
from madeleine_bench.data.embedding_files import read_embedding_file
from madeleine_bench.resources import resource_folder
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for

N, DIM = 1000, 768
PROBE = ["--protocol", "linear-probe", "--allow-partial"]


@pytest.fixture(scope="module")
def slides():
    """The first slides of the built-in table of TCGA-BRCA, in an order that is not sorted."""
    return pd.read_csv(resource_folder("tasks") / "labels" / "tcga-breast.csv").iloc[:N]


@pytest.fixture(scope="module")
def matrix(slides):
    rows = rng_for("embeddings").standard_normal((N, DIM)).astype(np.float32)
    return rows + 0.3 * (slides["ERStatus"] == "Positive").to_numpy()[:, None] * (
        np.arange(DIM) < 40
    ).astype(np.float32)


@pytest.fixture(scope="module")
def files(slides, matrix, tmp_path_factory):
    """The same embeddings in every kind of file."""
    folder = tmp_path_factory.mktemp("files")
    ids = slides["slide_id"].tolist()
    frame = pd.DataFrame(matrix, index=pd.Index(ids, name="slide_id")).add_prefix("f")
    frame.to_csv(folder / "index.csv")
    frame.rename_axis(None).to_csv(folder / "unnamed.csv")
    frame.to_parquet(folder / "index.parquet")
    columns = frame.reset_index()
    columns.insert(1, "case_id", slides["case_id"].to_numpy())
    columns.to_parquet(folder / "columns.parquet")
    np.savez(folder / "matrix.npz", slide_id=ids, features=matrix.astype(np.float64))
    np.savez(folder / "each.npz", **dict(zip(ids, matrix, strict=True)))
    vectors = {one: torch.from_numpy(row.copy()) for one, row in zip(ids, matrix, strict=True)}
    torch.save(vectors, folder / "dict.pt")
    torch.save({"filenames": ids, "embeddings": torch.from_numpy(matrix)}, folder / "matrix.pt")
    with h5py.File(folder / "matrix.h5", "w") as one, h5py.File(folder / "each.h5", "w") as many:
        one["ids"], one["embeddings"] = ids, matrix
        for name, row in zip(ids, matrix, strict=True):
            many[name] = row
    for name in ("trident", "stamp", "slide2vec"):
        (folder / name).mkdir()
    for name, row in zip(ids, matrix, strict=True):
        with h5py.File(folder / "trident" / f"{name}.h5", "w") as handle:
            handle["features"], handle["coords"] = row, np.zeros((3, 2))
        with h5py.File(folder / "stamp" / f"{name}.h5", "w") as handle:
            handle["feats"] = row[None]
        torch.save(vectors[name], folder / "slide2vec" / f"{name}.pt")
    return folder


KINDS = [
    "matrix.npz", "each.npz", "index.csv", "unnamed.csv", "index.parquet", "columns.parquet",
    "dict.pt", "matrix.pt", "matrix.h5", "each.h5", "trident", "stamp", "slide2vec",
]  # fmt: skip


@pytest.fixture
def evaluate(mbench, tmp_path, monkeypatch):
    """Score a file in a folder without mbench.toml."""
    monkeypatch.chdir(tmp_path)

    def call(path, *more, task="tcga-breast-er", name="titan"):
        return mbench(
            "evaluate", "--embeddings", path, "--task", task, "--name", name,
            "--results", tmp_path / "r", *more,
        )  # fmt: skip

    return call


def ids_of(folder):
    return sorted(record.record_id for record in ResultStore(folder).records())


def test_every_kind_of_file_gives_the_same_record(files, evaluate, tmp_path):
    said = evaluate(files / KINDS[0], *PROBE)
    assert said.code == 0, said.err
    assert "1 computed, 0 already there" in said.err
    assert "no embedding: " in said.err
    (first,) = ids_of(tmp_path / "r")
    for kind in ("index.csv", "columns.parquet", "trident"):
        said = evaluate(files / kind, *PROBE)
        assert said.code == 0, (kind, said.err)
        assert "0 computed, 1 already there" in said.err, kind
    assert ids_of(tmp_path / "r") == [first]
    assert len({read_embedding_file(files / kind).hash for kind in KINDS}) == 1
    again = evaluate(files / "index.csv", *PROBE, "--results", tmp_path / "again")
    assert again.code == 0
    assert ids_of(tmp_path / "again") == [first]


def test_from_a_file_to_a_board_takes_under_20_seconds_of_cpu(files, tmp_path):
    """All five tasks of TCGA-BRCA, each by all of its protocols."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = run(
        [
            sys.executable, "-c", "from madeleine_bench.cli.main import main; main()", "evaluate",
            "--embeddings", files / "matrix.npz", "--task", "tcga-breast-*", "--allow-partial",
            "--patch-encoder", "conch_v15", "--results", tmp_path / "r",
        ],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert made.returncode == 0, made.stderr
    assert "9 computed" in made.stderr
    assert "tcga-breast-subtype" in made.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
    records = list(ResultStore(tmp_path / "r").records())
    assert {r.features.patch_encoder for r in records} == {"conch_v15"}
    assert {r.encoder.name for r in records} == {"matrix"}


def test_by_case_scores_what_the_means_of_slides_score(slides, matrix, evaluate, tmp_path):
    means = pd.DataFrame(matrix.astype(np.float64)).groupby(slides["case_id"].to_numpy()).mean()
    means.rename_axis("case_id").to_csv(tmp_path / "cases.csv")
    rows = pd.DataFrame(matrix, index=slides["slide_id"].to_numpy())
    rows.rename_axis("slide_id").to_csv(tmp_path / "slides.csv")
    assert evaluate(tmp_path / "cases.csv", *PROBE, "--by", "case", name="by-case").code == 0
    assert evaluate(tmp_path / "slides.csv", *PROBE, name="by-slide").code == 0
    one, two = ResultStore(tmp_path / "r").records()
    assert one.inputs.labels == two.inputs.labels
    assert one.inputs.splits == two.inputs.splits
    assert one.scores.main.value == pytest.approx(two.scores.main.value, abs=1e-6)
    said = evaluate(tmp_path / "cases.csv", *PROBE)
    assert (said.code, "Embeddings by slide or by case: --by" in said.err) == (2, True)


def test_a_loaded_task_gives_the_same_score(slides, matrix, files, evaluate, tmp_path):
    assert evaluate(files / "matrix.npz", *PROBE).code == 0
    (record,) = ResultStore(tmp_path / "r").records()
    task = mb.load_task("tcga-breast-er")
    assert {"unit_id", "case_id", "label"} <= set(task.units)
    assert len(task.splits) == 5
    assert repr(task) == f"tcga-breast-er@1: {len(task.units)} cases, linear-probe/v2, 5 splits"
    frame = pd.DataFrame(matrix, index=slides["slide_id"])
    score = task.evaluate(frame, allow_partial=True)
    assert score.value == record.scores.main.value
    assert score.ci95 == record.scores.main.ci95
    with pytest.raises(mb.InputError, match="Score the rest"):
        task.evaluate(frame)
    with pytest.raises(mb.InputError, match="give the id of one"):
        mb.load_task("tcga-breast-*")


def test_the_card_says_what_the_options_say_and_the_scores_can_be_submitted(
    files, evaluate, mbench, tmp_path
):
    options = [*PROBE, "--patch-encoder", "uni2", "--trained-on", "bcnb", "--trained-on", "mgh"]
    assert evaluate(files / "trident", *options, name="mine").code == 0
    card = tmp_path / "r" / "cards" / "local" / "mine@1.yaml"
    assert mbench("submit", "pack", card, "--results", tmp_path / "r").code == 0
    said = mbench("submit", "verify", tmp_path / "mine.zip", "--level", "V0")
    assert said.code == 0, said.out + said.err
    (record,) = ResultStore(tmp_path / "r").records()
    assert record.encoder.training_cohorts == ("bcnb", "mgh")
    assert (record.encoder.kind, record.features.patch_encoder) == ("encoder", "uni2")
    bag = mb.Bag("s", "c", np.ones((2, 8), np.float32))
    with pytest.raises(mb.InputError, match="were given as a file"):
        mb.load_encoder(mb.find_encoder(str(card))).encode(bag)


def test_other_embeddings_need_another_revision(files, matrix, slides, evaluate, tmp_path):
    assert evaluate(files / "matrix.npz", *PROBE).code == 0
    np.savez(tmp_path / "other.npz", ids=slides["slide_id"].tolist(), features=matrix[::-1])
    said = evaluate(tmp_path / "other.npz", *PROBE)
    assert (said.code, "another --revision" in said.err) == (2, True)
    assert evaluate(tmp_path / "other.npz", *PROBE, "--revision", "2").code == 0
    said = evaluate(files / "matrix.npz", *PROBE, "--patch-encoder", "uni2")
    assert (said.code, "has another patch_encoder, None" in said.err) == (2, True)


def test_a_cohort_with_labels_alone_is_scored_and_not_run(bcnb, mbench, tmp_path):
    bcnb.config.write_text('[cohorts.bcnb]\nlabels = "labels.csv"\n')
    rows = rng_for("rows").standard_normal((40, 8))
    np.savez(tmp_path / "e.npz", ids=[f"{n}.svs" for n in range(1, 41)], embeddings=rows)
    common = ["--task", "bcnb-er", "--config", bcnb.config, "--results", tmp_path / "r"]
    said = mbench("evaluate", "--embeddings", tmp_path / "e.npz", *PROBE[:2], *common)
    assert said.code == 0, said.err
    said = mbench("run", "--encoder", "mean-pool", *common)
    assert (said.code, "cohort bcnb has no 'features'" in said.err) == (2, True)
    assert "labels alone" in mbench("data", "status", "bcnb", "--config", bcnb.config).out
    said = mbench("evaluate", "--embeddings", tmp_path / "e.npz", *common, "--by", "case")
    assert (said.code, "bcnb-er scores slides" in said.err) == (2, True)


def _npz(path, **arrays):
    np.savez(path / "x.npz", **arrays)
    return path / "x.npz"


def _csv(path, text):
    (path / "x.csv").write_text(text)
    return path / "x.csv"


def _written(path, data):
    path.write_bytes(data)
    return path


def _pt(path):
    torch.save({"a": np.zeros(3)}, path)
    return path


A, B = "TCGA-3C-AALI-01Z-00-DX1", "TCGA-3C-AALJ-01Z-00-DX1"
TWO = np.ones((2, 3))
NAN = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]])
WRONG = {
    "no column of ids": lambda p: _csv(p, f"file,f1,f2\n{A},1,2\n"),
    f"'{A}' occurs twice": lambda p: _npz(p, ids=[A, A], embeddings=TWO),
    f"embedding of '{B}': dimension 1 is nan": lambda p: _npz(p, ids=[A, B], embeddings=NAN),
    f"'{A}' has 3 and '{B}' has 4 dimensions": lambda p: _npz(p, **{A: np.ones(3), B: np.ones(4)}),
    "column 'f2', row 3: 'high' is not a number": lambda p: _csv(
        p, f"slide_id,f1,f2\n{A},1,2\n{B},1,high\n"
    ),
    "column 'f2', row 2: '' is not a number": lambda p: _csv(p, f"slide_id,f1,f2\n{A},1,\n"),
    "none of the 2 ids is a slide id": lambda p: _npz(p, ids=["p-1", "p-2"], embeddings=TWO),
    "pandas.read_pickle(p)": lambda p: _written(p / "x.pkl", pickle.dumps({A: [1.0]})),
    "torch.load(p, weights_only=False)": lambda p: _pt(p / "x.pt"),
    "numpy.load(p, allow_pickle=True)": lambda p: _npz(p, ids=[A], embeddings=np.array([None])),
    "no embedding in it": lambda p: _npz(p, ids=[], embeddings=np.ones((0, 3))),
    "has shape (3, 1), float64; expected one vector": lambda p: _npz(
        p, ids=[A, B], embeddings=TWO[..., None]
    ),
    "Features of patches are for mbench run": lambda p: _npz(p, **{A: np.ones((7, 3))}),
    "2 ids and 3 embeddings": lambda p: _npz(p, ids=[A, B], embeddings=np.ones((3, 3))),
    "but no 'embeddings' beside it": lambda p: _npz(p, ids=[A], x=TWO, y=TWO),
    "so it is not read (or it is damaged)": lambda p: _written(p / "x.npz", b"nothing"),
    "cannot be read as HDF5": lambda p: _written(p / "x.h5", b"nothing"),
    "no known kind of file": lambda p: _written(p / "x.xlsx", b"nothing"),
    "no file or folder": lambda p: p / "absent.npz",
    "no files of embeddings in the folder": lambda p: p,
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_embeddings_are_refused_in_one_message(message, evaluate, tmp_path):
    said = evaluate(WRONG[message](tmp_path))
    assert said.code == 2, said.out + said.err
    assert message in said.err
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mean-pool"}, "'mean-pool' is an encoder of madeleine-bench"),
        ({"name": "My Encoder"}, "the encoder card: 'name'"),
        ({"task": "tcga-brest-er"}, "no task is called 'tcga-brest-er'"),
        ({"task": "bcnb-er"}, "cohort bcnb has no built-in label table"),
        ({"protocol": "finetune"}, "starts from patch features"),
    ],
)
def test_wrong_options_are_refused_in_one_message(options, message, evaluate, files):
    more = ["--protocol", options.pop("protocol")] if "protocol" in options else []
    said = evaluate(files / "matrix.npz", *more, **options)
    assert (said.code, message in said.err) == (2, True), said.err


def test_the_line_that_converts_a_pickle_works(evaluate, matrix, slides, tmp_path):
    content = {"filenames": slides["slide_id"].tolist(), "embeddings": matrix}
    path = _written(tmp_path / "titan.pkl", pickle.dumps(content))
    line = evaluate(path).err.partition("write its arrays alone: python ")[2]
    made = run(f"{sys.executable} {line}", shell=True, check=True, capture_output=True, text=True)
    assert not made.stderr
    assert evaluate(f"{path}.plain.npz", *PROBE).code == 0


def test_a_run_on_vectors_names_the_command(bcnb, mbench, tmp_path):
    with h5py.File(bcnb.bag(1), "w") as handle:
        handle["features"] = np.ones(8)
    said = mbench("run", "--encoder", "mean-pool", "--task", "bcnb-er", "--config", bcnb.config,
                  "--results", tmp_path / "r")  # fmt: skip
    assert said.code == 2
    assert "mbench evaluate --embeddings" in said.err
