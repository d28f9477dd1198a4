"""Cohorts: which slides there are, who holds them, and the phantom that can stand in."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from madeleine_bench.specs.loader import Spec
from madeleine_bench.specs.task import Identifier, Provenance, Word

COHORT_FACTS = ("slides", "cases", "stains", "access")


class Columns(Spec):
    """Names of the columns of the label table that say what a row is; None where there is none."""

    slide: str = "slide_id"
    case: str | None = "case_id"
    site: str | None = None
    stain: str | None = None


class Access(Spec):
    """Who holds the slides and how to get them."""

    status: Literal["open", "on-request", "private"]
    url: str | None = None
    how: str


class PhantomSpec(Spec):
    """What a phantom of this cohort looks like; see docs/phantom.md for the model.

    Attributes:
        organ: world of tissue types, stains and latents the slides are drawn from.
        seed: changes every draw.
        slides: number of slides of each stain.
        cases: number of cases; each stain's slides are dealt to the cases in turn.
        sites: number of treating sites.
        patches: smallest and largest number of patches of a bag.
        labels: from each label column (of survival, the time column) to the latent behind it.
        signal: strength of the biology in the features; 1 is the calibrated phantom, 0 the null.
        nuisance_case_share: share (0-1) of the nuisance variance that the sections of a case have
            in common; the rest is drawn for each section.
    """

    organ: Literal["breast", "kidney"]
    seed: int = 0
    slides: dict[Word, int]
    cases: int = Field(gt=0)
    sites: int = Field(1, gt=0)
    patches: tuple[int, int] = (100, 400)
    labels: dict[str, str]
    signal: float = Field(1.0, ge=0.0, le=4.0)
    nuisance_case_share: float = Field(0.1, ge=0.0, le=1.0)


class CohortSpec(Spec):
    """One cohort, of which only the id is needed.

    `task_defaults` are the keys its tasks inherit (one level, no more). A cohort that counts
    towards the paper's 7,299 downstream slides also says where its facts come from.
    """

    id: Identifier
    version: int = Field(1, ge=1)
    title: str = ""
    organ: Word | None = None
    role: Literal["downstream", "pretraining"] = "downstream"
    slides: int | None = Field(None, gt=0)
    cases: int | None = Field(None, gt=0)
    stains: tuple[Word, ...] = Field(("H&E",), min_length=1)
    access: Access = Access(status="private", how="ask the owner of this catalogue")
    licence: str = ""
    citation: str = ""
    columns: Columns = Columns()
    labels: Path | None = Field(
        None, description="Built-in label table: its path in the folder of the catalogue."
    )
    phantom: PhantomSpec | None = None
    counted: bool = Field(
        False, description="Whether the slides count towards the paper's 7,299 downstream slides."
    )
    provenance: dict[str, Provenance] = Field(default_factory=dict)
    task_defaults: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.counted:
            if self.slides is None or self.cases is None:
                raise ValueError("a counted cohort states its 'slides' and 'cases'")
            if absent := [fact for fact in COHORT_FACTS if fact not in self.provenance]:
                raise ValueError(f"'provenance' must say of {absent}: attested or reconstructed")
        if self.phantom is not None:
            if sum(self.phantom.slides.values()) != self.slides:
                raise ValueError("'phantom.slides' does not add up to 'slides'")
            if self.phantom.cases != self.cases:
                raise ValueError("'phantom.cases' differs from 'cases'")
            if set(self.phantom.slides) != set(self.stains):
                raise ValueError("'phantom.slides' and 'stains' name different stains")
        return self
