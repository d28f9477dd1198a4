"""What encoders expect against what feature files state, before anything is embedded."""

from collections.abc import Sequence
from dataclasses import replace

from madeleine_bench.data.bags import BagFacts
from madeleine_bench.data.embedded_cohort import EmbeddedCohort
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.embeddings.compute import misfit
from madeleine_bench.embeddings.given import Given
from madeleine_bench.encoders.trident import NO_LEVEL0_SIZE, needs_level0_size
from madeleine_bench.errors import InputError
from madeleine_bench.runner.cohorts import OpenCohort
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import CohortData


def check_bags(cards: Sequence[EncoderCard], data: CohortData, where: str) -> None:
    """Check the header of every feature file of a cohort against every card.

    Headers are remembered between runs, so this opens no file twice. A generated phantom has no
    files and passes; its bags are checked as they are encoded.

    Args:
        cards: of the encoders that are to embed the cohort.
        data: the cohort.
        where: what names the cohort's slides, such as the path of its label table.

    Raises:
        InputError: an encoder does not take a bag. It names the first such file, what the card
            expects, what the file states, what to do, and how many files there are like it.
    """
    if not isinstance(data, LocalCohort) or isinstance(data, EmbeddedCohort):
        return
    if only := next((card.name for card in cards if card.phantom_only), None):
        raise InputError(
            f"encoder {only} reads what only generated phantom bags have, and {data.cohort_id} is "
            "read from files; leave it out, or use --source phantom"
        )
    full = _full(data)
    for card in cards:
        wrong = [(s, why) for s, facts in full.items() if (why := _reason(card, data, facts))]
        if wrong:
            slide, reason = wrong[0]
            raise InputError(
                f"{data.files[slide]}: encoder {card.name} cannot take it: {reason}. So it is with "
                f"{len(wrong)} of the {len(full)} feature files of cohort {data.cohort_id} "
                f"({where})"
            )


def fitting_cards(
    cards: Sequence[EncoderCard], folders: Sequence[OpenCohort]
) -> dict[str, list[EncoderCard]]:
    """Return for each feature folder of a cohort, by its key, the encoders that take it.

    Raises:
        InputError: an encoder takes none of them, or a file is damaged.
    """
    fitting: dict[str, list[EncoderCard]] = {cohort.key: [] for cohort in folders}
    for card in cards:
        refusals = []
        for cohort in folders:
            cohort.data.no_bag  # noqa: B018  (a damaged file is named for what it is)
            try:
                check_bags([card], cohort.data, cohort.where)
                fitting[cohort.key].append(card)
            except InputError as error:
                refusals.append(error)
        if len(refusals) == len(folders):
            raise refusals[0]
    return fitting


def check_given(given: Given, tasks: Sequence[TaskSpec], asked: Sequence[ProtocolSpec]) -> None:
    """Check that tasks and protocols can be scored from given embeddings.

    Raises:
        InputError: a protocol needs patch features, or a task scores slides of which only cases
            have embeddings.
    """
    if wrong := next((p.name for p in asked if not p.from_slides), None):
        raise InputError(
            f"--protocol {wrong} starts from patch features, not from embeddings of slides: "
            "mbench run --encoder ..."
        )
    if given.by == "case" and (wrong := next((t.id for t in tasks if t.unit == "slide"), None)):
        raise InputError(f"{wrong} scores slides, each with its own label: --by slide")


def unstated(cards: Sequence[EncoderCard], data: CohortData) -> list[str]:
    """Return one line for each encoder that expects what feature files of a cohort do not state.

    Such files are taken to be what the card expects; nothing can be checked.
    """
    if not isinstance(data, LocalCohort) or isinstance(data, EmbeddedCohort):
        return []
    full = _full(data)
    lines = []
    for card in cards:
        names = ("patch_encoder", "magnification", "patch_size")
        expected = {name: value for name in names if (value := getattr(card, name))}
        silent = 0
        for facts in full.values():
            stated = replace(facts, patch_encoder=_encoder(data, facts))
            silent += any(getattr(stated, name) is None for name in expected)
        if silent:
            what = ", ".join(f"{name} {value}" for name, value in expected.items())
            lines.append(
                f"{card.name} on {data.cohort_id}: {silent} of the {len(full)} feature files do "
                f"not state all that it expects ({what}), and are taken as so"
            )
    return lines


def patch_encoder_of(data: CohortData, slide_ids: Sequence[str]) -> str | None:
    """Return what made the features of the slides with bags of a cohort; None where unstated."""
    if isinstance(data, LocalCohort):
        stated = (_encoder(data, facts) for facts in _full(data).values())
        return next(stated, data.entry.patch_encoder)
    return data.read_bag(slide_ids[0]).patch_encoder if slide_ids else None  # it is made, not read


def _reason(card: EncoderCard, data: LocalCohort, facts: BagFacts) -> str | None:
    reason = misfit(card, facts.width, facts, _encoder(data, facts))
    if reason is None and needs_level0_size(card) and facts.patch_size_level0 is None:
        return NO_LEVEL0_SIZE
    return reason


def _full(data: LocalCohort) -> dict[str, BagFacts]:
    """Return the facts of the bags that have a patch, sorted by slide id."""
    return {slide: facts for slide, facts in sorted(data.facts.items()) if facts.patches}


def _encoder(data: LocalCohort, facts: BagFacts) -> str | None:
    """Return what made the features: what mbench.toml says, as for a bag, or else the file."""
    return data.entry.patch_encoder or facts.patch_encoder
