"""A linear head on features that do not change: what ``train --encoder`` learns, and where fine-tuning starts from."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsivit.data import Samples, StoreSource
from wsivit.errors import UsageError
from wsivit.evaluation import Measurement, fit_temperature
from wsivit.inference import ModelRunner, ScoringOptions, softmax
from wsivit.models import LinearHead, Model, ModelSpec, find_encoder
from wsivit.training.options import TrainOptions

if TYPE_CHECKING:
    from wsivit.models import Classifier

_log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

STRENGTHS = tuple(float(f"1e{power}") for power in range(-5, 3))
"""Inverse strengths of the regularisation (scikit-learn's C) that are tried."""
MOST_TILES = 100_000
"""Tiles that a head learns from, evenly drawn where there are more: it has few weights."""
START_TILES = 20_000
"""Likewise of a head that fine-tuning starts from, for which each tile goes through the network."""


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A linear head, and how it was chosen.

    Attributes
    ----------
    head : LinearHead
    c : float
        Inverse strength of the regularisation.
    standardised : bool
        Whether it was fitted on features of mean 0 and deviation 1; its weights are for the features as they are.
    logits, codes : ndarray (n, classes), (n,)
        Scores and true classes of the tune part.
    """

    head: LinearHead
    c: float
    standardised: bool
    logits: Floats
    codes: NDArray[np.int64]

    @cached_property
    def temperature(self) -> float:
        """Calibrates its probabilities."""
        return fit_temperature(self.logits, self.codes)

    def recorded(self) -> dict[str, Any]:
        """How it was fitted, and its figures on the tune part."""
        figures = figures_of(self.logits, self.codes, self.temperature)
        return {"c": self.c, "standardised": self.standardised, "temperature": self.temperature, "tune": figures}


def figures_of(logits: Floats, codes: NDArray[np.int64], temperature: float) -> dict[str, float]:
    """Return accuracy, balanced accuracy, log loss and calibration error of scores at a temperature."""
    metrics = Measurement(softmax(logits / np.float32(temperature)), codes).metrics(areas=False)
    return {name: metrics[name] for name in ("accuracy", "balanced_accuracy", "log_loss", "ece")}


def fit_head(
    learned: tuple[Floats, NDArray[np.int64]], tune: tuple[Floats, NDArray[np.int64]], *, balanced: bool = False
) -> FittedHead:
    """Fit a logistic regression; how strongly it is regularised, and on which scale, the tune part chooses.

    Parameters
    ----------
    learned : tuple of ndarray
        Features, float32 (n, d), and classes, int64 (n,), that it learns from: each class at least once.
    tune : tuple of ndarray
        Likewise, of the part that chooses.
    balanced : bool
        Make rare classes count as much as common ones.

    Raises
    ------
    UsageError
        The features are the same for every tile.
    """
    (features, codes), (others, truth) = learned, tune
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    if not deviation.any():
        raise UsageError("the features are the same for every tile: nothing can be learned from them")
    # One scale for all columns changes nothing but the meaning of C, and lets the solver converge.
    flat = np.full_like(deviation, np.sqrt((deviation**2).mean()))
    scales = {True: np.where(deviation > 1e-6 * flat, deviation, flat), False: flat}
    best: tuple[float, bool, float] | None = None
    for standardised, scale in scales.items():
        given, asked = (((x - mean) / scale).astype(np.float32) for x in (features, others))
        start: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        worse = 0
        for c in STRENGTHS:
            start = _logistic_regression(given, codes, c, balanced, start)
            loss = _log_loss(asked @ start[0].T + start[1], truth)
            if best is None or loss < best[0]:
                best, worse = (loss, standardised, c), 0
            elif (worse := worse + 1) == 3:  # weaker and weaker regularisation does not come back
                break
    assert best is not None
    _, standardised, c = best
    scale = scales[standardised]
    weight, bias = _logistic_regression(
        (features - mean) / scale, codes, c, balanced
    )  # in double precision, to its end
    weight = weight / scale
    head = LinearHead(weight.astype(np.float32), (bias - weight @ mean).astype(np.float32))
    return FittedHead(head, c, standardised, head(others), truth)


def _logistic_regression(
    features: NDArray[np.floating],
    codes: NDArray[np.int64],
    c: float,
    balanced: bool,
    start: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight (classes, d) and bias (classes,) of scikit-learn's logistic regression."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=c,
        max_iter=200 if start else 2000,
        tol=1e-4 if start else 1e-6,
        warm_start=start is not None,
        class_weight="balanced" if balanced else None,
    )
    if start is not None:
        weight, bias = start
        two = len(bias) == 2
        model.coef_, model.intercept_ = (weight[1:] * 2, bias[1:] * 2) if two else (weight, bias)
        model.classes_ = np.arange(len(bias))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable classes have no end: the tune part ends it
        model.fit(features, codes)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(bias) == 1:  # of two classes scikit-learn keeps the difference
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _log_loss(logits: NDArray[Any], codes: NDArray[np.int64]) -> float:
    from scipy.special import log_softmax

    return float(-log_softmax(np.asarray(logits, np.float64), axis=1)[np.arange(len(codes)), codes].mean())


# Features that the stores have ------------------------------------------------------------------------


def find_column(samples: Samples, encoder: str) -> tuple[str, dict[str, Any]]:
    """Find the features of an encoder in all stores of the samples; return the column's name and what made it.

    Raises
    ------
    UsageError
        A store has none, or others than the first, or nothing says what made them.
    """
    known = find_encoder(encoder)
    folder = Path(encoder)
    names = (encoder, known.name if known else encoder, folder.resolve().name if folder.is_dir() else folder.name)
    first: tuple[str, dict[str, Any]] | None = None
    for source in samples.sources:
        if not isinstance(source, StoreSource):
            raise UsageError(
                f"{source.id}: a linear head learns from features of tile stores; pictures have none (--model)"
            )
        store = source.store
        column = next((name for name in names if name in store.encoders), None)
        if column is None:
            has = f"it has {', '.join(store.encoders)}" if store.encoders else "it has none"
            raise UsageError(
                f"{store.url}: no features of {encoder} ({has}); make them: "
                f"wsivit features {store.url} --encoder {encoder}"
            )
        about = store.features(column).attrs
        fingerprint = about.get("model_fingerprint")
        if not fingerprint:
            raise UsageError(f"{store.url}: nothing says what made the features {column!r}: extract them again")
        if first is None:
            first = column, about
        elif (column, fingerprint) != (first[0], first[1]["model_fingerprint"]):
            raise UsageError(
                f"{store.url}: its features {column!r} are of other weights, another input or another pooling than "
                f"those of {samples.sources[0].id}; extract them alike: wsivit features … --encoder {encoder} --force"
            )
    assert first is not None
    return first


def read_features(samples: Samples, column: str) -> tuple[Floats, NDArray[np.int64]]:
    """Read the features of tiles, float32 (n, d), without those that have none, and the classes of those tiles.

    Raises
    ------
    UsageError
        They are no vectors, differ in length, or no tile has any.
    """
    samples, parts, codes = _evenly(samples, MOST_TILES), [], []
    for number, source in enumerate(samples.sources):
        of_source = np.flatnonzero(samples.source == number)
        if not len(of_source) or not isinstance(source, StoreSource):
            continue
        values = source.store.features(column).values
        if values.ndim != 2:
            raise UsageError(
                f"{source.store.url}: the features {column!r} are of tokens; a head needs one vector a tile"
            )
        given = values[samples.index[of_source]].astype(np.float32)
        known = np.isfinite(given).all(axis=1)
        parts.append(given[known])
        codes.append(samples.code[of_source[known]])
    widths = {part.shape[1] for part in parts}
    if len(widths) != 1 or not sum(map(len, parts)):
        raise UsageError(
            f"the features {column!r} have {', '.join(map(str, sorted(widths)))} numbers, or no tile has any"
        )
    features = np.concatenate(parts)
    if len(features) < len(samples):
        _log.warning("%d of %d tiles have no features and are left out", len(samples) - len(features), len(samples))
    return features, np.concatenate(codes)


# Features of a classifier that is about to be fine-tuned ----------------------------------------------


def start_from_probe(
    classifier: Classifier, learned: Samples, tune: Samples, options: TrainOptions
) -> FittedHead | None:
    """Give a classifier the best linear head on its features as they are; None where its last layer is not linear."""
    import torch
    from torch import nn

    network = classifier.network
    layer: Any = network.model.get_submodule(network.head) if network.head else None
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        _log.info("the model's last layer is not linear: it starts from a new head, and has no linear probe next to it")
        return None
    # Measured through the whole network with an identity for its head: as float32, not as features are stored.
    body = copy.deepcopy(network).without_head()
    spec = ModelSpec("the backbone", "", (), classifier.preprocessing, "")
    runner = ModelRunner(Model(spec, lambda: body), scoring_options(options))
    parts = [encode(runner, _evenly(part, START_TILES)) for part in (learned, tune)]
    fitted = fit_head(*parts, balanced=options.balance != "none")
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.head.weight))
        layer.bias.copy_(torch.from_numpy(fitted.head.bias))
    return fitted


def scoring_options(options: TrainOptions) -> ScoringOptions:
    """Return how a network is run without learning: twice the tiles fit."""
    return ScoringOptions(batch_size=2 * options.batch_size, device=options.device)


def encode(runner: ModelRunner, samples: Samples) -> tuple[Floats, NDArray[np.int64]]:
    """Run a network over samples; float32 (n, d), and the classes of those that can be read."""
    batches: Sequence[NDArray[np.int64]] = [
        np.arange(i, min(i + runner.step, len(samples))) for i in range(0, len(samples), runner.step)
    ]
    vectors, places = [], []
    for readable, result in runner.run(batches, samples.read_skipping_unreadable):
        runner.require_finite(result)
        vectors.append(result)
        places.append(readable)
    return np.concatenate(vectors), samples.code[np.concatenate(places)]


def _evenly(samples: Samples, most: int) -> Samples:
    """Return the samples, or so many of them, drawn by a fixed seed, each class by its share and at least once."""
    if len(samples) <= most:
        return samples
    order = np.random.default_rng(0).permutation(len(samples))
    firsts = np.unique(samples.code[order], return_index=True)[1]
    _log.info("the linear head learns from %d of %d tiles, drawn at random", most, len(samples))
    return samples.take(np.sort(np.unique(np.concatenate([order[firsts], order[:most]]))))
