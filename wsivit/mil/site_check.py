"""Can the site be told from the features, and does the label follow it? Then a model may learn the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.mil.linear_model import LinearFit, outputs_of
from wsivit.mil.objective import probabilities
from wsivit.mil.patient_statistics import score
from wsivit.mil.patients import PatientCohort, TaskKind

_PERMUTATIONS = 999
_LEAST_ASSOCIATION = 0.2


@dataclass(frozen=True)
class SiteCheck:
    """What the sites have to do with features and labels.

    Attributes
    ----------
    sites : dict of str to int
        Patients of each.
    accuracy : float
        Balanced accuracy of telling the site from the mean features, by patients left out.
    chance : float
        What guessing gives.
    accuracy_p : float
        Of no better than guessing.
    association : float
        Cramér's V of site and label: 0 for none, 1 where one says the other.
    association_p : float
        Of none.
    leave_one_out : dict of str to float
        Headline of the linear baseline on the patients of each site, learned from those of the others; sites where it
        has no answer, as all patients are of one class, are left out.
    leave_one_out_mean : float or None
        Its mean, weighted by patients.
    """

    sites: dict[str, int]
    accuracy: float
    chance: float
    accuracy_p: float
    association: float
    association_p: float
    leave_one_out: dict[str, float]
    leave_one_out_mean: float | None

    @property
    def confounded(self) -> bool:
        """Whether the site can be told from the features and the label follows it."""
        told_apart = self.accuracy_p < 0.05 and self.accuracy > self.chance + 0.1
        return told_apart and self.association_p < 0.01 and self.association > _LEAST_ASSOCIATION


def refuse_site_label(cohort: PatientCohort) -> None:
    """Raise UsageError where the label is a function of the site: nobody could tell one from the other."""
    if cohort.kind not in ("binary", "multiclass"):
        return
    labels: dict[str, set[str]] = {}
    for patient in cohort.patients:
        if patient.site:
            labels.setdefault(patient.site, set()).add(patient.label)
    if len(labels) > 1 and all(len(of_site) == 1 for of_site in labels.values()):
        each = ", ".join(f"{site}: {next(iter(of))}" for site, of in sorted(labels.items())[:5])
        raise UsageError(
            f"the label is a function of the site ({each}): a model that tells the sites apart would look right; add "
            "patients of the other class from each site, or train all the same with --allow-site-confounding"
        )


def check_sites(
    cohort: PatientCohort, means: NDArray[np.float32], *, strength: float, seed: int = 0
) -> SiteCheck | None:
    """Check the sites of a cohort; None with fewer than two known sites of 4 patients or more.

    Parameters
    ----------
    cohort : PatientCohort
    means : ndarray (n, d)
        Mean features of each patient.
    strength : float
        Inverse penalty of the linear models.
    seed : int
    """
    counts = {site: cohort.sites.count(site) for site in sorted(set(cohort.sites)) if site}
    counts = {site: count for site, count in counts.items() if count >= 4}
    if len(counts) < 2:
        return None
    names = list(counts)
    places = np.array([place for place, site in enumerate(cohort.sites) if site in counts])
    codes = np.array([names.index(cohort.sites[place]) for place in places])
    accuracy, accuracy_p = _tell_apart(means[places], codes, len(names), strength, seed)
    association, association_p = _association(codes, cohort.strata[places], seed)
    left_out = _leave_one_out(cohort, means, places, codes, names, strength)
    weights = [counts[site] for site in left_out]
    mean = float(np.average(list(left_out.values()), weights=weights)) if left_out else None
    return SiteCheck(counts, accuracy, 1 / len(names), accuracy_p, association, association_p, left_out, mean)


def _tell_apart(
    means: NDArray[np.float32], codes: NDArray[np.int64], count: int, strength: float, seed: int
) -> tuple[float, float]:
    from sklearn.model_selection import StratifiedKFold

    predicted = np.zeros(len(codes), np.int64)
    outputs = 1 if count == 2 else count
    parts = StratifiedKFold(min(5, int(np.bincount(codes).min())), shuffle=True, random_state=seed)
    for rest, part in parts.split(codes, codes):
        kind: TaskKind = "binary" if count == 2 else "multiclass"
        model = LinearFit(means[rest]).fit(kind, outputs, codes[rest].astype(float), codes[rest], strength)
        predicted[part] = probabilities(model(means[part])).argmax(axis=1)

    def balanced(truth: NDArray[np.int64]) -> float:
        return float(np.mean([(predicted[truth == code] == code).mean() for code in range(count)]))

    observed, rng = balanced(codes), np.random.default_rng(seed)
    as_good = sum(balanced(rng.permutation(codes)) >= observed - 1e-12 for _ in range(_PERMUTATIONS))
    return observed, (1 + as_good) / (1 + _PERMUTATIONS)


def _association(sites: NDArray[np.int64], strata: NDArray[np.int64], seed: int) -> tuple[float, float]:
    strata = np.unique(strata, return_inverse=True)[1]

    def chi_squared(labels: NDArray[np.int64]) -> float:
        table = np.zeros((sites.max() + 1, strata.max() + 1))
        np.add.at(table, (sites, labels), 1)
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(sites)
        return float(((table - expected) ** 2 / expected).sum())

    observed, rng = chi_squared(strata), np.random.default_rng(seed)
    as_far = sum(chi_squared(rng.permutation(strata)) >= observed - 1e-9 for _ in range(_PERMUTATIONS))
    smaller = min(sites.max(), strata.max())
    strength = float(np.sqrt(observed / (len(sites) * smaller))) if smaller else 0.0
    return strength, (1 + as_far) / (1 + _PERMUTATIONS)


def _leave_one_out(
    cohort: PatientCohort,
    means: NDArray[np.float32],
    places: NDArray[np.int64],
    codes: NDArray[np.int64],
    names: Sequence[str],
    strength: float,
) -> dict[str, float]:
    outputs, results = outputs_of(cohort.kind, cohort.classes), {}
    for code, site in enumerate(names):
        here, rest = places[codes == code], places[codes != code]
        if cohort.kind in ("binary", "multiclass") and min(
            len(np.unique(cohort.targets[here])), len(np.unique(cohort.targets[rest]))
        ) < len(cohort.classes):
            continue
        fit = LinearFit(means[rest])
        model = fit.fit(cohort.kind, outputs, cohort.targets[rest], cohort.events[rest], strength)
        value = score(cohort.kind, model(means[here]), cohort.targets[here], cohort.events[here])
        if np.isfinite(value):
            results[site] = value
    return results
