"""Version 1 and version 2 of the probes on real bags: UCSB breast, and colorectal cancer (Orion).

    python benchmarks/real_probes.py --data ../shared/data       # about a minute

Mean-pool, max-pool and a random projection of mean-pool to 64 dimensions, each 10 times 5 folds of
whole patients. The cohorts are small: where there are too few cases for an interval, none is shown.
Answers: benchmarks/results/real_probes.json; docs/protocols.md shows the table.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.files import write_text
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import score
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import Units

OUT = Path(__file__).resolve().parent / "results" / "real_probes.json"
PROJECTED = 64
ORION_CLASSES = {
    "orion-grade": ("Grade", {"Low": "low", "High": "high"}),
    "orion-mismatch-repair": ("MMRIHC", {"intact": "intact", "absent": "absent"}),
}
Rows = NDArray[np.float64]


def embeddings(bags: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return the embeddings of bags (patch x dim each), in the order of the bags, by encoder."""
    mean = np.stack([bag.mean(axis=0) for bag in bags.values()])
    mixed = rng_for("projection", PROJECTED).standard_normal((mean.shape[1], PROJECTED))
    return {
        "mean-pool": mean,
        "max-pool": np.stack([bag.max(axis=0) for bag in bags.values()]),
        f"mean-pool, {PROJECTED} random dimensions": mean @ mixed,
    }


def ucsb(folder: Path) -> tuple[dict[str, Rows], pd.DataFrame]:
    """Return the 58 bags of UCSB, and a table of units."""
    with np.load(folder / "ucsb_breast.npz") as read:
        bag, label, features = read["bag"], read["label"], read["features"].astype(np.float64)
    names = {f"ucsb-{number:02d}": bag == number for number in np.unique(bag)}
    words = [("benign", "malignant")[int(label[rows][0])] for rows in names.values()]
    table = pd.DataFrame(
        {"unit_id": list(names), "case_id": list(names), "site": "", "label": words}
    )
    return {name: features[rows] for name, rows in names.items()}, table


def orion(folder: Path) -> tuple[dict[str, Rows], pd.DataFrame]:
    """Return the 41 bags of Orion, and a row for each with what is known of the patient."""
    samples = pd.read_csv(folder / "samples.csv")
    paths = sorted((folder / "bags").glob("*.npz"))
    bags = {}
    for path in paths:
        with np.load(path) as read:
            own = read["probabilities"].astype(np.float64)
        # Mean and deviation of what a patch may be: mean-pool of both is what a look at it took.
        bags[path.stem] = np.hstack([own, (own - own.mean(axis=0)) ** 2])
    slides = pd.DataFrame({"unit_id": list(bags)})
    slides["case_id"] = slides["unit_id"].str.slice(0, 5)  # CRC33 has two slides
    samples["case_id"] = "CRC" + samples["slideName"].str.slice(1)
    samples["MMRIHC"] = samples["MMRIHC"].str.lower().str.split().str[-1]
    return bags, slides.merge(samples, on="case_id", validate="many_to_one")


def tasks(data: Path) -> Iterator[tuple[TaskSpec, dict[str, Rows], Units, tuple[str, ...]]]:
    """Yield each task with its embeddings, units, and the protocols that are compared."""
    catalogue = load_catalogue()
    linear = ("linear-probe/v1", "linear-probe/v2")
    bags, table = ucsb(data / "ucsb_breast")
    declared = catalogue.tasks["ucsb-breast-malignancy"]
    yield declared, embeddings(bags), Units(table, {}, {}, "ucsb"), linear
    bags, samples = orion(data / "orion_crc")
    whole = embeddings(bags)
    order = {name: row for row, name in enumerate(bags)}
    for task_id, (column, words) in ORION_CLASSES.items():
        kept = samples[samples[column].isin(words)]
        table = kept[["unit_id", "case_id"]].assign(site="", label=kept[column].map(words))
        labels = declared.labels.model_copy(update={"classes": tuple(words.values())})
        task = declared.model_copy(update={"id": task_id, "labels": labels})
        yield task, _rows(whole, order, table), Units(table, {}, {}, task_id), linear
    kept = samples[samples["PFSDays"].notna() & samples["PFSCensor"].notna()]
    table = kept[["unit_id", "case_id"]].assign(
        site="", time_days=kept["PFSDays"].astype(float), event=kept["PFSCensor"] == 0
    )
    splits = declared.splits
    task = catalogue.tasks["tcga-breast-os"].model_copy(
        update={"id": "orion-pfs", "splits": splits}
    )
    yield task, _rows(whole, order, table), Units(table, {}, {}, "orion-pfs"), ("cox/v1", "cox/v2")


def _rows(
    whole: Mapping[str, Rows], order: Mapping[str, int], table: pd.DataFrame
) -> dict[str, Rows]:
    places = [order[name] for name in table["unit_id"]]
    return {encoder: rows[places] for encoder, rows in whole.items()}


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the scores as Markdown, a row an embedding of a task."""
    lines = ["| task | cases | embedding | version 1 | version 2 |", "|---|---:|---|---|---|"]
    for row in rows:
        shown = []
        for found in row["scores"].values():
            ends = found["ci95"]
            interval = f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
            shown.append(f"{found['value']:.3f}{interval}")
        lines.append(
            f"| {row['task']} | {row['cases']} | {row['embedding']} | {' | '.join(shown)} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--results", type=Path, required=True, help="folder for splits")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(words)
    catalogue = load_catalogue()
    rows = []
    for task, own, units, names in tasks(asked.data):
        for encoder, matrix in own.items():
            scores: dict[str, Any] = {}
            for name in names:
                protocol = catalogue.protocol(name)
                splits = frozen_splits(asked.results, task, protocol, units)
                evaluation = evaluate(task, protocol, matrix, units, splits)
                made, _ = score(
                    task, protocol, evaluation.predictions, evaluation.fits, matrix.shape[1]
                )
                main = made.main
                scores[name] = {"value": main.value, "ci95": main.ci95, "how": main.method}
            cases = units.table["case_id"].nunique()
            rows.append(
                {"task": task.id, "cases": cases, "rare_cases": main.rare_cases,
                 "embedding": encoder, "scores": scores}
            )  # fmt: skip
    document = {"rows": rows, "provenance": machine_provenance()}
    write_text(asked.out, json.dumps(document, indent=1) + "\n")
    print(table_of(rows))


if __name__ == "__main__":
    main()
