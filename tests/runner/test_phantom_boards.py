"""The benchmark tested by its own controls: the oracle above, and the null phantom at chance."""

import pytest

from benchmarks.phantom_boards import away_from_chance, below_oracle
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.run import run
from tests.runner.conftest import request
from tests.runner.test_run import Quiet

ENCODERS = ("mean-pool", "max-pool", "patch-count", "site-only", "case-id", "oracle")


def records(results, **more):
    asked = request(encoders=ENCODERS, results=results, source="phantom", **more)
    report = run(asked, Quiet())
    assert report.failures == []
    return list(ResultStore(results).records())


def test_oracle_above_and_null_at_chance_on_the_smallest_cohort(tmp_path):
    tasks = ("aidpath-*",)
    assert below_oracle(records(tmp_path / "a", tasks=tasks)) == []
    null = records(tmp_path / "b", tasks=tasks, phantom_signal=0.0)
    assert below_oracle(null) == []
    assert [f for f in away_from_chance(null, tmp_path / "b") if f["outside"]] == []


@pytest.mark.slow
def test_oracle_above_and_null_at_chance_on_bcnb_and_survival(tmp_path):
    tasks = ("bcnb-*", "tcga-breast-os")
    assert below_oracle(records(tmp_path / "a", tasks=tasks, jobs=2)) == []
    null = records(tmp_path / "b", tasks=tasks, phantom_signal=0.0, jobs=2)
    assert below_oracle(null) == []
    assert [f for f in away_from_chance(null, tmp_path / "b") if f["outside"]] == []
