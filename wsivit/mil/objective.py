"""What a prediction of a patient is, and how wrong it is: logits to probabilities, and losses. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.evaluation import fit_temperature
from wsivit.mil.patients import TaskKind
from wsivit.mil.survival import cox_loss

Floats = NDArray[np.float64]


def class_logits(logits: ArrayLike) -> Floats:
    """Return a logit for each class: of one logit, which is for the positive class, 0 for the other one."""
    values = np.asarray(logits, np.float64)
    return np.concatenate([np.zeros_like(values), values], axis=-1) if values.shape[-1] == 1 else values


def probabilities(logits: ArrayLike) -> Floats:
    """Return the probability of each class, (n, classes)."""
    values = class_logits(logits)
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    result: Floats = shares / shares.sum(axis=-1, keepdims=True)
    return result


def loss(kind: TaskKind, logits: ArrayLike, targets: ArrayLike, events: ArrayLike) -> float:
    """Return the mean loss of logits (n, outputs): log loss, squared error, or Cox's partial likelihood per event."""
    values, truth = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    if kind == "regression":
        return float(((values[:, 0] - truth) ** 2).mean())
    if kind == "survival":
        return cox_loss(values[:, 0], truth, events)[0] / max(int(np.sum(events)), 1)
    of_truth = probabilities(values)[np.arange(len(truth)), truth.astype(np.int64)]
    return float(-np.log(np.clip(of_truth, 1e-12, None)).mean())


def calibrate(kind: TaskKind, logits: ArrayLike, targets: ArrayLike, events: ArrayLike) -> float:
    """Fit the temperature on patients that were not learned from: of classes by log loss, of risks by Cox's likelihood.

    A regression has none: 1. That of risks brings the members of an ensemble to one scale, on which they can be pooled.
    """
    if kind == "regression":
        return 1.0
    if kind == "survival":
        return _fit_risk_scale(np.asarray(logits, np.float64)[:, 0], np.asarray(targets, float), events)
    return fit_temperature(class_logits(logits), np.asarray(targets, np.int64))


def _fit_risk_scale(risk: Floats, times: Floats, events: ArrayLike) -> float:
    from scipy.optimize import minimize_scalar

    spread = risk.std()
    if spread < 1e-9:
        return 1.0
    # A risk with a deviation of more than 3 says that patients differ a thousandfold: few patients cannot show that.
    bounds = np.log([max(spread / 3, 1e-3), spread * 100])

    def of_log(log: float) -> float:
        # A weak prior towards no difference: a perfect order of few patients would make the risks infinite.
        scaled = risk / np.exp(log)
        return cox_loss(scaled, times, events)[0] + float((scaled.std() ** 2) / 2)

    return float(np.exp(minimize_scalar(of_log, bounds=tuple(bounds), method="bounded").x))
