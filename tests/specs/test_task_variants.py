"""A task without some of its classes is another task with a valid declaration of its own."""

import pytest

from madeleine_bench.specs.catalogue import load_catalogue, task_hash
from madeleine_bench.specs.task import TaskSpec, without_classes


@pytest.fixture(scope="module")
def her2() -> TaskSpec:
    return load_catalogue().tasks["aidpath-her2"]  # ordered: low, equivocal, high


def test_words_of_the_class_mean_no_label_and_counts_follow(her2: TaskSpec) -> None:
    variant = without_classes(her2, ["equivocal"])
    assert variant.name == "aidpath-her2-without-equivocal@1"
    assert (variant.declared_id, variant.status) == ("aidpath-her2", "extra")
    assert variant.place == "[cohorts.aidpath.tasks.aidpath-her2] in mbench.toml"
    assert variant.labels.model_dump(include={"classes", "map", "missing"}) == {
        "classes": ("low", "high"), "map": {"0-1+": "low", "3+": "high"}, "missing": ("2+",),
    }  # fmt: skip
    assert (variant.expected.n, variant.expected.classes) == (17, {"low": 10, "high": 7})
    assert TaskSpec.model_validate(variant.model_dump()).id == variant.id
    assert variant.model_copy(update={"version": 2}).declared_id == "aidpath-her2"


def test_its_hash_is_its_own(her2: TaskSpec) -> None:
    protocol = load_catalogue().protocols["linear-probe/v2"]
    variant = without_classes(her2, ["equivocal"])
    assert task_hash(variant, protocol, "l", "s") != task_hash(her2, protocol, "l", "s")


def test_classes_that_letters_do_not_part_are_numbered(her2: TaskSpec) -> None:
    names = ("N0", "N+", "N-")
    labels = her2.labels.model_copy(
        update={"classes": names, "map": {name: name for name in names}, "missing": ()}
    )
    expected = her2.expected.model_copy(update={"classes": {"N0": 10, "N+": 8, "N-": 7}})
    task = her2.model_copy(update={"labels": labels, "expected": expected})
    assert without_classes(task, ["N+"]).id == "aidpath-her2-without-class-2"
    assert without_classes(task, ["N-"]).id == "aidpath-her2-without-class-3"


def test_an_id_that_is_too_long_is_refused(her2: TaskSpec) -> None:
    long = her2.model_copy(update={"id": "a" * 60})
    with pytest.raises(ValueError, match="at most 64 characters"):
        without_classes(long, ["high"])


def test_survival_has_no_classes() -> None:
    task = load_catalogue().tasks["tcga-breast-os"]
    with pytest.raises(ValueError, match="no classes to leave out"):
        without_classes(task, ["x"])
