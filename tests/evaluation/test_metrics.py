"""Metrics against scikit-learn, calibration and intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn import metrics as sk

from wsivit.evaluation.metrics import Measurement, bootstrap, fit_temperature, missing_intervals, paired_test


def problem(seed: int, n: int, classes: int, *, ties: bool = False) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    logits = rng.normal(0, 1, (n, classes)) + 1.5 * np.eye(classes)[codes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if ties:
        probabilities = np.round(probabilities, 1) + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities, codes


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(30, 120),
    classes=st.integers(2, 8),
    weighted=st.booleans(),
    ties=st.booleans(),
)
def test_metrics_are_scikit_learns(seed: int, n: int, classes: int, weighted: bool, ties: bool) -> None:
    p, y = problem(seed, n, classes, ties=ties)
    w = np.random.default_rng(seed).integers(1, 4, n).astype(float) if weighted else np.ones(n)
    found = Measurement(p, y).metrics(w)
    top = p.argmax(1)
    truth = np.eye(classes)[y]
    if classes == 2:
        auroc, auprc = (f(y, p[:, 1], sample_weight=w) for f in (sk.roc_auc_score, sk.average_precision_score))
    else:
        areas = [
            (
                sk.roc_auc_score(truth[:, c], p[:, c], sample_weight=w),
                sk.average_precision_score(truth[:, c], p[:, c], sample_weight=w),
            )
            for c in range(classes)
        ]
        auroc, auprc = np.mean(areas, axis=0)
    wanted = {
        "accuracy": sk.accuracy_score(y, top, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, top, sample_weight=w),
        "macro_f1": sk.f1_score(y, top, average="macro", sample_weight=w),
        "kappa": sk.cohen_kappa_score(y, top, sample_weight=w),
        "auroc": auroc,
        "auprc": auprc,
        "log_loss": sk.log_loss(y, p, sample_weight=w),
        "brier": np.average(((p - truth) ** 2).sum(1), weights=w),
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    if classes > 5 and not ties:
        assert found["top5_accuracy"] == pytest.approx(sk.top_k_accuracy_score(y, p, k=5, sample_weight=w))
    np.testing.assert_array_equal(Measurement(p, y).confusion(w), sk.confusion_matrix(y, top, sample_weight=w))


def test_roc_ends_where_it_should_and_has_the_area() -> None:
    p, y = problem(3, 200, 2, ties=True)
    measured = Measurement(p, y)
    false, true = measured.roc(1)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(measured.auroc(1))


def test_calibration_error_has_its_closed_form() -> None:
    """1000 predictions at 0.8, of which 700 are right: the error is 0.1, and the Brier score follows."""
    p = np.tile([0.2, 0.8], (1000, 1))
    y = np.repeat([1, 0], [700, 300])
    metrics = Measurement(p, y).metrics()
    assert metrics["ece"] == pytest.approx(0.1)
    assert metrics["brier"] == pytest.approx(0.7 * 2 * 0.04 + 0.3 * 2 * 0.64)
    sure, right, weight = Measurement(p, y).reliability()
    assert weight.sum() == weight.max() == 1000
    assert (np.nanmax(sure), np.nanmax(right)) == (pytest.approx(0.8), pytest.approx(0.7))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature: float) -> None:
    """Truth drawn from softmax(z): logits z * T need the temperature T."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (20_000, 3))
    truth = (z + rng.gumbel(size=z.shape)).argmax(1)
    assert fit_temperature(z * temperature, truth) == pytest.approx(temperature, rel=0.03)


def test_a_perfect_held_out_part_does_not_make_the_model_infinitely_sure() -> None:
    logits = np.tile([[0.0, 3.0]], (50, 1))
    temperature = fit_temperature(logits, np.ones(50, int))
    probability = 1 / (1 + np.exp(-3 / temperature))
    assert probability == pytest.approx(51 / 52, abs=1e-3)
    assert fit_temperature(np.empty((0, 2)), []) == 1.0


@pytest.mark.parametrize("n", [202, 2020])
def test_with_many_classes_the_temperature_is_that_of_the_lowest_log_loss(n: int) -> None:
    """101 classes, logits that are too small by far: one pseudo-error for each class would make them smaller still."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 0.3, (n, 101))
    truth = (logits / 0.1 + rng.gumbel(size=logits.shape)).argmax(1)

    def loss(temperature: float) -> float:
        p = np.exp(logits / temperature)
        return float(sk.log_loss(truth, p / p.sum(1, keepdims=True), labels=range(101)))

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded")
    assert fit_temperature(logits, truth) == pytest.approx(best.x, rel=0.05)
    assert loss(fit_temperature(logits, truth)) == pytest.approx(best.fun, rel=0.005)
    assert best.fun < loss(1.0) - 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    classes=st.integers(2, 120),
    signal=st.sampled_from([0.0, 1.0, 5.0, 60.0]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_the_fitted_temperature_is_never_worse_than_none(
    seed: int, n: int, classes: int, signal: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = scale * (rng.normal(0, 1, (n, classes)) + signal * np.eye(classes)[truth])
    fitted = fit_temperature(logits, truth)
    of_truth, before = (log_softmax(logits / t, axis=1)[np.arange(n), truth].mean() for t in (fitted, 1.0))
    assert of_truth >= before


def test_intervals_are_over_patients_not_tiles() -> None:
    """Ten patients, each wholly right or wrong: the interval is that of ten coins, not of a thousand."""
    groups = np.repeat(np.arange(10), 100)
    y = np.tile([0, 1], 500)
    right = np.repeat([1, 1, 1, 0, 1, 1, 0, 1, 1, 0], 100).astype(bool)
    p = np.eye(2)[np.where(right, y, 1 - y)] * 0.8 + 0.1
    measured = Measurement(p, y)
    low, high = bootstrap(measured, groups, samples=400)["accuracy"]
    assert 0.35 <= low <= 0.5 and 0.9 <= high <= 1.0
    low, high = bootstrap(measured, np.arange(1000), samples=200)["accuracy"]
    assert 0.65 < low < 0.7 < high < 0.75
    assert bootstrap(measured, np.zeros(1000)) == {}


def test_two_patients_give_no_interval_but_the_reason() -> None:
    """25 tiles of one patient and 1 of another once made an interval of 0.861 to 0.864."""
    p, y = problem(1, 26, 2)
    measured, groups = Measurement(p, y), np.repeat([0, 1], [25, 1])
    assert bootstrap(measured, groups, samples=20) == {}
    why = missing_intervals(measured, groups, ("stroma", "tumor"))
    assert why == "no intervals: the tiles are of 2 patients or slides, and intervals over patients need 5"


def test_a_class_of_few_patients_has_no_intervals_of_what_weighs_classes_alike() -> None:
    y = np.repeat([0, 1], [60, 12])
    p = np.eye(2)[y] * 0.6 + 0.2
    groups = np.concatenate([np.arange(60) % 6, np.arange(12) % 2])
    measured = Measurement(p, y)
    assert set(bootstrap(measured, groups, samples=20)) == {"accuracy", "log_loss", "brier", "ece"}
    assert missing_intervals(measured, groups, ("stroma", "tumor")).endswith("and tumor has tiles of 2")
    enough = np.concatenate([np.arange(60) % 6, np.arange(12) % 6])
    assert "auroc" in bootstrap(measured, enough, samples=20)
    assert missing_intervals(measured, enough, ("stroma", "tumor")) == ""


def test_a_class_that_is_missing_is_left_out_not_guessed() -> None:
    p, _ = problem(0, 20, 3)
    metrics = Measurement(p, np.zeros(20, int)).metrics()
    assert np.isnan(metrics["auroc"])
    assert metrics["balanced_accuracy"] == metrics["accuracy"]


def test_the_paired_test_is_exact_at_the_extremes() -> None:
    right, wrong = np.ones(12, bool), np.zeros(12, bool)
    assert paired_test(right, right, np.arange(12)) == 1.0
    # All twelve patients speak for the first model: two of 2**12 ways are as extreme.
    assert paired_test(right, wrong, np.arange(12)) == pytest.approx(2 / 2**12, abs=6e-4)
    assert paired_test(right, wrong, np.zeros(12)) == 1.0
