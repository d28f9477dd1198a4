"""Where a command works: results, cohorts, catalogue, source of the slides, worker processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from madeleine_bench.specs.catalogue import Catalogue
    from madeleine_bench.specs.config import Config

SourceChoice = Literal["auto", "phantom", "local"]


@dataclass(frozen=True)
class Workspace:
    """What every command that reads cohorts or records has to know.

    Attributes:
        results: the results folder.
        source: "auto" takes local files where mbench.toml names them, phantoms elsewhere.
        config: path of mbench.toml; None takes the one of the working folder.
        catalogue: folder of tasks; None takes the shipped one.
        jobs: worker processes.
        phantom_signal: biology in the phantoms; None keeps what the cohort declares.
        phantom_seed: seed of the phantoms; None keeps what the cohort declares.
        features: names of the feature folders to read of cohorts that have several; none takes all.
    """

    results: Path = Path("results")
    source: SourceChoice = "auto"
    config: Path | None = None
    catalogue: Path | None = None
    jobs: int = 1
    phantom_signal: float | None = None
    phantom_seed: int | None = None
    features: tuple[str, ...] = ()

    def tasks(self) -> "Catalogue":
        """Return the catalogue of tasks, cohorts and protocols, with those of mbench.toml.

        Raises:
            InputError: the folder lacks a file, or a file in it or mbench.toml is wrong.
        """
        return self.open()[0]

    def open(self) -> "tuple[Catalogue, Config]":
        """Return the catalogue, with the tasks of mbench.toml, and what that says of cohorts.

        Raises:
            InputError: as `tasks`.
        """
        from madeleine_bench.specs.catalogue import load_catalogue  # 0.2 s
        from madeleine_bench.specs.config import load_config

        return load_config(self.config).opened(load_catalogue(self.catalogue))
