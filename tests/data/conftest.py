"""What the tests of the data layer share: the shipped catalogue, small tasks and small cohorts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.local import LocalCohort
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.config import CohortEntry
from madeleine_bench.specs.task import SplitScheme, TaskSpec
from madeleine_bench.types import Bag, Source, Units
from tests.tool_bags import write_bag_file


@dataclass
class TableCohort:
    """A cohort of nothing but a table; implements `CohortData` as far as labels go."""

    slides: pd.DataFrame
    no_bag: frozenset[str] = frozenset()
    cohort_id: str = "bwh-breast"
    source: Source = "local"
    variant: str = field(default="")

    def read_bag(self, slide_id: str) -> Bag:
        raise NotImplementedError

    def content_key(self, slide_id: str) -> str:
        raise NotImplementedError


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture
def make_cohort() -> Callable[..., TableCohort]:
    """Rows of (slide, case, site, {column: cell}); all of one stain unless told."""

    def make(
        rows: Iterable[tuple[str, str, str, dict[str, str]]],
        no_bag: Iterable[str] = (),
        stains: dict[str, str] | None = None,
    ) -> TableCohort:
        records = [
            {"slide_id": s, "case_id": c, "stain": (stains or {}).get(s, "H&E"), "site": t, **cells}
            for s, c, t, cells in rows
        ]
        table = pd.DataFrame(records, dtype=str).sort_values("slide_id", ignore_index=True)
        return TableCohort(table, frozenset(no_bag))

    return make


@pytest.fixture
def make_task(catalogue: Catalogue) -> Callable[..., TaskSpec]:
    """A shipped task with some keys replaced."""

    def make(
        task_id: str, folds: int = 5, repeats: int = 1, validation: bool = False, **update: Any
    ) -> TaskSpec:
        task = catalogue.tasks[task_id]
        scheme = update.pop("scheme", task.splits.scheme)
        splits = SplitScheme(scheme=scheme, folds=folds, repeats=repeats, validation=validation)
        return task.model_copy(update={"splits": splits, **update})

    return make


@pytest.fixture
def make_units() -> Callable[..., Units]:
    """Units from parallel lists, without a cohort behind them."""

    def make(
        labels: Iterable[str],
        cases: Iterable[str] | None = None,
        sites: Iterable[str] | None = None,
    ) -> Units:
        names = list(labels)
        ids = [f"u{i:04d}" for i in range(len(names))]
        table = pd.DataFrame(
            {
                "unit_id": ids,
                "case_id": ids if cases is None else list(cases),
                "site": [""] * len(ids) if sites is None else list(sites),
                "label": names,
            },
            dtype=str,
        )
        return Units(table, {i: (i,) for i in ids}, {}, "0123456789abcdef")

    return make


@pytest.fixture
def small_cohort(catalogue: Catalogue, tmp_path: Path) -> Callable[..., LocalCohort]:
    """A local cohort of UCSB's kind: a folder the test fills, and a table of its slide ids."""

    def make(ids: Iterable[str] = ("a", "b", "c"), **entry: Any) -> LocalCohort:
        rows = "".join(f"{slide},{number % 2}\n" for number, slide in enumerate(ids))
        table = tmp_path / "labels.csv"
        table.write_text(f"slide_id,malignant\n{rows}")
        full = CohortEntry(features=tmp_path / "bags", labels=table, **entry)
        return LocalCohort(catalogue.cohorts["ucsb-breast"], full, tmp_path / "cache")

    return make


@pytest.fixture
def write_bag(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bag of the given shape into the folder that `small_cohort` reads."""

    def write(slide_id: str, patches: int = 5, width: int = 3, **options: Any) -> Path:
        rng = rng_for("test bag", slide_id, patches)
        features = rng.normal(size=(patches, width)).astype(options.pop("dtype", np.float32))
        path = tmp_path / "bags" / f"{slide_id}.h5"
        write_bag_file(path, features, layout=options.pop("layout", "clam"), **options)
        return path

    return write
