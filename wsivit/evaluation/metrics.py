"""How good predictions are: metrics, their intervals over patients, and calibration. Pure functions on arrays.

Every metric takes weights, so that a bootstrap over patients is a loop over weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

BINS = 15
"""Equal bins of confidence for calibration."""
MANY_CLASSES = 20
"""From here on intervals leave out the areas under curves, one per class, which would take minutes."""
MIN_PATIENTS = 5
"""Fewest patients for an interval: two or three, drawn again and again, give a false precision."""
_OF_CLASSES = ("balanced_accuracy", "macro_f1", "kappa", "auroc", "auprc")
"""Metrics that weigh classes alike: one patient with all tiles of a class decides them."""


# Not scikit-learn's metrics with sample_weight, which sort the probabilities again in each bootstrap sample: these,
# which rank them once, are 25 to 45 times as fast (10,000 and 100,000 tiles; 2 and 9 classes). Tests compare the two.
class Measurement:
    """Predictions against the truth.

    Parameters
    ----------
    probabilities : array-like of float (n, classes)
    truth : array-like of int (n,)
        Index of the true class.
    """

    def __init__(self, probabilities: ArrayLike, truth: ArrayLike) -> None:
        self.probabilities: Floats = np.asarray(probabilities, np.float64)
        self.truth: Indices = np.asarray(truth, np.int64)
        self.n, self.n_classes = self.probabilities.shape
        self.predicted: Indices = self.probabilities.argmax(axis=1)
        self.confidence: Floats = self.probabilities.max(axis=1)
        self._brier = ((self.probabilities - np.eye(self.n_classes)[self.truth]) ** 2).sum(axis=1)
        of_truth = self.probabilities[np.arange(self.n), self.truth]
        # A float32 softmax rounds to 0, whose logarithm would make the mean of all tiles infinite.
        self._nll = -np.log(np.clip(of_truth, 1e-12, None))
        self._rank_of_truth = (self.probabilities > of_truth[:, None]).sum(axis=1)
        self._bin = np.minimum((self.confidence * BINS).astype(np.int64), BINS - 1)
        self._ranks = [np.unique(column, return_inverse=True)[1] for column in self.probabilities.T]

    def metrics(self, weights: ArrayLike | None = None, *, areas: bool = True) -> dict[str, float]:
        """Return all metrics; NaN where the data give no answer (an area under a curve of one class)."""
        w = self._weights(weights)
        confusion = self.confusion(w)
        right, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
        accuracy, chance = _ratio(right.sum(), w.sum()), _ratio(predicted @ true, w.sum() ** 2)
        metrics = {
            "accuracy": accuracy,
            # Over the classes that occur, and that occur or are predicted: the others have no recall and no F1.
            "balanced_accuracy": _mean(right / np.where(true > 0, true, np.nan)),
            "macro_f1": _mean(2 * right / np.where(true + predicted > 0, true + predicted, np.nan)),
            "kappa": _ratio(accuracy - chance, 1 - chance),
        }
        if areas:
            # With two classes the second is the positive one: the first mirrors it.
            classes: Sequence[int] = [1] if self.n_classes == 2 else range(self.n_classes)
            metrics["auroc"] = _mean(np.array([self.auroc(index, w) for index in classes]))
            metrics["auprc"] = _mean(np.array([self.auprc(index, w) for index in classes]))
        confidence, accuracies, bins = self.reliability(w)
        metrics |= {
            "log_loss": _ratio(self._nll @ w, w.sum()),
            "brier": _ratio(self._brier @ w, w.sum()),
            "ece": _ratio(np.nansum(np.abs(confidence - accuracies) * bins), bins.sum()),
        }
        if self.n_classes > 5:
            metrics["top5_accuracy"] = _ratio((self._rank_of_truth < 5) @ w, w.sum())
        return metrics

    def confusion(self, weights: ArrayLike | None = None) -> Floats:
        """Return the (weighted) count of each pair of true class (row) and predicted class (column)."""
        pairs = self.truth * self.n_classes + self.predicted
        return _sum_by(pairs, self._weights(weights), self.n_classes**2).reshape(self.n_classes, self.n_classes)

    def auroc(self, index: int, weights: ArrayLike | None = None) -> float:
        """Area under the ROC curve of one class against the rest; ties count a half."""
        positive, negative = self._by_rank(index, self._weights(weights))
        below = np.cumsum(negative) - negative
        return _ratio(positive @ (below + negative / 2), positive.sum() * negative.sum())

    def auprc(self, index: int, weights: ArrayLike | None = None) -> float:
        """Average precision of one class against the rest."""
        positive, negative = (side[::-1] for side in self._by_rank(index, self._weights(weights)))
        hits, taken = np.cumsum(positive), np.cumsum(positive + negative)
        precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
        return _ratio(precision @ positive, positive.sum())

    def roc(self, index: int) -> tuple[Floats, Floats]:
        """Return false and true positive rates at every threshold, both from 0 to 1."""
        from sklearn.metrics import roc_curve

        false, true, _ = roc_curve(self.truth == index, self.probabilities[:, index], drop_intermediate=False)
        return false, true

    def reliability(self, weights: ArrayLike | None = None) -> tuple[Floats, Floats, Floats]:
        """Return mean confidence, accuracy and weight of each bin of confidence; NaN for empty bins."""
        w = self._weights(weights)
        weight = _sum_by(self._bin, w, BINS)
        right = _sum_by(self._bin, w * (self.predicted == self.truth), BINS)
        confidence = _sum_by(self._bin, w * self.confidence, BINS)
        divisor = np.where(weight > 0, weight, np.nan)
        return confidence / divisor, right / divisor, weight

    def per_class(self) -> list[dict[str, float]]:
        """Return precision, recall, F1, areas under curves and number of tiles of each class."""
        from sklearn.metrics import precision_recall_fscore_support

        classes = range(self.n_classes)
        table = precision_recall_fscore_support(self.truth, self.predicted, labels=classes, zero_division=np.nan)
        return [
            {
                "n": int(n),
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "auroc": self.auroc(index),
                "auprc": self.auprc(index),
            }
            for index, precision, recall, f1, n in zip(classes, *table, strict=True)
        ]

    def _by_rank(self, index: int, weights: Floats) -> tuple[Floats, Floats]:
        """Sum the weights of the class and of the rest at each distinct probability, ascending."""
        rank, positive = self._ranks[index], self.truth == index
        size = int(rank.max(initial=-1)) + 1
        return _sum_by(rank, weights * positive, size), _sum_by(rank, weights * ~positive, size)

    def _weights(self, weights: ArrayLike | None) -> Floats:
        return np.ones(self.n) if weights is None else np.asarray(weights, np.float64)


def bootstrap(
    measurement: Measurement, groups: NDArray[Any], *, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of the metrics: how far they would change with other patients.

    Patients are drawn with replacement, with all of their tiles: tiles of one patient resemble each other, and drawn
    one by one they would make the intervals far too narrow.

    Parameters
    ----------
    measurement : Measurement
    groups : ndarray (n,)
        The patient (or slide) of each prediction.
    samples : int
        Number of bootstrap samples.
    seed : int

    Returns
    -------
    dict of str to (float, float)
        Empty with fewer than `MIN_PATIENTS` groups; without the metrics that weigh classes alike where one of the
        classes has fewer. `missing_intervals` says so in words.
    """
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < MIN_PATIENTS:
        return {}
    few_of_class = min(patients_per_class(measurement, groups).values()) < MIN_PATIENTS
    rng = np.random.default_rng(seed)
    areas = measurement.n_classes < MANY_CLASSES
    replicates = []
    for _ in range(samples):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        replicates.append(measurement.metrics(times[member], areas=areas))
    intervals = {}
    for name in replicates[0]:
        if few_of_class and name in _OF_CLASSES:
            continue
        # A sample without one of the classes has no area under its curve.
        values = np.array([metrics[name] for metrics in replicates])
        if np.isfinite(values).any():
            low, high = np.nanpercentile(values, [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    return intervals


def patients_per_class(measurement: Measurement, groups: NDArray[Any]) -> dict[int, int]:
    """Return how many patients have tiles of each class that occurs."""
    classes = np.unique(measurement.truth).tolist()
    return {index: len(np.unique(groups[measurement.truth == index])) for index in classes}


def missing_intervals(measurement: Measurement, groups: NDArray[Any], classes: Sequence[str]) -> str:
    """Say which intervals there are none of, and why; empty where all can be given."""
    count = len(np.unique(groups))
    if count < MIN_PATIENTS:
        patients = "one patient or slide" if count == 1 else f"{count} patients or slides"
        return f"no intervals: the tiles are of {patients}, and intervals over patients need {MIN_PATIENTS}"
    few = {index: n for index, n in patients_per_class(measurement, groups).items() if n < MIN_PATIENTS}
    if not few:
        return ""
    named = ", ".join(f"{classes[index]} has tiles of {n}" for index, n in few.items())
    metrics = ", ".join(name.replace("_", " ") for name in _OF_CLASSES)
    return f"no intervals of {metrics}: they need {MIN_PATIENTS} patients or slides of each class, and {named}"


def paired_test(
    first: ArrayLike, second: ArrayLike, groups: NDArray[Any], *, flips: int = 9999, seed: int = 0
) -> float:
    """Return the p-value of a permutation test of two models' accuracies, which swaps the models per patient.

    Parameters
    ----------
    first, second : array-like of bool (n,)
        Whether each model was right.
    groups : ndarray (n,)
        The patient (or slide) of each prediction. With one patient the test says nothing and returns 1.
    """
    _, member = np.unique(groups, return_inverse=True)
    gain = np.bincount(member, np.asarray(first, float) - np.asarray(second, float))
    gain = gain[gain != 0]
    if not len(gain):
        return 1.0
    rng = np.random.default_rng(seed)
    swapped = np.array([rng.choice([-1.0, 1.0], len(gain)) @ gain for _ in range(flips)])
    # The observed assignment counts as one of the permutations: a p-value is never 0.
    return float((1 + (np.abs(swapped) >= abs(gain.sum()) - 1e-9).sum()) / (1 + flips))


def fit_temperature(logits: ArrayLike, truth: ArrayLike) -> float:
    """Fit the temperature that calibrates the probabilities when the logits are divided by it.

    The targets allow for one error in all that was not seen yet (Platt's correction), so that perfect accuracy on the
    held-out tiles does not make the model infinitely confident.

    Parameters
    ----------
    logits : array-like of float (n, classes)
    truth : array-like of int (n,)

    Returns
    -------
    float
        Between 0.05 and 20; 1 where there is nothing to fit, or where the log loss of these tiles is lowest so.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    scores, classes = np.asarray(logits, np.float64), np.asarray(truth, np.int64)
    n, n_classes = scores.shape
    if n == 0 or n_classes < 2:
        return 1.0
    true = np.eye(n_classes)[classes]
    target = (true * (n + 1) + (1 - true) / (n_classes - 1)) / (n + 2)

    def loss(temperature: float, of: Floats) -> float:
        return -float((of * log_softmax(scores / temperature, axis=1)).sum(axis=1).mean())

    # Of the logarithm: halving and doubling are equally far from 1.
    bounds, options = (np.log(0.05), np.log(20)), {"xatol": 1e-4}
    fit = minimize_scalar(lambda x: loss(np.exp(x), target), bounds=bounds, method="bounded", options=options)
    temperature = float(np.exp(fit.x))
    # The correction makes a model less confident: of few tiles, or a perfect and very confident one, too much so.
    return temperature if loss(temperature, true) <= loss(1.0, true) else 1.0


def _sum_by(keys: Indices, weights: Floats, size: int) -> Floats:
    return np.bincount(keys, weights, size).astype(np.float64)


def _ratio(part: Any, total: Any) -> float:
    return float(part / total) if total > 0 else float("nan")


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
