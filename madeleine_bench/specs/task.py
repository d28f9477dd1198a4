"""Tasks: what is predicted, on which cohort, with which folds and metric."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from madeleine_bench.errors import InputError
from madeleine_bench.specs.loader import Spec, portable_name
from madeleine_bench.specs.metric import Metric, MetricName, SecondaryName

# It names files and folders, so on every system it must be able to.
Identifier = Annotated[
    str,
    Field(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$", max_length=64),
    AfterValidator(portable_name),
]
# Stains and organs are free words; those of the built-in cohorts are suggested.
Word = Annotated[str, Field(pattern=r"^\S([^\x00-\x1f]*\S)?$", max_length=40)]
STAINS = ("H&E", "ER", "PR", "HER2", "Ki67", "PAS", "Jones", "trichrome")
ORGANS = ("breast", "kidney")
# The families of the core tasks, over whose means the leaderboard averages.
FAMILIES = (
    "subtyping", "molecular-status", "prognosis", "ihc-quantification", "kidney-rejection"
)  # fmt: skip
TimeUnit = Literal["days", "months", "years"]
DAYS_IN: dict[TimeUnit, float] = {"days": 1.0, "months": 30.4375, "years": 365.25}
# By type of labels: the metrics, and the protocol of a task that names none; the first metric is
# that of a task that names none.
FITTING: dict[str, tuple[tuple[MetricName, ...], str]] = {
    "binary": (("auroc", "balanced-accuracy", "average-precision"), "linear-probe/v2"),
    "multiclass": (("auroc", "balanced-accuracy"), "linear-probe/v2"),
    "ordered": (("quadratic-kappa", "auroc", "balanced-accuracy"), "linear-probe/v2"),
    "survival": (("harrell-c",), "cox/v2"),
    "continuous": (("r2", "pearson", "spearman"), "ridge-regression/v1"),
    "multilabel": (("auroc",), "linear-probe/v2"),
}
EXTERNAL = "-from-"  # between the ids of the tested and the training task
FACTS = ("task", "cohort", "labels", "counts", "splits", "metric")


class ClassLabels(Spec):
    """Class labels read from one column of the label table.

    Attributes:
        type: binary (the last class is the positive one), multiclass, or ordered (low to high).
        column: exact name of the column; never matched by likeness.
        classes: class names in order.
        map: from each word of the table to a class; "1", "1.0" and 1 are the same word. Without
            it the classes are the words.
        missing: words that mean "no label"; the empty cell always does.
    """

    type: Literal["binary", "multiclass", "ordered"]
    column: str
    classes: tuple[str, ...] = Field(min_length=2)
    map: dict[str, str]
    missing: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _words_are_text(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("classes"), list | tuple):
            data = {"map": {str(name): name for name in data["classes"]}, **data}
        if isinstance(data, dict) and isinstance(data.get("map"), dict):
            words = {canonical_word(word): name for word, name in data["map"].items()}
            if len(words) < len(data["map"]):
                raise ValueError("two keys of 'map' are the same word once numbers are unified")
            missing = [canonical_word(word) for word in data.get("missing") or ()]
            return {**data, "map": words, "missing": missing}
        return data

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("'classes' names a class twice")
        if unknown := sorted(set(self.map.values()) - set(self.classes)):
            raise ValueError(f"'map' leads to {unknown}, which 'classes' does not list")
        if absent := sorted(set(self.classes) - set(self.map.values())):
            raise ValueError(f"no word of 'map' leads to {absent}")
        if both := sorted(set(self.map) & set(self.missing)):
            raise ValueError(f"{both} stand both in 'map' and in 'missing'")
        if self.type == "binary" and len(self.classes) != 2:
            raise ValueError("a binary task has two classes")
        return self


class SurvivalLabels(Spec):
    """Right-censored survival; which value of the indicator column means the event is declared.

    Attributes:
        time: column with the follow-up.
        time_unit: what it is counted in; None is days that nobody vouched for, so that numbers
            which cannot be days are refused.
        event: column with the indicator.
        event_value: the word of that column that means "the event happened".
        censored_value: the word that means "censored".
        missing: words that mean "not known" in either column; the empty cell always does.
    """

    type: Literal["survival"]
    time: str
    event: str
    event_value: str
    censored_value: str
    time_unit: TimeUnit | None = None
    # Empty, it is left out of hashes, so that tasks from before it keep theirs.
    missing: tuple[str, ...] = Field((), exclude_if=lambda x: not x)

    @model_validator(mode="before")
    @classmethod
    def _words_are_text(cls, data: Any) -> Any:
        return _with_words(data, "event_value", "censored_value", "missing")

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        if self.event_value == self.censored_value:
            raise ValueError("'event_value' and 'censored_value' are the same word")
        if both := sorted({self.event_value, self.censored_value} & set(self.missing)):
            raise ValueError(f"{both} stand in 'missing' too")
        return self


class ContinuousLabels(Spec):
    """A number read from one column, such as a score or the share of cells that are positive.

    Attributes:
        type: continuous.
        column: exact name of the column; every cell holds a number or a word of `missing`.
        missing: words that mean "no label"; the empty cell always does.
    """

    type: Literal["continuous"]
    column: str
    missing: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _words_are_text(cls, data: Any) -> Any:
        return _with_words(data, "missing")


class MultiLabels(Spec):
    """Several labels of one unit, each positive or negative in a column of its own.

    A unit without a label in a column is left out of the training and the score of that column.

    Attributes:
        type: multilabel.
        columns: exact names of the columns.
        positive: words that mean "positive" in any of them.
        negative: words that mean "negative".
        missing: words that mean "no label"; the empty cell always does.
    """

    type: Literal["multilabel"]
    columns: tuple[str, ...] = Field(min_length=2)
    positive: tuple[str, ...] = Field(("1",), min_length=1)
    negative: tuple[str, ...] = Field(("0",), min_length=1)
    missing: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _words_are_text(cls, data: Any) -> Any:
        return _with_words(data, "positive", "negative", "missing")

    @model_validator(mode="after")
    def _words_differ(self) -> Self:
        words = (*self.positive, *self.negative, *self.missing)
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise ValueError(f"{twice} occur twice in 'positive', 'negative' and 'missing'")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("'columns' names a column twice")
        return self


Labels = Annotated[
    ClassLabels | SurvivalLabels | ContinuousLabels | MultiLabels, Field(discriminator="type")
]


class SplitScheme(Spec):
    """How units are divided. Cases never cross folds; with site-preserved, sites do not either.

    `site-preserved` draws folds at random and stratified. `site-preserved-optimal` takes those
    whose classes are nearest to proportional (docs/audit.md); they are the same for all tasks on
    the same units and labels, so that it has one repeat and no `like`.

    `hold-out` tests one fold of `folds` alone, drawn again in each repeat: with `folds: 5` and
    `repeats: 50` it is Monte Carlo cross-validation that tests 20% of the cases 50 times.

    `validation: true` takes the next fold for validation: its units choose penalties and epochs
    and are not trained on, unless `refit: train+val` fits again on both once the choice is made.

    `like` names a task whose draws are taken, so that two tasks on the same cases and labels have
    the same folds and can be compared case by case.
    """

    scheme: Literal["case-stratified", "site-preserved", "site-preserved-optimal", "hold-out"]
    folds: int = Field(5, ge=2, le=50)
    repeats: int = Field(1, ge=1, le=100)
    like: Identifier | None = None
    # At their defaults these are left out of hashes, so that tasks from before them keep theirs.
    validation: bool = Field(False, exclude_if=lambda x: not x)
    refit: Literal["train", "train+val"] = Field("train", exclude_if=lambda x: x == "train")

    @model_validator(mode="after")
    def _optimum_is_one(self) -> Self:
        if self.validation and self.folds < 3:
            raise ValueError("'validation' takes a fold of its own: 'folds' must be at least 3")
        if self.scheme == "site-preserved-optimal" and (self.repeats > 1 or self.like is not None):
            raise ValueError(
                "site-preserved-optimal folds are not drawn: leave out 'repeats' and 'like'"
            )
        return self


class Expected(Spec):
    """Counts that the full cohort has: units with a label, and per class (or events)."""

    n: int = Field(gt=0)
    classes: dict[str, int] | None = None
    events: int | None = None

    @property
    def rarest(self) -> int:
        """How many units are of the rarest class, or have an event or none, whichever is rarer."""
        if self.classes:
            return min(self.classes.values())
        return min(self.events or 0, self.n - (self.events or 0))


class Provenance(Spec):
    """Whether a fact stands in a source or is our reconstruction."""

    status: Literal["attested", "reconstructed"]
    source: str


class TaskSpec(Spec):
    """One task of the catalogue. See DESIGN section 4 and docs/tasks.md for each key.

    A task needs an id, a cohort and labels. A core task, which the leaderboard ranks, also says
    where its facts come from and which counts the full cohort has.

    `train_on` names a task of another cohort, all units of which this one is trained on; all of its
    own are tested, and `splits` is not used (docs/external-validation.md).
    """

    id: Identifier
    version: int = Field(1, ge=1)
    status: Literal["core", "extra", "own"] = "own"
    title: str = ""
    family: Identifier = Field("own", validate_default=True)
    cohort: Identifier
    unit: Literal["slide", "case"] = "case"
    stains: tuple[Word, ...] = Field(min_length=1)
    labels: Labels
    splits: SplitScheme = SplitScheme.model_validate({"scheme": "case-stratified"})
    metric: Metric
    secondary: tuple[SecondaryName, ...] = ()
    protocols: tuple[str, ...] = Field(min_length=1)
    shots: tuple[int, ...] | None = None
    train_on: Identifier | None = Field(None, exclude_if=lambda x: x is None)
    expected: Expected | None = None
    provenance: dict[str, Provenance] = Field(default_factory=dict)
    citation: str = ""
    licence: str = ""
    _declared_id: str | None = PrivateAttr(None)  # of a task without some of its classes

    @property
    def declared_id(self) -> str:
        """The id of the task in the catalogue and in mbench.toml, also where this is a variant."""
        return self._declared_id or self.id

    @property
    def place(self) -> str:
        """Where a user says what the label words mean."""
        return f"[cohorts.{self.cohort}.tasks.{self.declared_id}] in mbench.toml"

    @property
    def counts(self) -> Expected:
        """The expected counts, which a phantom is made by.

        Raises:
            InputError: the task states none.
        """
        if self.expected is None:
            raise InputError(f"{self.id} has no phantom: it states no 'expected' counts")
        return self.expected

    @property
    def chance(self) -> float | None:
        """What a blind guess scores by the main metric.

        None for an average precision without expected counts: it is the share of positive units,
        which a record states.
        """
        classes = self.labels.classes if isinstance(self.labels, ClassLabels) else ()
        if self.metric.name == "balanced-accuracy":
            return 1.0 / len(classes)
        if self.metric.name == "average-precision" and self.expected and self.expected.classes:
            return self.expected.classes[classes[-1]] / self.expected.n
        return self.metric.chance

    @property
    def name(self) -> str:
        """The versioned name, such as bcnb-er@1."""
        return f"{self.id}@{self.version}"

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_labels(cls, data: Any) -> Any:
        if isinstance(data, dict):
            labels = data.get("labels")
            kind = labels.get("type") if isinstance(labels, dict) else None
            if kind in FITTING:
                metrics, protocol = FITTING[kind]
                data = {"metric": {"name": metrics[0]}, "protocols": [protocol], **data}
        return data

    @field_validator("family")
    @classmethod
    def _core_family(cls, family: str, info: ValidationInfo) -> str:
        if info.data.get("status") == "core" and family not in FAMILIES:
            raise ValueError(f"the family of a core task is one of {', '.join(FAMILIES)}")
        return family

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        fitting, _ = FITTING[self.labels.type]
        if self.metric.name not in fitting:
            raise ValueError(
                f"metric {self.metric.name} does not fit {self.labels.type} labels; those that do: "
                f"{', '.join(fitting)}"
            )
        if self.status == "core":
            self._check_core()
        if unknown := [fact for fact in self.provenance if fact not in FACTS]:
            raise ValueError(f"'provenance' names {unknown}; the facts are {list(FACTS)}")
        if self.expected is None:
            return self
        if isinstance(self.labels, ClassLabels):
            classes = self.expected.classes
            if classes is None or set(classes) != set(self.labels.classes):
                raise ValueError("'expected.classes' must count each class of 'labels'")
            if sum(classes.values()) != self.expected.n:
                raise ValueError("'expected.classes' does not add up to 'expected.n'")
        elif isinstance(self.labels, SurvivalLabels) and self.expected.events is None:
            raise ValueError("'expected.events' is missing")
        return self

    def _check_core(self) -> None:
        """Raise ValueError where a core task does not say what others need to trust it."""
        if self.train_on is not None:
            raise ValueError("a core task has no 'train_on'")
        needed = ("title", "expected", "citation", "licence")
        if absent := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"a core task also needs {absent}; or leave out 'status'")
        if absent := [fact for fact in FACTS if fact not in self.provenance]:
            raise ValueError(f"'provenance' must say of {absent}: attested or reconstructed")


def without_classes(task: TaskSpec, names: Sequence[str]) -> TaskSpec:
    """Return a task without some of its classes: another task, with an id of its own.

    Units of these classes have no label then. The task is no core task, so that its scores stand
    in no rank beside those of all classes.

    Raises:
        ValueError: a name is no class, fewer than two classes are left, or the id is too long.
    """
    labels = task.labels
    if not isinstance(labels, ClassLabels):
        raise ValueError(f"{labels.type} labels have no classes to leave out")
    if unknown := sorted(set(names) - set(labels.classes)):
        raise ValueError(f"'without' names {unknown}; the classes are {list(labels.classes)}")
    kept = [name for name in labels.classes if name not in names]
    if len(kept) < 2:
        raise ValueError(f"'without' leaves {len(kept)} of the classes; a task needs two")
    slugs = [re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") for name in labels.classes]
    if not all(slugs) or len(set(slugs)) < len(slugs):  # such as N+ and N-
        slugs = [f"class-{number}" for number in range(1, len(slugs) + 1)]
    left_out = [slug for name, slug in zip(labels.classes, slugs, strict=True) if name not in kept]
    words = [word for word, name in labels.map.items() if name not in kept]
    content = task.model_dump()
    content["id"] = f"{task.id}-without-{'-'.join(left_out)}"
    content["status"] = "extra"
    content["labels"] |= {
        "classes": kept,
        "map": {word: name for word, name in labels.map.items() if name in kept},
        "missing": [*labels.missing, *words],
    }
    if task.expected and (counts := task.expected.classes):
        classes = {name: counts[name] for name in kept}
        content["expected"] = {"n": sum(classes.values()), "classes": classes}
    variant = TaskSpec.model_validate(content)
    variant._declared_id = task.id
    return variant


def external_task(tested: TaskSpec, trained: TaskSpec) -> TaskSpec:
    """Return the task that is trained on all units of one task and tested on all of another.

    It is no core task, so that its scores stand in no rank.
    """
    name = f"{tested.id}{EXTERNAL}{trained.id}"
    title = f"{tested.title or tested.id}, trained on {trained.cohort}"
    changed = {"status": "extra", "train_on": trained.declared_id}
    external = tested.model_copy(update={"id": name, "title": title, **changed})
    external._declared_id = tested.declared_id
    return external


def _with_words(data: Any, *keys: str) -> Any:
    """Return the content of labels with the words under some keys as `canonical_word` has them."""
    if not isinstance(data, dict):
        return data
    words = {
        key: [*map(canonical_word, data[key])]
        if isinstance(data[key], list | tuple)
        else canonical_word(data[key])
        for key in keys
        if key in data
    }
    return {**data, **words}


def canonical_word(value: Any) -> str:
    """Return a table cell or a YAML scalar as the word it is compared by.

    Numbers that are whole become digits alone, so "1", "1.0", 1 and true are "1"; text is NFC.

    Examples:
        >>> [canonical_word(v) for v in (1, "1.0", True, " Positive ", "2.5", "")]
        ['1', '1', '1', 'Positive', '2.5', '']
    """
    if isinstance(value, bool):
        return str(int(value))
    text = unicodedata.normalize("NFC", str(value)).strip()
    if text and (text[0].isdigit() or text[0] in "-+."):
        try:
            number = float(text)
        except ValueError:
            return text
        if number.is_integer():
            return str(int(number))
    return text
