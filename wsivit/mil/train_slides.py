"""Train a slide-level model on labels of patients, and measure it honestly."""

from __future__ import annotations

import csv
import io
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsivit._keywords import options_as_keywords
from wsivit.errors import OutputExistsError, UsageError
from wsivit.io import LEARNING, LocalFiles, progress_bar, scrub, versions
from wsivit.mil.bags import PatientBags, read_bags
from wsivit.mil.conformal import check_alpha, nonconformity
from wsivit.mil.ensemble import TrainingFeatures
from wsivit.mil.nested_folds import Fold, check_class_sizes, make_folds, read_folds, write_folds
from wsivit.mil.objective import Floats, probabilities
from wsivit.mil.options import TrainSlidesOptions
from wsivit.mil.patient_report import PatientReport, write_report
from wsivit.mil.patient_statistics import chance, measure, most_frequent, refitted_chance, swap_test
from wsivit.mil.patients import LabelColumns, PatientCohort, read_patients
from wsivit.mil.site_check import check_sites, refuse_site_label
from wsivit.mil.slide_run import FOLDS, MEMBERS, PREDICTIONS, REPORT, STATISTICS, SlideRun
from wsivit.models import CONTRACT, PATIENT, refuse_other_contents, run_level

log = logging.getLogger(__name__)

PACK = "pack"
_FAITHFUL_SLIDES = 8
"""Tuning slides of each member on which methods of evidence are measured."""


@dataclass(frozen=True)
class SlideRunResult:
    """The result of `train_slides`.

    Attributes
    ----------
    folder : Path
        The run folder.
    run : SlideRun
        Its contract.
    report : PatientReport
        The figures; `str` gives what the command prints.
    """

    folder: Path
    run: SlideRun
    report: PatientReport


@dataclass(frozen=True)
class _OutOfFold:
    """What members predict of patients that they never saw."""

    logits: Floats
    """(repeats, n, outputs), calibrated."""
    uncalibrated: Floats
    fold_of: np.ndarray[Any, np.dtype[np.int64]]
    """(repeats, n)"""
    strengths: list[float]


@options_as_keywords
def train_slides(
    study: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    encoder: str,
    output: str | os.PathLike[str],
    columns: LabelColumns = LabelColumns(),
    options: TrainSlidesOptions = TrainSlidesOptions(),
    progress: bool = False,
    **keywords: Any,
) -> SlideRunResult:
    """Train a slide-level model on labels of patients, from stored features.

    Patients are split into folds, several times. Of each fold's patients nothing reaches the model that is measured on
    them: its epoch, temperature and hyper-parameters are chosen among the others. The run is the ensemble of all fold
    models; the figures are those of out-of-fold predictions. An interrupted run resumes after its last complete fold
    and ends with the same weights.

    Parameters
    ----------
    study : path
        The output of ``wsivit features``, or a folder of tile stores with features.
    labels : path
        Table of patients or slides (``.csv``, ``.tsv``, ``.xlsx``, ``.parquet``) with columns patient, slide, the label
        and, if known, site.
    encoder : str
        Name of the features.
    output : path
        The run folder to write.
    columns : LabelColumns
        Columns of the table, and the task.
    options : TrainSlidesOptions
        Aggregator, folds, optimisation.
    progress : bool
        Show a progress bar.
    **keywords
        Fields of the columns and options, instead of them: ``train_slides(…, label="msi", folds=3)``.

    Returns
    -------
    SlideRunResult

    Raises
    ------
    UsageError
        The table and the study do not go together, a class has too few patients, or the label is a function of the
        site.
    StoreMismatchError
        The features of the slides are not of one encoder, scale and tile size.
    OutputExistsError
        The run folder exists and is not this run, interrupted.
    """
    folder = Path(output)
    _check_output(folder)
    cohort = read_patients(study, labels, columns)
    check_class_sizes(cohort, options.folds)
    check_alpha(options.alpha, len(cohort))
    if not options.allow_site_confounding:
        refuse_site_label(cohort)

    from wsivit.models import device_for  # loads torch

    device = device_for(options.device)
    aggregator = options.aggregator
    if aggregator == "auto":
        aggregator = "linear" if device.type == "cpu" else "abmil"
    bags = read_bags(
        cohort.patients,
        encoder,
        keep_tiles=aggregator != "linear",
        pack=folder / PACK,
        memory_gb=options.memory_gb,
        progress=progress,
    )
    cohort = replace(cohort, patients=bags.patients, left_out=(*cohort.left_out, *bags.left_out))
    cohort, bags, folds = _folds(cohort, bags, options)
    run = SlideRun(
        aggregator=aggregator,
        kind=cohort.kind,
        classes=cohort.classes,
        label=cohort.label,
        columns={"time": columns.time, "event": columns.event, "site": columns.site},
        encoder=bags.encoder,
        folds=tuple(fold.name for fold in folds),
        alpha=options.alpha,
        patients={patient.id: list(prints) for patient, prints in zip(cohort.patients, bags.fingerprints, strict=True)},
        options=options.recorded(),
        versions=versions(LEARNING),
        command=[Path(sys.argv[0]).name, *map(scrub, sys.argv[1:])],
    )
    run.begin_or_resume(folder)
    write_folds(folder, FOLDS, cohort, folds)
    for left, count in Counter(f"{left.kind}s: {left.why}" for left in cohort.left_out).items():
        log.info("left out: %d %s", count, left)

    started = time.perf_counter()
    found = _train_members(folder, run, cohort, bags, folds, options, progress)
    faithful = _faithfulness(folder, run, bags, folds)
    baseline = found if aggregator == "linear" else _baseline(run, cohort, bags, folds, options)
    log.info("trained %d members in %.0f s; measuring", len(folds), time.perf_counter() - started)
    report = _measure(run, cohort, bags, found, baseline, faithful, options)
    TrainingFeatures.of(bags.means).write(folder)
    _write_predictions(folder, run, cohort, found)
    run = replace(
        run,
        model_fingerprint=run.fingerprint(folder),
        calibration=_calibration(cohort, folds, found),
        faithfulness={str(name): value for name, value in faithful.items()},
        figures=report.to_dict(),
    )
    write_report(folder, run, cohort, report, found.logits.mean(axis=0))
    run.write(folder)  # last: with its fingerprint the run counts as finished
    return SlideRunResult(folder, run, report)


def _check_output(folder: Path) -> None:
    """Refuse a folder that holds a finished run, or anything that an interrupted run does not leave."""
    if (folder / CONTRACT).is_file():
        if run_level(folder) != PATIENT or SlideRun.read(folder).done:
            raise OutputExistsError(f"{folder} holds a finished run; choose another output folder")
        return
    refuse_other_contents(folder, {PACK, MEMBERS, FOLDS, STATISTICS, PREDICTIONS, REPORT})


def _folds(
    cohort: PatientCohort, bags: PatientBags, options: TrainSlidesOptions
) -> tuple[PatientCohort, PatientBags, tuple[Fold, ...]]:
    """Make the folds, or read them; patients that a file does not have take no part."""
    if options.folds_file is None:
        folds = make_folds(cohort, options.folds, options.repeats, seed=options.seed, by_site=options.by_site)
        return cohort, bags, folds
    folds, outside = read_folds(options.folds_file, cohort)
    if outside:
        gone = {left.id for left in outside}
        kept = [place for place, patient in enumerate(cohort.patients) if patient.id not in gone]
        bags = bags.take(kept)
        cohort = replace(cohort.take(kept), left_out=(*cohort.left_out, *outside))
        folds, _ = read_folds(options.folds_file, cohort)
    for repeat in {fold.repeat for fold in folds}:
        tested = np.concatenate([fold.test for fold in folds if fold.repeat == repeat])
        if not np.array_equal(np.sort(tested), np.arange(len(cohort))):
            raise UsageError(f"{options.folds_file}: repeat {repeat} does not test every patient once")
    return cohort, bags, folds


def _train_members(
    folder: Path,
    run: SlideRun,
    cohort: PatientCohort,
    bags: PatientBags,
    folds: Sequence[Fold],
    options: TrainSlidesOptions,
    progress: bool,
) -> _OutOfFold:
    """Train the member of each fold that has none yet, and have each predict the patients that it never saw."""
    from wsivit.mil.member import InnerPatients, Member, estimate_seconds, patient_logits, train_member
    from wsivit.models import device_for

    device, missing = device_for(options.device), [f for f in folds if not run.member_path(folder, f.name).exists()]
    if missing:
        inner = InnerPatients.of_fold(cohort, bags, missing[0], run.outputs)
        seconds = estimate_seconds(inner, run.aggregator, options, len(missing), device)
        log.info(
            "%s: %d members on %s, at most about %s", run.aggregator, len(missing), device.type, _duration(seconds)
        )
    with progress_bar(len(missing), "training", "member", show=progress) as advance:
        for fold in missing:
            inner = InnerPatients.of_fold(cohort, bags, fold, run.outputs)
            seed = _seed(options.seed, fold)
            train_member(inner, run.aggregator, options, seed, device).write(run.member_path(folder, fold.name))
            advance(1)
    repeats = 1 + max(fold.repeat for fold in folds)
    calibrated = np.zeros((repeats, len(cohort), run.outputs))
    raw, fold_of, strengths = np.zeros_like(calibrated), np.zeros(calibrated.shape[:2], np.int64), []
    for fold in folds:
        member = Member.read(run.member_path(folder, fold.name), run.aggregator, run.encoder.dim, run.outputs)
        tested = [bags.bags[place] for place in fold.test] if bags.bags else []
        raw[fold.repeat, fold.test] = logits = patient_logits(member.network, tested, bags.means[fold.test])
        calibrated[fold.repeat, fold.test] = logits / member.temperature
        fold_of[fold.repeat, fold.test] = fold.number
        strengths.append(member.chosen.get("strength", 1.0))
    return _OutOfFold(calibrated, raw, fold_of, strengths)


def _seed(seed: int, fold: Fold) -> int:
    return int(np.random.SeedSequence([seed, fold.repeat, fold.number]).generate_state(1)[0])


def _baseline(
    run: SlideRun, cohort: PatientCohort, bags: PatientBags, folds: Sequence[Fold], options: TrainSlidesOptions
) -> _OutOfFold:
    """Out-of-fold predictions of the dullest baseline, a linear model of the mean features, on the same folds."""
    from wsivit.mil.member import InnerPatients, patient_logits, train_member
    from wsivit.models import device_for

    means = replace(bags, bags=())
    repeats = 1 + max(fold.repeat for fold in folds)
    calibrated, strengths = np.zeros((repeats, len(cohort), run.outputs)), []
    for fold in folds:
        inner = InnerPatients.of_fold(cohort, means, fold, run.outputs)
        member = train_member(inner, "linear", options, _seed(options.seed, fold), device_for("cpu"))
        logits = patient_logits(member.network, (), bags.means[fold.test])
        calibrated[fold.repeat, fold.test] = logits / member.temperature
        strengths.append(member.chosen["strength"])
    return _OutOfFold(calibrated, calibrated, np.zeros(calibrated.shape[:2], np.int64), strengths)


def _faithfulness(folder: Path, run: SlideRun, bags: PatientBags, folds: Sequence[Fold]) -> dict[str, float]:
    """Measure methods of evidence on tuning patients of the first repeat's members, never on those it is tested on."""
    from wsivit.mil.deletion import faithfulness
    from wsivit.mil.member import Member

    if not bags.bags:  # a linear model of the mean: contributions are exact, and there is no other method to choose
        return {}
    scores: dict[str, list[float]] = {}
    for fold in [fold for fold in folds if fold.repeat == 0]:
        member = Member.read(run.member_path(folder, fold.name), run.aggregator, run.encoder.dim, run.outputs)
        slides = [slide for place in fold.tune for slide in bags.bags[place]][:_FAITHFUL_SLIDES]
        for method, value in faithfulness(member.network, slides).items():
            scores.setdefault(method, []).append(value / member.temperature)
    return {method: float(np.mean(values)) for method, values in scores.items()}


def _measure(
    run: SlideRun,
    cohort: PatientCohort,
    bags: PatientBags,
    found: _OutOfFold,
    baseline: _OutOfFold,
    faithful: dict[str, float],
    options: TrainSlidesOptions,
) -> PatientReport:
    samples, seed = options.bootstrap_samples, options.seed
    figures = measure(cohort, found.logits, samples=samples, seed=seed)
    uncalibrated = measure(cohort, found.uncalibrated, samples=1, seed=seed) if cohort.classes else None
    of_baseline, p_value = None, None
    if run.aggregator != "linear":
        of_baseline = measure(cohort, baseline.logits, samples=samples, seed=seed)
        p_value = swap_test(cohort, found.logits.mean(axis=0), baseline.logits.mean(axis=0), seed=seed)
    strength = most_frequent(baseline.strengths)
    refitted = None
    if options.permutations:
        value = (of_baseline or figures).value
        refitted = refitted_chance(
            cohort,
            bags.means,
            value,
            folds=options.folds,
            strength=strength,
            permutations=options.permutations,
            seed=seed,
        )
    return PatientReport(
        patients=len(cohort),
        slides=bags.slides,
        tiles=bags.tiles,
        counts=cohort.counts(),
        left_out=dict(Counter(f"{left.kind}s: {left.why}" for left in cohort.left_out)),
        figures=figures,
        baseline=of_baseline,
        baseline_p=p_value,
        chance=chance(cohort, found.logits.mean(axis=0), seed=seed),
        refitted=refitted,
        sites=check_sites(cohort, bags.means, strength=strength, seed=seed),
        before_calibration=None if uncalibrated is None else uncalibrated.metrics,
        faithfulness=faithful,
    )


def _calibration(cohort: PatientCohort, folds: Sequence[Fold], found: _OutOfFold) -> dict[str, list[float]]:
    if not cohort.classes:
        return {}
    codes = cohort.targets.astype(np.int64)
    return {
        fold.name: nonconformity(probabilities(found.logits[fold.repeat, fold.test]), codes[fold.test]).tolist()
        for fold in folds
    }


def _write_predictions(folder: Path, run: SlideRun, cohort: PatientCohort, found: _OutOfFold) -> None:
    """Write out-of-fold predictions: a line for each patient and repeat."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shares = [f"probability_{name}" for name in cohort.classes]
    logits = [f"logit_{name}" for name in run.output_names]
    writer.writerow(
        ["patient", "site", "label", *(["event"] if run.kind == "survival" else []), "repeat", "fold", *logits, *shares]
    )
    for repeat, of_repeat in enumerate(found.logits):
        chances = probabilities(of_repeat) if cohort.classes else np.zeros((len(cohort), 0))
        for place, patient in enumerate(cohort.patients):
            event = [patient.event] if run.kind == "survival" else []
            fold = int(found.fold_of[repeat, place])
            values = [f"{value:.6g}" for value in (*of_repeat[place], *chances[place])]
            writer.writerow([patient.id, patient.site, patient.label, *event, repeat, fold, *values])
    LocalFiles(folder).write(PREDICTIONS, [text.getvalue().encode()])


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} minutes"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
