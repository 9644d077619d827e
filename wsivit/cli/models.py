"""``wsivit train``, ``train-slides``, ``evaluate``, ``compare`` and ``predict``."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated

from wsivit import compare as _compare
from wsivit import evaluate as _evaluate
from wsivit import predict as _predict
from wsivit import train as _train
from wsivit import train_slides as _train_slides
from wsivit.cli.app import Report
from wsivit.cli.cohorts import format_report, many_slides
from wsivit.cli.common import FLAG, FLAT, MANY, CommonOptions, OpenOptions, documented_by
from wsivit.cohort import CohortOptions
from wsivit.data import SlideOptions
from wsivit.errors import UsageError
from wsivit.evaluation import CompareOptions, EvaluateOptions
from wsivit.inference import (
    Agreement,
    FeaturesOptions,
    PredictOptions,
    Predictor,
    ScoringOptions,
    is_of_pictures,
    predict_pictures,
)
from wsivit.mil import LabelColumns, PatientEvaluation, TrainSlidesOptions, predict_patients
from wsivit.models import PATIENT, run_level
from wsivit.slide_list import is_one_file
from wsivit.store import TileStore
from wsivit.training import TrainOptions


@documented_by(_train)
def train(
    data: Annotated[list[str], MANY],
    *,
    output: str,
    model: str | None = None,
    encoder: str | None = None,
    label: str | None = None,
    options: Annotated[TrainOptions, FLAT] = TrainOptions(),
    slides: Annotated[SlideOptions, FLAT] = SlideOptions(),
    force: Annotated[bool, FLAG] = False,
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    done = _train(
        data,
        output=output,
        model=model,
        encoder=encoder,
        label=label,
        options=options,
        slides=slides,
        force=force,
        progress=common.progress,
    )
    lines = [f"test part {_format_metrics(done.test)}"]
    if "test" in done.contract.probe:
        kept = " (kept: fine-tuning did not help)" if done.contract.probe["kept"] else ""
        lines.append(f"probe     {_format_metrics(done.contract.probe['test'])}{kept}")
    return Report("\n".join([*lines, f"run       {done.folder}"]))


@documented_by(_train_slides)
def train_slides(
    study: str,
    labels: str,
    *,
    encoder: str,
    output: str,
    columns: Annotated[LabelColumns, FLAT] = LabelColumns(),
    options: Annotated[TrainSlidesOptions, FLAT] = TrainSlidesOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    done = _train_slides(
        study, labels, encoder=encoder, output=output, columns=columns, options=options, progress=common.progress
    )
    return Report(f"{done.report}\nrun      {done.folder}")


@documented_by(_evaluate)
def evaluate(
    run: str,
    data: Annotated[list[str], MANY],
    *,
    output: str | None = None,
    options: Annotated[EvaluateOptions, FLAT] = EvaluateOptions(),
    slides: Annotated[SlideOptions, FLAT] = SlideOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    result = _evaluate(run, data, output=output, options=options, slides=slides, progress=common.progress)
    if isinstance(result, PatientEvaluation):
        return Report(f"{result}\nwrote    {result.folder}")
    patients = "one patient or slide" if result.patients == 1 else f"{result.patients} patients or slides"
    lines = [f"{result.n} tiles of {patients}"]
    if result.tiles_of_training_slides:
        lines.append(f"{result.tiles_of_training_slides} of them are from slides that other tiles were trained on")
    if result.scores["stored"]:
        lines.append(f"{result.scores['stored']} scores from wsivit predict, {result.scores['computed']} computed now")
    if result.scores["unreadable"]:
        lines.append(f"{result.scores['unreadable']} more are unreadable and left out")
    lines.append(f"measured {_format_metrics(result.metrics)}")
    lines += [f"  {name}: 95 % interval {low:.3f} to {high:.3f}" for name, (low, high) in result.intervals.items()]
    lines += [result.missing_intervals] if result.missing_intervals else []
    return Report("\n".join([*lines, f"wrote    {result.folder}"]))


@documented_by(_compare)
def compare(
    runs: Annotated[list[str], MANY],
    *,
    data: Annotated[tuple[str, ...], MANY] = (),
    output: str = "comparison",
    options: Annotated[CompareOptions, FLAT] = CompareOptions(),
    slides: Annotated[SlideOptions, FLAT] = SlideOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    result = _compare(runs, data, output=output, options=options, slides=slides, progress=common.progress)
    table = (result.folder / "comparison.md").read_text(encoding="utf-8")
    return Report(f"{table.rstrip()}\nwrote    {result.folder}")


@documented_by(_predict)
def predict(
    model: str,
    source: Annotated[list[str], MANY],
    *,
    output: str | None = None,
    name: str | None = None,
    options: Annotated[PredictOptions, FLAT] = PredictOptions(),
    explain: Annotated[bool, FLAG] = False,
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    if run_level(model) == PATIENT:
        return _predict_patients(
            model,
            source,
            output=output,
            name=name,
            options=options,
            explained=explain,
            open_options=open_options,
            force=many.force,
            progress=common.progress,
        )
    if explain:
        raise UsageError("--explain is for runs of patients (wsivit train-slides)")
    if is_of_pictures(model):
        scoring = {field.name: getattr(options, field.name) for field in fields(ScoringOptions)}
        found = predict_pictures(
            model, source, output=output or ".", options=ScoringOptions(**scoring), progress=common.progress
        )
        return Report(f"{len(found.names)} pictures predicted\nwrote    {found.table}\nwrote    {found.sheet}")
    if cohort := many_slides(source, output, many, progress=common.progress):
        return format_report(cohort.predict(model, name=name, options=options, open_options=asdict(open_options)))
    predictor = Predictor(model, name=name, options=options)
    slide = source[0] if TileStore.is_store(source[0]) else open_options.open(source[0])
    store = predictor(slide, output=output, force=many.force, progress=common.progress)
    lines = [f"{len(store)} tiles predicted as {predictor.name}", f"store    {store.url}"]
    about = store.predictions(predictor.name).attrs
    if "agreement" in about:
        lines.append(f"int8     {Agreement(**about['agreement'])}")
    lines += [f"mismatch {difference}" for difference in about["mismatch"]]
    return Report("\n".join(lines))


def _predict_patients(
    run: str,
    source: list[str],
    *,
    output: str | None,
    name: str | None,
    options: PredictOptions,
    explained: bool,
    open_options: OpenOptions,
    force: bool,
    progress: bool,
) -> Report:
    """Run a slide-level model; a slide is opened as the options say."""
    alone = len(source) == 1 and is_one_file(source[0]) and not TileStore.is_store(source[0])
    result = predict_patients(
        run,
        open_options.open(source[0]) if alone else source,
        output=output,
        name=name,
        features=FeaturesOptions(
            batch_size=options.batch_size, device=options.device, precision=options.precision, compile=options.compile
        ),
        force=force,
        progress=progress,
    )
    if explained:
        from wsivit import explain as _explain  # loads torch

        for store in result.stores:
            _explain(run, store, name=result.run)
    lines = [str(patient) for patient in result.patients]
    wrote = str(result.table) if result.table is not None else f"slides/{result.run} of {', '.join(result.stores)}"
    return Report("\n".join([*lines, f"wrote    {wrote}"]))


def _format_metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
