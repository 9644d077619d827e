"""The verbs that take a run of either level: of tiles (``wsivit train``) or of patients (``wsivit train-slides``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wsivit._keywords import options_as_keywords
from wsivit.data import SlideOptions
from wsivit.errors import UsageError
from wsivit.evaluation import CompareOptions, EvaluateOptions
from wsivit.evaluation import compare as compare_tiles
from wsivit.evaluation import evaluate as evaluate_tiles
from wsivit.inference import FeaturesOptions, PredictOptions
from wsivit.inference import predict as predict_tiles
from wsivit.models import PATIENT, run_level
from wsivit.slide import Slide
from wsivit.slide_list import Sources, is_one, locations, takes_many
from wsivit.store import TileStore

if TYPE_CHECKING:
    from wsivit.evaluation import Comparison, Evaluation
    from wsivit.mil import PatientComparison, PatientEvaluation

PathLike = str | os.PathLike[str]


def _of_patients(model: PathLike, *_: object, **__: object) -> bool:
    return run_level(model) == PATIENT


@takes_many("source", unless=_of_patients)
@options_as_keywords
def predict(
    model: PathLike,
    source: Sources,
    *,
    output: PathLike | None = None,
    name: str | None = None,
    options: PredictOptions = PredictOptions(),
    explain: bool = False,
    force: bool = False,
    progress: bool = False,
    **keywords: Any,
) -> TileStore:
    """Run a model over the tiles of a store, or straight over a slide.

    Probabilities go to ``predictions/<name>`` of the store, NaN for tiles that cannot be read. A slide is tiled first,
    into a store of coordinates at the run's scale and tile size, and its pixels are read from the slide as they are
    needed. Interrupted runs resume after the last complete block of tiles; existing predictions are kept.

    A run of ``wsivit train-slides`` predicts the patient: the slide is tiled and encoded first; the probability, the
    prediction set and the distance from the training slides go to ``slides/<name>`` of the store. Of a study, all
    patients are predicted; `wsivit.mil.predict_patients` does that in Python.

    Parameters
    ----------
    model : path or str
        A run folder made by ``wsivit train`` or ``wsivit train-slides``; or an image classifier as it was published: a
        timm name, a hub id, or a folder with ``config.json`` and ``model.safetensors`` or (of the WSInfer zoo)
        ``torchscript_model.pt``.
    source : path, Slide or TileStore
        A tile store or a slide. A slide whose file has no scale: with ``--slide-mpp`` on the command line, as
        ``open_slide(path, mpp=…)`` in Python.
    output : path or URL, optional
        Folder for the store of a slide. Default: the working directory.
    name : str, optional
        Name of the predictions in the store. Default: the model's.
    options : PredictOptions
        Batch size, device, engine, test-time augmentation, features.
    explain : bool
        Also keep what each tile adds to the prediction of a patient, for ``wsivit heatmap --run``.
    force : bool
        Predict again, and replace predictions of the same name, also those of another model.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of the options, in their place.

    Returns
    -------
    TileStore
        The store with the predictions; of a run of patients `TileStore.slide_prediction`.

    Raises
    ------
    UsageError
        The model is unknown, or does not say its scale and tile size and none are given.
    StoreError
        The run or the store is damaged, or the model gives no numbers.
    StoreMismatchError
        The store's scale, tile size, classes, preprocessing or features are not the run's; each difference is named.
    OutputExistsError
        The store has predictions of that name by another model.
    """
    if run_level(model) != PATIENT:
        if explain:
            raise UsageError(f"{model}: only runs of patients (wsivit train-slides) are explained tile by tile")
        return predict_tiles(model, source, output=output, name=name, options=options, force=force, progress=progress)
    from wsivit.mil import predict_patients

    how = FeaturesOptions(
        batch_size=options.batch_size, device=options.device, precision=options.precision, compile=options.compile
    )
    if not isinstance(source, str | os.PathLike | Slide | TileStore) or not is_one(source):
        raise UsageError(f"{model} is a run of patients: predict several slides with wsivit.mil.predict_patients")
    result = predict_patients(model, source, output=output, name=name, features=how, force=force, progress=progress)
    if explain:
        from wsivit.explain import explain as explain_slide

        explain_slide(model, result.stores[0], name=result.run)
    return TileStore(result.stores[0])


@options_as_keywords
def evaluate(
    run: PathLike,
    data: Sources,
    *,
    output: PathLike | None = None,
    options: EvaluateOptions = EvaluateOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
    **keywords: Any,
) -> Evaluation | PatientEvaluation:
    """Measure a trained model on labelled data.

    Tiles that the run was trained on are left out. Intervals are over patients, not tiles: they say how the metrics
    would change with other patients, and are left out where there is only one.

    A run of ``wsivit train-slides`` is measured on a study and the table of its patients; patients that it was trained
    on, by their id or by the content of a slide, are refused.

    Parameters
    ----------
    run : path
        A run folder of ``wsivit train`` or ``wsivit train-slides``.
    data : sequence of path
        Labelled data, of any kind that ``train`` accepts; for a run of patients a study and a table.
    output : path, optional
        Folder for the results. Default: ``evaluation`` in the run folder.
    options : EvaluateOptions
        Which tiles and label, number of bootstrap samples.
    slides : SlideOptions
        How slides are opened, where the data are slides; their scale and tile size are those of the run.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of the options, in their place.

    Returns
    -------
    Evaluation or PatientEvaluation

    Raises
    ------
    UsageError
        No labelled tile is left, or one is of a class that the run does not know; a patient was trained on.
    StoreMismatchError
        The data's scale, tile size or features are not the run's.
    OutputExistsError
        The output exists.
    """
    if run_level(run) != PATIENT:
        return evaluate_tiles(run, data, output=output, options=options, slides=slides, progress=progress)
    from wsivit.mil import evaluate_patients

    return evaluate_patients(run, locations(data), output=output, options=options, progress=progress)


@options_as_keywords
def compare(
    runs: Sequence[PathLike],
    data: Sources = (),
    *,
    output: PathLike = "comparison",
    options: CompareOptions = CompareOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
    **keywords: Any,
) -> Comparison | PatientComparison:
    """Measure two or more runs on the same data: a table, the curves, and whether they differ.

    Only tiles that none of the runs was trained on count. A permutation test, which swaps the runs per patient, tests
    whether two of them differ. Stored predictions are not reused: the models' speed is measured too.

    Runs of ``wsivit train-slides`` are compared on the out-of-fold predictions of the patients that they share; with
    data, on patients new to all.

    Parameters
    ----------
    runs : sequence of path
        Run folders with the same classes; the first is the one that the others are tested against.
    data : sequence of path
        Labelled data, of any kind that ``train`` accepts; for runs of patients none, or a study and a table.
    output : path
        Folder for the results.
    options : CompareOptions
        Which tiles and label, number of bootstrap samples.
    slides : SlideOptions
        How slides are opened, where the data are slides; their scale and tile size are those of the first run.
    progress : bool
        Show progress bars.
    **keywords
        The fields of the options, in their place.

    Returns
    -------
    Comparison or PatientComparison

    Raises
    ------
    UsageError
        There are fewer than two runs, their classes or levels differ, or no tile or patient is left.
    OutputExistsError
        The output exists.
    """
    levels = {str(run): run_level(run) for run in runs}
    if len(set(levels.values())) > 1:
        each = ", ".join(f"{run} of {level}s" for run, level in levels.items())
        raise UsageError(f"only runs of one level can be compared: {each}")
    if PATIENT not in levels.values():
        if not data:
            raise UsageError("runs of tiles are compared on labelled data: give --data")
        return compare_tiles(runs, data, output=output, options=options, slides=slides, progress=progress)
    from wsivit.mil import compare_patients

    return compare_patients(runs, locations(data) if data else (), output=output, options=options, progress=progress)
