"""Measure a slide-level run on patients that it was not trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation import EvaluateOptions, Measurement, draw_confusion, draw_reliability, draw_roc
from wsivit.io import LocalFiles
from wsivit.mil.bags import PatientBags, read_bags
from wsivit.mil.ensemble import Ensemble, PatientPredictions
from wsivit.mil.patient_report import draw_survival, finite
from wsivit.mil.patient_statistics import Figures, measure
from wsivit.mil.patients import LabelColumns, PatientCohort, read_patients
from wsivit.mil.predict_patients import describe, write_table
from wsivit.mil.slide_run import SlideRun

METRICS = "metrics.json"
_FEW = 10
"""Sites with fewer patients get no figures of their own."""


@dataclass(frozen=True)
class PatientEvaluation:
    """What was measured on an external cohort.

    Attributes
    ----------
    folder : Path
        Contains ``metrics.json``, ``predictions.csv`` and the pictures.
    figures : Figures
        Metrics and their 95 % intervals over patients.
    sites : dict of str to Figures
        Of each site with at least 10 patients and every class.
    patients, slides : int
    left_out : dict of str to str
        Patients and slides without a partner, and why.
    coverage : float or None
        Share of patients whose prediction set holds their class; None without classes.
    coverage_interval : (float, float) or None
        95 %.
    set_size : float or None
        Mean number of classes in the sets.
    promised : float or None
        Share that the sets were made to cover.
    distance : float
        Median distance from the training features, 1 being that of the outer 5 % of the training patients.
    """

    folder: Path
    figures: Figures
    sites: dict[str, Figures]
    patients: int
    slides: int
    left_out: dict[str, str]
    coverage: float | None
    coverage_interval: tuple[float, float] | None
    set_size: float | None
    promised: float | None
    distance: float

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of all patients."""
        return self.figures.metrics

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Their 95 % intervals over patients."""
        return self.figures.intervals

    def __str__(self) -> str:
        lines = [f"{self.patients} patients, {self.slides} slides"]
        if self.left_out:
            lines.append(f"left out {len(self.left_out)} patients and slides (see {METRICS})")
        for name, value in self.figures.metrics.items():
            low, high = self.figures.intervals.get(name, (float("nan"), float("nan")))
            lines.append(f"{name:18} {value:.3f} (95 % interval {low:.3f} to {high:.3f})")
        for site, figures in self.sites.items():
            lines.append(f"site {site}: {next(iter(figures.metrics))} {figures.value:.3f}")
        if self.coverage is not None and self.coverage_interval is not None:
            low, high = self.coverage_interval
            missed = " WARNING: less than promised" if self.promised is not None and high < self.promised else ""
            lines.append(
                f"prediction sets hold the class of {self.coverage:.0%} of patients (95 % interval {low:.0%} to "
                f"{high:.0%}; promised {self.promised:.0%}), {self.set_size:.2f} classes on average{missed}"
            )
        far = " WARNING: these slides are unlike those of the training" if self.distance > 1.5 else ""
        lines.append(f"distance from the training features {self.distance:.2f}{far}")
        return "\n".join(lines)


def evaluate_patients(
    run: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] | None = None,
    options: EvaluateOptions = EvaluateOptions(),
    progress: bool = False,
) -> PatientEvaluation:
    """Measure a slide-level run on an external cohort.

    Parameters
    ----------
    run : path
        A run folder of ``wsivit train-slides``.
    data : sequence of path
        Two: a study with the run's features, and the table of its patients.
    output : path, optional
        Folder for the results. Default: ``evaluation`` in the run folder.
    options : EvaluateOptions
        Label column, bootstrap samples, seed; those for tiles do not count.
    progress : bool
        Show a progress bar.

    Returns
    -------
    PatientEvaluation

    Raises
    ------
    UsageError
        A patient was trained on, by its id or by the content of a slide, or a label is unknown to the run.
    StoreMismatchError
        The features are not those of the run.
    OutputExistsError
        The output exists.
    """
    folder = Path(output) if output is not None else Path(run) / "evaluation"
    if (folder / METRICS).exists() and not options.force:
        raise OutputExistsError(f"{folder}: contains an evaluation; choose another output, or replace it with --force")
    ensemble = Ensemble(run)
    cohort, bags = load_external(ensemble.run, data, options.label, progress=progress)
    predictions = ensemble.predict(bags.bags, bags.means)
    evaluation = _measure(folder, ensemble, cohort, bags, predictions, options)
    _write(evaluation, ensemble, cohort, predictions)
    return evaluation


def load_external(
    run: SlideRun, data: Sequence[str | os.PathLike[str]], label: str | None = None, *, progress: bool = False
) -> tuple[PatientCohort, PatientBags]:
    """Read a study and its table for a run, and check that they are new to it; see `evaluate_patients`."""
    if len(data) != 2:
        raise UsageError(f"a slide-level run is measured on a study and a table of patients, not on {len(data)} paths")
    study, table = data
    time, event, site = (run.columns.get(name) for name in ("time", "event", "site"))
    columns = LabelColumns(
        label=None if run.kind == "survival" else label or run.label, time=time, event=event, site=site, task=run.kind
    )
    cohort = read_patients(study, table, columns, run.classes)
    if seen := sorted({patient.id for patient in cohort.patients} & set(run.patients)):
        raise UsageError(
            f"{len(seen)} of the patients were trained on ({', '.join(seen[:5])}): figures on them say nothing; leave "
            "them out of the table (their out-of-fold predictions are in predictions.csv of the run)"
        )
    bags = read_bags(cohort.patients, run.encoder.name, keep_tiles=run.aggregator != "linear", progress=progress)
    run.encoder.require(bags.encoder, f"{os.fspath(study)}")
    content = {print_: patient for patient, prints in run.patients.items() for print_ in prints}
    for patient, prints in zip(bags.patients, bags.fingerprints, strict=True):
        if known := [content[print_] for print_ in prints if print_ in content]:
            raise UsageError(
                f"a slide of patient {patient.id} has the content of one that was trained on, of {known[0]}: figures "
                "on it say nothing; leave it out of the table"
            )
    patients = PatientCohort(
        bags.patients, cohort.kind, cohort.classes, cohort.label, (*cohort.left_out, *bags.left_out)
    )
    return patients, bags


def _measure(
    folder: Path,
    ensemble: Ensemble,
    cohort: PatientCohort,
    bags: PatientBags,
    predictions: PatientPredictions,
    options: EvaluateOptions,
) -> PatientEvaluation:
    from scipy.stats import binomtest

    logits = predictions.logits[None]
    samples, seed = options.bootstrap_samples, options.seed
    sites = {}
    for site in sorted(set(cohort.sites) - {""}):
        here = np.flatnonzero([name == site for name in cohort.sites])
        of_site = cohort.take(here)
        if len(here) >= _FEW and all(of_site.counts().values()):
            sites[site] = measure(of_site, logits[:, here], samples=samples, seed=seed)
    coverage = interval = size = None
    if predictions.sets is not None:
        hit = predictions.sets[np.arange(len(cohort)), cohort.targets.astype(np.int64)]
        coverage, size = float(hit.mean()), float(predictions.sets.sum(axis=1).mean())
        low, high = binomtest(int(hit.sum()), len(hit)).proportion_ci(0.95)
        interval = float(low), float(high)
    return PatientEvaluation(
        folder=folder,
        figures=measure(cohort, logits, samples=samples, seed=seed),
        sites=sites,
        patients=len(cohort),
        slides=bags.slides,
        left_out={f"{left.kind} {left.id}": left.why for left in cohort.left_out},
        coverage=coverage,
        coverage_interval=interval,
        set_size=size,
        promised=None if coverage is None else 1 - ensemble.run.alpha,
        distance=float(np.median(predictions.distance)),
    )


def _write(
    evaluation: PatientEvaluation, ensemble: Ensemble, cohort: PatientCohort, predictions: PatientPredictions
) -> None:
    folder = evaluation.folder
    folder.mkdir(parents=True, exist_ok=True)
    each = [
        describe(ensemble, predictions, place, patient.id, tuple(slide.id for slide in patient.slides))
        for place, patient in enumerate(cohort.patients)
    ]
    write_table(folder / "predictions.csv", each, [{"site": p.site, "label": p.label} for p in cohort.patients])
    if cohort.classes:
        measured = Measurement(predictions.probabilities, cohort.targets.astype(np.int64))
        draw_roc(folder / "roc.png", measured, cohort.classes)
        draw_reliability(folder / "reliability.png", measured)
        draw_confusion(folder / "confusion.png", measured, cohort.classes)
    elif cohort.kind == "survival":
        draw_survival(folder / "survival.png", cohort, predictions.logits[:, 0])
    report = finite({**asdict(evaluation), "folder": str(folder)})
    # Last: it marks the folder as a complete evaluation.
    LocalFiles(folder).write(METRICS, [(json.dumps(report, indent=2) + "\n").encode()])
