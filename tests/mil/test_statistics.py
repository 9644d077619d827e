"""Figures against other libraries, closed forms and simulated cohorts whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from test_patients import cohort_of

from wsivit.errors import UsageError
from wsivit.mil.conformal import check_alpha, class_p_values, nonconformity, prediction_sets, set_text
from wsivit.mil.linear_model import LinearFit
from wsivit.mil.objective import Floats, probabilities
from wsivit.mil.patient_statistics import chance, measure, refitted_chance, score, swap_test
from wsivit.mil.site_check import check_sites, refuse_site_label
from wsivit.mil.survival import concordance, cox_loss, cox_loss_tensor, kaplan_meier, log_rank


def scores_of(n: int, positives: int, shift: float, rng: np.random.Generator) -> Floats:
    logits = rng.normal(size=(1, n, 1))
    logits[0, :positives] += shift
    return logits


def test_headlines_are_those_of_sklearn() -> None:
    rng, cohort = np.random.default_rng(0), cohort_of(50, 20)
    logits = scores_of(50, 20, 1.0, rng)
    figures = measure(cohort, logits, samples=50, seed=0)
    assert figures.value == pytest.approx(roc_auc_score(cohort.targets, logits[0, :, 0]))
    assert next(iter(figures.metrics)) == "auroc"
    codes, three = rng.integers(0, 3, 60), rng.normal(size=(60, 3))
    expected = roc_auc_score(codes, probabilities(three), multi_class="ovr")
    assert score("multiclass", three, codes.astype(float), codes) == pytest.approx(expected)


def covered(cohorts: int, seed: int = 0) -> float:
    """Share of simulated cohorts whose interval holds the true area: of two normals a unit apart, Φ(1/√2)."""
    from scipy.stats import norm

    rng, cohort, truth = np.random.default_rng(seed), cohort_of(80, 40), norm.cdf(1 / np.sqrt(2))
    hits = 0
    for k in range(cohorts):
        low, high = measure(cohort, scores_of(80, 40, 1.0, rng), samples=200, seed=k).intervals["auroc"]
        hits += low <= truth <= high
    return hits / cohorts


def test_intervals_cover_the_truth() -> None:
    assert covered(40) >= 0.85  # 36 of 40 are expected, with a deviation of 1.4; 300 cohorts are in tests/long


def test_without_a_difference_the_swap_test_is_uniform_and_with_one_it_is_sure() -> None:
    rng, cohort = np.random.default_rng(1), cohort_of(40, 20)
    p_values = []
    for _ in range(60):
        truth = scores_of(40, 20, 1.0, rng)[0]
        first, second = (truth + rng.normal(size=truth.shape) for _ in range(2))
        p_values.append(swap_test(cohort, first, second, swaps=99))
    assert 0.38 < np.mean(p_values) < 0.62
    assert np.mean(np.array(p_values) <= 0.1) < 0.25
    good, none = scores_of(40, 20, 3.0, rng)[0], scores_of(40, 20, 0.0, rng)[0]
    assert swap_test(cohort, good, none, swaps=199) <= 0.01
    # The scales of two models differ: ranks count.
    assert swap_test(cohort, good * 100, good / 100, swaps=199) == 1.0


def test_chance_is_half_and_finds_a_signal() -> None:
    rng, cohort = np.random.default_rng(2), cohort_of(40, 20)
    luck = chance(cohort, scores_of(40, 20, 0.0, rng)[0], permutations=400)
    assert luck.low < 0.5 < luck.high
    assert 0.25 < luck.high - luck.low < 0.45  # ± 1.96 √((n + 1) / 3 n²/ …) = 0.36
    assert chance(cohort, scores_of(40, 20, 2.0, rng)[0], permutations=400).p_value < 0.01
    p_values = [chance(cohort, scores_of(40, 20, 0.0, rng)[0], permutations=99).p_value for _ in range(100)]
    assert 0.4 < np.mean(p_values) < 0.6
    means = rng.normal(size=(40, 60)).astype(np.float32)
    refitted = refitted_chance(cohort, means, 0.5, folds=4, strength=1.0, permutations=30)
    assert refitted.low < 0.5 < refitted.high


def test_linear_model_is_that_of_sklearn_in_all_dimensions() -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 100)), np.arange(30) % 2
    fit = LinearFit(x)
    z = (x - x.mean(0)) / x.std(0)
    scale = np.sqrt((z**2).sum(axis=1).mean())  # the penalty is of features of that length
    ours = fit.fit("binary", 1, y.astype(float), y, 3.0)(x)
    theirs = LogisticRegression(C=3.0, tol=1e-8, max_iter=2000).fit(z / scale, y).decision_function(z / scale)
    np.testing.assert_allclose(ours[:, 0], theirs, atol=1e-4)
    value = x[:, 0] * 2 + 5
    theirs = Ridge(alpha=1 / 3.0).fit(z / scale, value).predict(z / scale)
    np.testing.assert_allclose(fit.fit("regression", 1, value, y, 3.0)(x)[:, 0], theirs, atol=1e-8)


# Sites


def site_cohort(follows: float, tint: float, seed: int = 0) -> tuple[object, np.ndarray]:
    """60 patients of three sites; the label follows the site with some probability, the site tints the features."""
    from dataclasses import replace

    rng, cohort, patients = np.random.default_rng(seed), cohort_of(60, 30, sites=3), []
    features = rng.normal(size=(60, 20))
    for k, patient in enumerate(cohort.patients):
        site = k % 3
        positive = site == 0 if rng.random() < follows else k % 2 == 0
        patients.append(replace(patient, target=float(positive), label="ny"[positive]))
        features[k, site] += tint
    return replace(cohort, patients=tuple(patients)), features.astype(np.float32)


@pytest.mark.parametrize(
    ("follows", "tint", "flagged"), [(0.8, 4.0, True), (0.0, 4.0, False), (0.8, 0.0, False), (0.0, 0.0, False)]
)
def test_site_trap_is_flagged_only_where_label_and_features_follow_the_site(
    follows: float, tint: float, flagged: bool
) -> None:
    cohort, means = site_cohort(follows, tint)
    check = check_sites(cohort, means, strength=1.0)  # type: ignore[arg-type]
    assert check is not None
    assert check.confounded == flagged
    assert (check.accuracy > 0.8) == (tint > 0)
    if flagged:  # across sites the tint says nothing
        assert check.leave_one_out_mean is None or check.leave_one_out_mean < 0.75


def test_label_that_is_a_function_of_the_site_is_refused() -> None:
    from dataclasses import replace

    cohort = cohort_of(40, 20, sites=1)
    by_site = replace(cohort, patients=tuple(replace(p, site=f"of-{p.label}") for p in cohort.patients))
    with pytest.raises(UsageError, match="function of the site \\(of-n: n, of-y: y\\)"):
        refuse_site_label(by_site)
    refuse_site_label(cohort)


# Conformal sets


def conformal_coverage(shift: float, seed: int = 0, cohorts: int = 20) -> tuple[float, float]:
    """Coverage and mean size of sets for new patients, whose scores are shifted against those of training."""
    rng, hits, sizes = np.random.default_rng(seed), [], []
    codes, new_codes = np.arange(60) % 2, np.arange(200) % 2
    for _ in range(cohorts):
        logits, new = (rng.normal(size=(len(c), 1)) + 1.5 * (2 * c[:, None] - 1) for c in (codes, new_codes))
        folds = {f"repeat0-fold{k}": nonconformity(probabilities(logits), codes)[k::3].tolist() for k in range(3)}
        shares = probabilities(new + shift * (1 - 2 * new_codes[:, None]))
        sets = prediction_sets(class_p_values(dict.fromkeys(folds, shares), folds), 0.1)
        hits.append(sets[np.arange(200), new_codes].mean())
        sizes.append(sets.sum(axis=1).mean())
    return float(np.mean(hits)), float(np.mean(sizes))


def test_sets_cover_what_they_promise_and_fail_visibly_after_a_shift() -> None:
    coverage, size = conformal_coverage(0.0)
    assert 0.88 < coverage < 0.94
    assert 0.9 < size < 1.6
    assert conformal_coverage(2.0)[0] < 0.6


def test_sets_in_words_and_alpha_too_small() -> None:
    assert set_text(np.array([False, True]), ("a", "b")) == "b"
    assert set_text(np.array([True, True]), ("a", "b")) == set_text(np.array([False, False]), ("a", "b")) == "abstain"
    check_alpha(0.1, 9)
    with pytest.raises(UsageError, match=r"alpha 0.01 is too small for 40 patients.*or 99 patients"):
        check_alpha(0.01, 40)


# Survival: the numbers are those of lifelines 0.30.3 for these patients.


def survivors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 2))
    times = np.ceil(rng.exponential(np.exp(-x[:, 0])) * 6)
    return x, times, (rng.random(40) < 0.7).astype(int)


def test_survival_is_that_of_lifelines() -> None:
    x, times, events = survivors()
    weights = np.array([1.0648964956826361, -0.45691561610093947])
    loss, gradient = cox_loss(x @ weights, times, events)
    assert -loss == pytest.approx(-72.26303820691638, abs=1e-8)
    np.testing.assert_allclose(x.T @ gradient, 0, atol=1e-6)  # there it has its maximum
    assert concordance(x[:, 0], times, events) == pytest.approx(0.7357798165137615, abs=1e-12)
    assert concordance(-x[:, 0], times, events) == pytest.approx(1 - 0.7357798165137615, abs=1e-12)
    at, share = kaplan_meier(times, events)
    expected = [0.925, 0.7853061224489798, 0.5134693877551022]
    np.testing.assert_allclose(share[np.searchsorted(at, [1, 3, 6])], expected, atol=1e-12)
    statistic, p_value = log_rank(times, events, x[:, 0] > 0)
    assert statistic == pytest.approx(14.868182543435067, abs=1e-8)
    assert p_value == pytest.approx(0.00011529131050616153, abs=1e-10)


def test_tensor_loss_has_the_same_value_and_gradient() -> None:
    import torch

    x, times, events = survivors()
    loss, gradient = cox_loss(x[:, 0], times, events)
    risk = torch.tensor(x[:, 0], requires_grad=True)
    value = cox_loss_tensor(risk, torch.tensor(times), torch.tensor(events))
    value.backward()
    assert float(value.detach()) == pytest.approx(loss / events.sum())
    np.testing.assert_allclose(risk.grad, gradient / events.sum(), atol=1e-9)
