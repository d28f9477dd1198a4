"""Survival in discrete time: the hazard of each interval, given that it is reached.

Interval k is (edges[k], edges[k + 1]], open on the left; the first also holds time 0. The last
holds everything after it too. A hazard is sigmoid(logit).

References:
    Gensheimer and Narasimhan, "A scalable discrete-time survival model for neural networks",
    PeerJ 7 (2019) e6257. Zadeh and Schmid, "Bias in Cross-Entropy-Based Training of Deep Survival
    Networks", IEEE TPAMI 43 (2021) 3126-3137. Kvamme and Borgan, "Continuous and Discrete-Time
    Survival Prediction with Neural Networks", arXiv 1910.06724 (the package pycox).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from madeleine_bench.losses.cosine import at_least_float32, without_autocast


def interval_edges(
    time: NDArray[np.float64], event: NDArray[np.bool_], bins: int
) -> NDArray[np.float64]:
    """Return the edges of `bins` intervals with about as many events each, (bins + 1,) float64.

    The first edge is 0, the inner ones are quantiles of the times of events (linear between
    them), and the last is the largest time, of an event or not.

    Args:
        time: (bag,) time to event or censoring of the training bags, not negative.
        event: (bag,) bool, True where the event was observed.
        bins: number of intervals, at least 1.

    Raises:
        ValueError: there is no event, or the events are too few or too much alike for so many
            intervals.

    Examples:
        >>> time, event = np.array([1.0, 2.0, 3.0, 9.0]), np.array([True, True, True, False])
        >>> interval_edges(time, event, 2).tolist()
        [0.0, 2.0, 9.0]
    """
    if not event.any():
        raise ValueError("there is no event, so its times have no quantiles")
    inner = np.quantile(time[event].astype(np.float64), np.linspace(0.0, 1.0, bins + 1)[1:-1])
    edges: NDArray[np.float64] = np.concatenate([[0.0], inner, [time.max()]]).astype(np.float64)
    if not (np.diff(edges) > 0).all():
        raise ValueError(
            f"{int(event.sum())} events do not fill {bins} intervals: edges {edges.tolist()} do "
            "not rise; take fewer bins"
        )
    return edges


def interval_of(time: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index of the interval each time is in, of the shape of `time`.

    Times beyond the last edge are in the last interval, times up to 0 in the first.

    Examples:
        >>> interval_of(np.array([0.0, 2.0, 2.5, 99.0]), np.array([0.0, 2.0, 9.0])).tolist()
        [0, 0, 1, 1]
    """
    return np.searchsorted(edges[1:-1], time, side="left")


def discrete_time_loss(logits: Tensor, interval: Tensor, event: Tensor) -> Tensor:
    """Return the negative log likelihood of hazards, mean over bags, a scalar; lower is better.

    With k the interval of a bag's time and h the hazards: an event gives
    log h_k + sum_{j < k} log(1 - h_j), a censored bag sum_{j <= k} log(1 - h_j).

    So whoever is censored within an interval counts as having lived through all of it. That is
    the convention of Zadeh and Schmid (2021) and of the code of pathology after it (MCAT,
    PORPOISE, there with more weight on events, which is left out here). Gensheimer and Narasimhan
    (2019) count the interval only if at least half of it was lived; pycox's label transform moves
    a censoring to the last edge passed, so its loss, which is this very formula, is given an
    earlier k. With the same k all agree. Computed in float32 (float64 for float64 logits) even
    under autocast.

    Args:
        logits: (bag, interval).
        interval: (bag,) int64, index from `interval_of`.
        event: (bag,) bool, True where the event was observed.

    Examples:
        >>> logits = torch.zeros(2, 3)
        >>> interval, event = torch.tensor([0, 2]), torch.tensor([True, False])
        >>> round(discrete_time_loss(logits, interval, event).item(), 4)  # (1 + 3) log(2) / 2
        1.3863
    """
    with without_autocast(logits):
        logits = at_least_float32(logits)
        position = torch.arange(logits.shape[1], device=logits.device)
        reached = position <= interval[:, None]
        dies = (position == interval[:, None]) & event[:, None]
        each = binary_cross_entropy_with_logits(logits, dies.to(logits.dtype), reduction="none")
        return (each * reached).sum() / len(logits)


def survival_risk(logits: Tensor) -> Tensor:
    """Return minus the sum over intervals of the probability to live beyond each; higher is worse.

    `logits` is (bag, interval), the risk (bag,) between -intervals and 0, in float32, float64 for
    float64 logits. It weighs every interval the same, however long.

    References:
        Chen et al., "Multimodal Co-Attention Transformer for Survival Prediction" (MCAT), ICCV
        2021, and its code.

    Examples:
        >>> survival_risk(torch.zeros(1, 2)).tolist()  # -(1/2 + 1/4)
        [-0.75]
    """
    with without_autocast(logits):
        return -_log_alive(at_least_float32(logits)).exp().sum(dim=1)


def alive_beyond(
    logits: Tensor, edges: NDArray[np.float64], days: Sequence[float]
) -> NDArray[np.float64]:
    """Return the probability to live beyond each day, (bag, day) float64.

    At an edge it is the product of 1 - h over the intervals before it; in between it is linear,
    which spreads the deaths of an interval evenly over it (Kvamme and Borgan's constant density,
    pycox's default). Beyond the last edge it stays what it is there: no follow-up tells more.

    Args:
        logits: (bag, interval), on any device.
        edges: (interval + 1,) rising, from `interval_edges`.
        days: in the unit of the edges, not negative.

    Examples:
        >>> alive_beyond(torch.zeros(1, 2), np.array([0.0, 2.0, 10.0]), [0, 1, 2, 99]).tolist()
        [[1.0, 0.75, 0.5, 0.25]]
    """
    at_edges = _log_alive(logits.detach().double()).exp().cpu().numpy()
    alive = [np.interp(days, edges, np.concatenate([[1.0], beyond])) for beyond in at_edges]
    return np.array(alive).reshape(len(at_edges), len(days))


def _log_alive(logits: Tensor) -> Tensor:
    """Return the log probability to live beyond each interval, (bag, interval)."""
    return logsigmoid(-logits).cumsum(dim=1)


def partial_likelihood_loss(log_risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Return the negative log partial likelihood, mean over events, a scalar; lower is better.

    For each event i: log(sum_{j: time_j >= time_i} exp(log_risk_j)) - log_risk_i. Events at the
    same time share one risk set, in which all of them are (Breslow). Adding a number to all
    risks changes nothing. Without any event the loss and its gradient are zero. Computed in
    float32 (float64 for float64 risks) even under autocast; memory is events x bags.

    A batch is its own risk set: the loss of small batches is smaller and noisier than that of the
    cohort, and a batch whose only event is last at risk says nothing.

    Args:
        log_risk: (bag,) log hazard ratio, higher is worse.
        time: (bag,) time to event or censoring, any unit.
        event: (bag,) bool, True where the event was observed.

    References:
        Cox, JRSS B 34 (1972) 187-220; Breslow, Biometrics 30 (1974) 89-99, for ties.
        Katzman et al., DeepSurv, BMC Medical Research Methodology 18 (2018) 24, for the mean over
        events.

    Examples:
        >>> risk, time = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
        >>> event = torch.tensor([True, False, False])
        >>> round(partial_likelihood_loss(risk, time, event).item(), 4)  # log(3)
        1.0986
    """
    with without_autocast(log_risk):
        log_risk = at_least_float32(log_risk)
        at_risk = time >= time[event][:, None]
        risk_set = torch.where(at_risk, log_risk, -torch.inf).logsumexp(dim=1)
        return (risk_set - log_risk[event]).sum() / max(len(risk_set), 1)
