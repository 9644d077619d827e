"""Run a slide-level model on new slides: tile, encode, pool, and say how sure it is."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsivit.cohort import Cohort
from wsivit.errors import OutputExistsError, StoreError, UnreadableTilesError, UsageError
from wsivit.inference import FeatureExtractor, FeaturesOptions
from wsivit.io import LocalFiles, is_url
from wsivit.mil.bags import EncoderBlock, SlideFeatures, Tiles, feature_name, read_slide
from wsivit.mil.ensemble import Ensemble, PatientPredictions
from wsivit.mil.slide_run import PREDICTIONS, SlideRun
from wsivit.models import find_encoder, run_name
from wsivit.slide import Slide
from wsivit.slide_list import is_one_file
from wsivit.store import TileStore

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class PatientPrediction:
    """What a slide-level run predicts of one patient.

    Attributes
    ----------
    patient : str
        The slide's id where the patient is not known.
    slides : tuple of str
        Ids of the slides.
    probabilities : dict of str to float
        Of each class; of a regression or survival the value, under the name of the label.
    spread : float
        Standard deviation over the members, of the probability of the most probable class.
    verdict : str
        The class of a prediction set of one, else ``abstain``; empty without classes.
    plausible : tuple of str
        The prediction set.
    distance : float
        From the training features: 1 is the distance that 95 % of the training patients are within.
    logits : dict of str to float
    """

    patient: str
    slides: tuple[str, ...]
    probabilities: dict[str, float]
    spread: float
    verdict: str
    plausible: tuple[str, ...]
    distance: float
    logits: dict[str, float]

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {value:.3f}" for name, value in self.probabilities.items())
        set_of = f"; {self.verdict} (plausible: {', '.join(self.plausible) or 'none'})" if self.verdict else ""
        far = " WARNING: unlike the slides that it was trained on" if self.distance > 2 else ""
        return f"{self.patient}: {shares}, spread {self.spread:.3f}{set_of}; distance {self.distance:.2f}{far}"


@dataclass(frozen=True)
class PatientPredictionResult:
    """The result of `predict_patients`.

    Attributes
    ----------
    run : str
        Name of the run in the stores.
    patients : tuple of PatientPrediction
    stores : tuple of str
        Where the predictions of each slide are.
    table : Path or None
        All predictions as CSV; None for a single slide.
    """

    run: str
    patients: tuple[PatientPrediction, ...]
    stores: tuple[str, ...]
    table: Path | None = None


@dataclass(frozen=True)
class _OfPatient:
    id: str
    stores: list[TileStore] = field(default_factory=list)


def predict_patients(
    run: PathLike,
    source: PathLike | Slide | TileStore | Sequence[PathLike],
    *,
    output: PathLike | None = None,
    name: str | None = None,
    features: FeaturesOptions = FeaturesOptions(),
    force: bool = False,
    progress: bool = False,
) -> PatientPredictionResult:
    """Run a slide-level model on a slide, a store, or a study.

    Slides without tiles are tiled, stores without the run's features are encoded first. What is predicted goes to
    ``slides/<run>`` of each store, and for a study to ``predictions-<run>.csv`` in its folder.

    Parameters
    ----------
    run : path
        A run folder of ``wsivit train-slides``.
    source : path, Slide or TileStore, or several paths
        A slide or store is a patient; slides of a study are of the patients that its table names.
    output : path, optional
        Folder for new stores. Default: the working directory for a slide; of a study its own folder.
    name : str, optional
        Name of the predictions in the stores. Default: the run folder's.
    features : FeaturesOptions
        How the encoder is run.
    force : bool
        Replace predictions of the same name by another run.
    progress : bool
        Show progress bars.

    Returns
    -------
    PatientPredictionResult

    Raises
    ------
    UsageError
        The run is not finished, or its encoder cannot be run here.
    StoreError
        The run or a store is damaged or incomplete, or no tile has features.
    StoreMismatchError
        The features of a store are not those of the run.
    OutputExistsError
        A store has predictions of that name by another run.
    """
    ensemble = Ensemble(run)
    called = name or run_name(run)
    patients, folder = _patients(ensemble.run.encoder, source, output, features, progress=progress)
    _warn_of_training_slides(ensemble.run, patients)
    predicted = []
    for patient in patients:
        bags = [read_for_run(store, ensemble.run.encoder) for store in patient.stores]
        _check_name(patient.stores, called, ensemble.run.model_fingerprint, force=force)
        of_patient = predict_bags(ensemble, [[bag.tiles for bag in bags]])
        ids = tuple(store.parameters.slide_id for store in patient.stores)
        result = describe(ensemble, of_patient, 0, patient.id, ids)
        predicted.append(result)
        for store, bag in zip(patient.stores, bags, strict=True):
            alone = of_patient if len(bags) == 1 else predict_bags(ensemble, [[bag.tiles]])
            about = _to_dict(describe(ensemble, alone, 0, patient.id, (store.parameters.slide_id,)))
            about |= {"run": called, "model_fingerprint": ensemble.run.model_fingerprint, "tiles": len(bag.tiles)}
            about |= {"of_patient": _to_dict(result), "label": ensemble.run.label}
            store.write_slide_prediction(called, about)
    stores = tuple(store.files.location for patient in patients for store in patient.stores)
    table = None if folder is None else write_table(folder / f"predictions-{called}.csv", predicted)
    return PatientPredictionResult(called, tuple(predicted), stores, table)


def _warn_of_training_slides(run: SlideRun, patients: Sequence[_OfPatient]) -> None:
    """Say which patients the run learned from, by the content of their slides: it knows their labels."""
    learned = {content for contents in run.patients.values() for content in contents}
    known = [p.id for p in patients if any(store.parameters.slide_fingerprint in learned for store in p.stores)]
    if known:
        _log.warning(
            "the run was trained on %d of these %d patients (%s): what it predicts of them says nothing; their "
            "out-of-fold predictions are in %s of the run",
            *(len(known), len(patients), ", ".join(known[:5]), PREDICTIONS),
        )


def predict_bags(ensemble: Ensemble, bags: Sequence[Sequence[Tiles]]) -> PatientPredictions:
    """Predict patients from the tiles of each of their slides."""
    means = np.stack(
        [np.mean([tiles.mean(axis=0, dtype=np.float64) for tiles in slides], axis=0) for slides in bags]
    ).astype(np.float32)
    return ensemble.predict([] if ensemble.run.aggregator == "linear" else bags, means)


def read_for_run(store: TileStore, encoder: EncoderBlock) -> SlideFeatures:
    """Read the features of a store that a run takes.

    Raises
    ------
    StoreMismatchError
        They are others.
    StoreError
        No tile has any.
    """
    read = read_slide(store, encoder.name)
    encoder.require(read.encoder, store.url)
    if not len(read.tiles):
        raise StoreError(f"{store.url}: no tile has features: there is nothing to predict from")
    return read


def _patients(
    encoder: EncoderBlock,
    source: PathLike | Slide | TileStore | Sequence[PathLike],
    output: PathLike | None,
    options: FeaturesOptions,
    *,
    progress: bool,
) -> tuple[list[_OfPatient], Path | None]:
    """Return the stores of each patient, tiled and encoded where need be, and the folder of a study."""
    registered = find_encoder(encoder.name) is not None
    name = encoder.name if registered else encoder.model
    pooling: Any = encoder.pooling or None
    how = replace(
        options, mpp=encoder.mpp, tile_size=encoder.tile_size, pooling=pooling if registered else options.pooling
    )
    if isinstance(source, Slide | TileStore):
        return [_one(encoder, name, source, output, how, progress)], None
    paths = [os.fspath(source)] if isinstance(source, str | os.PathLike) else [os.fspath(path) for path in source]
    if len(paths) == 1 and is_one_file(paths[0]):
        return [_one(encoder, name, paths[0], output, how, progress)], None
    cohort = Cohort(paths, output or paths[0], progress=progress)
    if is_url(cohort.layout.root):
        raise UsageError(f"{cohort.layout.root}: the table of predictions is written to a folder of this machine")
    stores = {slide.id: cohort.layout.store(slide) for slide in cohort.slides}
    if not all(_has_features(store, encoder.name) for store in stores.values()):
        done = cohort.features(name, options=how)
        if done.exit_code not in (0, UnreadableTilesError.exit_code):
            raise StoreError(f"{cohort.layout.root}: not every slide could be encoded: {done.report()}")
    patients: dict[str, _OfPatient] = {}
    for slide in cohort.slides:
        patient = slide.patient or slide.id
        patients.setdefault(patient, _OfPatient(patient)).stores.append(TileStore(stores[slide.id]))
    return list(patients.values()), Path(cohort.layout.root)


def _one(
    encoder: EncoderBlock,
    name: str,
    source: str | Slide | TileStore,
    output: PathLike | None,
    options: FeaturesOptions,
    progress: bool,
) -> _OfPatient:
    """Return the store of a slide, tiled and encoded if need be."""
    if isinstance(source, str) and TileStore.is_store(source):
        source = TileStore(source)
    if not isinstance(source, TileStore) or not _has_features(source.files.location, encoder.name):
        source = FeatureExtractor(name, options=options)(source, output=output, progress=progress)
    return _OfPatient(source.parameters.slide_id, [source])


def _has_features(store: str, encoder: str) -> bool:
    return TileStore.is_store(store) and feature_name(encoder) in TileStore(store).encoders


def _check_name(stores: Sequence[TileStore], name: str, fingerprint: str, *, force: bool) -> None:
    for store in stores:
        if force or name not in store.slide_predictions:
            continue
        if store.slide_prediction(name).get("model_fingerprint") != fingerprint:
            raise OutputExistsError(
                f"{store.url}: has slide predictions {name!r} by another run; choose another --name, or replace them "
                "with --force"
            )


def describe(
    ensemble: Ensemble, predictions: PatientPredictions, place: int, patient: str, slides: tuple[str, ...]
) -> PatientPrediction:
    """Return one of several predictions with its names."""
    run = ensemble.run
    names = run.classes or run.output_names
    shares = {name: float(value) for name, value in zip(names, predictions.probabilities[place], strict=True)}
    chosen = () if predictions.sets is None else tuple(np.array(names)[predictions.sets[place]].tolist())
    return PatientPrediction(
        patient=patient,
        slides=slides,
        probabilities=shares,
        spread=float(predictions.spread[place]),
        verdict=predictions.verdicts[place] if predictions.verdicts else "",
        plausible=chosen,
        distance=float(predictions.distance[place]),
        logits={n: float(value) for n, value in zip(run.output_names, predictions.logits[place], strict=True)},
    )


def _to_dict(prediction: PatientPrediction) -> dict[str, Any]:
    plain = {key: getattr(prediction, key) for key in prediction.__dataclass_fields__}
    return plain | {"slides": list(prediction.slides), "plausible": list(prediction.plausible)}


def write_table(path: Path, predictions: Sequence[PatientPrediction], extra: Sequence[dict[str, Any]] = ()) -> Path:
    """Write predictions as CSV, a line for each patient; `extra` are more columns of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(predictions[0].probabilities) if predictions else []
    more = list(extra[0]) if extra else []
    header = [
        "patient",
        *more,
        *(f"probability_{name}" for name in names),
        "spread",
        "verdict",
        "plausible",
        "distance",
    ]
    writer.writerow([*header, "slides"])
    for place, each in enumerate(predictions):
        shares = [f"{value:.6g}" for value in each.probabilities.values()]
        about = [f"{each.spread:.4g}", each.verdict, " ".join(each.plausible), f"{each.distance:.4g}"]
        known = list(extra[place].values()) if extra else []
        writer.writerow([each.patient, *known, *shares, *about, " ".join(each.slides)])
    LocalFiles(path.parent).write(path.name, [text.getvalue().encode()])
    return path
