"""Survival: Cox's partial likelihood with Efron's ties, concordance, Kaplan-Meier and the log-rank test.

Pure functions on arrays, but for `cox_loss_tensor`, which is the same likelihood for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]


def cox_loss(risk: ArrayLike, times: ArrayLike, events: ArrayLike) -> tuple[float, Floats]:
    """Return the negative log partial likelihood, with Efron's ties, and its gradient with respect to the risk.

    Parameters
    ----------
    risk : array-like of float (n,)
        Log hazard of each patient.
    times, events : array-like (n,)
        Time of follow-up, and 1 where the event was observed.
    """
    scores, time, event = np.asarray(risk, float), np.asarray(times, float), np.asarray(events, int)
    hazard = np.exp(scores - scores.max())
    loss, gradient = 0.0, np.zeros_like(scores)
    for moment in np.unique(time[event == 1]):
        at_risk, dying = time >= moment, (time == moment) & (event == 1)
        count = int(dying.sum())
        all_of, tied = hazard[at_risk].sum(), hazard[dying].sum()
        shares = np.arange(count) / count
        denominators = all_of - shares * tied
        loss += float(np.log(denominators).sum() + count * scores.max() - scores[dying].sum())
        gradient[at_risk] += hazard[at_risk] * (1 / denominators).sum()
        gradient[dying] -= hazard[dying] * (shares / denominators).sum() + 1
    return loss, gradient


def cox_loss_tensor(risk: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """Return the mean over events of `cox_loss`, for torch to differentiate; 0 of a batch without events."""
    import torch

    losses = []
    for moment in torch.unique(times[events == 1]):
        dying = (times == moment) & (events == 1)
        count = int(dying.sum())
        all_of = torch.logsumexp(risk[times >= moment], dim=0)
        tied = torch.logsumexp(risk[dying], dim=0)
        shares = torch.arange(count, dtype=risk.dtype, device=risk.device) / count
        # log(all - share * tied) around log(all), which cannot overflow.
        losses.append((all_of + torch.log1p(-shares * torch.exp(tied - all_of))).sum() - risk[dying].sum())
    return torch.stack(losses).sum() / int(events.sum()) if losses else risk.sum() * 0.0


def concordance(risk: ArrayLike, times: ArrayLike, events: ArrayLike) -> float:
    """Return Harrell's C: the share of comparable pairs in which the patient of higher risk has the event first.

    Ties of the risk count a half. 1 for a perfect order, 0 for the reverse one, NaN without comparable pairs.
    """
    scores, time, event = np.asarray(risk, float), np.asarray(times, float), np.asarray(events, int)
    # Comparable: one has the event before the other's end; of equal times, the other is censored.
    before = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & (event[None, :] == 0))
    comparable = before & (event[:, None] == 1)
    higher = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    total = comparable.sum()
    return float((higher * comparable).sum() / total) if total else float("nan")


def weighted_concordance(risk: ArrayLike, times: ArrayLike, events: ArrayLike, weights: ArrayLike) -> float:
    """Return `concordance` where each patient counts as often as its weight says."""
    scores, time, event = np.asarray(risk, float), np.asarray(times, float), np.asarray(events, int)
    before = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & (event[None, :] == 0))
    pairs = (before & (event[:, None] == 1)) * np.outer(np.asarray(weights, float), np.asarray(weights, float))
    higher = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    return float((higher * pairs).sum() / pairs.sum()) if pairs.sum() else float("nan")


def kaplan_meier(times: ArrayLike, events: ArrayLike) -> tuple[Floats, Floats]:
    """Return the times of events and the share that survives each, starting at 0 and 1."""
    time, event = np.asarray(times, float), np.asarray(events, int)
    moments = np.unique(time[event == 1])
    deaths = np.array([((time == moment) & (event == 1)).sum() for moment in moments])
    at_risk = np.array([(time >= moment).sum() for moment in moments])
    return np.concatenate([[0.0], moments]), np.concatenate([[1.0], np.cumprod(1 - deaths / at_risk)])


def log_rank(times: ArrayLike, events: ArrayLike, group: ArrayLike) -> tuple[float, float]:
    """Return the chi-squared statistic and p-value of the log-rank test of two groups; `group` is boolean (n,)."""
    from scipy.stats import chi2

    time, event, first = np.asarray(times, float), np.asarray(events, int), np.asarray(group, bool)
    difference = variance = 0.0
    for moment in np.unique(time[event == 1]):
        at_risk, dying = time >= moment, (time == moment) & (event == 1)
        n, n1, d, d1 = at_risk.sum(), (at_risk & first).sum(), dying.sum(), (dying & first).sum()
        difference += d1 - d * n1 / n
        if n > 1:
            variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    if variance == 0:
        return 0.0, 1.0
    statistic = float(difference**2 / variance)
    return statistic, float(chi2.sf(statistic, 1))
