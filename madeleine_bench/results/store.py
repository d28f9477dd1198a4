"""The results folder: records and predictions, written atomically, append-only.

    records/<board>/<encoder>/<task>@<version>/<protocol>.<resume key>.<record id>.json
    retired/<board>/...                     records that `mbench run --resume never` replaced
    predictions/<board>/<encoder>/<task>@<version>/<protocol>.<resume key>.<hash>.parquet

Several processes may write the same folder: equal inputs give equal bytes under equal names.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, replacing, write_text
from madeleine_bench.hashing import hash_file
from madeleine_bench.specs.loader import explain
from madeleine_bench.specs.record import Record, RecordFeatures, RecordPredictions, record_id

Place = tuple[str, str, str, str, str]  # board, encoder, task@version, protocol, resume key
_SHORT = 16
_ROW_GROUP = 2**16  # rows


class ResultStore:
    """Reads and writes one results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, place: Place, features: RecordFeatures | None) -> Path | None:
        """Return the record made from the same inputs, or None. Its predictions must be there.

        Embeddings of other features may be equal, as those of a control that reads no patch.

        Raises:
            InputError: a record with this key is broken.
        """
        stem = self.folder / "records" / _path(place)
        for path in sorted(stem.parent.glob(f"{stem.name}.*.json")):
            record = read_record(path)
            if record.features == features and (self.folder / record.predictions.path).is_file():
                return path
        return None

    def write_predictions(self, place: Place, predictions: pd.DataFrame) -> RecordPredictions:
        """Write predictions as parquet and return where they are, their hash and row count.

        Raises:
            InputError: the folder cannot be written.
        """
        path = "predictions" / _path(place)
        content = ""

        def named(written: Path) -> str:
            nonlocal path, content
            content = hash_file(written)
            path = path.with_name(f"{path.name}.{content[:_SHORT]}.parquet")
            return path.name

        with replacing(self.folder / path, named) as temporary:
            predictions.to_parquet(
                temporary, compression="zstd", index=False, row_group_size=_ROW_GROUP
            )
        return RecordPredictions(path=path.as_posix(), hash=content, rows=len(predictions))

    def write_record(self, content: dict[str, Any]) -> Record:
        """Add the record id to the content, check it, write it, and return the record.

        Raises:
            InputError: the folder cannot be written, or a score is NaN or out of range.
        """
        plain = to_jsonable_python({"schema_version": 1, "verification": "none", **content})
        try:
            record = Record.model_validate({**plain, "record_id": record_id(plain)})
        except ValidationError as error:
            raise InputError(f"a record that cannot be kept: {error}") from error
        task = f"{record.task.id}@{record.task.version}"
        place = (record.board, record.encoder.name, task, record.protocol, record.resume_key)
        path = self.folder / "records" / _path(place)
        path = path.with_name(f"{path.name}.{record.record_id[:_SHORT]}.json")
        text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        write_text(path, text + "\n")
        return record

    def records(self) -> Iterator[Record]:
        """Return every record of the folder in the order of its paths.

        Raises:
            InputError: a record is broken or was altered; the message names the file.
        """
        return (record for _, record in self.located())

    def located(self, encoder: str | None = None) -> Iterator[tuple[Path, Record]]:
        """Yield every record, or those of one encoder, with its file, in the order of the paths.

        Raises:
            InputError: a record is broken or was altered; the message names the file.
        """
        pattern = "**/*.json" if encoder is None else f"*/{encoder}/**/*.json"
        for path in sorted((self.folder / "records").glob(pattern)):
            if not path.name.startswith("."):
                yield path, read_record(path)

    def retire(self, path: Path) -> None:
        """Move a record to `retired/`, where no board finds it; its predictions stay.

        Raises:
            InputError: the folder cannot be written.
        """
        target = self.folder / "retired" / path.relative_to(self.folder / "records")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot move {path} to {target}: {reason}") from error

    def read_predictions(self, record: Record) -> pd.DataFrame:
        """Return the predictions a record was scored from.

        Raises:
            InputError: the file is absent, leads out of the results folder, or was altered.
        """
        path = (self.folder / record.predictions.path).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise InputError(f"{path}: the predictions of record {record.record_id[:12]} are gone")
        if hash_file(path) != record.predictions.hash:
            raise InputError(f"{path}: altered since record {record.record_id[:12]} was made")
        return pd.read_parquet(path)


def read_record(path: Path) -> Record:
    """Return the record that a JSON file holds.

    Raises:
        InputError: the file is absent, not JSON, of another schema, or its content does not match
            its id.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("expected an object")
    except (OSError, ValueError, RecursionError) as error:
        check_readable(path, error)
        raise InputError(
            f"{path}: not a readable record ({error}); delete it and run again"
        ) from error
    if content.get("schema_version") != 1:
        raise InputError(
            f"{path}: schema version {content.get('schema_version')!r} is not known here (1 is); "
            "a newer madeleine-bench wrote it"
        )
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, Record, path)) from error


def _path(place: Place) -> Path:
    """Return where a record or its predictions lie, but for the hash and the ending."""
    board, encoder, task, protocol, resume_key = place
    return Path(board, encoder, task, f"{protocol.replace('/', '-')}.{resume_key[:_SHORT]}")
