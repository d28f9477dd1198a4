"""What a user can get wrong in pretraining: one clear message each, and nothing lost."""

import inspect
import sys

import numpy as np
import pytest
import torch

CHECKPOINT = "checkpoint.safetensors"


class Bench:
    """A cohort and a finished run of it, in which one thing is about to be wrong."""

    def __init__(self, acrobat, mbench):
        self.acrobat, self.mbench = acrobat, mbench
        self.out = acrobat.folder / "out"

    def finished_run(self):
        said = self.mbench(*self.acrobat.arguments("--set", "epochs=2"))
        assert said.code == 0, said.err
        return self.out / CHECKPOINT

    def resume(self, *more):
        return self.acrobat.arguments("--set", "epochs=2", "--resume", *more)

    def replace_label(self, old, new):
        text = self.acrobat.labels.read_text()
        assert old in text
        self.acrobat.labels.write_text(text.replace(old, new))


def fault_case_without_he(bench):
    bench.replace_label("c03-0,case03,H&E\n", "")
    return bench.acrobat.arguments(), 2, ["case03", "H&E", "unusable=skip"]


def fault_cohort_of_one_stain(bench):
    lines = [
        n
        for n in bench.acrobat.labels.read_text().splitlines()
        if "ER" not in n and "HER2" not in n
    ]
    bench.acrobat.labels.write_text("\n".join(lines) + "\n")
    return bench.acrobat.arguments(), 2, ["one stain", "intra-ssl"]


def fault_no_he_at_all(bench):
    bench.replace_label("H&E", "PR")
    return bench.acrobat.arguments(encoder="intra-ssl"), 2, ["no H&E slide"]


def fault_bag_of_one_patch(bench):
    bench.acrobat.write_bag("c03-0", np.ones((1, 6), dtype=np.float32))
    return bench.acrobat.arguments(), 2, ["c03-0", "patch", "unusable=skip"]


def fault_mixed_widths(bench):
    bench.acrobat.write_bag("c03-1", np.ones((9, 7), dtype=np.float32))
    return bench.acrobat.arguments(), 2, ["c03-1", "7", "6"]


def fault_nan_in_a_bag(bench):
    bag = np.ones((9, 6), dtype=np.float32)
    bag[4, 2] = np.nan
    bench.acrobat.write_bag("c03-1", bag)
    return bench.acrobat.arguments(), 2, ["c03-1", "row 4"]


def fault_too_few_cases(bench):
    lines = bench.acrobat.labels.read_text().splitlines()[:6]
    bench.acrobat.labels.write_text("\n".join(lines) + "\n")
    return bench.acrobat.arguments(), 2, ["case"]


def fault_loss_not_a_number(bench):
    setting = ("--set", "optimiser.learning_rate=1e30", "--set", "optimiser.clip_norm=null")
    return bench.acrobat.arguments(*setting), 1, ["not a number", "epoch", "learning_rate"]


def fault_checkpoint_of_another_width(bench):
    bench.finished_run()
    return bench.resume("--set", "model.width=16"), 2, [CHECKPOINT, "model.width was 8, now 16"]


def fault_checkpoint_of_other_bags(bench):
    bench.finished_run()
    bench.acrobat.write_bag("c03-1", np.ones((9, 6), dtype=np.float32))
    return bench.resume(), 2, [CHECKPOINT, "data was"]


def fault_truncated_checkpoint(bench):
    path = bench.finished_run()
    path.write_bytes(path.read_bytes()[:-100])
    return bench.resume(), 2, [CHECKPOINT, "not a readable checkpoint"]


def fault_pickled_checkpoint(bench):
    path = bench.finished_run()
    torch.save({"weights": torch.ones(3)}, path)
    return bench.resume(), 2, [CHECKPOINT, "not a readable checkpoint"]


def fault_weights_given_as_checkpoint(bench):
    path = bench.finished_run()
    path.write_bytes((bench.out / "small-acrobat.safetensors").read_bytes())
    return bench.resume(), 2, [CHECKPOINT, "not a checkpoint"]


def fault_empty_checkpoint(bench):
    path = bench.finished_run()
    path.write_bytes(b"")
    return bench.resume(), 2, [CHECKPOINT, "not a readable checkpoint"]


def fault_no_gpu(bench):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    given = [a if a != "cpu" else "cuda" for a in bench.acrobat.arguments()]
    return given, 2, ["--device cuda", "no GPU"]


def fault_unknown_encoder(bench):
    return ["pretrain", "madelein"], 2, ["madelein", "did you mean 'madeleine'"]


def fault_unknown_key(bench):
    return bench.acrobat.arguments("--set", "epoch=3"), 2, ["epoch", "did you mean 'epochs'"]


def fault_broken_recipe(bench):
    recipe = bench.acrobat.recipe()
    recipe.write_text(recipe.read_text().replace("epochs: 3", "epochs: many"))
    given = bench.acrobat.arguments()
    recipe.write_text(recipe.read_text().replace("epochs: 3", "epochs: many"))
    return given, 2, ["madeleine.yaml:9", "epochs"]


def fault_evaluation_cohort(bench):
    return ["pretrain", "madeleine", "--cohort", "bcnb"], 2, ["bcnb", "test cases", "acrobat"]


def fault_unknown_cohort(bench):
    return ["pretrain", "madeleine", "--cohort", "akrobat"], 2, ["did you mean 'acrobat'"]


def fault_own_cohort_without_a_role(bench):
    rename_cohort(bench.acrobat, "")
    return bench.acrobat.arguments("--cohort", "mine"), 2, ["'mine'", 'role = "pretraining"']


def fault_bad_name(bench):
    return bench.acrobat.arguments("--name", "my encoder"), 2, ["my encoder"]


def fault_out_is_a_file(bench):
    bench.out.write_text("mine")
    return bench.acrobat.arguments(), 2, ["out"]


def rename_cohort(acrobat, role):
    (acrobat.folder / "mbench.toml").write_text(
        f'[cohorts.mine]\n{role}\nfeatures = "features"\nlabels = "labels.csv"\n'
        'columns = { stain = "stain" }\nstains = ["H&E", "ER", "HER2"]\n'
    )


FAULTS = {
    name.removeprefix("fault_"): fault
    for name, fault in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    if name.startswith("fault_")
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_input_ends_in_one_clear_message(acrobat, mbench, fault):
    bench = Bench(acrobat, mbench)
    arguments, code, words = FAULTS[fault](bench)
    before = {p: p.read_bytes() for p in bench.out.rglob("*") if p.is_file()}
    said = mbench(*arguments)
    assert said.code == code, said.err
    assert "Traceback" not in said.err
    assert said.err.count("error:") == 1
    for word in words:
        assert word in said.err
    assert before == {p: p.read_bytes() for p in before}, "a file of the run was lost"
    assert not list(acrobat.folder.rglob("*.tmp"))


def test_what_is_unusable_can_be_left_out_and_is_named(acrobat, mbench):
    bench = Bench(acrobat, mbench)
    bench.replace_label("c03-0,case03,H&E\n", "")
    acrobat.write_bag("c05-0", np.ones((1, 6), dtype=np.float32))
    said = mbench(*acrobat.arguments("--set", "unusable=skip"))
    assert said.code == 0, said.err
    assert "left out" in said.err
    assert "case03" in said.err
    assert "c05-0" in said.err


def test_a_cohort_of_the_user_with_the_role_pretraining_is_trained_on(acrobat, mbench):
    rename_cohort(acrobat, 'role = "pretraining"')
    said = mbench(*acrobat.arguments("--cohort", "mine", "--set", "epochs=2"))
    assert said.code == 0, said.err
    assert "mine" in (acrobat.folder / "out" / "card.yaml").read_text()
