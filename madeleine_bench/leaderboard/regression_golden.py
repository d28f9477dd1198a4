"""Every protocol on fixed inputs against golden values: did a scorer change under its version?

A golden case is a protocol on one type of labels. It holds the protocol's parameters, all predicted
numbers and all scores. A changed parameter is named even where no number moves.

The inputs are committed (`golden_inputs.json`). Embeddings are whole numbers that are divided by a
power of two, so their bytes are equal everywhere. They are conditioned so that a solver's tolerance
shows: directions of unlike size, classes that overlap.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_array, hash_json
from madeleine_bench.leaderboard.regression import (
    RegressionFinding,
    Verdict,
    close,
)
from madeleine_bench.leaderboard.sources import TOLERANCE
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import SCORING_VERSION, score
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.loader import Spec
from madeleine_bench.specs.protocol import LabelType, ProtocolSpec
from madeleine_bench.specs.record import RecordFold, RecordScores
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import Split, Splits, Units

SCORERS_FILE = "scorers.json"
_DECIMALS = 9
_UNIT = 4096.0  # embeddings are whole numbers of this part of one
_KEYS_AND_LABELS = r"(unit_id|case_id|label.*|value|time_days|event|repeat|fold|shots|draw)$"


class GoldenInput(NamedTuple):
    """All that a protocol takes."""

    task: TaskSpec
    embeddings: NDArray[np.float64]
    units: Units
    splits: Splits


class GoldenCase(Spec):
    """What a protocol makes of one fixed input.

    Attributes:
        scoring_version: of the code that made it.
        input: digest of the input.
        parameters: the protocol's method, flat: "model.tol" -> 1e-8.
        fits: for each fit whether it converged, and what is odd about it.
        predictions: predicted numbers by column, in the order of the predictions.
        scores: main score, its interval, secondary scores and folds by name; None if undefined.
    """

    scoring_version: int
    input: str
    parameters: dict[str, Any]
    fits: tuple[str, ...]
    predictions: dict[str, tuple[float, ...]]
    scores: dict[str, float | None]

    @property
    def digest(self) -> str:
        """The hash that an explanation names."""
        return hash_json(self.model_dump(mode="json"))


Golden = Mapping[str, GoldenCase]


def golden_input(protocol: ProtocolSpec, labels: LabelType) -> GoldenInput:
    """Return the committed input of a protocol on one type of labels."""
    path = resource_folder("leaderboard") / "regression" / "golden_inputs.json"
    content = json.loads(path.read_text(encoding="utf-8"))[labels]
    names = protocol.key_names
    ids, outcome, places = content["units"], content["outcome"], content["-".join(names)]
    embeddings = np.array(content["embeddings"]) / _UNIT
    digest = hash_json([hash_array(ids, embeddings), outcome, places])
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", **outcome})
    units = Units(table, {name: (name,) for name in ids}, {}, digest)
    splits = [Split((a, b), np.array(train), np.array(test)) for a, b, train, test in places]
    task = TaskSpec.model_validate(content["task"])
    return GoldenInput(task, embeddings, units, Splits(names, splits, digest))


def golden_cases(catalogue: Catalogue) -> dict[str, GoldenCase]:
    """Return the case of every protocol of a catalogue on each type of labels with a fixed input.

    Left out are protocols that train networks, as what a network learns differs in the last digits
    from one processor to the next, and those that fuse otherwise than late, as that is done before
    a protocol sees embeddings. Keys are "protocol/version labels". It takes seconds.
    """
    return {
        f"{protocol.name} {labels}": golden_case(protocol, labels)
        for protocol in catalogue.protocols.values()
        if protocol.fusion == "late"
        for labels in protocol.labels
    }


def golden_case(protocol: ProtocolSpec, labels: LabelType) -> GoldenCase:
    """Return what a protocol makes of the fixed input of one type of labels."""
    task, embeddings, units, splits = golden_input(protocol, labels)
    evaluation = evaluate(task, protocol, embeddings, units, splits)
    table = evaluation.predictions
    scores, folds = score(task, protocol, table, evaluation.fits, embeddings.shape[1])
    predicted = table.loc[:, ~table.columns.str.match(_KEYS_AND_LABELS)]
    numbers = predicted.astype(np.float64).round(_DECIMALS)
    (method,) = pd.json_normalize(protocol.method.model_dump(mode="json")).to_dict("records")
    return GoldenCase(
        scoring_version=SCORING_VERSION,
        input=units.hash,
        parameters={str(name): value for name, value in method.items()},
        fits=tuple(f"{fit.converged} {fit.reason or ''}".strip() for fit in evaluation.fits),
        predictions={str(name): tuple(numbers[name].tolist()) for name in numbers},
        scores=_score_numbers(scores, folds),
    )


def judge_scorers(old: Golden, new: Golden) -> list[RegressionFinding]:
    """Return a finding for each golden case of either side, sorted by protocol and labels."""
    findings = []
    for key in sorted({*old, *new}):
        protocol, labels = key.split(" ")
        cases = old.get(key), new.get(key)
        sides = [(case.scores["main"], case.digest) if case else (None, "") for case in cases]
        verdict = _verdict(*cases)
        case = f"{labels} labels"
        findings.append(
            RegressionFinding("scorers", protocol, case, *verdict, *sides[0], *sides[1])
        )
    return findings


def golden_text(cases: Golden) -> str:
    """Return the text of the golden file, a line a case."""
    lines = [
        f"{json.dumps(key)}: {json.dumps(cases[key].model_dump(mode='json'), sort_keys=True)}"
        for key in sorted(cases)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_golden(path: Path) -> dict[str, GoldenCase]:
    """Return the golden cases of a file.

    Raises:
        InputError: the file is absent or broken.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: GoldenCase.model_validate(case) for name, case in content.items()}
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise InputError(
            f"{path}: not readable golden values ({type(error).__name__}: {error}); restore it "
            "from version control, or delete the baseline and make it again: "
            "mbench regress --update"
        ) from error


def _verdict(before: GoldenCase | None, now: GoldenCase | None) -> tuple[Verdict, str]:
    if before is None:
        return "new", "no golden values yet; renew the baseline"
    if now is None:
        return "missing", "the catalogue no longer has this protocol"
    if before.input != now.input:
        return "incomparable", "the fixed inputs themselves changed; renew the baseline"
    differences = _differences(before, now)
    if not differences:
        return "same", "equal parameters, predictions and scores"
    if now.scoring_version > before.scoring_version:
        change = f"{before.scoring_version} is now {now.scoring_version}"
        return "new-version", f"scoring version {change}; renew the baseline"
    return "scorer-changed", "; ".join([*differences, "without a new version"])


def _differences(before: GoldenCase, now: GoldenCase) -> list[str]:
    """Return what differs, in words: parameters, fits, predictions, scores."""
    was, is_ = before.parameters, now.parameters
    differences = [
        f"{name} was {was.get(name)} and is {is_.get(name)}"
        for name in sorted({*was, *is_})
        if was.get(name) != is_.get(name)
    ]
    if before.fits != now.fits:
        differences.append("fits end in another way")
    if before.predictions.keys() != now.predictions.keys():
        differences.append("other columns are predicted")
    elif (largest := largest_change(before, now)) > TOLERANCE:
        differences.append(f"predictions moved by up to {largest:.1g}")
    if scores := [
        name
        for name in sorted({*before.scores, *now.scores})
        if not close(before.scores.get(name), now.scores.get(name))
    ]:
        differences.append(f"scores moved: {', '.join(scores[:5])}")
    return differences


def largest_change(before: GoldenCase, now: GoldenCase) -> float:
    """Return the largest change of a predicted number; infinity where their number changed."""
    pairs = [(numbers, now.predictions[name]) for name, numbers in before.predictions.items()]
    if any(len(one) != len(other) for one, other in pairs):
        return float("inf")
    return max(float(np.abs(np.subtract(one, other)).max()) for one, other in pairs)


def _score_numbers(scores: RecordScores, folds: Sequence[RecordFold]) -> dict[str, float | None]:
    low, high = scores.main.ci95 or (None, None)
    numbers = {"main": scores.main.value, "ci95.low": low, "ci95.high": high, **scores.secondary}
    numbers |= {f"fold {'/'.join(map(str, fold.key.values()))}": fold.value for fold in folds}
    return {name: None if v is None else round(v, _DECIMALS) for name, v in numbers.items()}
