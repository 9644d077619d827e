"""The labelled tiles that trained models are measured on: of their classes and scale, and not trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsivit.data import TEST, VALIDATION, Samples, SlideOptions, SlideTiler, load_samples, read_split, same_scale
from wsivit.errors import StoreMismatchError, UsageError
from wsivit.evaluation.options import CompareOptions
from wsivit.inference import Floats
from wsivit.models import RunMetadata
from wsivit.tiling import TileOptions


def load_evaluation_data(
    runs: Mapping[Path, RunMetadata],
    data: Sequence[str | os.PathLike[str]],
    folder: Path,
    options: CompareOptions,
    slides: SlideOptions,
) -> Samples:
    """Load the labelled tiles that none of the runs was trained on, with the classes in the runs' order.

    Slides are tiled into ``tiles`` in `folder`, at the scale and tile size of the first run.

    Raises
    ------
    UsageError
        No tile is left, or one is of a class that the runs do not know.
    StoreMismatchError
        The data's scale or tile size is not that of a run.
    """
    first = next(iter(runs.values()))
    tiler = SlideTiler(folder / "tiles", slides, first.mpp or TileOptions.mpp, first.tile_size)
    label = options.label or first.label
    samples = load_samples(data, label, side=first.tile_size, min_classes=1, tiler=tiler)
    if unknown := sorted(set(samples.classes) - set(first.classes)):
        raise UsageError(
            f"the data have classes that the run does not know: {', '.join(unknown)}; "
            f"it knows {', '.join(first.classes)}"
        )
    # A store numbers its own classes: the same name may have another index there.
    order = np.array([first.classes.index(name) for name in samples.classes], np.int64)
    samples = replace(samples, code=order[samples.code], classes=first.classes)
    keep = np.ones(len(samples), bool)
    for run, metadata in runs.items():
        _check_compatibility(metadata, samples, allow=options.allow_mismatch)
        if options.subset == "unseen":
            keep &= _unseen_by(run, metadata, samples)
    if not keep.any():
        raise UsageError(
            f"all of these tiles were used to train {', '.join(map(str, runs))}: give other data, or measure on "
            "all of them with --subset all"
        )
    return samples if keep.all() else samples.take(keep)


def scored_mask(*logits: Floats) -> NDArray[np.bool_]:
    """Return which tiles every model could score, bool (n,); the others are unreadable. UsageError if none could."""
    scored = ~np.any([np.isnan(values).any(axis=1) for values in logits], axis=0)
    if not scored.any():
        raise UsageError("none of the tiles can be read; wsivit verify checks their stores")
    return np.asarray(scored)


def _check_compatibility(metadata: RunMetadata, samples: Samples, *, allow: bool) -> None:
    differences = [
        f"{source.id} is at {source.mpp:.4g} microns per pixel, the run at {metadata.mpp:.4g}"
        for source in samples.sources
        if not same_scale(metadata.mpp, source.mpp)
    ]
    if samples.size != metadata.tile_size:
        differences.append(f"tiles of {samples.size} px, the run's have {metadata.tile_size} px")
    if differences and not allow:
        raise StoreMismatchError(
            f"the data do not fit the run: {'; '.join(differences)}; tile for it, or continue with --allow-mismatch"
        )


def _unseen_by(run: Path, metadata: RunMetadata, samples: Samples) -> NDArray[np.bool_]:
    """Return which tiles the run was not trained on, bool (n,)."""
    known = {source["fingerprint"] for source in metadata.data}
    of_training_data = np.array([source.fingerprint in known for source in samples.sources])[samples.source]
    unseen = ~of_training_data
    if of_training_data.any():
        side = read_split(run / metadata.split["file"], samples.take(of_training_data)).side
        # The validation tiles chose the epoch: where there are test tiles, only those are unseen.
        unseen[of_training_data] = side == (TEST if (side == TEST).any() else VALIDATION)
    return unseen
