"""How good predictions are: figures, their intervals over patients, and calibration. Pure numpy.

Every figure takes weights, so that a bootstrap over patients is a loop over weights: nothing is sorted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

BINS = 15
"""Equal bins of confidence for calibration."""
MANY_CLASSES = 20
"""From here on intervals leave out the areas under curves, one per class, which would take minutes."""


class Measurement:
    """Predictions against the truth.

    Parameters
    ----------
    probabilities : array-like of float (n, classes)
    codes : array-like of int (n,)
        True classes.
    """

    def __init__(self, probabilities: ArrayLike, codes: ArrayLike) -> None:
        self.probabilities: Floats = np.asarray(probabilities, np.float64)
        self.codes: Codes = np.asarray(codes, np.int64)
        self.n, self.n_classes = self.probabilities.shape
        self.predicted: Codes = self.probabilities.argmax(axis=1)
        self.confidence: Floats = self.probabilities.max(axis=1)
        truth = np.eye(self.n_classes)[self.codes]
        self._brier = ((self.probabilities - truth) ** 2).sum(axis=1)
        own = self.probabilities[np.arange(self.n), self.codes]
        self._nll = -np.log(np.clip(own, 1e-12, None))
        self._rank_of_truth = (self.probabilities > own[:, None]).sum(axis=1)
        self._bin = np.minimum((self.confidence * BINS).astype(np.int64), BINS - 1)
        self._ranks = [np.unique(column, return_inverse=True)[1] for column in self.probabilities.T]

    def figures(self, weights: ArrayLike | None = None, *, areas: bool = True) -> dict[str, float]:
        """Return all figures; NaN where the data have no answer (an area under a curve of one class)."""
        w = self._weights(weights)
        confusion = self.confusion(w)
        found = {
            "accuracy": _ratio(np.trace(confusion), confusion.sum()),
            "balanced_accuracy": _mean(_recalls(confusion)),
            "macro_f1": _mean(_f1(confusion)),
            "kappa": _kappa(confusion),
        }
        if areas:
            found["auroc"] = _mean(np.array([self.auroc(c, w) for c in self._area_classes()]))
            found["auprc"] = _mean(np.array([self.auprc(c, w) for c in self._area_classes()]))
        found |= {
            "log_loss": _ratio(self._nll @ w, w.sum()),
            "brier": _ratio(self._brier @ w, w.sum()),
            "ece": self._ece(w),
        }
        if self.n_classes > 5:
            found["top5_accuracy"] = _ratio((self._rank_of_truth < 5) @ w, w.sum())
        return found

    def confusion(self, weights: ArrayLike | None = None) -> Floats:
        """Return the (weighted) count of each pair of true class (row) and predicted class (column)."""
        cells = self.codes * self.n_classes + self.predicted
        flat = _count(cells, self._weights(weights), self.n_classes**2)
        return flat.reshape(self.n_classes, self.n_classes)

    def auroc(self, code: int, weights: ArrayLike | None = None) -> float:
        """Area under the ROC curve of one class against the rest; ties count a half."""
        positive, negative = self._by_rank(code, self._weights(weights))
        below = np.cumsum(negative) - negative
        return _ratio(positive @ (below + negative / 2), positive.sum() * negative.sum())

    def auprc(self, code: int, weights: ArrayLike | None = None) -> float:
        """Average precision of one class against the rest."""
        positive, negative = (side[::-1] for side in self._by_rank(code, self._weights(weights)))
        hits, all_ = np.cumsum(positive), np.cumsum(positive + negative)
        precision = np.divide(hits, all_, out=np.zeros_like(hits), where=all_ > 0)
        return _ratio(precision @ positive, positive.sum())

    def roc(self, code: int) -> tuple[Floats, Floats]:
        """Return false and true positive rates at every threshold, both beginning at 0 and ending at 1."""
        positive, negative = (side[::-1] for side in self._by_rank(code, np.ones(self.n)))
        rates = [np.concatenate([[0.0], np.cumsum(side) / max(side.sum(), 1)]) for side in (negative, positive)]
        return rates[0], rates[1]

    def reliability(self, weights: ArrayLike | None = None) -> tuple[Floats, Floats, Floats]:
        """Return mean confidence, accuracy and weight of each bin of confidence; NaN for empty bins."""
        w = self._weights(weights)
        weight = _count(self._bin, w, BINS)
        right = _count(self._bin, w * (self.predicted == self.codes), BINS)
        sure = _count(self._bin, w * self.confidence, BINS)
        safe = np.where(weight > 0, weight, np.nan)
        return sure / safe, right / safe, weight

    def per_class(self) -> list[dict[str, float]]:
        """Return precision, recall, F1, areas and number of each class."""
        confusion = self.confusion()
        precision = [_ratio(confusion[c, c], confusion[:, c].sum()) for c in range(self.n_classes)]
        recall, f1 = _recalls(confusion), _f1(confusion)
        return [
            {
                "n": int(confusion[c].sum()),
                "precision": precision[c],
                "recall": float(recall[c]),
                "f1": float(f1[c]),
                "auroc": self.auroc(c),
                "auprc": self.auprc(c),
            }
            for c in range(self.n_classes)
        ]

    def _area_classes(self) -> range:
        # With two classes the second is the positive one: the first mirrors it.
        return range(1, 2) if self.n_classes == 2 else range(self.n_classes)

    def _by_rank(self, code: int, weights: Floats) -> tuple[Floats, Floats]:
        """Weights of the class and of the rest at each distinct probability, ascending."""
        rank, own = self._ranks[code], self.codes == code
        size = int(rank.max(initial=-1)) + 1
        return _count(rank, weights * own, size), _count(rank, weights * ~own, size)

    def _ece(self, weights: Floats) -> float:
        sure, right, weight = self.reliability(weights)
        return _ratio(np.nansum(np.abs(sure - right) * weight), weight.sum())

    def _weights(self, weights: ArrayLike | None) -> Floats:
        return np.ones(self.n) if weights is None else np.asarray(weights, np.float64)


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of figures, from drawing whole groups with replacement.

    Attributes
    ----------
    bounds : dict of str to (float, float)
        Empty where there is one group only: then nothing can be said about other patients.
    groups : int
    draws : int
    """

    bounds: dict[str, tuple[float, float]]
    groups: int
    draws: int


def bootstrap(measurement: Measurement, groups: NDArray[Any], *, draws: int = 1000, seed: int = 0) -> Intervals:
    """Say how far the figures would move with other patients.

    Parameters
    ----------
    measurement : Measurement
    groups : ndarray (n,)
        The patient (or slide) of each prediction.
    draws : int
    seed : int
    """
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return Intervals({}, len(names), 0)
    rng = np.random.default_rng(seed)
    areas = measurement.n_classes < MANY_CLASSES
    drawn = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        drawn.append(measurement.figures(times[member], areas=areas))
    bounds = {}
    for name in drawn[0]:
        values = np.array([figures[name] for figures in drawn])
        if np.isfinite(values).any():
            low, high = np.nanpercentile(values, [2.5, 97.5])
            bounds[name] = (float(low), float(high))
    return Intervals(bounds, len(names), draws)


def paired_test(
    first: ArrayLike, second: ArrayLike, groups: NDArray[Any], *, flips: int = 9999, seed: int = 0
) -> float:
    """Return the p-value that two models are equally right: which is which is swapped per patient, at random.

    Parameters
    ----------
    first, second : array-like of bool (n,)
        Whether each model was right.
    groups : ndarray (n,)
        The patient (or slide) of each prediction. With one patient the test can say nothing and gives 1.
    """
    _, member = np.unique(groups, return_inverse=True)
    gain = np.bincount(member, np.asarray(first, float) - np.asarray(second, float))
    gain = gain[gain != 0]
    if not len(gain):
        return 1.0
    rng = np.random.default_rng(seed)
    swapped = np.array([rng.choice([-1.0, 1.0], len(gain)) @ gain for _ in range(flips)])
    return float((1 + (np.abs(swapped) >= abs(gain.sum()) - 1e-9).sum()) / (1 + flips))


def fit_temperature(logits: ArrayLike, codes: ArrayLike) -> float:
    """Find the number that, dividing the logits, makes the probabilities say how often they are right.

    The targets leave room for one error that was not seen yet (Platt's correction), so that a perfect held-out part
    does not make the model infinitely sure.

    Parameters
    ----------
    logits : array-like of float (n, classes)
    codes : array-like of int (n,)

    Returns
    -------
    float
        Between 0.05 and 20; 1 where there is nothing to fit.
    """
    from scipy.optimize import minimize_scalar

    scores, truth = np.asarray(logits, np.float64), np.asarray(codes, np.int64)
    n, classes = scores.shape
    if n == 0:
        return 1.0
    target = np.full((n, classes), 1 / (n + classes))
    target[np.arange(n), truth] += n / (n + classes)

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        top = scaled.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(scaled - top).sum(axis=1))
        return float((log_sum - (target * scaled).sum(axis=1)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def _count(places: Codes, weights: Floats, size: int) -> Floats:
    return np.bincount(places, weights, size).astype(np.float64)


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _recalls(confusion: Floats) -> Floats:
    """Recall of each class; NaN for those that do not occur."""
    total = confusion.sum(axis=1)
    return np.diag(confusion) / np.where(total > 0, total, np.nan)


def _f1(confusion: Floats) -> Floats:
    """F1 of each class; NaN for those that neither occur nor are predicted."""
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    return 2 * np.diag(confusion) / np.where(both > 0, both, np.nan)


def _kappa(confusion: Floats) -> float:
    total = confusion.sum()
    chance = _ratio(confusion.sum(axis=0) @ confusion.sum(axis=1), total**2)
    return _ratio(_ratio(np.trace(confusion), total) - chance, 1 - chance)
