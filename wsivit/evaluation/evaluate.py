"""Measure a trained model on labelled data."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsivit.data import (
    TEST,
    VALIDATION,
    Samples,
    SlideOptions,
    SlideTiler,
    empty_classes,
    load_samples,
    read_split,
    same_scale,
)
from wsivit.errors import OutputExistsError, StoreMismatchError, UsageError
from wsivit.evaluation.figures import draw_confusion, draw_examples, draw_reliability, draw_roc
from wsivit.evaluation.metrics import Measurement, bootstrap
from wsivit.inference import Floats, ModelRunner, ScoringOptions, score_samples, softmax, stored_logits
from wsivit.models import RunMetadata, finished_run, open_run, run_name
from wsivit.tiling import TileOptions

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
METRICS, PREDICTIONS = "metrics.json", "predictions.csv"


@dataclass(frozen=True)
class EvaluateOptions:
    """How a model is measured.

    Parameters
    ----------
    label : str, optional
        Label column that holds the truth. Default: the one the run was trained on.
    part : {"unseen", "all"}
        ``unseen`` leaves out what the run was trained on; ``all`` takes everything, and the figures say so.
    batch_size : int
        Tiles per step.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``mps``.
    draws : int
        Bootstrap draws for the intervals.
    examples : int
        Pictures in the grid of examples.
    stored : bool
        Take the scores that ``wsivit predict`` left in the stores, where they are by this model, and run it only over
        the rest.
    seed : int
        Of the bootstrap and of the choice of examples.
    allow_mismatch : bool
        Go on where scale or tile size break the run's contract.
    overwrite : bool
        Replace an evaluation that is there.
    """

    label: str | None = None
    part: Literal["unseen", "all"] = "unseen"
    batch_size: int = 64
    device: str = "auto"
    draws: int = 1000
    examples: int = 24
    stored: bool = True
    seed: int = 0
    allow_mismatch: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes
    ----------
    folder : Path
        Holds ``metrics.json``, ``predictions.csv`` and the pictures.
    figures : dict of str to float
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``kappa``, ``auroc``, ``auprc``, ``log_loss``, ``brier``,
        ``ece``; with more than five classes ``top5_accuracy``.
    intervals : dict of str to (float, float)
        95 %, over patients; empty with one patient.
    patients : int
        How many patients (or slides, where the patient is not known) were measured.
    n : int
        How many tiles were.
    scores : dict of str to int
        How many of the scores were ``stored``, ``computed``, and could not be (``unreadable`` tiles).
    of_slides_learned_from : int
        How many of the tiles are of slides whose other parts the run was trained on: those say nothing of new patients.
    """

    folder: Path
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    patients: int
    n: int
    scores: dict[str, int]
    of_slides_learned_from: int


def evaluate(
    run: PathLike,
    data: Sequence[PathLike],
    *,
    output: PathLike | None = None,
    options: EvaluateOptions = EvaluateOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
) -> Evaluation:
    """Measure a trained model on labelled data.

    Tiles that the run was trained on are left out. Intervals are drawn over patients, not tiles: they say how the
    figures would move with other patients, and are left out where there is only one.

    Parameters
    ----------
    run : path
        A run folder made by ``wsivit train``.
    data : sequence of path
        Labelled data, of any kind that ``train`` takes.
    output : path, optional
        Folder for the figures. Default: ``evaluation`` in the run folder.
    options : EvaluateOptions
        Which tiles, which label, how many bootstrap draws.
    slides : SlideOptions
        How slides are opened, where the data are slides; their scale and tile size are those of the run.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        No labelled tile is left, or it is of a class that the run does not know.
    StoreMismatchError
        The data's scale or tile size is not the run's.
    OutputExistsError
        The output is there already.
    """
    contract = finished_run(run)
    folder = Path(output) if output is not None else Path(run) / "evaluation"
    if (folder / METRICS).exists() and not options.overwrite:
        raise OutputExistsError(f"{folder}: holds an evaluation already; choose another output, or --overwrite it")
    samples = labelled_truth(contract, data, options, tiler_for(contract, folder, slides))
    check_data_compatibility(contract, samples, allow=options.allow_mismatch)
    if options.part != "all":
        keep = unseen_by(Path(run), contract, samples)
        if not keep.any():
            raise UsageError(f"{run} was trained on all of these tiles: give others, or measure --part all")
        samples = samples.take(keep)
    warnings = empty_classes(samples, np.arange(len(samples)))
    for warning in warnings:
        _log.warning("%s", warning)
    logits, scores = _scored(run, contract, samples, options, progress)
    good = scored_mask(logits)
    samples, logits = samples.take(good), logits[good]
    probabilities = softmax(logits / contract.temperature)
    measured = Measurement(probabilities, samples.code)
    intervals = bootstrap(measured, samples.patients.code, draws=options.draws, seed=options.seed)
    found = Evaluation(
        folder,
        measured.figures(),
        intervals.bounds,
        intervals.groups,
        len(samples),
        scores,
        _of_slides_learned_from(contract, samples),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS, samples, probabilities)
    _draw(folder, samples, measured, options)
    _write(folder / METRICS, run_name(run), contract, samples, measured, found, warnings)
    return found


def _scored(
    run: PathLike, contract: RunMetadata, samples: Samples, options: EvaluateOptions, progress: bool
) -> tuple[Floats, dict[str, int]]:
    """Take stored logits and run the model over the rest; also say how many came from where."""
    model = open_run(run, contract)
    logits = stored_logits(model.spec, samples)
    if not options.stored:
        logits[:] = np.nan
    missing = np.flatnonzero(np.isnan(logits).any(axis=1))
    if len(missing):
        scorer = ModelRunner(model, ScoringOptions(options.batch_size, options.device))
        rest = samples.take(missing)
        logits[missing] = score_samples(scorer, rest, progress=progress)
    lost = int(np.isnan(logits).any(axis=1).sum())
    kept = len(samples) - len(missing)
    return logits, {"stored": kept, "computed": len(missing) - lost, "unreadable": lost}


def scored_mask(*logits: Floats) -> NDArray[np.bool_]:
    """Tell which tiles every model could score (n,); the others cannot be read. UsageError if none could."""
    good = ~np.any([np.isnan(one).any(axis=1) for one in logits], axis=0)
    if not good.any():
        raise UsageError("none of the tiles can be read")
    return np.asarray(good)


def write_predictions(path: PathLike, samples: Samples, probabilities: Floats) -> None:
    """Write one line per picture: source, item, patient, true and predicted class, probability of each class."""
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "item", "patient", "true", "predicted", *(f"p_{name}" for name in samples.classes)])
        names = [samples.classes[code] for code in probabilities.argmax(axis=1)]
        lines = zip(samples.source, samples.index, samples.items(), samples.code, names, probabilities, strict=True)
        for number, index, item, code, name, row in lines:
            source = samples.sources[number]
            patient = source.patient or f"{number}/{index}"
            writer.writerow([source.id, item, patient, samples.classes[code], name, *(f"{p:.6g}" for p in row)])


def labelled_truth(
    contract: RunMetadata, data: Sequence[PathLike], options: EvaluateOptions, tiler: SlideTiler
) -> Samples:
    """Collect the labelled tiles to measure on, their classes in the order of the run's."""
    label = options.label or contract.label
    samples = load_samples(data, label, side=contract.tile_size, min_classes=1, tiler=tiler)
    unknown = sorted(set(samples.classes) - set(contract.classes))
    if unknown:
        raise UsageError(f"the data have classes that the run does not know: {', '.join(unknown)}")
    order = np.array([contract.classes.index(name) for name in samples.classes], np.int64)
    return replace(samples, code=order[samples.code], classes=contract.classes)


def tiler_for(contract: RunMetadata, folder: Path, slides: SlideOptions) -> SlideTiler:
    """Return what makes stores of slides that fit a run, in a folder ``tiles`` of the output."""
    return SlideTiler(folder / "tiles", slides, contract.mpp or TileOptions.mpp, contract.tile_size)


def check_data_compatibility(contract: RunMetadata, samples: Samples, *, allow: bool) -> None:
    """Refuse data whose scale or tile size is not the run's, unless that is allowed."""
    wrong = [
        f"{source.id} is at {source.mpp:.4g} microns per pixel, the run at {contract.mpp:.4g}"
        for source in samples.sources
        if not same_scale(contract.mpp, source.mpp)
    ]
    if samples.size != contract.tile_size:
        wrong.append(f"tiles of {samples.size} px, the run's have {contract.tile_size} px")
    if wrong and not allow:
        raise StoreMismatchError(
            f"the data do not fit the run: {'; '.join(wrong)}; tile for it, or go on with --allow-mismatch"
        )


def unseen_by(run: Path, contract: RunMetadata, samples: Samples) -> NDArray[np.bool_]:
    """Tell which tiles the run was neither trained on nor too near to; (n,)."""
    trained = _of_known_sources(contract, samples)
    keep = ~trained
    if trained.any():
        seen = samples.take(trained)
        side = read_split(run / contract.split["file"], seen).side
        # The validation part chose the epoch: where there is a test part, that alone is unseen.
        keep[trained] = side == TEST if (side == TEST).any() else side == VALIDATION
    return keep


def _of_known_sources(contract: RunMetadata, samples: Samples) -> NDArray[np.bool_]:
    """Tell which pictures are of slides or sets that the run was given; (n,)."""
    known = {source["fingerprint"] for source in contract.data}
    return np.array([source.fingerprint in known for source in samples.sources])[samples.source]


def _of_slides_learned_from(contract: RunMetadata, samples: Samples) -> int:
    learned = {source["fingerprint"] for source in contract.data if source.get("train")}
    shared = [bool(source.patient) and source.fingerprint in learned for source in samples.sources]
    return int(np.array(shared)[samples.source].sum())


def _draw(folder: Path, samples: Samples, measured: Measurement, options: EvaluateOptions) -> None:
    draw_confusion(folder / "confusion.png", measured, samples.classes)
    draw_roc(folder / "roc.png", measured, samples.classes)
    draw_reliability(folder / "reliability.png", measured)
    chosen = _examples(measured, options)
    captions = [_caption(samples, measured, i) for i in chosen]
    draw_examples(folder / "examples.png", samples.read(chosen), captions)


def _examples(measured: Measurement, options: EvaluateOptions) -> NDArray[np.int64]:
    """Choose pictures to show: a third of them wrong where there are any, the rest drawn at random."""
    rng = np.random.default_rng(options.seed)
    wrong = rng.permutation(np.flatnonzero(measured.predicted != measured.codes))[: options.examples // 3]
    right = rng.permutation(np.flatnonzero(measured.predicted == measured.codes))[: options.examples - len(wrong)]
    return np.concatenate([right, wrong])


def _caption(samples: Samples, measured: Measurement, i: int) -> tuple[str, bool]:
    truth, said = (samples.classes[codes[i]] for codes in (measured.codes, measured.predicted))
    sure = f"{measured.confidence[i]:.0%}"
    return (f"{said} {sure}", True) if truth == said else (f"{said} {sure}\ntrue: {truth}", False)


def _write(
    path: Path,
    name: str,
    contract: RunMetadata,
    samples: Samples,
    measured: Measurement,
    found: Evaluation,
    warnings: Sequence[str],
) -> None:
    per_slide = {
        source.id: {"n": int(here.sum()), "accuracy": float((measured.predicted == measured.codes)[here].mean())}
        for number, source in enumerate(samples.sources)
        if (here := samples.source == number).any()
    }
    report: dict[str, Any] = {
        "run": name,
        "model_fingerprint": contract.model_fingerprint,
        "temperature": contract.temperature,
        "tiles": found.n,
        "patients": found.patients,
        "figures": found.figures,
        "intervals_95": found.intervals,
        "per_class": dict(zip(samples.classes, measured.per_class(), strict=True)),
        "per_slide": per_slide,
        "confusion": measured.confusion().astype(int).tolist(),
        "slides": [source.id for source in samples.sources],
        "scores": found.scores,
        "of_slides_learned_from": found.of_slides_learned_from,
        "warnings": warnings,
    }
    path.write_text(json.dumps(finite(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
