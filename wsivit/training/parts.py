"""The data of a training in three parts: what learns, what chooses, and what is reported."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsivit.data import (
    SIDES,
    TEST,
    TRAIN,
    TUNE,
    IndexedSource,
    Samples,
    Split,
    StoreSource,
    check_leakage,
    official_split,
    read_split,
    split_samples,
    warnings_of,
    with_tune_part,
)
from wsivit.errors import UsageError
from wsivit.training.options import TrainOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Parts:
    """The data and their split. What learns is given `learned` and `tune`, and cannot reach `test`."""

    samples: Samples
    split: Split
    leaks: list[str]
    warnings: list[str]

    @property
    def learned(self) -> Samples:
        """What the model learns from."""
        return self.samples.take(self.split.of(TRAIN))

    @property
    def tune(self) -> Samples:
        """What chooses."""
        return self.samples.take(self.split.of(TUNE))

    @property
    def test(self) -> Samples:
        """What is reported, and was never given to anything that learns or chooses."""
        return self.samples.take(self.split.of(TEST))

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the pictures of each class, on each side that has any."""
        present = [side for side in SIDES if (self.split.side == side).any()]
        return {SIDES[side]: self.samples.take(self.split.of(side)).counts() for side in present}

    def provenance(self) -> list[dict[str, Any]]:
        """Count what each source gives to which side; names and fingerprints, no folders of this machine."""
        provenance: list[dict[str, Any]] = []
        first = min(SIDES)
        counts = self.samples.count_per_source(self.split.side.astype(np.int64) - first, len(SIDES))
        for source, per_side in zip(self.samples.sources, counts.tolist(), strict=True):
            sides = {SIDES[first + place]: count for place, count in enumerate(per_side) if count}
            about: dict[str, Any] = {
                "id": source.id,
                "fingerprint": source.fingerprint,
                "mpp": source.mpp,
                "downscale": source.downscale,
            }
            if isinstance(source, StoreSource):
                # Where its tiles lie: predictions of the same tissue, tiled in any way, can say that it was seen.
                side0 = [source.size * scale for scale in (source.grid.downsample_x, source.grid.downsample_y)]
                about |= {"stride0": list(source.grid.stride0), "side0": side0}
            provenance.append({**about, **sides})
        return provenance


def divide(samples: Samples, options: TrainOptions) -> Parts:
    """Split by the file that is given, as the data come, or by the options; check that all three parts can be used."""
    # An index has labelled tiles only, and to count the others would open every store of it.
    stores = [s for s in samples.sources if isinstance(s, StoreSource) and not isinstance(s, IndexedSource)]
    readable = sum(len(source.store.readable) for source in stores)
    if readable > len(samples):
        log.info("%d of %d tiles have no label and are left out", readable - len(samples), readable)
    if options.split is not None:
        split = read_split(options.split, samples, options.split_by)
    elif samples.side is not None:
        split = official_split(samples)
    else:
        fold = None if options.folds is None else (options.fold, options.folds)
        split = split_samples(samples, options.holdout, by=options.split_by, seed=options.seed, fold=fold)
    learned = set(samples.code[split.of(TRAIN)].tolist())
    missing = [name for code, name in enumerate(samples.classes) if code not in learned]
    if missing:
        raise UsageError(f"{split.how}: no training picture is {' or '.join(missing)}, but held-out ones are")
    split = with_tune_part(samples, split, by=options.split_by, seed=options.seed)
    leaks = check_leakage(samples, split, allow=options.allow_leakage)
    warnings = warnings_of(samples, split)
    for warning in warnings:
        log.warning("%s", warning)
    return Parts(samples, split, leaks, warnings)
