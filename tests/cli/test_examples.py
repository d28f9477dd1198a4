"""What examples/ holds works as it stands."""

from pathlib import Path

import pytest

from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("card", sorted(EXAMPLES.rglob("card.yaml")), ids=lambda p: p.parent.name)
def test_example_encoders_keep_the_contract_and_run(card, mbench, bcnb, tmp_path):
    assert mbench("encoders", "check", card).code == 0
    said = mbench(
        "run", "--encoder", card, "--task", "bcnb-er", "--protocol", "linear-probe", "--jobs", "1",
        "--config", bcnb.config, "--results", tmp_path / "results",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert card.parent.name.split("_")[0] in said.out


def test_example_configuration_is_valid():
    config = load_config(EXAMPLES / "mbench.toml")
    catalogue = load_catalogue()
    config.checked(catalogue)
    task = config.task(catalogue.tasks["tcga-breast-er"])
    assert task.labels.column == "er_ihc"
