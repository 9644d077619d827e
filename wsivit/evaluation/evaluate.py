"""Measure a trained model on labelled data."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit._keywords import options_as_keywords
from wsivit.data import (
    TEST,
    VALIDATION,
    Samples,
    SlideOptions,
    SlideTiler,
    StoreSource,
    empty_classes,
    load_samples,
    read_split,
    same_scale,
)
from wsivit.errors import OutputExistsError, StoreMismatchError, UsageError
from wsivit.evaluation.figures import draw_confusion, draw_examples, draw_reliability, draw_roc
from wsivit.evaluation.metrics import Measurement, bootstrap, missing_intervals
from wsivit.evaluation.options import CompareOptions, EvaluateOptions
from wsivit.inference import Floats, ModelRunner, ScoringOptions, score_samples, softmax, stored_logits
from wsivit.models import RunMetadata, finished_run, open_run, run_name
from wsivit.slide_list import Sources
from wsivit.tiling import TileOptions

_log = logging.getLogger(__name__)

METRICS = "metrics.json"


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes
    ----------
    folder : Path
        Contains ``metrics.json``, ``predictions.csv`` and the pictures.
    metrics : dict of str to float
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``kappa``, ``auroc``, ``auprc``, ``log_loss``, ``brier``,
        ``ece``; with more than five classes ``top5_accuracy``.
    intervals : dict of str to (float, float)
        95 %, over patients; left out where there are too few patients, or too few with one of the classes.
    patients : int
        Number of patients (or slides, where the patient is not known).
    n : int
        Number of tiles.
    scores : dict of str to int
        Number of tiles whose scores were ``stored`` or ``computed``, and of ``unreadable`` ones.
    tiles_of_training_slides : int
        Number of tiles from slides whose other parts the run was trained on: they say nothing about new patients.
    missing_intervals : str
        Which intervals there are none of, and why; empty where there are all.
    warnings : tuple of str
        Classes whose tiles show nothing.
    """

    folder: Path
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    patients: int
    n: int
    scores: dict[str, int]
    tiles_of_training_slides: int
    missing_intervals: str = ""
    warnings: tuple[str, ...] = ()


@options_as_keywords
def evaluate(
    run: str | os.PathLike[str],
    data: Sources,
    *,
    output: str | os.PathLike[str] | None = None,
    options: EvaluateOptions = EvaluateOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
    **keywords: Any,
) -> Evaluation:
    """Measure a trained model on labelled data.

    Tiles that the run was trained on are left out. Intervals are over patients, not tiles: they say how the metrics
    would change with other patients, and are left out, with the reason, where there are fewer than five.

    Parameters
    ----------
    run : path
        A run folder of ``wsivit train``.
    data : path or TileStore, or several
        Labelled data, of any kind that ``train`` accepts.
    output : path, optional
        Folder for the results. Default: ``evaluation`` in the run folder.
    options : EvaluateOptions
        Which tiles and label, number of bootstrap samples.
    slides : SlideOptions
        How slides are opened, where the data are slides; their scale and tile size are those of the run.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of `options` and `slides`, in their place.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        No labelled tile is left, or one is of a class that the run does not know.
    StoreMismatchError
        The data's scale or tile size is not the run's.
    OutputExistsError
        The output exists.
    """
    metadata = finished_run(run)
    folder = Path(output) if output is not None else Path(run) / "evaluation"
    if (folder / METRICS).exists() and not options.force:
        raise OutputExistsError(f"{folder}: contains an evaluation; choose another output, or replace it with --force")
    samples = load_evaluation_data({Path(run): metadata}, data, folder, options, slides)
    warnings = empty_classes(samples, np.arange(len(samples)))
    for warning in warnings:
        _log.warning("%s", warning)
    logits, origins = _score(run, metadata, samples, options, progress)
    scored = scored_mask(logits)
    samples = samples.take(scored)
    measured = Measurement(softmax(logits[scored] / metadata.temperature), samples.code)
    trained = {source["fingerprint"] for source in metadata.data if source.get("train")}
    from_training = [bool(source.patient) and source.fingerprint in trained for source in samples.sources]
    evaluation = Evaluation(
        folder,
        measured.metrics(),
        bootstrap(measured, samples.patients.code, samples=options.bootstrap_samples, seed=options.seed),
        samples.patients.count(),
        len(samples),
        origins,
        int(np.array(from_training)[samples.source].sum()),
        missing_intervals(measured, samples.patients.code, samples.classes),
        tuple(warnings),
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_predictions(folder / "predictions.csv", samples, measured.probabilities)
    draw_confusion(folder / "confusion.png", measured, samples.classes)
    draw_roc(folder / "roc.png", measured, samples.classes)
    draw_reliability(folder / "reliability.png", measured)
    # Examples at random: a third of them wrong where there are any, the rest right.
    rng, right = np.random.default_rng(options.seed), measured.predicted == measured.truth
    count = max(options.examples // 3, options.examples - np.count_nonzero(right))
    wrong_tiles = rng.permutation(np.flatnonzero(~right))[:count]
    right_tiles = rng.permutation(np.flatnonzero(right))[: options.examples - len(wrong_tiles)]
    shown = np.concatenate([right_tiles, wrong_tiles])
    captions = []
    for tile in shown:
        caption = f"{samples.classes[measured.predicted[tile]]} {measured.confidence[tile]:.0%}"
        true = "" if right[tile] else f"\ntrue: {samples.classes[measured.truth[tile]]}"
        captions.append((caption + true, bool(right[tile])))
    draw_examples(folder / "examples.png", samples.read(shown), captions, samples.mpp)
    # Last: it marks the folder as a complete evaluation.
    _write_metrics(folder / METRICS, run_name(run), metadata, samples, measured, evaluation)
    return evaluation


def load_evaluation_data(
    runs: Mapping[Path, RunMetadata],
    data: Sources,
    folder: Path,
    options: CompareOptions,
    slides: SlideOptions,
) -> Samples:
    """Load the labelled tiles that none of the runs was trained on, with the classes in the runs' order.

    Slides are tiled into ``tiles`` in `folder`, at the scale and tile size of the first run. Pictures have its size
    too; `Samples.resized` brings them to that of another.

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
        differences = [
            f"{source.id} is at {source.mpp:.4g} microns per pixel, the run at {metadata.mpp:.4g}"
            for source in samples.sources
            if not same_scale(metadata.mpp, source.mpp)
        ]
        if samples.size != metadata.tile_size and not samples.resizable:
            differences.append(f"tiles of {samples.size} px, the run's have {metadata.tile_size} px")
        if differences and not options.allow_mismatch:
            raise StoreMismatchError(
                f"the data do not fit the run: {'; '.join(differences)}; tile for it, or continue with --allow-mismatch"
            )
        if options.subset == "unseen":
            known = {source["fingerprint"] for source in metadata.data}
            of_training_data = np.array([source.fingerprint in known for source in samples.sources])[samples.source]
            if of_training_data.any():
                side = read_split(run / metadata.split["file"], samples.take(of_training_data)).side
                # The validation tiles chose the epoch: where there are test tiles, only those are unseen.
                keep[of_training_data] &= side == (TEST if (side == TEST).any() else VALIDATION)
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


def _score(
    run: str | os.PathLike[str], metadata: RunMetadata, samples: Samples, options: EvaluateOptions, progress: bool
) -> tuple[Floats, dict[str, int]]:
    """Return logits, stored ones where `predict` left any and computed ones for the rest, and how many are of each."""
    model = open_run(run, metadata)
    if options.reuse_predictions:
        logits = stored_logits(model.spec, samples)
    else:
        logits = np.full((len(samples), len(samples.classes)), np.nan, np.float32)
    missing = np.flatnonzero(np.isnan(logits).any(axis=1))
    if len(missing):
        runner = ModelRunner(model, ScoringOptions(options.batch_size, options.device))
        logits[missing] = score_samples(runner, samples.take(missing), progress=progress)
    unreadable = int(np.isnan(logits).any(axis=1).sum())
    stored = len(samples) - len(missing)
    return logits, {"stored": stored, "computed": len(missing) - unreadable, "unreadable": unreadable}


def _write_predictions(path: Path, samples: Samples, probabilities: NDArray[np.float64]) -> None:
    """Write one row per tile: source, item, patient, true and predicted class, probability of each class."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "item", "patient", "true", "predicted", *(f"p_{name}" for name in samples.classes)])
        predicted = [samples.classes[index] for index in probabilities.argmax(axis=1)]
        rows = zip(samples.source, samples.index, samples.items(), samples.code, predicted, probabilities, strict=True)
        for number, index, item, true, name, row in rows:
            source = samples.sources[number]
            patient = source.patient or f"{number}/{index}"
            writer.writerow([source.id, item, patient, samples.classes[true], name, *(f"{p:.6g}" for p in row)])


def _write_metrics(
    path: Path, name: str, metadata: RunMetadata, samples: Samples, measured: Measurement, evaluation: Evaluation
) -> None:
    right = measured.predicted == measured.truth
    per_slide = {
        source.id: {"n": int(own.sum()), "accuracy": float(right[own].mean())}
        for number, source in enumerate(samples.sources)
        if (own := samples.source == number).any()
    }
    report: dict[str, Any] = {
        "run": name,
        "model_fingerprint": metadata.model_fingerprint,
        "temperature": metadata.temperature,
        "tiles": evaluation.n,
        "patients": evaluation.patients,
        "metrics": evaluation.metrics,
        "intervals_95": evaluation.intervals,
        "missing_intervals": evaluation.missing_intervals,
        "per_class": dict(zip(samples.classes, measured.per_class(), strict=True)),
        "per_slide": per_slide,
        "confusion": measured.confusion().astype(int).tolist(),
        "slides": [source.id for source in samples.sources],
        # Where their tiles are, for whoever wants to look at them.
        "stores": {source.id: source.store.url for source in samples.sources if isinstance(source, StoreSource)},
        "scores": evaluation.scores,
        "tiles_of_training_slides": evaluation.tiles_of_training_slides,
        "warnings": evaluation.warnings,
    }
    path.write_text(json.dumps(finite(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
