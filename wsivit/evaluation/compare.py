"""Compare two or more runs on the same data."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsivit._keywords import options_as_keywords
from wsivit.data import SlideOptions
from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation.evaluate import finite, load_evaluation_data, scored_mask
from wsivit.evaluation.figures import draw_comparison
from wsivit.evaluation.metrics import (
    MIN_PATIENTS,
    Measurement,
    bootstrap,
    missing_intervals,
    paired_test,
    patients_per_class,
)
from wsivit.evaluation.options import CompareOptions
from wsivit.inference import ModelRunner, ScoringOptions, score_samples, softmax
from wsivit.models import finished_run, open_run, run_name
from wsivit.slide_list import Sources

TABLE = "comparison.md"


@dataclass(frozen=True)
class Entry:
    """One run in a comparison.

    Attributes
    ----------
    run, model : str
    parameters : int
    metrics : dict of str to float
        As `Evaluation.metrics`.
    intervals : dict of str to (float, float)
        95 %, over patients; left out where there are too few.
    images_per_second : float
        Of the model on this device, reading included.
    seconds_per_epoch : float or None
        Of its training.
    memory_mb : float or None
        Peak of its training: on the GPU, or of the process on a CPU.
    p_value : float or None
        Of equal accuracy with the first run; None for the first, and with fewer than five patients.
    """

    run: str
    model: str
    parameters: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    images_per_second: float
    seconds_per_epoch: float | None
    memory_mb: float | None
    p_value: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes
    ----------
    folder : Path
        Contains ``comparison.md``, ``comparison.json`` and ``comparison.png``.
    entries : tuple of Entry
        In the order of the runs.
    patients, n : int
        Number of patients and of tiles.
    per_class : dict of str to (int, int)
        Tiles, and patients that they are of, of each class that occurs.
    missing_intervals : str
        Which intervals there are none of, and why; empty where there are all.
    """

    folder: Path
    entries: tuple[Entry, ...]
    patients: int
    n: int
    per_class: dict[str, tuple[int, int]]
    missing_intervals: str = ""


@options_as_keywords
def compare(
    runs: Sequence[str | os.PathLike[str]],
    data: Sources,
    *,
    output: str | os.PathLike[str] = "comparison",
    options: CompareOptions = CompareOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
    **keywords: Any,
) -> Comparison:
    """Measure two or more runs on the same data: a table, the curves, and whether they differ.

    Only tiles that none of the runs was trained on count. A permutation test, which swaps the runs per patient, tests
    whether two of them differ. Stored predictions are not reused: the models' speed is measured too.

    Parameters
    ----------
    runs : sequence of path
        Run folders with the same classes; the first is the one that the others are tested against.
    data : path or TileStore, or several
        Labelled data, of any kind that ``train`` accepts.
    output : path
        Folder for the results.
    options : CompareOptions
        Which tiles and label, number of bootstrap samples.
    slides : SlideOptions
        How slides are opened, where the data are slides; their scale and tile size are those of the first run.
    progress : bool
        Show progress bars.
    **keywords
        The fields of `options` and `slides`, in their place.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        There are fewer than two runs, their classes differ, or no tile is left.
    OutputExistsError
        The output exists.
    """
    folder = Path(output)
    if (folder / TABLE).exists() and not options.force:
        raise OutputExistsError(f"{folder}: contains a comparison; choose another output, or replace it with --force")
    if isinstance(runs, str | os.PathLike) or len(runs) < 2:
        raise UsageError("a comparison needs two runs")
    metadata = {Path(run): finished_run(run) for run in runs}
    first, *others = metadata.items()
    for run, of_run in others:
        if of_run.classes != first[1].classes:
            raise UsageError(
                f"{run} has the classes {', '.join(of_run.classes)}, {first[0]} has {', '.join(first[1].classes)}: "
                "only runs with the same classes can be compared"
            )
    samples = load_evaluation_data(metadata, data, folder, options, slides)
    logits, speeds, parameters = [], [], []
    for run, of_run in metadata.items():
        runner = ModelRunner(open_run(run, of_run), ScoringOptions(options.batch_size, options.device))
        start = time.perf_counter()
        own = samples if samples.size == of_run.tile_size else samples.resized(of_run.tile_size)
        logits.append(score_samples(runner, own, progress=progress))
        speeds.append(len(samples) / (time.perf_counter() - start))
        parameters.append(runner.parameters)
    # The same tiles for every run: one that a single run could not score counts for none.
    scored = scored_mask(*logits)
    samples = samples.take(scored)
    patients, entries, first_right = samples.patients, [], None
    for (run, of_run), of_tiles, speed, count in zip(metadata.items(), logits, speeds, parameters, strict=True):
        measured = Measurement(softmax(of_tiles[scored] / of_run.temperature), samples.code)
        right, p_value = measured.predicted == measured.truth, None
        if first_right is None:
            first_right = right
        elif patients.count() >= MIN_PATIENTS:
            p_value = paired_test(first_right, right, patients.code, seed=options.seed)
        entries.append(
            Entry(
                run=run_name(run),
                model=of_run.model,
                parameters=count,
                metrics=measured.metrics(),
                intervals=bootstrap(measured, patients.code, samples=options.bootstrap_samples, seed=options.seed),
                images_per_second=speed,
                seconds_per_epoch=of_run.validation.get("seconds_per_epoch"),
                memory_mb=of_run.validation.get("memory_mb"),
                p_value=p_value,
            )
        )
    tiles, holders = samples.counts(), patients_per_class(measured, patients.code)
    comparison = Comparison(
        folder,
        tuple(entries),
        patients.count(),
        len(samples),
        {samples.classes[index]: (tiles[samples.classes[index]], n) for index, n in holders.items()},
        missing_intervals(measured, patients.code, samples.classes),
    )
    _write(comparison, list(metadata), options.subset)
    return comparison


def _write(comparison: Comparison, runs: Sequence[Path], subset: str) -> None:
    """Write the picture, the figures as JSON, and the table."""
    folder, entries = comparison.folder, comparison.entries
    folder.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[dict[str, float]]] = {}
    for entry, run in zip(entries, runs, strict=True):
        curves[entry.run] = []
        with suppress(FileNotFoundError), (run / "metrics.csv").open(newline="") as file:  # shared without its curves
            curves[entry.run] = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    accuracies = [(entry.run, entry.metrics["accuracy"], entry.intervals.get("accuracy")) for entry in entries]
    draw_comparison(folder / "comparison.png", curves, accuracies, _basis(comparison))
    report = {key: value for key, value in asdict(comparison).items() if key not in ("folder", "entries", "n")}
    report |= {"tiles": comparison.n, "runs": [asdict(entry) for entry in entries]}
    (folder / "comparison.json").write_text(json.dumps(finite(report), indent=2) + "\n", encoding="utf-8")
    # Last: it marks the folder as a complete comparison.
    (folder / TABLE).write_text(_table(comparison, subset), encoding="utf-8")


def _table(comparison: Comparison, subset: str) -> str:
    """Format the comparison as a Markdown table."""
    lines: list[str] = []
    for e in comparison.entries:
        row = {"run": e.run, "model": f"`{e.model}`"}
        for name in ("accuracy", "balanced_accuracy", "auroc"):
            interval = "({:.3f}–{:.3f})".format(*e.intervals[name]) if name in e.intervals else ""
            row[name.replace("_", " ")] = f"{e.metrics[name]:.3f} {interval}".rstrip()
        row |= {"log loss": f"{e.metrics['log_loss']:.3f}", "calibration error": f"{e.metrics['ece']:.3f}"}
        row |= {"p": _or_blank(e.p_value, ".3g"), "parameters": f"{e.parameters:,}"}
        row |= {"images/s": f"{e.images_per_second:.0f}", "s/epoch": _or_blank(e.seconds_per_epoch, ".1f")}
        row |= {"memory, MB": _or_blank(e.memory_mb, ",.0f")}
        lines += [] if lines else [" | ".join(row), "|".join("---" for _ in row)]
        lines.append(" | ".join(row.values()))
    table = "\n".join(f"| {line} |" for line in lines)
    tiles = "tiles that no run was trained on" if subset == "unseen" else "tiles, some of which may be training data"
    lines = [f"{comparison.n:,} {tiles}. {_basis(comparison)}."]
    if comparison.missing_intervals:
        lines.append(f"{comparison.missing_intervals[0].upper()}{comparison.missing_intervals[1:]}.")
    else:
        lines.append(f"Intervals and p are over {comparison.patients} patients or slides.")
    if comparison.patients < MIN_PATIENTS:
        lines.append("**So few say nothing about which run is better on other patients.**")
    return "\n\n".join([table, *lines]) + "\n"


def _basis(comparison: Comparison) -> str:
    """What the comparison rests on, class by class; of many classes the one with the fewest patients."""
    counts = {name: f"{name}: {n:,} of {patients}" for name, (n, patients) in comparison.per_class.items()}
    if len(counts) > 6:
        fewest = min(counts, key=lambda name: comparison.per_class[name][::-1])
        return f"Of {comparison.patients} patients or slides; fewest of {counts[fewest]}"
    return f"Tiles and patients or slides of {', '.join(counts.values())}"


def _or_blank(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
