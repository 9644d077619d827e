"""Two or more runs side by side, on the same data."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wsivit.data import Samples, SlideOptions, SlideTiler
from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation.evaluate import (
    EvaluateOptions,
    check_data_compatibility,
    finite,
    labelled_truth,
    scored_mask,
    tiler_for,
    unseen_by,
)
from wsivit.evaluation.figures import draw_comparison
from wsivit.evaluation.metrics import Measurement, bootstrap, paired_test
from wsivit.inference import Floats, ModelRunner, ScoringOptions, score_samples, softmax
from wsivit.models import RunMetadata, finished_run, open_run, run_name

PathLike = str | os.PathLike[str]
TABLE = "comparison.md"


@dataclass(frozen=True)
class Entry:
    """One run in a comparison.

    Attributes
    ----------
    run, model : str
    parameters : int
    figures : dict of str to float
        As :func:`wsivit.evaluation.evaluate.evaluate` gives them.
    intervals : dict of str to (float, float)
        95 %, over patients; empty with one patient.
    images_per_second : float
        Of the model on this device, reading included.
    seconds_per_epoch : float or None
        Of its training.
    memory_mb : float or None
        Most that its training took: on the GPU, or of the whole process on a CPU.
    p_value : float or None
        That it is as often right as the first run; None for the first, and where there is one patient only.
    """

    run: str
    model: str
    parameters: int
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    images_per_second: float
    seconds_per_epoch: float | None
    memory_mb: float | None
    p_value: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes
    ----------
    folder : Path
        Holds ``comparison.md``, ``comparison.json`` and ``comparison.png``.
    entries : tuple of Entry
        In the order of the runs.
    patients, n : int
        How many patients and tiles were measured.
    """

    folder: Path
    entries: tuple[Entry, ...]
    patients: int
    n: int


def compare(
    runs: Sequence[PathLike],
    data: Sequence[PathLike],
    *,
    output: PathLike = "comparison",
    options: EvaluateOptions = EvaluateOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
) -> Comparison:
    """Measure two or more runs on the same data: a table, the curves, and whether they differ.

    Only tiles that none of the runs was trained on are taken. Whether two runs differ is tested by swapping them per
    patient.

    Parameters
    ----------
    runs : sequence of path
        Run folders with the same classes; the first is what the others are tested against.
    data : sequence of path
        Labelled data, of any kind that ``train`` takes.
    output : path
        Folder to make.
    options : EvaluateOptions
        As for ``evaluate``; the models are always run, since their speed is measured.
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
        The output is there already.
    """
    folder = Path(output)
    if (folder / TABLE).exists() and not options.overwrite:
        raise OutputExistsError(f"{folder}: holds a comparison already; choose another output, or --overwrite it")
    contracts = dict(zip(map(Path, runs), _alike(runs), strict=True))
    tiler = tiler_for(next(iter(contracts.values())), folder, slides)
    samples = _common(contracts, data, options, tiler)
    scored = [_score(run, contract, samples, options, progress) for run, contract in contracts.items()]
    good = scored_mask(*(one.logits for one in scored))
    entries = _entries([replace(one, logits=one.logits[good]) for one in scored], samples.take(good), options)
    found = Comparison(folder, entries, samples.patients.count(good), int(good.sum()))
    _write(found, [_curve(run) for run in contracts])
    return found


def _common(
    contracts: Mapping[Path, RunMetadata], data: Sequence[PathLike], options: EvaluateOptions, tiler: SlideTiler
) -> Samples:
    """Collect the labelled tiles that no run was trained on."""
    samples = labelled_truth(next(iter(contracts.values())), data, options, tiler)
    keep = np.ones(len(samples), bool)
    for run, contract in contracts.items():
        check_data_compatibility(contract, samples, allow=options.allow_mismatch)
        if options.part != "all":
            keep &= unseen_by(run, contract, samples)
    if not keep.any():
        raise UsageError("each tile was trained on by one of the runs: give others, or measure --part all")
    return samples.take(keep)


@dataclass(frozen=True, eq=False)
class _Scored:
    """What one model said, and how fast."""

    run: Path
    contract: RunMetadata
    parameters: int
    logits: Floats
    images_per_second: float

    def measure(self, samples: Samples) -> Measurement:
        return Measurement(softmax(self.logits / self.contract.temperature), samples.code)


def _score(run: Path, contract: RunMetadata, samples: Samples, options: EvaluateOptions, progress: bool) -> _Scored:
    scorer = ModelRunner(open_run(run, contract), ScoringOptions(options.batch_size, options.device))
    begun = time.perf_counter()
    logits = score_samples(scorer, samples, progress=progress)
    return _Scored(run, contract, scorer.parameters, logits, len(samples) / (time.perf_counter() - begun))


def _entries(scored: Sequence[_Scored], samples: Samples, options: EvaluateOptions) -> tuple[Entry, ...]:
    """Measure every run on the same tiles, and test each against the first."""
    measured = [one.measure(samples) for one in scored]
    right = [m.predicted == m.codes for m in measured]
    several = samples.patients.count() > 1
    return tuple(
        Entry(
            run=run_name(one.run),
            model=one.contract.model,
            parameters=one.parameters,
            figures=m.figures(),
            intervals=bootstrap(m, samples.patients.code, draws=options.draws, seed=options.seed).bounds,
            images_per_second=one.images_per_second,
            seconds_per_epoch=one.contract.validation.get("seconds_per_epoch"),
            memory_mb=one.contract.validation.get("memory_mb"),
            p_value=paired_test(right[0], r, samples.patients.code, seed=options.seed) if several and number else None,
        )
        for number, (one, m, r) in enumerate(zip(scored, measured, right, strict=True))
    )


def _alike(runs: Sequence[PathLike]) -> list[RunMetadata]:
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs")
    contracts = [finished_run(run) for run in runs]
    for run, contract in zip(runs, contracts, strict=True):
        if contract.classes != contracts[0].classes:
            raise UsageError(
                f"{run} tells {', '.join(contract.classes)}, {runs[0]} tells {', '.join(contracts[0].classes)}: "
                "only runs with the same classes can be compared"
            )
    return contracts


def _curve(run: Path) -> list[dict[str, float]]:
    """Read a run's curves; empty where the table is gone."""
    try:
        with (run / "metrics.csv").open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _write(found: Comparison, curves: list[list[dict[str, float]]]) -> None:
    found.folder.mkdir(parents=True, exist_ok=True)
    names = [entry.run for entry in found.entries]
    draw_comparison(
        found.folder / "comparison.png",
        dict(zip(names, curves, strict=True)),
        [(e.run, e.figures["accuracy"], e.intervals.get("accuracy")) for e in found.entries],
    )
    report = {"tiles": found.n, "patients": found.patients, "runs": [asdict(e) for e in found.entries]}
    (found.folder / "comparison.json").write_text(json.dumps(finite(report), indent=2) + "\n", encoding="utf-8")
    (found.folder / TABLE).write_text(comparison_table(found), encoding="utf-8")


def comparison_table(found: Comparison) -> str:
    """Lay the comparison out as a Markdown table."""
    lines: list[str] = []
    for e in found.entries:
        row = {"run": e.run, "model": f"`{e.model}`"}
        row |= {name.replace("_", " "): _with_interval(e, name) for name in ("accuracy", "balanced_accuracy", "auroc")}
        row |= {"log loss": f"{e.figures['log_loss']:.3f}", "calibration error": f"{e.figures['ece']:.3f}"}
        row |= {"p": _or_blank(e.p_value, ".3g"), "parameters": f"{e.parameters:,}"}
        row |= {"images/s": f"{e.images_per_second:.0f}", "s/epoch": _or_blank(e.seconds_per_epoch, ".1f")}
        row |= {"memory, MB": _or_blank(e.memory_mb, ",.0f")}
        lines += [] if lines else [" | ".join(row), "|".join("---" for _ in row)]
        lines.append(" | ".join(row.values()))
    over = f"intervals over {found.patients} patients" if found.patients > 1 else "one patient, so no intervals"
    table = "\n".join(f"| {line} |" for line in lines)
    return f"{table}\n\n{found.n:,} tiles that no run was trained on; {over}.\n"


def _or_blank(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _with_interval(entry: Entry, name: str) -> str:
    text = f"{entry.figures[name]:.3f}"
    if name in entry.intervals:
        low, high = entry.intervals[name]
        text += f" ({low:.3f}–{high:.3f})"
    return text
