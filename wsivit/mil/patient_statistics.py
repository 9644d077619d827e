"""How good out-of-fold predictions of patients are, how sure that is, and what chance would give. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsivit.evaluation import Measurement, bootstrap
from wsivit.mil.linear_model import LinearFit, outputs_of
from wsivit.mil.nested_folds import make_folds
from wsivit.mil.objective import Floats, probabilities
from wsivit.mil.patients import PatientCohort, TaskKind
from wsivit.mil.survival import concordance, weighted_concordance

Headline = Literal["auroc", "r", "c_index"]


def headline(kind: TaskKind) -> Headline:
    """Return the name of the figure that a task is judged by: 1 is best; chance is `chance_level`."""
    return "r" if kind == "regression" else "c_index" if kind == "survival" else "auroc"


def chance_level(kind: TaskKind) -> float:
    """Return the headline figure of predictions that say nothing."""
    return 0.0 if kind == "regression" else 0.5


@dataclass(frozen=True)
class Figures:
    """What was measured of one model.

    Attributes
    ----------
    metrics : dict of str to float
        The first is the headline.
    intervals : dict of str to (float, float)
        95 %, over patients.
    per_repeat : list of float
        The headline of each repeat of the cross-validation alone.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_repeat: list[float]

    @property
    def value(self) -> float:
        """The headline."""
        return next(iter(self.metrics.values()))


def measure(cohort: PatientCohort, logits: Floats, *, samples: int, seed: int) -> Figures:
    """Measure predictions of all patients.

    Parameters
    ----------
    cohort : PatientCohort
    logits : ndarray (repeats, n, outputs)
        Calibrated; their mean over the repeats is measured.
    samples, seed : int
        Of the bootstrap over patients.
    """
    mean, targets, events = logits.mean(axis=0), cohort.targets, cohort.events
    per_repeat = [score(cohort.kind, of_repeat, targets, events) for of_repeat in logits]
    if cohort.kind in ("binary", "multiclass"):
        measured = Measurement(probabilities(mean), targets.astype(np.int64))
        metrics = measured.metrics()
        intervals = bootstrap(measured, np.arange(len(cohort)), samples=samples, seed=seed)
        names = ["auroc", *(name for name in metrics if name != "auroc")]
        return Figures({name: metrics[name] for name in names}, intervals, per_repeat)
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(samples):
        times = np.bincount(rng.integers(0, len(cohort), len(cohort)), minlength=len(cohort)).astype(float)
        drawn.append(_other_metrics(cohort, mean, times))
    metrics = _other_metrics(cohort, mean, None)
    intervals = {}
    for name in metrics:
        low, high = np.nanpercentile([each[name] for each in drawn], [2.5, 97.5])
        intervals[name] = (float(low), float(high))
    return Figures(metrics, intervals, per_repeat)


def _other_metrics(cohort: PatientCohort, logits: Floats, weights: Floats | None) -> dict[str, float]:
    values, truth = logits[:, 0], cohort.targets
    w = np.ones(len(truth)) if weights is None else weights
    if cohort.kind == "survival":
        return {"c_index": weighted_concordance(values, truth, cohort.events, w)}
    x, y = values - np.average(values, weights=w), truth - np.average(truth, weights=w)
    spread = np.sqrt((w * x * x).sum() * (w * y * y).sum())
    return {
        "r": float((w * x * y).sum() / spread) if spread > 0 else 0.0,
        "r2": float(1 - (w * (truth - values) ** 2).sum() / max((w * y * y).sum(), 1e-12)),
        "mean_absolute_error": float(np.average(np.abs(truth - values), weights=w)),
    }


def score(kind: TaskKind, logits: Floats, targets: Floats, events: NDArray[np.int64]) -> float:
    """Return the headline of logits (n, outputs): the area under the ROC curve (the mean over classes), r or C."""
    if kind == "survival":
        return concordance(logits[:, 0], targets, events)
    if kind == "regression":
        spread = logits[:, 0].std() * targets.std()
        return float(np.corrcoef(logits[:, 0], targets)[0, 1]) if spread > 0 else 0.0
    return float(_aurocs(_columns(logits)[None], targets.astype(np.int64))[0])


def _columns(logits: Floats) -> Floats:
    """What each class is ranked by, (n, classes); of two classes the positive one alone."""
    return logits if logits.shape[1] == 1 else probabilities(logits)


def _aurocs(scores: Floats, codes: NDArray[np.int64]) -> Floats:
    """Return the mean area over classes of each of many sets of scores (m, n, classes)."""
    from scipy.stats import rankdata

    classes = [1] if scores.shape[2] == 1 else range(scores.shape[2])
    areas = []
    for column, code in enumerate(classes):
        positive = codes == code
        count = positive.sum()
        if not 0 < count < len(codes):
            continue
        ranks = rankdata(scores[:, :, column], axis=1)[:, positive].sum(axis=1)
        areas.append((ranks - count * (count + 1) / 2) / (count * (len(codes) - count)))
    return np.mean(areas, axis=0) if areas else np.full(len(scores), np.nan)


def swap_test(cohort: PatientCohort, first: Floats, second: Floats, *, swaps: int = 1999, seed: int = 0) -> float:
    """Return the p-value of a permutation test of two models' headlines, which swaps them per patient.

    The scores of each (n, outputs) count by their ranks, as their scales may differ.
    """
    from scipy.stats import rankdata

    a, b = (rankdata(_columns(logits), axis=0) for logits in (first, second))
    codes, targets, events = cohort.targets.astype(np.int64), cohort.targets, cohort.events
    rng = np.random.default_rng(seed)

    def differences(swapped: NDArray[np.bool_]) -> Floats:
        mask = swapped[..., None]
        one, other = np.where(mask, b, a), np.where(mask, a, b)
        if cohort.kind in ("binary", "multiclass"):
            return _aurocs(one, codes) - _aurocs(other, codes)
        pairs = zip(one, other, strict=True)
        return np.array(
            [score(cohort.kind, x, targets, events) - score(cohort.kind, y, targets, events) for x, y in pairs]
        )

    observed = abs(differences(np.zeros((1, len(cohort)), bool))[0])
    extreme, done = 0, 0
    while done < swaps:  # in parts, which bounds the memory
        part = min(250, swaps - done)
        extreme += int((np.abs(differences(rng.random((part, len(cohort))) < 0.5)) >= observed - 1e-12).sum())
        done += part
    return (1 + extreme) / (1 + swaps)


@dataclass(frozen=True)
class Chance:
    """What the procedure gives where there is nothing to find.

    Attributes
    ----------
    low, high : float
        Between them lie 95 % of the headlines with permuted labels.
    p_value : float
        Share of permutations that do as well as the predictions, these counted as one.
    refitted : int
        Permutations for which the linear baseline was fitted anew; 0: labels were permuted against the predictions.
    """

    low: float
    high: float
    p_value: float
    refitted: int


def chance(cohort: PatientCohort, logits: Floats, *, permutations: int = 1999, seed: int = 0) -> Chance:
    """Permute the labels against out-of-fold logits (n, outputs)."""
    rng = np.random.default_rng(seed)
    observed = score(cohort.kind, logits, cohort.targets, cohort.events)
    # To permute the predictions is to permute the labels.
    orders = np.array([rng.permutation(len(cohort)) for _ in range(permutations)])
    if cohort.kind in ("binary", "multiclass"):
        return _chance(_aurocs(_columns(logits)[orders], cohort.targets.astype(np.int64)), observed, 0)
    values = [score(cohort.kind, logits[order], cohort.targets, cohort.events) for order in orders]
    return _chance(np.array(values), observed, 0)


def refitted_chance(
    cohort: PatientCohort,
    means: NDArray[np.float32],
    observed: float,
    *,
    folds: int,
    strength: float,
    permutations: int,
    seed: int = 0,
) -> Chance:
    """Permute the labels and fit the linear baseline anew, with folds of their own: chance of the whole procedure."""
    # Standardised and turned once for all folds: without labels, which chance is about.
    whole = LinearFit(means)
    reduced = (means - whole.mean) / whole.std @ whole.basis.T
    outputs = outputs_of(cohort.kind, cohort.classes)
    rng, values = np.random.default_rng(seed), []
    for number in range(permutations):
        order = rng.permutation(len(cohort))
        shuffled = cohort.relabelled(order)
        predicted = np.zeros((len(cohort), outputs))
        for fold in make_folds(shuffled, folds, 1, seed=seed + number):
            inner = fold.inner
            fit = LinearFit(reduced[inner], standardise=False)
            model = fit.fit(cohort.kind, outputs, shuffled.targets[inner], shuffled.events[inner], strength)
            predicted[fold.test] = model(reduced[fold.test])
        values.append(score(cohort.kind, predicted, shuffled.targets, shuffled.events))
    return _chance(np.array(values), observed, permutations)


def _chance(values: Floats, observed: float, refitted: int) -> Chance:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    p_value = (1 + int((values >= observed - 1e-12).sum())) / (1 + len(values))
    return Chance(float(low), float(high), p_value, refitted)


def most_frequent(values: Sequence[float]) -> float:
    """Return the most frequent of some values; of several the least."""
    names, counts = np.unique(values, return_counts=True)
    return float(names[np.argmax(counts)])
