"""A cohort read from a packed store: the same bags, keys and facts as from its feature files."""

from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import h5py
import numpy as np
import pytest

from madeleine_bench.data.local import LocalCohort, verify_cohort
from madeleine_bench.data.packed import open_store, read_index
from madeleine_bench.data.packing import content_hash, pack_cohort, packed_folder
from madeleine_bench.errors import InputError
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.config import CohortEntry
from tests.data.made_cohort import flip, make_cohort
from tests.tool_bags import write_bag_file

Make = Callable[..., LocalCohort]
Write = Callable[..., Path]
COORDS = np.array([[0, 0], [256, 0], [512, 1], [3, 4], [5, 6]])
FACTS = {"target_magnification": 20, "patch_size": 512, "patch_size_level0": 1024}


@pytest.fixture
def packed(small_cohort: Make, catalogue: Catalogue, tmp_path: Path) -> Make:
    """Packs what `small_cohort` reads, and returns the cohort read from the store."""

    def make(table: Path | None = None, **entry) -> LocalCohort:
        source = small_cohort(**entry)
        pack_cohort(source, tmp_path / "store")
        from_store = CohortEntry(
            features=tmp_path / "store", labels=table or tmp_path / "labels.csv", **entry
        )
        spec = catalogue.cohorts["ucsb-breast"]
        return LocalCohort(spec, from_store, tmp_path / "other-cache")

    return make


def test_a_bag_is_the_same_in_all_it_says(
    small_cohort: Make, packed: Make, write_bag: Write
) -> None:
    for slide_id in "ab":
        write_bag(slide_id, dtype=np.float16, coords=COORDS, coords_attributes=FACTS)
    write_bag("c", dtype=np.float16)
    files, store = small_cohort(patch_encoder="uni"), packed(patch_encoder="uni")
    for slide_id in "abc":
        one, other = files.read_bag(slide_id), store.read_bag(slide_id)
        np.testing.assert_array_equal(one.features, other.features)
        assert one.features.dtype == other.features.dtype == np.float16
        if one.coords is None:
            assert other.coords is None
        else:
            np.testing.assert_array_equal(one.coords, other.coords)
            assert one.coords.dtype == other.coords.dtype
        arrays = {"features": None, "coords": None}
        assert asdict(one) | arrays == asdict(other) | arrays
        assert other.features.flags.writeable
        assert files.content_key(slide_id) == store.content_key(slide_id)
        facts = asdict(store.facts[slide_id]) | {"patch_encoder": None}
        assert facts == asdict(files.facts[slide_id])
    assert files.no_bag == store.no_bag == frozenset()
    assert (store.source, store.variant) == ("local", "")
    assert {facts.width for facts in store.facts.values()} == {3}


def test_coords_of_another_byte_order_are_packed(packed: Make, write_bag: Write) -> None:
    path = write_bag("a", coords=COORDS)
    with h5py.File(path, "a") as handle:
        del handle["coords"]
        handle["coords"] = COORDS.astype(">i8")
    np.testing.assert_array_equal(packed().read_bag("a").coords, COORDS)


@pytest.mark.parametrize(
    ("numbers", "same"), [("float16", True), ("float32", False), ("halves", True)]
)
def test_the_key_is_another_where_numbers_were_rounded(
    small_cohort: Make,
    packed: Make,
    write_bag: Write,
    numbers: str,
    same: bool,
) -> None:
    path = write_bag("a", dtype=np.float16 if numbers == "float16" else np.float32)
    if numbers == "halves":  # float32 that float16 holds as they are
        write_bag_file(path, np.full((5, 3), 0.5, np.float32), layout="clam")
    files, store = small_cohort(), packed()
    one, other = files.read_bag("a").features, store.read_bag("a").features
    assert np.array_equal(one, other) == same
    assert (files.content_key("a") == store.content_key("a")) == same
    assert other.dtype == np.float16


def test_a_store_of_files_travels_small(packed: Make, write_bag: Write) -> None:
    write_bag("a", patches=3000)
    cohort = packed()
    sent = bytes(ForkingPickler.dumps(cohort))
    assert len(sent) < 30_000
    copy = ForkingPickler.loads(sent)
    assert copy.content_key("a") == cohort.content_key("a")
    np.testing.assert_array_equal(copy.read_bag("a").features, cohort.read_bag("a").features)


def test_a_flipped_byte_is_found_when_the_bag_is_read(packed: Make, write_bag: Write) -> None:
    for slide_id in "abc":
        write_bag(slide_id)
    cohort = packed()
    (path,) = cohort.folder.glob("features-*.safetensors")
    flip(path, read_index(cohort.folder).slides[1].begin + 1)
    cohort.read_bag("a")
    message = rf"{path.name}: slide 'b' is not what .*mbench data pack ucsb-breast --out"
    with pytest.raises(InputError, match=message):
        cohort.read_bag("b")
    (finding,) = verify_cohort(cohort)
    assert (finding.level, finding.slide_id) == ("error", "b")
    # The store cannot be repaired from itself.
    with pytest.raises(InputError, match="slide 'b'"):
        pack_cohort(cohort, cohort.folder)


def test_slides_that_the_table_does_not_name(
    packed: Make, write_bag: Write, tmp_path: Path
) -> None:
    for slide_id in "abc":
        write_bag(slide_id)
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("slide_id,malignant\na,0\nb,1\nx,1\n")
    cohort = packed(table=fewer)
    assert cohort.no_bag == {"x"}
    findings = [(f.slide_id, f.message) for f in verify_cohort(cohort)]
    assert findings == [
        ("", "slide 'c': not in the label table; not used"),
        ("x", "no feature file; skipped"),
    ]
    with pytest.raises(InputError, match="slide 'x' has no feature file"):
        cohort.read_bag("x")
    # Networks train on the slides of the table alone, so the store itself will not do.
    place = packed_folder(cohort, tmp_path / "results")
    assert place == tmp_path / "results" / "features" / "local" / "ucsb-breast"
    store = pack_cohort(cohort, place)
    assert (store.slide_ids, store.missing) == (("a", "b"), ("x",))


def test_networks_train_from_the_very_store(packed: Make, write_bag: Write, tmp_path: Path) -> None:
    for slide_id in "abc":
        write_bag(slide_id)
    cohort = packed()
    place = packed_folder(cohort, tmp_path / "results")
    assert place == cohort.folder
    assert pack_cohort(cohort, place).content
    assert not (tmp_path / "results").exists()


def test_files_have_their_store_among_the_results(small_cohort: Make, write_bag: Write) -> None:
    write_bag("a")
    assert packed_folder(small_cohort(), Path("r")) == Path("r/features/local/ucsb-breast")
    phantom = make_cohort(source="phantom", variant="signal-0")
    assert packed_folder(phantom, Path("r")) == Path("r/features/phantom-signal-0/toy")


def test_a_packed_phantom_stays_a_phantom(packed: Make, write_bag: Write) -> None:
    for slide_id in "ab":
        write_bag(slide_id, attributes={"phantom": "rendered"})
    cohort = packed()
    assert (cohort.source, cohort.variant) == ("phantom", "rendered")
    assert cohort.no_bag == {"c"}


def test_a_store_of_another_cohort_or_not_whole_is_refused(
    packed: Make, write_bag: Write, catalogue: Catalogue, tmp_path: Path
) -> None:
    write_bag("a")
    cohort = packed()
    entry = cohort.entry.model_copy(update={"labels": tmp_path / "bcnb.csv"})
    (tmp_path / "bcnb.csv").write_text("slide_id,er\na,0\n")
    with pytest.raises(InputError, match=r"packed store of cohort ucsb-breast, and mbench\.toml"):
        LocalCohort(catalogue.cohorts["bcnb"], entry, tmp_path / "cache")
    (path,) = (tmp_path / "store").glob("features-*.safetensors")
    path.write_bytes(b"short")
    with pytest.raises(InputError, match=rf"{path.name} is truncated"):
        LocalCohort(catalogue.cohorts["ucsb-breast"], cohort.entry, tmp_path / "cache")
    (tmp_path / "store" / "index.json").unlink()
    with pytest.raises(InputError, match="packing has not ended"):
        LocalCohort(catalogue.cohorts["ucsb-breast"], cohort.entry, tmp_path / "cache")


def test_the_declared_patch_encoder_is_that_of_the_store(packed: Make, write_bag: Write) -> None:
    for slide_id in "abc":
        write_bag(slide_id, layout="stamp", patch_encoder="mahmood-conch")
    both = {"patch_encoder": "conch_v1", "patch_encoder_in_files": "mahmood-conch"}
    assert packed(**both).read_bag("a").patch_encoder == "conch_v1"
    cohort = packed(**both)
    other = cohort.entry.model_copy(update={"patch_encoder": "uni", "patch_encoder_in_files": None})
    cohort.entry = other
    with pytest.raises(
        InputError, match=r"the patch encoder 'conch_v1', but mbench\.toml says 'uni"
    ):
        cohort.read_bag("a")


def test_what_has_changed_since_packing_is_noticed(
    small_cohort: Make, packed: Make, write_bag: Write, tmp_path: Path
) -> None:
    for slide_id in "ab":
        write_bag(slide_id)
    store = packed()
    content = open_store(tmp_path / "store").content
    assert content == content_hash(small_cohort()) == content_hash(store)
    write_bag("a", patches=7)
    assert content_hash(small_cohort()) != content
    write_bag("a")
    assert content_hash(small_cohort()) == content
    write_bag("c")
    assert content_hash(small_cohort()) != content
    (tmp_path / "bags" / "c.h5").unlink()
    assert content_hash(small_cohort("abd")) != content
    write_bag("a", patches=0)
    assert content_hash(small_cohort()) != content
    toy = make_cohort(variant="x")
    content = content_hash(toy)
    toy.variant = ""
    assert content_hash(toy) != content
