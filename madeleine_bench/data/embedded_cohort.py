"""A cohort of the user's label table with an embedding, and no bag, for each slide or case."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.bags import BagFile
from madeleine_bench.data.embedding_files import By, EmbeddingTable
from madeleine_bench.data.local import LocalCohort, match_names
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_array, hash_json
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.config import CohortEntry
from madeleine_bench.specs.record import RecordFeatures

_SHOWN = 3


class EmbeddedCohort(LocalCohort):
    """Slides with labels and embeddings. By case, each slide of a case has that of the case."""

    absence = "no embedding"

    def __init__(
        self, cohort: CohortSpec, entry: CohortEntry, given: EmbeddingTable, by: By | None = None
    ) -> None:
        """Match the ids of embeddings with those of the label table, as names of files are.

        Without `by`, they are of cases where some are case ids and none is a slide id.

        Raises:
            InputError: the table cannot be used, or no id is of it.
        """
        self._read_table(cohort, entry)
        self.spec = cohort
        self.source, self.variant = "local", ""
        if by is None:
            cases, slides = (set(self.slides[f"{one}_id"]) for one in ("case", "slide"))
            by = "case" if cases & set(given.ids) and not slides & set(given.ids) else "slide"
        self.folder = Path(given.where)
        wanted = self.slides[f"{by}_id"]
        names = match_names(sorted(set(wanted)), dict.fromkeys(given.ids, self.folder))
        if not names:
            raise InputError(
                f"{given.where}: none of the {len(given.ids)} ids is a {by} id of {self.table}. "
                f"{by.capitalize()} ids there look like {', '.join(wanted[:_SHOWN])}; these look "
                f"like {', '.join(given.ids[:_SHOWN])}. Embeddings by slide or by case: --by"
            )
        row_of = {one: row for row, one in enumerate(given.ids)}
        pairs = zip(self.slides["slide_id"], wanted, strict=True)
        named = {slide: (one, names[one]) for slide, one in pairs if one in names}
        self.names = {slide: slide if one == name else name for slide, (one, name) in named.items()}
        self.files = dict.fromkeys(named, self.folder)
        self._rows = {slide: given.matrix[row_of[name]] for slide, (_, name) in named.items()}

    @property
    def ids(self) -> list[str]:
        """The slides with an embedding, sorted."""
        return sorted(self._rows)

    @property
    def matrix(self) -> NDArray[np.float32]:
        """Slide x dim, in the order of `ids`."""
        return np.stack([self._rows[slide] for slide in self.ids])

    @cached_property
    def no_bag(self) -> frozenset[str]:
        """Slides without an embedding."""
        return frozenset(set(self.slides["slide_id"]) - set(self._rows))

    def content_key(self, slide_id: str) -> str:
        """Return the hash of the embedding of a slide."""
        return hash_array([], self._rows[slide_id])

    def read_file(self, slide_id: str) -> BagFile:
        """Refuse: there is no feature file."""
        raise InputError(f"{self.folder} holds embeddings; slide '{slide_id}' has no features here")

    def features(self, patch_encoder: str | None) -> RecordFeatures:
        """Return what records state of features that are not there: what made them, which slides.

        Embeddings of the same slides by the same patch encoder count as of the same features.
        """
        content = hash_json(["embeddings", patch_encoder, self.ids])
        return RecordFeatures(patch_encoder=patch_encoder, content=content)
