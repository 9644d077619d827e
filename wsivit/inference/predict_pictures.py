"""Run a model of pictures over picture files: a table, and a sheet of what it is sure and unsure of."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsivit.data import Samples, picture_source
from wsivit.errors import UsageError
from wsivit.heatmap import SheetBlock, draw_sheet
from wsivit.inference.cpu import keep_freed_memory
from wsivit.inference.options import ScoringOptions
from wsivit.inference.runner import Floats, ModelRunner, softmax
from wsivit.inference.sample_scores import score_samples
from wsivit.io import replacing
from wsivit.models import CONTRACT, RunMetadata, finished_run, open_run, run_name

_EACH = 12
"""Pictures of the sheet that the model is most, and least, sure of."""


@dataclass(frozen=True)
class PicturePredictions:
    """What a model predicts of pictures.

    Attributes
    ----------
    table, sheet : Path
        The CSV, a row for each picture, and the picture of examples.
    names : tuple of str
        The pictures, by their path from the folder.
    classes : tuple of str
    probabilities : float32 (n, classes)
        NaN for pictures that cannot be read.
    """

    table: Path
    sheet: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: Floats


def predict_pictures(
    run: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] = ".",
    options: ScoringOptions = ScoringOptions(),
    progress: bool = False,
) -> PicturePredictions:
    """Run a model that was trained on pictures over pictures: ``<run>-pictures.csv`` and a sheet of examples.

    Parameters
    ----------
    run : path
        A run folder of ``wsivit train`` on folders of pictures.
    pictures : path or sequence of path
        Picture files, or folders of them, with all that is below.
    output : path
        Folder for the table and the sheet.
    options : ScoringOptions
        Batch size, device, engine. Pictures are seen in one view (no ``tta``).
    progress : bool
        Show a progress bar.

    Returns
    -------
    PicturePredictions

    Raises
    ------
    UsageError
        The run is of slides, or there is no picture.
    """
    metadata = finished_run(run)
    if metadata.mpp is not None:
        raise UsageError(f"{run} was trained on tiles of slides: give wsivit predict a slide or a tile store")
    if options.tta:
        raise UsageError("pictures are predicted in one view: leave out --tta")
    paths = [pictures] if isinstance(pictures, str | os.PathLike) else list(pictures)
    source = picture_source(paths, metadata.tile_size)
    n, classes = len(source.names), metadata.classes
    index = np.arange(n, dtype=np.int64)
    samples = Samples((source,), np.zeros(n, np.int64), index, np.zeros(n, np.int64), classes)
    keep_freed_memory()  # before torch is loaded, which starts threads
    logits = score_samples(ModelRunner(open_run(run, metadata), options), samples, progress=progress)
    probabilities = softmax(logits / np.float32(metadata.temperature))
    folder, name = Path(output), run_name(run)
    result = PicturePredictions(
        folder / f"{name}-pictures.csv",
        folder / f"{name}-pictures.png",
        tuple(source.names),
        classes,
        probabilities,
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(result)
    _draw_sheet(result, samples, name)
    return result


def is_of_pictures(run: str | os.PathLike[str]) -> bool:
    """Whether a model is a run that was trained on pictures: its tiles have no scale."""
    return (Path(run) / CONTRACT).is_file() and RunMetadata.read(run).mpp is None


def _write_table(result: PicturePredictions) -> None:
    with replacing(result.table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["picture", "predicted", *(f"p_{name}" for name in result.classes)])
        for name, row in zip(result.names, result.probabilities, strict=True):
            readable = bool(np.isfinite(row).all())
            predicted = result.classes[row.argmax()] if readable else ""
            table.writerow([name, predicted, *(f"{p:.6g}" if readable else "" for p in row)])


def _draw_sheet(result: PicturePredictions, samples: Samples, name: str) -> None:
    """Draw the pictures that the model is most and least sure of, none twice."""
    readable = np.flatnonzero(np.isfinite(result.probabilities).all(axis=1))
    if not len(readable):
        raise UsageError("none of the pictures can be read")
    best = result.probabilities[readable].max(axis=1)
    order = readable[np.argsort(-best, kind="stable")]
    most = min(_EACH, (len(order) + 1) // 2)
    least = min(most, len(order) - most)
    blocks = []
    for title, chosen in (("most certain", order[:most]), ("least certain", order[len(order) - least :][::-1])):
        captions = []
        for picture in chosen.tolist():
            row = result.probabilities[picture]
            captions.append(f"{result.classes[row.argmax()]} {row.max():.0%}   {Path(result.names[picture]).name}"[:34])
        blocks.append(SheetBlock(title, samples.read(chosen), captions))
    draw_sheet(result.sheet, f"{len(result.names):,} pictures   ·   run {name}", [b for b in blocks if b.captions])
