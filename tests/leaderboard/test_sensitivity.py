"""What the choice of the protocol does to ranks: who takes part, means, swaps, and figures."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.sensitivity import (
    fitting_protocols,
    sensitivity,
    swaps_between,
)
from madeleine_bench.leaderboard.sensitivity_report import sensitivity_chart
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import misfit
from madeleine_bench.stats.paired import across_tasks
from tests.leaderboard.records import CATALOGUE, make_record

PROBE, SHOTS, COX = "linear-probe/v1", "few-shot/v1", "cox/v1"
NEWER = "linear-probe/v2"
CLASS = CATALOGUE.select(["bcnb-*", "bwh-breast-*"])
OS = CATALOGUE.tasks["tcga-breast-os"]


def scored(encoder, values, protocol=PROBE, tasks=CLASS, scatter=0.002, **more):
    """Records about the values. Exact ties would be slow: scipy then tries all signs."""
    noise = scatter * rng_for("tests", encoder).standard_normal(len(tasks))
    return [
        make_record(encoder, task, float(value), protocol=protocol, **more)
        for task, value in zip(tasks, values + noise, strict=True)
    ]


def three(protocol, *values, **more):
    return [r for e, v in zip("abc", values, strict=True) for r in scored(e, v, protocol, **more)]


def find(records, protocols=(PROBE, SHOTS), tasks=CLASS, board="phantom"):
    return sensitivity(records, CATALOGUE, board, protocols, tasks)


AGREE = [*three(PROBE, 0.9, 0.8, 0.7), *three(SHOTS, 0.8, 0.7, 0.6)]


def test_the_same_order_has_tau_one_and_no_swap():
    found = find(AGREE)
    (pair,) = found.pairs
    assert (pair.first, pair.second) == (PROBE, SHOTS)
    assert pair.tau == 1.0
    assert pair.swaps == ()
    assert len(pair.tasks) == len(CLASS)
    assert found.rankings[0].ranks == {"a": 1, "b": 2, "c": 3}
    assert found.records["count"] == 6 * len(CLASS)


def test_means_and_ranks_are_those_of_the_board():
    rng = np.random.default_rng(0)
    tasks = [t for t in CATALOGUE.select(["all"]) if misfit(t, CATALOGUE.protocols[PROBE]) is None]
    records = []
    for encoder in "abcd":
        for protocol in (PROBE, SHOTS):
            values = rng.uniform(0.2, 0.9, len(tasks))
            records += scored(encoder, values, protocol, tasks)
    found = find(records, tasks=tasks)
    for ranking in found.rankings:
        (board,) = build_boards(records, CATALOGUE, ranking.protocol)
        assert ranking.means == pytest.approx({c.label: c.mean for c in board.columns})
        assert ranking.ranks == {c.label: c.rank for c in board.columns}
    one, other = ([r.means[e] for e in "abcd"] for r in found.rankings)
    assert found.pairs[0].tau == pytest.approx(kendalltau(one, other).statistic)


def test_who_swaps_is_named_in_the_order_of_the_first_protocol():
    found = find([*three(PROBE, 0.9, 0.8, 0.7), *three(SHOTS, 0.7, 0.8, 0.6)])
    (swap,) = found.pairs[0].swaps
    assert (swap.ahead, swap.behind) == ("a", "b")
    assert swap.separated_by == (PROBE, SHOTS)  # every task says so, nine of nine


def test_a_swap_that_few_tasks_decide_is_told_apart_by_nobody():
    up_and_down = np.array([0.8, 0.6] * len(CLASS))[: len(CLASS)]
    one = [*scored("a", up_and_down), *scored("b", 0.7), *scored("c", 0.55)]
    other = [*scored("a", up_and_down - 0.15, SHOTS), *scored("b", 0.7, SHOTS),
             *scored("c", 0.55, SHOTS)]  # fmt: skip
    (swap,) = find([*one, *other]).pairs[0].swaps
    assert (swap.ahead, swap.behind, swap.separated_by) == ("a", "b", (SHOTS,))
    five = CLASS[:5]
    (swap,) = find([*one, *other], tasks=five).pairs[0].swaps
    assert swap.separated_by == ()


def test_ranks_that_speak_for_the_other_separate_nobody():
    """One win by a leaked task, the rest lost: the p of the ranks was taken for the winner."""
    gap = np.array([0.05, *[-0.055] * 4, *[-0.02] * 3, -0.005])  # the first is a family of its own
    assert across_tasks(gap.tolist()).p_value < 0.05
    first = np.array([0.3 + gap, np.full(9, 0.3)])
    second = np.array([[0.2] * 9, [0.3 + 0.01 * i for i in range(9)]])
    (swap,) = swaps_between((PROBE, SHOTS), CLASS, first, second, ["leaked", "sound"])
    assert (swap.ahead, swap.behind) == ("leaked", "sound")
    assert swap.separated_by == (SHOTS,)


def test_a_tie_is_no_swap():
    grid = np.array([[0.5, 0.5], [0.5, 0.5]])
    turned = np.array([[0.4, 0.4], [0.5, 0.5]])
    assert swaps_between((PROBE, SHOTS), CLASS[:2], grid, turned, ["a", "b"]) == ()


def test_protocols_meet_on_the_tasks_that_both_score_and_only_there():
    survival = three(COX, 0.7, 0.6, 0.65, tasks=[OS])
    found = find([*AGREE, *survival], (PROBE, SHOTS, COX), [*CLASS, OS])
    assert [r.tasks for r in found.rankings if r.protocol == COX] == [(OS.id,)]
    assert [(p.first, p.second) for p in found.pairs] == [(PROBE, SHOTS)]
    half = [r for r in AGREE if not (r.protocol == SHOTS and r.task.id.startswith("bwh"))]
    pair = find(half).pairs[0]
    assert {task.split("-")[0] for task in pair.tasks} == {"bcnb"}


def test_all_tied_is_said_and_not_called_agreement():
    (pair,) = find([*three(PROBE, 0.9, 0.8, 0.7), *three(SHOTS, 0.5, 0.5, 0.5, scatter=0.0)]).pairs
    assert pair.tau is None


def test_controls_stand_beside_and_take_no_rank():
    more = [r for p in (PROBE, SHOTS) for r in scored("patch-count", 0.95, p, kind="control")]
    found = find([*AGREE, *more])
    assert (found.ranked, found.controls) == (("a", "b", "c"), ("patch-count",))
    assert found.rankings[0].ranks == {"a": 1, "b": 2, "c": 3}
    assert found.rankings[0].means["patch-count"] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (scored("d", 0.5), "no score under few-shot/v1"),
        (
            [*scored("d", 0.5), *scored("d", 0.5, SHOTS)[1:]],
            f"no score under few-shot/v1 on {CLASS[0].id}",
        ),
        (
            [*scored("d", 0.5, data="z"), *scored("d", 0.5, SHOTS)],
            "scored on other data than the rest",
        ),
        (
            [*scored("d", 0.5, verification="V0"), *scored("d", 0.5, SHOTS)],
            "not recomputed (V0)",
        ),
    ],
)
def test_an_incomplete_encoder_is_left_out_and_named(extra, why):
    found = find([*AGREE, *extra])
    assert found.ranked == ("a", "b", "c")
    assert why in found.left_out["d"]


def test_scores_of_two_versions_of_an_encoder_are_not_compared():
    old = [r.model_copy(update={"encoder": r.encoder.model_copy(update={"fingerprint": "old"})})
           for r in scored("d", 0.5)]  # fmt: skip
    found = find([*AGREE, *old, *scored("d", 0.5, SHOTS)])
    assert "2 versions of its code or weights" in found.left_out["d"]


def test_two_revisions_of_an_encoder_have_a_name_each():
    more = [r for p in (PROBE, SHOTS) for r in scored("a", 0.3, p, revision="2")]
    assert find([*AGREE, *more]).ranked == ("a@1", "a@2", "b", "c")


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (
            [r for r in AGREE if r.encoder.name != "c"],
            "not informative; complete, and no control, are a, b",
        ),
        ([*AGREE[:-1]], "c: no score under few-shot/v1 on"),
        (three(PROBE, 0.9, 0.8, 0.7), "two with records, found linear-probe/v1"),
        ([], "found none"),
    ],
)
def test_too_little_to_compare_is_refused_with_the_reason(records, says):
    with pytest.raises(InputError, match="board phantom") as caught:
        find(records)
    assert says in str(caught.value)


def test_boards_do_not_mix():
    real = [*three(PROBE, 0.9, 0.8, 0.7, source="local"), *three(SHOTS, 0.6, 0.7, 0.8)]
    with pytest.raises(InputError, match="two with records"):
        find(real)


def test_protocols_that_train_networks_must_be_asked_for():
    names = fitting_protocols(CATALOGUE, CLASS)
    assert {PROBE, SHOTS, "retrieval/v1"} <= set(names)
    assert not any("finetune" in name or "cox" in name for name in names)
    assert COX in fitting_protocols(CATALOGUE, [OS])
    assert names[0] == NEWER == CLASS[0].protocols[0]  # what the board ranks by comes first


def test_the_figure_says_phantom_for_phantoms_alone():
    survival = three(COX, 0.7, 0.6, 0.65, tasks=[OS])
    found = find([*AGREE, *survival], (COX, PROBE, SHOTS), [*CLASS, OS])
    assert "PHANTOM" in sensitivity_chart(found).title.text
    real = [*three(PROBE, 0.9, 0.8, 0.7, source="local"),
            *three(SHOTS, 0.6, 0.7, 0.8, source="local")]  # fmt: skip
    assert "PHANTOM" not in sensitivity_chart(find(real, board="local")).title.text
