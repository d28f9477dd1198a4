"""The shipped catalogue, by discovery, and what a broken one says."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.errors import InputError
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.card import EncoderCard, PatchEncoderCard
from madeleine_bench.specs.catalogue import load_catalogue, task_hash
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import FACTS, TaskSpec, canonical_word

CATALOGUE = load_catalogue()
TASKS = resource_folder("tasks")


@pytest.fixture
def copy(tmp_path):
    """A writable copy of the shipped catalogue."""
    shutil.copytree(TASKS, tmp_path / "tasks")
    return tmp_path / "tasks"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_there_are_21_core_tasks_over_7299_slides():
    core = CATALOGUE.select(["all"])
    assert len(core) == 21
    counted = {t.cohort for t in core}
    assert counted == {c.id for c in CATALOGUE.cohorts.values() if c.counted}
    assert sum(CATALOGUE.cohorts[c].slides for c in counted) == 7_299


def test_acrobat_has_the_slides_of_the_paper():
    acrobat = CATALOGUE.cohorts["acrobat"]
    assert (acrobat.slides, acrobat.cases) == (4_211, 1_153)
    assert acrobat.role == "pretraining"


def test_families_are_those_of_the_paper():
    families = {t.family for t in CATALOGUE.select(["all"])}
    assert families == {
        "subtyping", "molecular-status", "prognosis", "ihc-quantification", "kidney-rejection",
    }  # fmt: skip


@pytest.mark.parametrize("task", CATALOGUE.tasks.values(), ids=lambda t: t.id)
def test_every_fact_says_where_it_comes_from(task):
    assert set(task.provenance) == set(FACTS)
    assert all(p.source for p in task.provenance.values())


@pytest.mark.parametrize("task", CATALOGUE.tasks.values(), ids=lambda t: t.id)
def test_counts_fit_the_cohort(task):
    cohort = CATALOGUE.cohorts[task.cohort]
    limit = cohort.cases if task.unit == "case" else cohort.slides
    assert task.expected.n <= limit
    if cohort.phantom:
        column = getattr(task.labels, "column", None) or task.labels.time
        assert column in cohort.phantom.labels


def test_select_by_glob_and_refuse_unknown():
    assert [t.id for t in CATALOGUE.select(["bcnb-[ep]*"])] == ["bcnb-er", "bcnb-pr"]
    assert "ucsb-breast-malignancy" not in [t.id for t in CATALOGUE.select(["all"])]
    with pytest.raises(InputError, match="did you mean 'bcnb-er'"):
        CATALOGUE.select(["bncb-er"])
    with pytest.raises(InputError, match="did you mean 'linear-probe/v"):
        CATALOGUE.protocol("linear-prob/v1")
    assert CATALOGUE.protocol("linear-probe").name == "linear-probe/v2"


def test_protocols_by_glob():
    """`--task` took globs, `--protocol` did not: 'patho-bench-*' was no protocol."""
    coxnet = [f"patho-bench-coxnet-{alpha}/v1" for alpha in ("001", "002", "007")]
    others = ["patho-bench-linprobe/v1", "patho-bench-retrieval/v1"]
    assert [p.name for p in CATALOGUE.select_protocols(["patho-bench-*"])] == coxnet + others
    chosen = CATALOGUE.select_protocols(["patho-bench-l*", "retrieval", "patho-*[!7]/v1"])
    assert [p.name for p in chosen] == [others[0], "retrieval/v1", *coxnet[:2], others[1]]
    with pytest.raises(
        InputError, match=r"no protocol matches 'patho-bnch-\*'; did you mean 'patho"
    ):
        CATALOGUE.select_protocols(["patho-bnch-*"])
    with pytest.raises(InputError, match="did you mean 'retrieval/v1'"):
        CATALOGUE.select_protocols(["patho-bench-*", "retrieva"])


def test_a_field_at_its_default_is_no_part_of_a_hash():
    """Protocols from before the field keep their records; another value has records of its own."""
    task = CATALOGUE.tasks["bcnb-er"]
    for name, changes in (
        ("few-shot/v1", {"rule": "madeleine"}),
        ("retrieval/v1", {"vote_ties": "hit"}),
        ("retrieval/v1", {"precision": "k"}),
    ):
        protocol = CATALOGUE.protocols[name]
        assert not set(changes) & set(protocol.method.model_dump())
        method = protocol.method.model_copy(update=changes)
        assert changes.items() <= method.model_dump().items()
        other = protocol.model_copy(update={"method": method})
        assert task_hash(task, protocol, "l", "s") != task_hash(task, other, "l", "s")


def test_task_hash_moves_with_what_moves_a_score_and_not_with_a_title():
    task, protocol = CATALOGUE.tasks["bcnb-er"], CATALOGUE.protocols["linear-probe/v1"]
    before = task_hash(task, protocol, "l", "s")
    assert task_hash(task.model_copy(update={"title": "x"}), protocol, "l", "s") == before
    assert task_hash(task.model_copy(update={"unit": "case"}), protocol, "l", "s") != before
    assert task_hash(task, protocol, "l2", "s") != before
    assert task_hash(task, protocol, "l", "s2") != before
    tighter = protocol.method.model_copy(
        update={"model": protocol.method.model.model_copy(update={"tol": 1e-9})}
    )
    assert task_hash(task, protocol.model_copy(update={"method": tighter}), "l", "s") != before


BROKEN = {
    "not yaml": ("bcnb-er.yaml", "id: bcnb-er", "id: [bcnb-er", "not valid YAML"),
    "unknown key": ("bcnb-er.yaml", "family:", "famly:", "did you mean 'family'"),
    "unknown nested key": ("bcnb-er.yaml", "  column: er", "  colum: er", "did you mean 'column'"),
    "key twice": ("bcnb-er.yaml", "version: 1", "version: 1\nversion: 2", "duplicate key"),
    "missing key": ("bcnb-er.yaml", "cohort: bcnb\n", "", "missing key 'cohort'"),
    "core task without a family": (
        "bcnb-er.yaml", "family: molecular-status\n", "", "the family of a core task is one of",
    ),
    "unknown cohort": ("bcnb-er.yaml", "cohort: bcnb", "cohort: bnbc", "did you mean 'bcnb'"),
    "wrong chance": ("bcnb-er.yaml", "chance: 0.5", "chance: 0.0", "chance of auroc is 0.5"),
    "unknown class": ("bcnb-er.yaml", "1: positive", "1: posit", "does not list"),
    "counts do not add up": ("bcnb-er.yaml", "n: 1058", "n: 1057", "does not add up"),
    "id of another file": ("bcnb-er.yaml", "id: bcnb-er", "id: bcnb-err", "bcnb-err.yaml"),
    "fact without a source": ("bcnb-er.yaml", "  metric: {st", "  metrik: {st", "must say of"),
    "unknown protocol": (
        "cohorts/bcnb.yaml", "[linear-probe/v2,", "[linear-probe/v9,", "no protocol is called",
    ),
    "stain the cohort lacks": ("cohorts/bcnb.yaml", "  stains: [H", "  stains: [ER, H", "no stain"),
    "protocol of other labels": (
        "cohorts/bcnb.yaml", "[linear-probe/v2,", "[cox/v1,", "scores survival labels",
    ),
    "shots above the class": (
        "cohorts/aidpath.yaml", "shots: [1, 5]", "shots: [1, 9]", "smaller 'shots'",
    ),
    "slides do not add up": ("cohorts/bcnb.yaml", "{H&E: 1058}", "{H&E: 1057}", "does not add up"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_says_where_and_what(copy, name):
    file, old, new, message = BROKEN[name]
    edit(copy / file, old, new)
    with pytest.raises(InputError) as caught:
        load_catalogue(copy)
    assert message in str(caught.value)
    assert ".yaml" in str(caught.value)


def test_an_error_names_the_line(copy):
    path = copy / "bcnb-er.yaml"
    line = path.read_text().splitlines().index("family: molecular-status") + 1
    edit(path, "family: molecular-status", "family: molecules")
    with pytest.raises(InputError, match=f"bcnb-er.yaml:{line}: 'family'"):
        load_catalogue(copy)


def test_the_same_id_in_two_files_names_both(copy):
    shutil.copy(copy / "bcnb-er.yaml", copy / "zz.yaml")
    with pytest.raises(InputError, match=r"zz.yaml:1.*declared already in .*bcnb-er.yaml"):
        load_catalogue(copy)


def test_no_folder_and_a_folder_without_tasks_name_the_option(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*; a catalogue is"):
        load_catalogue(tmp_path / "absent")
    with pytest.raises(InputError, match="has no tasks; --catalogue needs"):
        load_catalogue(tmp_path).select(["all"])


def test_a_byte_order_mark_is_passed_over(copy):
    path = copy / "bcnb-er.yaml"
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_catalogue(copy).tasks["bcnb-er"] == load_catalogue().tasks["bcnb-er"]
    path.write_text(path.read_text(encoding="utf-8").replace("id: bcnb-er", "idd: bcnb-er"))
    with pytest.raises(InputError, match=r"bcnb-er\.yaml:1: unknown key 'idd'"):
        load_catalogue(copy)


def test_not_text_and_not_a_mapping(copy):
    (copy / "bcnb-er.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_catalogue(copy)
    (copy / "bcnb-er.yaml").write_text("- a\n- b\n")
    with pytest.raises(InputError, match="expected keys and values, found list"):
        load_catalogue(copy)


def test_no_code_runs_from_yaml(copy):
    (copy / "bcnb-er.yaml").write_text("id: !!python/object/apply:os.system ['touch /tmp/owned']\n")
    with pytest.raises(InputError, match=r"bcnb-er\.yaml"):
        load_catalogue(copy)
    assert not Path("/tmp/owned").exists()


@given(st.integers(-1000, 1000))
def test_whole_numbers_are_one_word(number):
    assert canonical_word(number) == canonical_word(f"{number}.0") == canonical_word(f" {number} ")


def test_a_word_is_one_however_its_accents_are_composed():
    assert canonical_word("ne\u0301gatif") == canonical_word("n\u00e9gatif") == "n\u00e9gatif"


@given(st.text())
def test_canonical_word_is_stable(text):
    assert canonical_word(canonical_word(text)) == canonical_word(text)


MODELS = {
    "task": TaskSpec,
    "cohort": CohortSpec,
    "protocol": ProtocolSpec,
    "encoder": EncoderCard,
    "patch-encoder": PatchEncoderCard,
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_committed_schema_is_the_current_one(kind):
    path, schema = TASKS / "schema" / f"{kind}.json", MODELS[kind].model_json_schema()
    current = json.dumps(schema, indent=1, sort_keys=True) + "\n"
    assert path.read_text() == current, f"write this to {path}:\n{current}"
