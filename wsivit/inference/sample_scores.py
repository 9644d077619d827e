"""The logits of labelled samples: by the model, or what the stores have of it."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from wsivit.data import Samples, StoreSource
from wsivit.errors import StoreMismatchError
from wsivit.inference.runner import Floats, ModelRunner
from wsivit.io import progress_bar
from wsivit.models import LinearHead, Model
from wsivit.store import TileStore


def score_samples(runner: ModelRunner, samples: Samples, *, progress: bool = False) -> Floats:
    """Run the model over samples; float32 logits (n, classes), in their order, NaN where one cannot be read."""
    logits = np.full((len(samples), len(runner.spec.classes)), np.nan, np.float32)
    batches = [np.arange(i, min(i + runner.step, len(samples))) for i in range(0, len(samples), runner.step)]
    with (
        progress_bar(len(samples), "measuring", "tile", show=progress) as advance,
        closing(runner.run(batches, samples.read_skipping_unreadable)) as results,
    ):
        for batch, (readable, result) in zip(batches, results, strict=True):
            runner.require_finite(result)
            logits[readable] = result
            advance(len(batch))
    return logits


def stored_logits(model: Model, samples: Samples) -> Floats:
    """Logits that the stores have, or whose features they have, as `score_samples` would give them.

    Those that ``wsivit predict`` wrote with the same model, unless of several views or 8-bit weights; for a head on
    features what it makes of them. float32 (n, classes), NaN where there are none.
    """
    spec = model.spec
    logits = np.full((len(samples), len(spec.classes)), np.nan, np.float32)
    for number, source in enumerate(samples.sources):
        if isinstance(source, StoreSource):
            of_source = samples.source == number
            if model.head is not None and has_features(source.store, model.head):
                features = source.store.features(model.head.column).values
                logits[of_source] = model.head(features[samples.index[of_source]])
            for stored in map(source.store.predictions, source.store.runs):
                scores, attrs = stored.logits, stored.attrs
                same_model = attrs.get("model_fingerprint") == spec.fingerprint and stored.classes == spec.classes
                if same_model and scores is not None and scores.ndim == 2 and not attrs.get("int8"):
                    logits[of_source] = scores[samples.index[of_source]]
    return logits


def has_features(store: TileStore, head: LinearHead) -> bool:
    """Whether a store has the features that a head takes.

    Raises
    ------
    StoreMismatchError
        It has features of that name with another fingerprint.
    """
    if head.column not in store.encoders:
        return False
    if store.features(head.column).attrs.get("model_fingerprint") != head.encoder:
        raise StoreMismatchError(
            f"{store.url}: its features {head.column!r} are of other weights, another input or another pooling than "
            f"those that the model learned from; replace them with wsivit features --encoder {head.column} --force"
        )
    return True
