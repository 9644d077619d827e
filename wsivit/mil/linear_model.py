"""Linear models of few patients and many features: logistic, ridge and Cox regression with an L2 penalty. No torch.

A penalised linear model's weights lie in the span of the patients, so each is fitted in that space: n x n numbers
instead of n x d, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.mil.patients import TaskKind
from wsivit.mil.survival import cox_loss

Floats = NDArray[np.float64]
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse penalties to choose from; a patient has length 1, so that they suit any encoder."""


@dataclass(frozen=True)
class LinearModel:
    """A linear model of standardised features.

    Attributes
    ----------
    mean, std : ndarray (d,)
        Of the features that it learned from.
    weight : ndarray (outputs, d)
        Of standardised features.
    bias : ndarray (outputs,)
    """

    mean: Floats
    std: Floats
    weight: Floats
    bias: Floats

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        """Return the logits (n, outputs) of features (n, d)."""
        return (features - self.mean) / self.std @ self.weight.T + self.bias


def outputs_of(kind: TaskKind, classes: Sequence[str]) -> int:
    """Return how many logits a task has: one of two classes, for the positive one."""
    return len(classes) if kind == "multiclass" else 1


class LinearFit:
    """Linear models of the same patients, for several penalties and targets.

    Parameters
    ----------
    features : ndarray (n, d)
    standardise : bool
        Whether each feature is brought to mean 0 and deviation 1; if not, to mean 0 alone.

    Attributes
    ----------
    mean, std : ndarray (d,)
        What features are standardised by; the deviation of constant ones is infinite, so that they say nothing.
    basis : ndarray (k, d)
        Orthonormal directions that span the patients.
    """

    def __init__(self, features: NDArray[np.floating], *, standardise: bool = True) -> None:
        values = np.asarray(features, np.float64)
        self.mean = values.mean(axis=0)
        spread = values.std(axis=0) if standardise else np.ones(values.shape[1])
        self.std = np.where(spread > 1e-6 * (np.abs(self.mean) + 1e-6), spread, np.inf)
        u, s, self.basis = np.linalg.svd((values - self.mean) / self.std, full_matrices=False)
        # The mean square of a row is then about 1, whatever the number of features.
        self._scale = np.sqrt(max((s**2).sum() / len(values), 1e-12))
        self._reduced = u * s / self._scale

    def fit(
        self, kind: TaskKind, outputs: int, targets: Floats, events: NDArray[np.int64], strength: float
    ) -> LinearModel:
        """Fit one model; `strength` is the inverse of the penalty."""
        solve = {"regression": self._ridge, "survival": self._cox}.get(kind, self._logistic)
        weight, bias = solve(outputs, targets, events, strength)
        return LinearModel(self.mean, self.std, weight @ self.basis / self._scale, bias)

    def _logistic(
        self, outputs: int, targets: Floats, events: NDArray[np.int64], strength: float
    ) -> tuple[Floats, Floats]:
        from sklearn.linear_model import LogisticRegression

        del events
        model = LogisticRegression(C=strength, max_iter=500, tol=1e-6)
        codes = targets.astype(np.int64)
        model.fit(self._reduced, codes)
        if outputs == 1:
            return model.coef_, model.intercept_
        weight, bias = np.zeros((outputs, self._reduced.shape[1])), np.full(outputs, -10.0)
        if len(model.classes_) == 2:  # of several classes this part has two
            weight[model.classes_] = np.stack([-model.coef_[0] / 2, model.coef_[0] / 2])
            bias[model.classes_] = model.intercept_[0] / 2 * np.array([-1, 1])
        else:
            weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
        return weight, bias

    def _ridge(
        self, outputs: int, targets: Floats, events: NDArray[np.int64], strength: float
    ) -> tuple[Floats, Floats]:
        del outputs, events
        x, y = self._reduced, targets - targets.mean()
        penalty = 1 / strength
        weight = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        return weight[None], np.array([targets.mean()])

    def _cox(self, outputs: int, targets: Floats, events: NDArray[np.int64], strength: float) -> tuple[Floats, Floats]:
        from scipy.optimize import minimize

        del outputs
        penalty = 1 / strength

        def loss(weight: Floats) -> tuple[float, Floats]:
            value, gradient = cox_loss(self._reduced @ weight, targets, events)
            return float(value + penalty * weight @ weight / 2), self._reduced.T @ gradient + penalty * weight

        fit = minimize(loss, np.zeros(self._reduced.shape[1]), jac=True, method="L-BFGS-B")
        return fit.x[None], np.zeros(1)
