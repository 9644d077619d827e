"""Compare two or more runs on the same data."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsivit.data import Samples, SlideOptions
from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation.evaluate import finite
from wsivit.evaluation.evaluation_data import load_evaluation_data, scored_mask
from wsivit.evaluation.figures import draw_comparison
from wsivit.evaluation.metrics import Measurement, bootstrap, paired_test
from wsivit.evaluation.options import CompareOptions
from wsivit.inference import Floats, ModelRunner, ScoringOptions, score_samples, softmax
from wsivit.models import RunMetadata, finished_run, open_run, run_name

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
        95 %, over patients; empty with one patient.
    images_per_second : float
        Of the model on this device, reading included.
    seconds_per_epoch : float or None
        Of its training.
    memory_mb : float or None
        Peak of its training: on the GPU, or of the process on a CPU.
    p_value : float or None
        Of equal accuracy with the first run; None for the first, and with one patient.
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
    """

    folder: Path
    entries: tuple[Entry, ...]
    patients: int
    n: int


def compare(
    runs: Sequence[str | os.PathLike[str]],
    data: Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] = "comparison",
    options: CompareOptions = CompareOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
) -> Comparison:
    """Measure two or more runs on the same data: a table, the curves, and whether they differ.

    Only tiles that none of the runs was trained on count. A permutation test, which swaps the runs per patient, tells
    whether two of them differ. Stored predictions are not reused: the models' speed is measured too.

    Parameters
    ----------
    runs : sequence of path
        Run folders with the same classes; the first is the one that the others are tested against.
    data : sequence of path
        Labelled data, of any kind that ``train`` accepts.
    output : path
        Folder for the results.
    options : CompareOptions
        Which tiles and label, number of bootstrap samples.
    slides : SlideOptions
        How slides are opened, where the data are slides; their scale and tile size are those of the first run.
    progress : bool
        Show progress bars.

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
    metadata = _read_metadata([Path(run) for run in runs])
    samples = load_evaluation_data(metadata, data, folder, options, slides)
    scores = [_score(run, of_run, samples, options, progress) for run, of_run in metadata.items()]
    # The same tiles for every run: one that a single run could not score counts for none.
    scored = scored_mask(*(score.logits for score in scores))
    samples = samples.take(scored)
    entries = _entries(scores, scored, samples, options)
    comparison = Comparison(folder, entries, samples.patients.count(), len(samples))
    folder.mkdir(parents=True, exist_ok=True)
    draw_comparison(
        folder / "comparison.png",
        {entry.run: _read_curves(run) for entry, run in zip(entries, metadata, strict=True)},
        [(entry.run, entry.metrics["accuracy"], entry.intervals.get("accuracy")) for entry in entries],
    )
    report = {"tiles": comparison.n, "patients": comparison.patients, "runs": [asdict(entry) for entry in entries]}
    (folder / "comparison.json").write_text(json.dumps(finite(report), indent=2) + "\n", encoding="utf-8")
    # Last: it marks the folder as a complete comparison.
    (folder / TABLE).write_text(_table(comparison, options.subset), encoding="utf-8")
    return comparison


def _read_metadata(runs: Sequence[Path]) -> dict[Path, RunMetadata]:
    """Read the metadata of two or more runs with the same classes."""
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs")
    metadata = {run: finished_run(run) for run in runs}
    first = metadata[runs[0]].classes
    for run, of_run in metadata.items():
        if of_run.classes != first:
            raise UsageError(
                f"{run} has the classes {', '.join(of_run.classes)}, {runs[0]} has {', '.join(first)}: only runs with "
                "the same classes can be compared"
            )
    return metadata


@dataclass(frozen=True, eq=False)
class _Scores:
    """Logits of one run, and how fast they were computed."""

    run: Path
    metadata: RunMetadata
    parameters: int
    logits: Floats
    images_per_second: float


def _score(run: Path, metadata: RunMetadata, samples: Samples, options: CompareOptions, progress: bool) -> _Scores:
    runner = ModelRunner(open_run(run, metadata), ScoringOptions(options.batch_size, options.device))
    start = time.perf_counter()
    logits = score_samples(runner, samples, progress=progress)
    return _Scores(run, metadata, runner.parameters, logits, len(samples) / (time.perf_counter() - start))


def _entries(
    scores: Sequence[_Scores], scored: NDArray[np.bool_], samples: Samples, options: CompareOptions
) -> tuple[Entry, ...]:
    """Measure every run on the same tiles, and test each against the first."""
    patients, entries = samples.patients, []
    first_right = None
    for score in scores:
        measured = Measurement(softmax(score.logits[scored] / score.metadata.temperature), samples.code)
        right, p_value = measured.predicted == measured.truth, None
        if first_right is None:
            first_right = right
        elif patients.count() > 1:
            p_value = paired_test(first_right, right, patients.code, seed=options.seed)
        entries.append(
            Entry(
                run=run_name(score.run),
                model=score.metadata.model,
                parameters=score.parameters,
                metrics=measured.metrics(),
                intervals=bootstrap(measured, patients.code, samples=options.bootstrap_samples, seed=options.seed),
                images_per_second=score.images_per_second,
                seconds_per_epoch=score.metadata.validation.get("seconds_per_epoch"),
                memory_mb=score.metadata.validation.get("memory_mb"),
                p_value=p_value,
            )
        )
    return tuple(entries)


def _read_curves(run: Path) -> list[dict[str, float]]:
    """Read a run's metrics per epoch; empty where the table is gone."""
    try:
        with (run / "metrics.csv").open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _table(comparison: Comparison, subset: str) -> str:
    """Format the comparison as a Markdown table."""
    lines: list[str] = []
    for e in comparison.entries:
        row = {"run": e.run, "model": f"`{e.model}`"}
        row |= {name.replace("_", " "): _with_interval(e, name) for name in ("accuracy", "balanced_accuracy", "auroc")}
        row |= {"log loss": f"{e.metrics['log_loss']:.3f}", "calibration error": f"{e.metrics['ece']:.3f}"}
        row |= {"p": _or_blank(e.p_value, ".3g"), "parameters": f"{e.parameters:,}"}
        row |= {"images/s": f"{e.images_per_second:.0f}", "s/epoch": _or_blank(e.seconds_per_epoch, ".1f")}
        row |= {"memory, MB": _or_blank(e.memory_mb, ",.0f")}
        lines += [] if lines else [" | ".join(row), "|".join("---" for _ in row)]
        lines.append(" | ".join(row.values()))
    table = "\n".join(f"| {line} |" for line in lines)
    count = comparison.patients
    intervals = f"intervals over {count} patients" if count > 1 else "one patient, so no intervals"
    tiles = "tiles that no run was trained on" if subset == "unseen" else "tiles, some of which may be training data"
    return f"{table}\n\n{comparison.n:,} {tiles}; {intervals}.\n"


def _or_blank(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _with_interval(entry: Entry, name: str) -> str:
    text = f"{entry.metrics[name]:.3f}"
    if name in entry.intervals:
        low, high = entry.intervals[name]
        text += f" ({low:.3f}–{high:.3f})"
    return text
