"""Train the weights that ship: three encoders, each on the two phantom pretraining cohorts.

    python benchmarks/train_shipped_weights.py --work /tmp/shipped

trains what is not there yet, two runs at a time with one thread each (interrupt it anywhere and
run it again), joins the breast and the
kidney model of each encoder into one file, and writes weights and cards into encoders/ and
baselines/, and log, curves and `run.json` (recipe, seed, machine, hash of the data) of each run
into encoders/training/. On two CPU cores it takes the better part of an hour.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from madeleine_bench.encoders.weights import CITATION, read_weights, write_weights
from madeleine_bench.errors import CheckFailed
from madeleine_bench.hashing import hash_file
from madeleine_bench.phantoms.world import PATCH_ENCODER
from madeleine_bench.pretrain.loop import RUN
from madeleine_bench.pretrain.run import CURVES, LOG
from madeleine_bench.specs.card import EncoderCard, Weights, card_text

ROOT = Path(__file__).resolve().parents[1]
COHORTS = ("acrobat", "bwh-kidney-train")
LANES = 2
LIMIT_BYTES = 13_000_000
KEPT = (LOG, CURVES, RUN)
ENCODERS = {
    "madeleine": (
        "encoders",
        "Madeleine (phantom weights)",
        "H&E slides aligned with the other stains of their case by contrast (InfoNCE) and graph "
        "optimal transport.",
    ),
    "madeleine-se": (
        "encoders",
        "Madeleine with stain encodings (phantom weights)",
        "As madeleine, with a learnt 32-d code of the stain joined to every patch.",
    ),
    "intra-ssl": (
        "baselines",
        "Intra-SSL (phantom weights)",
        "The same encoder trained with H&E alone: two views of one slide's patches, InfoNCE.",
    ),
}


def train(name: str, cohort: str, work: Path) -> Path:
    """Return the folder of a finished run, training it or going on with it where needed."""
    out = work / f"{name}-{cohort}"
    if not (out / "card.yaml").is_file():
        command = [
            Path(sys.executable).with_name("mbench"), "pretrain", name, "--cohort", cohort,
            "--source", "phantom", "--device", "cpu", "--results", work, "--out", out,
            "--name", f"{name}-{cohort}", "--resume",
        ]  # fmt: skip
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return out


def ship(name: str, runs: list[Path]) -> Path:
    """Return the card of an encoder, after joining the weights of its runs beside it."""
    folder, title, description = ENCODERS[name]
    weights = ROOT / folder / f"{name}.safetensors"
    files = [run / f"{run.name}.safetensors" for run in runs]
    models = {organ: model for path in files for organ, model in read_weights(path).items()}
    write_weights(weights, models)
    first = next(iter(models.values()))[0]
    sha256 = hash_file(weights)
    card = EncoderCard(
        name=name,
        revision=sha256[:12],
        title=title,
        kind="baseline" if folder == "baselines" else "encoder",
        implementation="madeleine_bench.encoders.madeleine:TrainedMadeleine",
        weights=Weights(path=weights.name, sha256=sha256),
        patch_encoder=PATCH_ENCODER,
        input_dim=first.input_dim,
        dim=first.width,
        training_cohorts=tuple(sorted(model.cohort for model, _ in models.values())),
        licence="Apache-2.0",
        description=f"{description} PHANTOM weights: trained on made-up slides, one model for "
        "each organ; they show that the code works and mean nothing on real slides. Recipes, logs "
        "and data hashes: encoders/training/.",
        citation=CITATION,
    )
    path = ROOT / folder / f"{name}.yaml"
    path.write_text(card_text(card), encoding="utf-8")
    for run in runs:
        target = ROOT / "encoders" / "training" / run.name
        target.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            shutil.copyfile(run / file, target / file)
    return path


def main() -> None:
    """Train, join, and check the size of what ships."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and bags")
    parser.add_argument(
        "--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="those to train"
    )
    wanted = parser.parse_args()
    work, encoders = wanted.work, wanted.encoders
    todo = [(name, cohort) for name in encoders for cohort in COHORTS]
    with ThreadPoolExecutor(LANES) as pool:
        runs = dict(zip(todo, pool.map(lambda run: train(*run, work), todo), strict=True))
    for name in encoders:
        print(f"card: {ship(name, [runs[name, cohort] for cohort in COHORTS])}")
    total = sum(path.stat().st_size for path in ROOT.glob("*/*.safetensors"))
    print(f"{total / 1e6:.1f} MB of weights")
    if total > LIMIT_BYTES:
        raise CheckFailed(f"the weights are above {LIMIT_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
