"""What a user can get wrong: each ends in one clear message, the right exit code, no traceback.

The faults, by name, are the functions below that start with `fault_`; each prepares one and
returns the arguments of `mbench`, the exit code and words that must be in the message.
"""

import importlib.util
import inspect
import json
import shutil
import sys

import h5py
import numpy as np
import pytest

from madeleine_bench.resources import resource_folder
from tests.stranger import MEAN, write_stranger


class Workshop:
    """A user's folder in which one thing is wrong."""

    def __init__(self, tmp_path, bcnb):
        self.tmp, self.bcnb = tmp_path, bcnb

    def run(self, *more, encoder="mean-pool", task="bcnb-er", protocol="linear-probe"):
        return [
            "run", "--encoder", encoder, "--task", task, "--protocol", protocol, "--jobs", "1",
            "--config", self.bcnb.config, "--results", self.tmp / "results", *more,
        ]  # fmt: skip

    def catalogue(self, file, old, new):
        folder = self.tmp / "tasks"
        shutil.copytree(resource_folder("tasks"), folder)
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))
        return ["tasks", "validate", folder]

    def stranger(self, body=MEAN, extra=""):
        return str(write_stranger(self.tmp, body, more=extra))

    def edit_labels(self, old, new):
        text = self.bcnb.labels.read_text()
        assert old in text
        self.bcnb.labels.write_text(text.replace(old, new))

    def state(self, **attributes):
        for number in range(1, 41):
            with h5py.File(self.bcnb.bag(number), "a") as handle:
                handle.attrs.update(attributes)

    def add_config(self, text):
        self.bcnb.config.write_text(self.bcnb.config.read_text() + text)


def fault_broken_yaml(w):
    return w.catalogue("bcnb-er.yaml", "id: bcnb-er", "id: [bcnb"), 2, ["bcnb-er.yaml:", "YAML"]


def fault_unknown_key(w):
    said = ["bcnb-er.yaml:", "famly", "did you mean 'family'"]
    return w.catalogue("bcnb-er.yaml", "family:", "famly:"), 2, said


def fault_duplicate_id(w):
    args = w.catalogue("bcnb-er.yaml", "id:", "id:")
    shutil.copy(args[-1] / "bcnb-er.yaml", args[-1] / "bcnb-er2.yaml")
    return args, 2, ["bcnb-er2.yaml", "declared already in", "bcnb-er.yaml"]


def fault_changed_task_without_a_new_version(w):
    folder = w.catalogue("bcnb-er.yaml", "    0: negative", "    0: negative")[-1]
    text = (folder / "bcnb-er.yaml").read_text()
    (folder / "bcnb-er.yaml").write_text(text + "splits: {scheme: case-stratified, folds: 4}\n")
    return ["tasks", "lock", "--check", "--catalogue", folder], 1, ["bcnb-er@1", "version"]


def fault_unknown_task(w):
    return w.run(task="bncb-er"), 2, ["bncb-er", "did you mean 'bcnb-er'"]


def fault_unknown_encoder(w):
    return w.run(encoder="meanpool"), 2, ["did you mean 'mean-pool'"]


def fault_unknown_protocol(w):
    return w.run(protocol="linear-prob"), 2, ["linear-probe/v2"]


def fault_protocol_of_other_labels(w):
    return w.run(protocol="cox"), 2, ["cox/v2", "survival", "binary"]


def fault_no_workers(w):
    return w.run("--jobs", "0"), 2, ["--jobs"]


def fault_local_cohort_not_configured(w):
    return w.run("--source", "local", task="aidpath-her2"), 2, ["[cohorts.aidpath]"]


def fault_cohort_without_phantom(w):
    return w.run(task="ucsb-breast-malignancy"), 2, ["mbench data fetch ucsb-breast"]


def fault_broken_toml(w):
    w.add_config("features = [\n")
    return w.run(), 2, ["mbench.toml"]


def fault_unknown_cohort_in_toml(w):
    w.add_config('[cohorts.bnbc]\nfeatures = "x"\nlabels = "y.csv"\n')
    return w.run(), 2, ["mbench.toml:", "did you mean 'bcnb'"]


def fault_unknown_key_in_toml(w):
    w.add_config('feature = "x"\n')
    return w.run(), 2, ["feature", "did you mean 'features'"]


def fault_absent_config(w):
    args = w.run()
    args[args.index("--config") + 1] = w.tmp / "absent.toml"
    return args, 2, ["absent.toml"]


def fault_absent_label_table(w):
    w.bcnb.labels.unlink()
    return w.run(), 2, ["labels.csv"]


def fault_empty_label_table(w):
    w.bcnb.labels.write_text("")
    return w.run(), 2, ["labels.csv", "no rows"]


def fault_missing_column(w):
    w.edit_labels("slide_id,er,", "slide_id,ER_status,")
    return w.run(), 2, ["labels.csv", "'er'"]


def fault_her2_is_not_her2_binary(w):
    w.edit_labels(",her2,her2_binary", ",her2x,her2_binary")
    return w.run(task="bcnb-her2"), 2, ["labels.csv", "'her2'"]


def fault_unknown_label_word(w):
    w.edit_labels("\n7,0,", "\n7,Equivocal,")
    return w.run(), 2, ["labels.csv", "Equivocal", "missing"]


def fault_duplicate_slide_in_the_table(w):
    w.edit_labels("\n8,", "\n7,")
    return w.run(), 2, ["labels.csv", "'7'"]


def fault_one_class(w):
    return w.run(task="bcnb-aln"), 2, ["N0", "class"]


def fault_no_event(w):
    lines = ["slide_id,case_id,site,os_days,os_event"]
    lines += [f"{n},c{n},s{n % 6},{n},0" for n in range(1, 41)]
    w.bcnb.labels.write_text("\n".join(lines))
    w.bcnb.config.write_text(w.bcnb.config.read_text().replace("bcnb", "tcga-breast"))
    return w.run(task="tcga-breast-os", protocol="cox"), 2, ["event", "tcga-breast-os"]


def fault_absent_feature_folder(w):
    shutil.rmtree(w.bcnb.folder / "features")
    return w.run(), 2, ["features"]


def fault_feature_file_twice(w):
    (w.bcnb.folder / "features" / "more").mkdir()
    shutil.copy(w.bcnb.bag(3), w.bcnb.folder / "features" / "more" / "3.h5")
    return w.run(), 2, ["3.h5", "more"]


def fault_truncated_h5(w):
    content = w.bcnb.bag(3).read_bytes()
    w.bcnb.bag(3).write_bytes(content[: len(content) // 2])
    return w.run(), 2, ["3.h5"]


def fault_nan_in_a_bag(w):
    features = np.zeros((4, 8), dtype=np.float32)
    features[2, 5] = np.nan
    with h5py.File(w.bcnb.bag(3), "w") as handle:
        handle["features"] = features
    return w.run(), 2, ["3.h5", "nan", "row 2"]


def fault_integers_in_a_bag(w):
    with h5py.File(w.bcnb.bag(3), "w") as handle:
        handle["features"] = np.zeros((4, 8), dtype=np.int32)
    return w.run(), 2, ["3.h5", "int32"]


def fault_no_known_dataset(w):
    with h5py.File(w.bcnb.bag(3), "w") as handle:
        handle["featurez"] = np.zeros((4, 8), dtype=np.float32)
    return w.run(), 2, ["3.h5", "featurez"]


def fault_mixed_widths(w):
    w.bcnb.write_bag(3, np.zeros((4, 9), dtype=np.float32))
    return w.run(), 2, ["3.h5", "9"]


def fault_width_the_encoder_does_not_take(w):
    return w.run(encoder=w.stranger(extra="input_dim: 512")), 2, ["stranger", "512", "8"]


def fault_features_of_another_patch_encoder(w):
    w.add_config('patch_encoder = "uni"\n')
    return w.run(encoder=w.stranger(extra="patch_encoder: conch_v1")), 2, ["conch_v1", "uni"]


def fault_patches_of_another_magnification(w):
    w.state(target_magnification=20, patch_size=256)
    extra = "magnification: 10\npatch_size: 256"
    return w.run(encoder=w.stranger(extra=extra)), 2, ["stranger", "10x", "20x", "extract"]


def fault_patches_of_another_size(w):
    w.state(target_magnification=10, patch_size=512)
    extra = "magnification: 10\npatch_size: 256"
    return w.run(encoder=w.stranger(extra=extra)), 2, ["stranger", "256 px", "512 px", "extract"]


def fault_features_named_by_their_files(w):
    w.state(patch_encoder="uni_v1")
    return w.run(encoder=w.stranger(extra="patch_encoder: conch_v15")), 2, ["conch_v15", "uni_v1"]


def fault_encoder_that_does_not_ship(w):
    if importlib.util.find_spec("trident") is not None:
        pytest.skip("TRIDENT is installed here")
    return ["encoders", "check", "titan"], 2, ["github.com/mahmoodlab/TRIDENT", "ask for access"]


def fault_pickled_bag(w):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self):
            return (sys.exit, (99,))

    w.bcnb.bag(3).unlink()
    torch.save({"features": Evil()}, w.bcnb.bag(3).with_suffix(".pt"))
    return w.run(), 2, ["3.pt"]


def fault_oracle_on_real_slides(w):
    return w.run(encoder="oracle"), 2, ["oracle", "phantom"]


def fault_encoder_raises(w):
    said = ["stranger", "ZeroDivisionError", "slide"]
    return w.run(encoder=w.stranger("return 1 / 0")), 1, said


def fault_encoder_returns_nan(w):
    return w.run(encoder=w.stranger("return np.full(3, np.nan)")), 1, ["stranger", "nan"]


def fault_encoder_returns_a_matrix(w):
    return w.run(encoder=w.stranger("return bag.features")), 1, ["stranger", "vector"]


def fault_encoder_changes_its_width(w):
    return w.run(encoder=w.stranger("return np.ones(len(bag.features))")), 1, ["width"]


def fault_encoder_breaks_the_contract(w):
    card = w.stranger("return bag.features[0]")
    return ["encoders", "check", card], 1, ["order of patches"]


def fault_weights_of_another_hash(w):
    (w.tmp / "w.bin").write_bytes(b"x")
    extra = f"weights: {{path: w.bin, sha256: {'a' * 64}}}"
    return w.run(encoder=w.stranger(extra=extra)), 2, ["w.bin", "the card says"]


def fault_leaked_patient_in_given_splits(w):
    lines = ["slide_id,case_id,er"]
    lines += [f"{n},case{n // 2},{n % 4 // 2}" for n in range(1, 41)]
    w.bcnb.labels.write_text("\n".join(lines))
    splits = ["repeat,fold,unit_id"] + [f"0,{n % 5},{n}" for n in range(1, 41)]
    (w.bcnb.folder / "splits.csv").write_text("\n".join(splits) + "\n")
    w.add_config(
        'columns = {case = "case_id"}\n[cohorts.bcnb.tasks.bcnb-er]\nsplits = "splits.csv"\n'
    )
    return w.run(), 2, ["splits.csv", "case"]


def fault_results_folder_cannot_be_written(w):
    (w.tmp / "a-file").write_text("")
    return w.run("--results", w.tmp / "a-file" / "results"), 2, ["a-file"]


def fault_damaged_file_found_by_verify(w):
    w.bcnb.bag(3).write_bytes(b"not h5")
    return ["data", "verify", "--config", w.bcnb.config, "--results", w.tmp / "r"], 1, ["3.h5"]


def fault_truncated_record(w):
    path = w.tmp / "results" / "records" / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 1')
    return ["leaderboard", "show", "--results", w.tmp / "results"], 2, ["x.json"]


def fault_record_of_a_newer_schema(w):
    path = w.tmp / "results" / "records" / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema_version": 2}))
    return ["leaderboard", "show", "--results", w.tmp / "results"], 2, ["newer madeleine-bench"]


def fault_no_records(w):
    return ["leaderboard", "show", "--results", w.tmp / "none"], 2, ["mbench run"]


FAULTS = {
    name.removeprefix("fault_"): function
    for name, function in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    if name.startswith("fault_")
}


def test_there_are_enough_of_them():
    assert len(FAULTS) >= 25


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_input_ends_in_a_clear_message(name, tmp_path, bcnb, mbench):
    arguments, code, words = FAULTS[name](Workshop(tmp_path, bcnb))
    said = mbench(*arguments)
    text = said.err + said.out
    assert said.code == code, text
    assert "Traceback" not in text
    assert "internal error" not in text
    for word in words:
        assert word in text, text
    leftovers = list(tmp_path.rglob("*.tmp"))
    assert leftovers == []


def test_the_sound_cohort_runs(tmp_path, bcnb, mbench):
    said = mbench(*Workshop(tmp_path, bcnb).run())
    assert said.code == 0, said.err
    assert "bcnb-er" in said.out
    assert "PHANTOM" not in said.out
