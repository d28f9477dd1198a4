"""Every protocol on fixed inputs against golden values: did a scorer change under its version?

A golden case is a protocol on one type of labels. It holds the protocol's parameters, all predicted
numbers and all scores. A changed parameter is named even where no number moves.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.leaderboard.regression.golden_problems import golden_problem
from madeleine_bench.leaderboard.regression.verdicts import Finding, Verdict
from madeleine_bench.protocols.evaluation import Evaluation, evaluate
from madeleine_bench.protocols.scoring import SCORING_VERSION, Scores, score
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.protocol import LabelType, ProtocolSpec

SCORERS_FILE = "scorers.json"
# Machines differ in the last digits; a tolerance one hundred times looser differs by more.
TOLERANCE = 1e-6
_DECIMALS = 9
_IDENTITY = {"unit_id", "case_id", "label", "time_days", "event", "repeat", "fold", "shots", "draw"}

GoldenKey = tuple[str, str]


@dataclass(frozen=True)
class GoldenCase:
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
    parameters: Mapping[str, Any]
    fits: tuple[str, ...]
    predictions: Mapping[str, tuple[float, ...]]
    scores: Mapping[str, float | None]

    @property
    def digest(self) -> str:
        """The hash that an explanation names."""
        return hash_json(asdict(self))


Golden = Mapping[GoldenKey, GoldenCase]


def golden_cases(catalogue: Catalogue) -> dict[GoldenKey, GoldenCase]:
    """Return the case of every protocol of a catalogue on every type of labels it scores.

    Left out are protocols that train networks, as what a network learns differs in the last digits
    from one processor to the next, and those that fuse otherwise than late, as that is done before
    a protocol sees embeddings. Keys are versioned name and type of labels. It takes seconds.
    """
    return {
        (protocol.name, labels): golden_case(protocol, labels)
        for protocol in catalogue.protocols.values()
        if protocol.fusion == "late"
        for labels in protocol.labels
    }


def golden_case(protocol: ProtocolSpec, labels: LabelType) -> GoldenCase:
    """Return what a protocol makes of the fixed input of one type of labels."""
    given = golden_problem(protocol, labels)
    evaluation = evaluate(given.task, protocol, given.embeddings, given.units, given.splits)
    scores = score(
        given.task, protocol, evaluation.predictions, evaluation.fits, given.embeddings.shape[1]
    )
    return GoldenCase(
        scoring_version=SCORING_VERSION,
        input=given.digest,
        parameters=_flat(protocol.method.model_dump(mode="json")),
        fits=tuple(f"{fit.converged} {fit.reason or ''}".strip() for fit in evaluation.fits),
        predictions=_numbers(evaluation),
        scores=_score_numbers(scores),
    )


def judge_scorers(old: Golden, new: Golden) -> tuple[Finding, ...]:
    """Return a finding for each golden case of either side, sorted by protocol and labels."""
    return tuple(_judge(key, old.get(key), new.get(key), new) for key in sorted({*old, *new}))


def golden_text(cases: Golden) -> str:
    """Return the text of the golden file, a line a case."""
    lines = [
        f"{json.dumps(' '.join(key))}: {json.dumps(asdict(cases[key]), sort_keys=True)}"
        for key in sorted(cases)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_golden(path: Path) -> dict[GoldenKey, GoldenCase]:
    """Return the golden cases of a file.

    Raises:
        InputError: the file is absent or broken.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {_key(name): _case(case) for name, case in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{path}: not readable golden values ({type(error).__name__}: {error}); restore it "
            "from version control, or delete the baseline and make it anew: mbench regress --update"
        ) from error


def _judge(
    key: GoldenKey, before: GoldenCase | None, now: GoldenCase | None, new: Golden
) -> Finding:
    verdict: Verdict
    if before is None:
        verdict, why = "new", "no golden values yet; renew the baseline"
    elif now is None:
        base, _, version = key[0].rpartition("/v")
        newer = [n for n, _ in new if n.rpartition("/v")[0] == base]
        newer = [n for n in newer if int(n.rpartition("/v")[2]) > int(version)]
        verdict, why = "missing", "the catalogue no longer has this protocol"
        if newer:
            verdict, why = "new-version", f"replaced by {newer[-1]}; renew the baseline"
    else:
        verdict, why = _compare(before, now)
    return Finding(
        layer="scorers",
        subject=key[0],
        case=f"{key[1]} labels",
        verdict=verdict,
        why=why,
        baseline=None if before is None else before.scores["main"],
        current=None if now is None else now.scores["main"],
        baseline_id="" if before is None else before.digest,
        current_id="" if now is None else now.digest,
    )


def _compare(before: GoldenCase, now: GoldenCase) -> tuple[Verdict, str]:
    if before.input != now.input:
        return "incomparable", "the fixed inputs themselves changed; renew the baseline"
    moved = _moved(before, now)
    if not moved:
        return "same", "equal parameters, predictions and scores"
    if now.scoring_version > before.scoring_version:
        change = f"{before.scoring_version} is now {now.scoring_version}"
        return "new-version", f"scoring version {change}; renew the baseline"
    return "scorer-changed", "; ".join([*moved, "without a new version"])


def _moved(before: GoldenCase, now: GoldenCase) -> list[str]:
    """Return what differs, in words: parameters, fits, predictions, scores."""
    moved = [
        f"{name} was {before.parameters.get(name)} and is {now.parameters.get(name)}"
        for name in sorted({*before.parameters, *now.parameters})
        if before.parameters.get(name) != now.parameters.get(name)
    ]
    if before.fits != now.fits:
        moved.append("fits end in another way")
    if before.predictions.keys() != now.predictions.keys():
        moved.append("other columns are predicted")
    elif (far := _farthest(before.predictions, now.predictions)) > TOLERANCE:
        moved.append(f"predictions moved by up to {far:.1g}")
    if scores := [
        name for name in sorted({*before.scores, *now.scores}) if _apart(before, now, name)
    ]:
        moved.append(f"scores moved: {', '.join(scores[:5])}")
    return moved


def _farthest(
    before: Mapping[str, tuple[float, ...]], now: Mapping[str, tuple[float, ...]]
) -> float:
    if any(len(before[name]) != len(now[name]) for name in before):
        return float("inf")
    return max(float(np.abs(np.subtract(before[name], now[name])).max()) for name in before)


def _apart(before: GoldenCase, now: GoldenCase, name: str) -> bool:
    was, is_ = before.scores.get(name), now.scores.get(name)
    if was is None or is_ is None:
        return was is not is_
    return abs(was - is_) > TOLERANCE


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _numbers(evaluation: Evaluation) -> dict[str, tuple[float, ...]]:
    table = evaluation.predictions
    return {
        str(name): tuple(np.round(table[name].to_numpy(dtype=np.float64), _DECIMALS).tolist())
        for name in table.columns
        if name not in _IDENTITY
    }


def _score_numbers(scores: Scores) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {"main": scores.value}
    low, high = scores.ci95 or (None, None)
    numbers |= {"ci95.low": low, "ci95.high": high}
    numbers |= scores.secondary
    numbers |= {f"fold {fold.key[0]}/{fold.key[1]}": fold.value for fold in scores.folds}
    return {n: None if v is None else round(v, _DECIMALS) for n, v in numbers.items()}


def _key(name: str) -> GoldenKey:
    protocol, labels = name.split(" ")
    return protocol, labels


def _case(content: Mapping[str, Any]) -> GoldenCase:
    predictions = {name: tuple(values) for name, values in content["predictions"].items()}
    fits = tuple(content["fits"])
    return GoldenCase(**{**content, "predictions": predictions, "fits": fits})
