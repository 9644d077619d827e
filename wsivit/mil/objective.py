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


def calibrate(kind: TaskKind, logits: ArrayLike, targets: ArrayLike) -> float:
    """Fit the temperature on patients that were not learned from; 1 where there are no probabilities."""
    if kind in ("regression", "survival"):
        return 1.0
    return fit_temperature(class_logits(logits), np.asarray(targets, np.int64))
