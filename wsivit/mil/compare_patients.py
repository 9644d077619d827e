"""Compare slide-level runs, paired by patient."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wsivit.errors import OutputExistsError, StoreError, UsageError
from wsivit.evaluation import CompareOptions
from wsivit.io import LocalFiles
from wsivit.mil.ensemble import Ensemble
from wsivit.mil.evaluate_patients import load_external
from wsivit.mil.objective import Floats
from wsivit.mil.patient_report import finite
from wsivit.mil.patient_statistics import Figures, measure, swap_test
from wsivit.mil.patients import Patient, PatientCohort
from wsivit.mil.slide_run import PREDICTIONS, SlideRun, finished_slide_run
from wsivit.models import run_name

TABLE = "comparison.md"


@dataclass(frozen=True)
class ComparedRun:
    """One run in a comparison.

    Attributes
    ----------
    run, aggregator, encoder : str
    figures : Figures
    p_value : float or None
        Of being as good as the first run; None for the first.
    """

    run: str
    aggregator: str
    encoder: str
    figures: Figures
    p_value: float | None


@dataclass(frozen=True)
class PatientComparison:
    """What was measured.

    Attributes
    ----------
    folder : Path
        Contains ``comparison.md`` and ``comparison.json``.
    runs : tuple of ComparedRun
    patients : int
        Those that all runs have.
    out_of_fold : bool
        Whether they are the runs' own patients, predicted by members that never saw them.
    """

    folder: Path
    runs: tuple[ComparedRun, ...]
    patients: int
    out_of_fold: bool


def compare_patients(
    runs: Sequence[str | os.PathLike[str]],
    data: Sequence[str | os.PathLike[str]] = (),
    *,
    output: str | os.PathLike[str] = "comparison",
    options: CompareOptions = CompareOptions(),
    progress: bool = False,
) -> PatientComparison:
    """Measure two or more slide-level runs on the same patients, and test whether they differ.

    Parameters
    ----------
    runs : sequence of path
        Run folders for the same label; the first is the one that the others are tested against.
    data : sequence of path
        A study and the table of its patients, new to all runs. Default: the out-of-fold predictions of the patients
        that all runs were trained on.
    output : path
        Folder for the results.
    options : CompareOptions
        Label column, bootstrap samples, seed.
    progress : bool
        Show a progress bar.

    Returns
    -------
    PatientComparison

    Raises
    ------
    UsageError
        There are fewer than two runs, they are of different tasks, or have no patients in common.
    OutputExistsError
        The output exists.
    """
    folder = Path(output)
    if (folder / TABLE).exists() and not options.force:
        raise OutputExistsError(f"{folder}: contains a comparison; choose another output, or replace it with --force")
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs")
    finished = [finished_slide_run(run) for run in runs]
    for path, run in zip(runs, finished, strict=True):
        if (run.kind, run.classes) != (finished[0].kind, finished[0].classes):
            raise UsageError(f"{path} predicts {_task(run)}, {runs[0]} predicts {_task(finished[0])}: not comparable")
    cohort, logits = _external(runs, data, options, progress) if data else _out_of_fold(runs, finished)
    entries: list[ComparedRun] = []
    for path, run, of_run in zip(runs, finished, logits, strict=True):
        figures = measure(cohort, of_run, samples=options.bootstrap_samples, seed=options.seed)
        p_value = None
        if entries:
            p_value = swap_test(cohort, of_run.mean(axis=0), logits[0].mean(axis=0), seed=options.seed)
        entries.append(ComparedRun(run_name(path), run.aggregator, run.encoder.name, figures, p_value))
    comparison = PatientComparison(folder, tuple(entries), len(cohort), not data)
    folder.mkdir(parents=True, exist_ok=True)
    files = LocalFiles(folder)
    files.write(
        "comparison.json", [(json.dumps(finite({**asdict(comparison), "folder": str(folder)})) + "\n").encode()]
    )
    files.write(TABLE, [comparison_table(comparison).encode()])
    return comparison


def _task(run: SlideRun) -> str:
    return f"{run.kind} {', '.join(run.classes)}".strip()


def _external(
    runs: Sequence[str | os.PathLike[str]],
    data: Sequence[str | os.PathLike[str]],
    options: CompareOptions,
    progress: bool,
) -> tuple[PatientCohort, list[Floats]]:
    cohorts, logits = [], []
    for path in runs:
        ensemble = Ensemble(path)
        cohort, bags = load_external(ensemble.run, data, options.label, progress=progress)
        cohorts.append(cohort)
        logits.append(ensemble.predict(bags.bags, bags.means).logits[None])
    common = set.intersection(*({patient.id for patient in cohort.patients} for cohort in cohorts))
    places = [[k for k, patient in enumerate(c.patients) if patient.id in common] for c in cohorts]
    if not common:
        raise UsageError("the runs have no patient in common")
    return cohorts[0].take(places[0]), [of_run[:, place] for of_run, place in zip(logits, places, strict=True)]


def _out_of_fold(
    runs: Sequence[str | os.PathLike[str]], finished: Sequence[SlideRun]
) -> tuple[PatientCohort, list[Floats]]:
    read = [_read_predictions(Path(path), run) for path, run in zip(runs, finished, strict=True)]
    common = sorted(set.intersection(*(set(of_run) for of_run in read)))
    if len(common) < 2:
        raise UsageError("the runs have no patients in common; give --data STUDY LABELS with patients new to all")
    patients = []
    for name in common:
        labels = {(of_run[name][0].label, of_run[name][0].event) for of_run in read}
        if len(labels) > 1:
            raise UsageError(f"patient {name} has different labels in the runs: they are not comparable")
        patients.append(read[0][name][0])
    first = finished[0]
    cohort = PatientCohort(tuple(patients), first.kind, first.classes, first.label)
    return cohort, [np.stack([of_run[name][1] for name in common], axis=1) for of_run in read]


def _read_predictions(folder: Path, run: SlideRun) -> dict[str, tuple[Patient, Floats]]:
    """Read each patient's label and out-of-fold logits (repeats, outputs)."""
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["patient"], []).append(row)
        result = {}
        for name, lines in rows.items():
            label = lines[0]["label"]
            target = float(run.classes.index(label)) if run.classes else float(label)
            patient = Patient(name, label, target, lines[0]["site"], (), int(lines[0].get("event") or 1))
            logits = np.array([[float(line[f"logit_{output}"]) for output in run.output_names] for line in lines])
            result[name] = patient, logits
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{folder / PREDICTIONS}: cannot be read: {error}") from error
    return result


def comparison_table(comparison: PatientComparison) -> str:
    """Return the comparison as a Markdown table."""
    headline = next(iter(comparison.runs[0].figures.metrics))
    lines = [f"| run | aggregator | encoder | {headline} | repeats | p |", "|---|---|---|---|---|---|"]
    for entry in comparison.runs:
        low, high = entry.figures.intervals.get(headline, (float("nan"), float("nan")))
        repeats = entry.figures.per_repeat
        p_value = "" if entry.p_value is None else f"{entry.p_value:.3g}"
        value, spread = f"{entry.figures.value:.3f} ({low:.3f}–{high:.3f})", f"{min(repeats):.3f}–{max(repeats):.3f}"
        lines.append(f"| {entry.run} | {entry.aggregator} | {entry.encoder} | {value} | {spread} | {p_value} |")
    what = "out-of-fold predictions of patients of all runs" if comparison.out_of_fold else "patients new to all runs"
    return "\n".join(lines) + f"\n\n{comparison.patients} patients: {what}; p by swapping the runs per patient.\n"
