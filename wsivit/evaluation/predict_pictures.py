"""Run a model that learned from pictures over pictures: a table, and a sheet to look at."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsivit.data import Samples, unlabelled_pictures
from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation.figures import draw_examples
from wsivit.inference import ModelRunner, ScoringOptions, score_samples, softmax
from wsivit.io import replacing
from wsivit.models import CONTRACT, RunMetadata, finished_run, open_run

_log = logging.getLogger(__name__)

TABLE, SHEET = "predictions.csv", "predictions.png"
_SHOWN = 24


@dataclass(frozen=True)
class PicturePredictions:
    """What a model makes of pictures.

    Attributes
    ----------
    table : Path
        CSV: picture, predicted class, its probability, and the probability of each class; empty for a damaged picture.
    sheet : Path
        Some of the pictures with their classes; the least sure first.
    counts : dict of str to int
        Pictures of each class, by the model.
    damaged : int
        Pictures that cannot be read.
    """

    table: Path
    sheet: Path
    counts: dict[str, int]
    damaged: int


def learned_from_pictures(run: str | os.PathLike[str]) -> bool:
    """Whether something is a run that learned from pictures, which have no scale."""
    return (Path(run) / CONTRACT).is_file() and RunMetadata.read(run).mpp is None


def predict_pictures(
    run: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] | None = None,
    options: ScoringOptions = ScoringOptions(),
    force: bool = False,
    progress: bool = False,
) -> PicturePredictions:
    """Run a model that learned from pictures over pictures and folders of them.

    Parameters
    ----------
    run : path
        A run folder of ``wsivit train`` on pictures.
    pictures : path, or a sequence of these
        Pictures, or folders, in which they are looked for at any depth.
    output : path, optional
        Folder for ``predictions.csv`` and ``predictions.png``. Default: the working directory.
    options : ScoringOptions
        Batch size, device, engine.
    force : bool
        Replace earlier predictions there.
    progress : bool
        Show a progress bar.

    Returns
    -------
    PicturePredictions

    Raises
    ------
    UsageError
        The run learned from slides, there is no picture, or none can be read.
    OutputExistsError
        The output has predictions.
    """
    metadata, folder = finished_run(run), Path(output or ".")
    if metadata.mpp is not None:
        raise UsageError(f"{run}: learned from tiles of slides, at a scale that pictures do not have: give it slides")
    if (folder / TABLE).exists() and not force:
        raise OutputExistsError(f"{folder / TABLE}: exists; choose another output, or replace it with --force")
    given = [pictures] if isinstance(pictures, str | os.PathLike) else list(pictures)
    sources, damaged = unlabelled_pictures(given, metadata.tile_size)
    number = np.repeat(np.arange(len(sources)), [len(source.names) for source in sources])
    index = np.concatenate([np.arange(len(source.names)) for source in sources])
    samples = Samples(tuple(sources), number, index, np.zeros_like(index), metadata.classes)
    logits = score_samples(ModelRunner(open_run(run, metadata), options), samples, progress=progress)
    probabilities = softmax(logits / np.float32(metadata.temperature))
    scored = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    if not len(scored):
        raise UsageError(f"none of the {len(samples) + len(damaged)} pictures can be read")
    names = [str(source.root / name) for source in sources for name in source.names]
    winner, sureness = probabilities[scored].argmax(axis=1), probabilities[scored].max(axis=1)

    folder.mkdir(parents=True, exist_ok=True)
    order = scored[np.argsort(sureness, kind="stable")[:_SHOWN]]
    captions = [(f"{metadata.classes[row.argmax()]} {row.max():.0%}", True) for row in probabilities[order]]
    draw_examples(folder / SHEET, samples.read(order), captions)
    with replacing(folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "predicted", "probability", *(f"p_{name}" for name in metadata.classes)])
        predicted = dict(zip(scored.tolist(), winner.tolist(), strict=True))
        for place, name in enumerate(names):
            if place in predicted:
                row = probabilities[place]
                label = metadata.classes[predicted[place]]
                writer.writerow([name, label, f"{row.max():.6g}", *(f"{p:.6g}" for p in row)])
            else:
                damaged.append(name)
        for name in damaged:
            _log.warning("%s: cannot be read", name)
            writer.writerow([name, "", "", *("" for _ in metadata.classes)])
    count = np.bincount(winner, minlength=len(metadata.classes)).tolist()
    counts = dict(zip(metadata.classes, count, strict=True))
    return PicturePredictions(folder / TABLE, folder / SHEET, counts, len(damaged))
