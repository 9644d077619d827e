"""Prediction sets that hold the true class of at least a given share of patients: cross-conformal, no torch.

Each training patient has a score from the members that never saw it: one minus the probability of its true class. A
class belongs to a new patient's set unless too few training patients were as badly predicted by the same member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError

Floats = NDArray[np.float64]


def check_alpha(alpha: float, patients: int) -> None:
    """Raise UsageError where so few patients cannot give sets of that certainty."""
    if alpha * (patients + 1) < 1:
        needed = int(np.ceil(1 / alpha - 1))
        raise UsageError(
            f"alpha {alpha:g} is too small for {patients} patients: every set would hold all classes; give at least "
            f"{1 / (patients + 1):.3g}, or {needed} patients"
        )


def nonconformity(probabilities: Floats, codes: NDArray[np.int64]) -> Floats:
    """Return one minus the probability of the true class, (n,)."""
    return 1 - probabilities[np.arange(len(codes)), codes]


def class_p_values(probabilities: Mapping[str, Floats], calibration: Mapping[str, Sequence[float]]) -> Floats:
    """Return the p-value of each class for new patients, (n, classes).

    Parameters
    ----------
    probabilities : mapping of str to ndarray (n, classes)
        Of each member, by the name of its fold, ``repeat<r>-fold<k>``.
    calibration : mapping of str to sequence of float
        Nonconformity of each member's held-out patients.
    """
    by_repeat: dict[str, list[str]] = {}
    for name in calibration:
        by_repeat.setdefault(name.partition("-")[0], []).append(name)
    p_values = []
    for names in by_repeat.values():
        total, worse = 0, np.zeros(())
        for name in names:
            scores = np.asarray(calibration[name])
            strangeness = 1 - probabilities[name]
            worse = worse + (scores[:, None, None] >= strangeness[None] - 1e-12).sum(axis=0)
            total += len(scores)
        p_values.append((1 + worse) / (1 + total))
    result: Floats = np.mean(p_values, axis=0)
    return result


def prediction_sets(p_values: Floats, alpha: float) -> NDArray[np.bool_]:
    """Return which classes are in each patient's set, bool (n, classes)."""
    return p_values > alpha


def set_text(chosen: NDArray[np.bool_], classes: Sequence[str]) -> str:
    """Return the class of a set of one; else ``abstain``: nothing, or more than one class, is plausible."""
    return classes[int(np.flatnonzero(chosen)[0])] if chosen.sum() == 1 else "abstain"
