"""Cox's partial likelihood of log risks: who dies first among those at risk."""

import torch
from torch import Tensor

from madeleine_bench.losses.cosine import at_least_float32, without_autocast


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

    Raises:
        ValueError: there is no bag, the shapes differ, or `event` is not bool.

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
    if log_risk.ndim != 1 or len(log_risk) == 0 or not log_risk.shape == time.shape == event.shape:
        raise ValueError(
            f"log_risk, time and event must be (bag,) with at least one bag, found "
            f"{tuple(log_risk.shape)}, {tuple(time.shape)} and {tuple(event.shape)}"
        )
    if event.dtype != torch.bool:
        raise ValueError(f"event must be bool (True where observed), found {event.dtype}")
    with without_autocast(log_risk):
        log_risk = at_least_float32(log_risk)
        at_risk = time >= time[event][:, None]
        risk_set = torch.where(at_risk, log_risk, -torch.inf).logsumexp(dim=1)
        return (risk_set - log_risk[event]).sum() / max(len(risk_set), 1)
