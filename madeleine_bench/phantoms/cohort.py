"""The phantom of a cohort: the slides table, and bags made on the fly."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_code, hash_json
from madeleine_bench.phantoms.layout import (
    COMPOSITION_STD,
    SHARE_TO_BIAS,
    CaseTissue,
    cut_section,
    draw_tissue,
    patch_features,
)
from madeleine_bench.phantoms.roster import ROSTER_COLUMNS, class_words, make_roster, survival_words
from madeleine_bench.phantoms.world import PATCH_ENCODER, WORLDS, Appearance
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.cohort import CohortSpec, PhantomSpec
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import ClassLabels, SurvivalLabels, TaskSpec
from madeleine_bench.types import Bag, Source, rows_of


class PhantomCohort:
    """A cohort of made-up cases; implements `CohortData`. See docs/phantom.md.

    Attributes:
        cohort_id: id of the cohort it stands in for.
        source: "phantom".
        variant: "" for the declared signal and seed, else such as "signal-0" or "seed-3".
        slides: one row per slide, sorted by slide_id: slide_id, case_id, stain, site, labels.
        no_bag: empty; every slide has a bag.
        signal: strength of the biology in the features; 0 is the null phantom.
        seed: what all draws but those of the organ's world depend on.
        organ: of the cohort.
        world: what all cohorts of the organ share.
        appearance: what the sections of the organ look like.
    """

    source: Source = "phantom"

    def __init__(
        self,
        cohort: CohortSpec,
        tasks: Sequence[TaskSpec],
        *,
        signal: float | None = None,
        seed: int | None = None,
        table: pd.DataFrame | None = None,
    ) -> None:
        """Draw the cases and their labels; bags are drawn when they are read.

        Args:
            cohort: the cohort, with its phantom.
            tasks: tasks whose label columns the slides table gets; those of other cohorts are
                passed over.
            signal: instead of the declared one.
            seed: instead of the declared one.
            table: a slides table with labels of its own, to which only features are made up.

        Raises:
            InputError: the cohort declares no phantom, or the phantom cannot serve a task.
        """
        if cohort.phantom is None:
            raise InputError(
                f"cohort {cohort.id} (tasks/cohorts/{cohort.id}.yaml) has no key 'phantom', so "
                "nothing can stand in for it; name a folder of its features in mbench.toml"
            )
        declared = cohort.phantom
        self.cohort_id = cohort.id
        self.no_bag: frozenset[str] = frozenset()
        self.signal = declared.signal if signal is None else float(signal)
        self.seed = declared.seed if seed is None else int(seed)
        if not (np.isfinite(self.signal) and self.signal >= 0.0):
            raise InputError(f"signal of a phantom is {signal}; expected a number from 0 (null)")
        self.variant = variant_name(declared, self.signal, self.seed)
        self.organ = cohort.organ
        self.spec = declared
        self.world = WORLDS[declared.organ]
        self.appearance = Appearance(self.world)
        self._fingerprint = hash_code([Path(__file__).parent])
        mine = [task for task in tasks if task.cohort == cohort.id]
        self.slides = self._labelled_roster(mine) if table is None else table
        self._rows: dict[str, tuple[str, str, str]] = {
            slide: (case, stain, site)
            for slide, case, stain, site in self.slides[ROSTER_COLUMNS].itertuples(index=False)
        }

    def read_bag(self, slide_id: str) -> Bag:
        """Return the bag of one slide, made on the fly: the same whenever and wherever it is read.

        Raises:
            InputError: the cohort has no such slide, or the world does not know its stain.
        """
        case_id, stain, site = self.row(slide_id)
        latents = self.latents(case_id)
        rng = self.rng("section", slide_id)
        section = cut_section(self.tissue(case_id), rng, self.spec.patches)
        look = self.appearance.draw(rng)
        case_look = self.appearance.draw(self.rng("look", case_id))
        site_look = self.appearance.draw(self.rng("site", site))
        nuisance = self.appearance.nuisance(
            site_look, case_look, look, self.spec.nuisance_case_share
        )
        moved = self.appearance.shifts(stain, latents, case_look, look, self.signal)
        typical = self.appearance.prototypes[stain] + nuisance
        return Bag(
            slide_id=slide_id,
            case_id=case_id,
            features=patch_features(section, typical, moved, rng),
            stain=stain,
            coords=section.coords,
            site=site or None,
            patch_encoder=PATCH_ENCODER,
            organ=self.organ,
            latents=latents,
        )

    def content_key(self, slide_id: str) -> str:
        """Return a hash of all that makes the bag: this code, the phantom, and the slide.

        Raises:
            InputError: the cohort has no such slide.
        """
        spec = self.spec
        drawn = [self.cohort_id, self.seed, self.signal, spec.organ, list(spec.patches)]
        row = [slide_id, *self.row(slide_id)]
        return hash_json([self._fingerprint, *drawn, spec.nuisance_case_share, row])

    def part(self, slide_ids: Sequence[str]) -> "PhantomCohort":
        """Return the cohort with some of its slides alone: small, to be sent to a worker."""
        part = copy.copy(self)
        part.slides = rows_of(self.slides, slide_ids)
        part._rows = {slide_id: self._rows[slide_id] for slide_id in slide_ids}
        return part

    def latents(self, case_id: str) -> Mapping[str, float]:
        """Return the hidden causes of a case, by name."""
        return self.world.draw_latents(self.rng("latents", case_id))

    def row(self, slide_id: str) -> tuple[str, str, str]:
        """Return case_id, stain and site of a slide.

        Raises:
            InputError: the cohort has no such slide, or the world does not know its stain.
        """
        row = self._rows.get(slide_id)
        if row is None:
            hint = did_you_mean(slide_id, list(self._rows)[:2000])
            raise InputError(f"the phantom of {self.cohort_id} has no slide '{slide_id}'{hint}")
        if row[1] not in self.appearance.signs:
            raise InputError(
                f"slide {slide_id} of {self.cohort_id} has stain '{row[1]}', which the phantom "
                f"world '{self.world.organ}' does not know{did_you_mean(row[1], self.world.stains)}"
            )
        return row

    def rng(self, what: str, name: str) -> np.random.Generator:
        """Return the source of all draws of one kind for one case, slide or site."""
        return rng_for("phantom", self.cohort_id, self.seed, what, name)

    def tissue(self, case_id: str) -> CaseTissue:
        """Return the tissue block of a case, from which its sections are cut."""
        latents = self.latents(case_id)
        rng = self.rng("tissue", case_id)
        shares = np.array(list(self.world.tissues.values()))
        bias = SHARE_TO_BIAS * np.log(shares) + COMPOSITION_STD * rng.standard_normal(len(shares))
        for latent, (tissue, more) in self.world.composition.items():
            bias[list(self.world.tissues).index(tissue)] += self.signal * more * latents[latent]
        return draw_tissue(rng, bias, self.spec.patches)

    def _labelled_roster(self, tasks: Sequence[TaskSpec]) -> pd.DataFrame:
        roster = make_roster(self.cohort_id, self.spec, self.seed)
        latents = {case: self.latents(case) for case in roster["case_id"].unique()}
        # The task with the most labels fills a column that several tasks read.
        for task in sorted(
            (t for t in tasks if t.expected), key=lambda task: (-task.counts.n, task.id)
        ):
            seen = roster.loc[roster["stain"].isin(task.stains), "case_id"].unique()
            cases = {case: latents[case] for case in seen}
            for column, words in self._columns(task, cases).items():
                if column not in roster:
                    roster[column] = [words.get(case, "") for case in roster["case_id"]]
        return roster

    def _columns(
        self, task: TaskSpec, cases: Mapping[str, Mapping[str, float]]
    ) -> dict[str, dict[str, str]]:
        labels = task.labels
        key = (self.cohort_id, self.seed)
        if isinstance(labels, ClassLabels):
            latent = self._latent_of(task, labels.column)
            return {labels.column: class_words(task, labels, latent, cases, *key)}
        if not isinstance(labels, SurvivalLabels):
            raise InputError(
                f"{task.id}: a phantom has no {labels.type} labels; name your label table in "
                'mbench.toml, with features = "phantom" where there are no features'
            )
        latent = self._latent_of(task, labels.time)
        times, events = survival_words(task, labels, latent, cases, *key)
        return {labels.time: times, labels.event: events}

    def _latent_of(self, task: TaskSpec, column: str) -> str:
        where = f"tasks/cohorts/{self.cohort_id}.yaml: 'phantom.labels'"
        latent = self.spec.labels.get(column)
        if latent is None:
            hint = did_you_mean(column, list(self.spec.labels))
            raise InputError(f"{where} has no '{column}', which task {task.id} reads{hint}")
        if latent not in self.world.latents:
            hint = did_you_mean(latent, self.world.latents)
            raise InputError(f"{where} leads '{column}' to unknown latent '{latent}'{hint}")
        return latent


def variant_name(declared: PhantomSpec, signal: float, seed: int) -> str:
    """Return "" for the declared phantom, else what sets this one apart, "signal-0-seed-3".

    Examples:
        >>> spec = PhantomSpec(organ="breast", slides={"H&E": 2}, cases=2, labels={})
        >>> variant_name(spec, 1.0, 0), variant_name(spec, 0.0, 3)
        ('', 'signal-0-seed-3')
    """
    parts = []
    if signal != declared.signal:
        parts.append(f"signal-{signal:g}")
    if seed != declared.seed:
        parts.append(f"seed-{seed}")
    return "-".join(parts)
