"""The logits of labelled samples: by the model, or those that ``wsivit predict`` has stored."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from wsivit.data import Samples, StoreSource
from wsivit.inference.runner import Floats, ModelRunner
from wsivit.io import progress_bar
from wsivit.models import ModelSpec


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


def stored_logits(spec: ModelSpec, samples: Samples) -> Floats:
    """Logits that ``wsivit predict`` wrote to the stores with the same model, as `score_samples` would give them.

    float32 (n, classes), NaN where there are none; those of several views or of 8-bit weights do not count.
    """
    logits = np.full((len(samples), len(spec.classes)), np.nan, np.float32)
    for number, source in enumerate(samples.sources):
        if isinstance(source, StoreSource):
            of_source = samples.source == number
            for stored in map(source.store.predictions, source.store.runs):
                scores, attrs = stored.logits, stored.attrs
                same_model = attrs.get("model_fingerprint") == spec.fingerprint and stored.classes == spec.classes
                if same_model and scores is not None and scores.ndim == 2 and not attrs.get("int8"):
                    logits[of_source] = scores[samples.index[of_source]]
    return logits
