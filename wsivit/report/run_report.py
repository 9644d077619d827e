"""The report of a run: what it learned from, how good it is and on what, and how to repeat it."""

from __future__ import annotations

import csv
import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsivit.errors import StoreError
from wsivit.evaluation import Measurement
from wsivit.models import RunMetadata, finished_run, run_name
from wsivit.report import charts
from wsivit.report.charts import number
from wsivit.report.names import Names
from wsivit.report.page import Page, Picture, Section, Table, photo
from wsivit.store import TileStore

EVALUATION = "evaluation"
_SURE = 12  # tiles of each kind
_TILE = 112  # their side, pixels
_MOST_ROWS = 400


@dataclass(frozen=True)
class Evaluated:
    """Predictions of an evaluation, as ``predictions.csv`` has them."""

    sources: list[str]
    items: list[str]
    patients: list[str]
    classes: tuple[str, ...]
    measured: Measurement
    metrics: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, classes: Sequence[str]) -> Evaluated | None:
        """Read the evaluation in a folder; None where there is none.

        Raises
        ------
        StoreError
            It is damaged, or of other classes.
        """
        if not (folder / "metrics.json").exists():
            return None
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            probabilities = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
            truth = [list(classes).index(row["true"]) for row in rows]
            sources, items, patients = ([row[key] for row in rows] for key in ("source", "item", "patient"))
            measured = Measurement(probabilities, truth)
            return cls(sources, items, patients, tuple(classes), measured, metrics)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"{folder}: the evaluation is damaged or of another run ({error}); run wsivit evaluate … --force"
            ) from error


def run_page(run: Path, names: Names) -> Page:
    """Collect the report of a finished run.

    Raises
    ------
    StoreError, UsageError
        The folder is no finished run, or its evaluation is damaged.
    """
    metadata = finished_run(run)
    evaluated = Evaluated.read(run / EVALUATION, metadata.classes)
    sections = [_data(metadata, names), _split(metadata)]
    if curves := _curves(run):
        sections.append(curves)
    if evaluated:
        sections += [_figures(evaluated), _pictures(metadata, evaluated), _per_slide(evaluated, names)]
        if tiles := _surest(evaluated, names):
            sections.append(tiles)
    sections.append(_provenance(run, metadata, evaluated, names))
    model = Path(metadata.model).name if names.hidden else metadata.model
    title = f"{model}: {metadata.label or 'classes'} ({' / '.join(metadata.classes[:6])})"
    return Page("run", title, _verdict(run, metadata, evaluated), sections)


def _verdict(run: Path, metadata: RunMetadata, evaluated: Evaluated | None) -> str:
    if evaluated is None:
        accuracy = number(metadata.validation.get("accuracy"))
        return (
            f"Not evaluated yet. On the validation part the accuracy is {accuracy}, which is too good: that part chose "
            f"the epoch. Run wsivit evaluate {run_name(run)} on other patients."
        )
    values, patients = evaluated.metrics["metrics"], evaluated.metrics["patients"]
    interval = evaluated.metrics.get("intervals_95", {}).get("accuracy")
    spread = (
        f"95 % interval {interval[0]:.3f} to {interval[1]:.3f} over {patients} patients"
        if interval
        else f"no interval: {patients} patient{'s are' if patients != 1 else ' is'} too few"
    )
    share, name = _commonest(evaluated)
    balanced = number(values.get("balanced_accuracy"))
    better = "better than" if values["accuracy"] > share else "no better than"
    return (
        f"Accuracy {number(values['accuracy'])} ({spread}), balanced {balanced}, AUROC {number(values.get('auroc'))}: "
        f"{better} always answering {name}, which is right on {share:.3f} of these {evaluated.measured.n:,} tiles."
    )


def _commonest(evaluated: Evaluated) -> tuple[float, str]:
    """Return the share of the commonest class, and its name: what the dullest model would reach."""
    counts = np.bincount(evaluated.measured.truth, minlength=len(evaluated.classes))
    return float(counts.max() / counts.sum()), evaluated.classes[int(counts.argmax())]


def _data(metadata: RunMetadata, names: Names) -> Section:
    sides = ("train", "validation", "tune", "test", "left out")
    present = [side for side in sides if any(source.get(side) for source in metadata.data)]
    rows = [
        [names("slide", str(source["id"])), *(f"{source.get(side, 0):,}" for side in present), _mpp(source.get("mpp"))]
        for source in metadata.data[:_MOST_ROWS]
    ]
    totals = [f"{sum(source.get(side, 0) for source in metadata.data):,}" for side in present]
    rows.append(["all", *totals, ""])
    more = len(metadata.data) - _MOST_ROWS
    text = [f"{more:,} more sources are in wsivit.json."] if more > 0 else []
    scale = f"{metadata.mpp:g} µm/px, " if metadata.mpp else ""
    text.insert(0, f"{len(metadata.data):,} sources, tiles of {metadata.tile_size} px, {scale}label {metadata.label}.")
    return Section("Data", text, tables=[Table(("source", *present, "µm/px"), rows, "tiles per source and part")])


def _mpp(value: Any) -> str:
    return f"{value:.4g}" if value else "–"


def _split(metadata: RunMetadata) -> Section:
    split = metadata.split
    leaks = split.get("leaks") or []
    text = [f"Split {split.get('how', 'as given')}."]
    text.append("The leakage check found nothing." if not leaks else "Leaks were allowed: see the warnings.")
    return Section("Split and leakage", text, [*map(str, leaks), *map(str, split.get("warnings") or [])])


def _curves(run: Path) -> Section | None:
    try:
        with (run / "metrics.csv").open(newline="") as file:
            epochs = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError):
        return None
    if not epochs:
        return None
    text = [
        "The validation part chooses the epoch. Training loss is measured on augmented tiles, while they are learned."
    ]
    return Section("Training", text, pictures=[charts.learning_curves(epochs)])


def _figures(evaluated: Evaluated) -> Section:
    metrics, intervals = evaluated.metrics["metrics"], evaluated.metrics.get("intervals_95", {})
    rows = [
        [name.replace("_", " "), number(value), " to ".join(map(number, intervals.get(name, ()))) or "–"]
        for name, value in metrics.items()
    ]
    share, name = _commonest(evaluated)
    rows.append([f"accuracy of always answering {name}", number(share), "–"])
    header = ("class", "tiles", "precision", "recall", "F1", "AUROC")
    per_class = [
        [name, f"{row['n']:,}", *(number(row[key]) for key in ("precision", "recall", "f1", "auroc"))]
        for name, row in evaluated.metrics["per_class"].items()
    ]
    warnings = list(evaluated.metrics.get("warnings") or [])
    if of_training := evaluated.metrics.get("tiles_of_training_slides"):
        warnings.append(
            f"{of_training:,} tiles are from slides that the run also learned from: no figure for new patients."
        )
    tables = [
        Table(("figure", "value", "95 % over patients"), rows, "on tiles that were not trained on"),
        Table(header, per_class, "per class"),
    ]
    return Section("How good it is", (), warnings, tables)


def _pictures(metadata: RunMetadata, evaluated: Evaluated) -> Section:
    after = evaluated.measured
    # Probabilities are softmax(logits / temperature): their power is the softmax of the logits again.
    power = np.clip(after.probabilities, 1e-12, None) ** metadata.temperature
    before = Measurement(power / power.sum(axis=1, keepdims=True), after.truth)
    risk, _, _ = charts.risk_coverage(after)
    drawn = [
        charts.confusion(after, evaluated.classes),
        charts.roc(after, evaluated.classes),
        charts.reliability(before, after),
        risk,
    ]
    text = [f"The temperature of the run is {metadata.temperature:.3g}."]
    return Section("Errors and calibration", text, pictures=[picture for picture in drawn if picture])


def _per_slide(evaluated: Evaluated, names: Names) -> Section:
    right = evaluated.measured.predicted == evaluated.measured.truth
    of: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for source, patient, good in zip(evaluated.sources, evaluated.patients, right, strict=True):
        of[source, patient if "/" not in patient else ""].append(bool(good))
    rows = [
        [names("slide", source), names("patient", patient), f"{len(good):,}", number(float(np.mean(good)))]
        for (source, patient), good in sorted(of.items(), key=lambda entry: np.mean(entry[1]))[:_MOST_ROWS]
    ]
    return Section("Per slide", tables=[Table(("slide", "patient", "tiles", "accuracy"), rows, "worst first")])


def _surest(evaluated: Evaluated, names: Names) -> Section | None:
    """Show the tiles on which the model is surest, right and wrong; None where their stores are not at hand."""
    stores: Mapping[str, str] = evaluated.metrics.get("stores") or {}
    measured, order = evaluated.measured, np.argsort(-evaluated.measured.confidence, kind="stable")
    right = measured.predicted == measured.truth
    pictures = []
    for title, chosen in (("Surest wrong", order[~right[order]]), ("Surest right", order[right[order]])):
        tiles = [tile for k in chosen[: 4 * _SURE] if (tile := _tile(evaluated, int(k), stores)) is not None][:_SURE]
        if tiles:
            pictures.append(_sheet(evaluated, tiles, title, names))
    if not pictures:
        return None
    return Section(
        "Surest tiles", ["Surest wrong tiles show wrong labels, and what the model mistakes."], pictures=pictures
    )


def _tile(evaluated: Evaluated, index: int, stores: Mapping[str, str]) -> tuple[int, Image.Image] | None:
    path = stores.get(evaluated.sources[index])
    try:
        store = TileStore(path) if path else None
        if store is None:
            return None
        col, row = map(int, evaluated.items[index].split("/"))
        (found,) = np.flatnonzero((store.col == col) & (store.row == row))
        pixels = store[int(found)]
    except (StoreError, OSError, ValueError, RuntimeError):
        return None  # moved, damaged or of other tiles by now: the report does without
    return index, Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.LANCZOS)


def _sheet(evaluated: Evaluated, tiles: Sequence[tuple[int, Image.Image]], title: str, names: Names) -> Picture:
    columns = min(6, len(tiles))
    sheet = Image.new("RGB", (columns * (_TILE + 4), -(-len(tiles) // columns) * (_TILE + 4)), "white")
    rows = []
    for place, (index, image) in enumerate(tiles):
        sheet.paste(image, (place % columns * (_TILE + 4) + 2, place // columns * (_TILE + 4) + 2))
        measured, classes = evaluated.measured, evaluated.classes
        slide = names("slide", evaluated.sources[index])
        true, predicted = classes[measured.truth[index]], classes[measured.predicted[index]]
        rows.append([place + 1, slide, evaluated.items[index], true, predicted, number(measured.confidence[index])])
    picture = photo(sheet, f"{title} tiles", f"{title}, row by row", quality=82)
    numbers = Table(("tile", "slide", "col/row", "true", "predicted", "confidence"), rows, title)
    return Picture(picture.source, picture.alt, picture.caption, picture.width, picture.height, numbers)


def _provenance(run: Path, metadata: RunMetadata, evaluated: Evaluated | None, names: Names) -> Section:
    # Options and commands name files and folders, and so perhaps patients.
    shown = {k: v for k, v in metadata.options.items() if not names.hidden or isinstance(v, bool | int | float | None)}
    facts = [
        ["model fingerprint", metadata.model_fingerprint],
        ["input", f"{metadata.preprocessing.image_size} px, {metadata.preprocessing.interpolation}"],
        *([name, version] for name, version in metadata.versions.items()),
    ]
    commands = [] if names.hidden else [shlex.join(metadata.command)]
    if evaluated is not None and commands:
        commands.append(f"wsivit evaluate {shlex.quote(str(run))} …")
    options = [[name, json.dumps(value)] for name, value in shown.items()]
    return Section(
        "To repeat it",
        tables=[Table(("", ""), facts, "model and versions"), Table(("option", "value"), options, "options")],
        commands=commands,
    )
