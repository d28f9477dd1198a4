"""Where records, their predictions and their boards come from: one results folder, or several."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from madeleine_bench.embeddings.contents import content_of, require_one_content
from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import Board, build_boards
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.loader import did_you_mean, parse_spec, read_yaml
from madeleine_bench.specs.record import Record


class Sources:
    """The records of several results folders; a record that lies in two counts once.

    Attributes:
        folders: the results folders.
        catalogue: the catalogue of the tasks.
        records: in the order of the folders and of their paths.
        stores: the results folder of each record, by record id.
    """

    def __init__(self, folders: Sequence[Path], catalogue: Catalogue) -> None:
        """Read the records; each name and revision of an encoder stands for one content.

        Raises:
            InputError: a folder is absent, a record is broken or was altered, or one encoder's name
                and revision stand for two contents; the message names two records.
        """
        self.folders = folders
        self.catalogue = catalogue
        self.stores: dict[str, ResultStore] = {}
        paths: dict[str, Path] = {}
        self.records: list[Record] = []
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"no folder {folder}; make one with mbench run --results {folder}")
            store = ResultStore(folder)
            for path, record in store.located():
                if record.record_id not in self.stores:
                    self.stores[record.record_id] = store
                    paths[record.record_id] = path
                    self.records.append(record)
        require_one_content(
            content_of(r, paths[r.record_id], self.stores[r.record_id].folder, catalogue)
            for r in self.records
        )

    def boards(self, protocols: Sequence[str | None], name: str | None = None) -> list[Board]:
        """Return the boards of each protocol (id or glob), real data first.

        Args:
            protocols: None stands for each task's first protocol.
            name: return the boards of this name alone.

        Raises:
            InputError: there are no records, or none under a protocol, or no such protocol or name.
        """
        boards: list[Board] = []
        folders = ", ".join(map(str, self.folders))
        for protocol in protocols:
            versions: list[str | None] = [None]
            if protocol:
                versions = [each.name for each in self.catalogue.select_protocols([protocol])]
            more = [b for v in versions for b in build_boards(self.records, self.catalogue, v)]
            if protocol and not more:
                raise InputError(f"no records under {protocol} in {folders}")
            boards += more
        if not boards:
            raise InputError(f"no records for this in {folders}; make some with mbench run")
        titles = [board.name for board in boards]
        if name is not None and name not in titles:
            raise InputError(f"no board is called '{name}'{did_you_mean(name, titles)}")
        return [board for board in boards if name in (None, board.name)]

    def predictions(self, record: Record) -> pd.DataFrame:
        """Return the predictions a record was scored from.

        Raises:
            InputError: they are gone or were altered.
        """
        return self.stores[record.record_id].read_predictions(record)

    def card(self, record: Record) -> EncoderCard | None:
        """Return the card of a record's encoder: one that ships, or one that was submitted.

        Raises:
            InputError: a submitted card is broken.
        """
        name, revision = record.encoder.name, record.encoder.revision
        path = self.stores[record.record_id].folder / "cards" / record.board
        path /= f"{name}@{revision}.yaml"
        if path.is_file():
            return parse_spec(EncoderCard, read_yaml(path), path)
        try:
            shipped = find_encoder(name).card
        except InputError:
            return None
        return shipped if shipped.revision == revision else None
