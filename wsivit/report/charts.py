"""The charts of a report: SVG by matplotlib, each with the numbers that it shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsivit.evaluation import Measurement
from wsivit.report.page import Picture, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
_MOST_CELLS = 20  # classes: of more, a confusion matrix is not readable
_CURVES = 10  # classes with a curve of their own


def number(value: float | None, digits: int = 3) -> str:
    """Format a number for a table; a dash for what is not known."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def learning_curves(epochs: Sequence[Mapping[str, float]]) -> Picture:
    """Draw loss and accuracy over the epochs."""
    figure, (left, right) = _figure(7.5, 2.8, 2)
    x = [row["epoch"] for row in epochs]
    for axis, lines in (
        (left, {"train_loss": "loss, training", "validation_loss": "loss, validation"}),
        (right, {"validation_accuracy": "accuracy", "validation_balanced_accuracy": "balanced accuracy"}),
    ):
        for key, text in lines.items():
            axis.plot(x, [row.get(key, np.nan) for row in epochs], marker="o", markersize=3, label=text)
        axis.set(xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False, fontsize=8, loc="best" if len(x) < 500 else "upper right")
    columns = list(epochs[0])
    rows = [[f"{row[name]:g}" if name == "epoch" else number(row.get(name)) for name in columns] for row in epochs]
    alt = f"Loss and accuracy over {len(x)} epochs"
    return _picture(figure, alt, Table(tuple(columns), rows, "per epoch"))


def confusion(measured: Measurement, classes: Sequence[str]) -> Picture | None:
    """Draw the confusion matrix; None with too many classes to be read."""
    if len(classes) > _MOST_CELLS:
        return None
    counts = measured.confusion()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.55 * len(classes)
    figure, axis = _figure(side + 0.8, side)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)
    axis.set_yticks(range(len(classes)), classes, parse_math=False)
    for row, column in np.ndindex(*counts.shape):
        ink = "white" if shares[row, column] > 0.55 else "black"
        text = f"{counts[row, column]:,.0f}\n{shares[row, column]:.0%}"
        axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    rows = [[name, *(f"{count:,.0f}" for count in line)] for name, line in zip(classes, counts, strict=True)]
    return _picture(figure, "Confusion matrix", Table(("true \\ predicted", *classes), rows, "tiles"))


def roc(measured: Measurement, classes: Sequence[str]) -> Picture | None:
    """Draw the ROC curve of each class against the rest, of two classes the second's; None where there is none."""
    chosen = [1] if len(classes) == 2 else range(len(classes))
    areas = {index: measured.auroc(index) for index in chosen}
    known = {index: area for index, area in areas.items() if np.isfinite(area)}
    if not known:
        return None
    figure, axis = _figure(3.4, 3.2)
    for index in sorted(known, key=known.__getitem__)[:_CURVES]:
        false, true = measured.roc(index)
        keep = np.unique(np.linspace(0, len(false) - 1, min(len(false), 300)).astype(int))  # a drawing needs no more
        axis.plot(false[keep], true[keep], label=f"{classes[index]} {known[index]:.3f}")
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    axis.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    _legend(axis, "lower right")
    rows = [[classes[index], number(area)] for index, area in areas.items()]
    return _picture(figure, "ROC curves", Table(("class", "area under the curve"), rows, "ROC"))


def reliability(before: Measurement, after: Measurement) -> Picture:
    """Draw how often predictions of each confidence are right, before and after the temperature."""
    figure, axis = _figure(3.4, 3.2)
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
    rows = []
    for name, measured in (("before calibration", before), ("after", after)):
        confidence, right, weight = measured.reliability()
        filled = weight > 0
        axis.plot(confidence[filled], right[filled], marker="o", markersize=3, label=name)
        rows += [
            [name, number(c), number(r), f"{w:,.0f}"]
            for c, r, w in zip(confidence[filled], right[filled], weight[filled], strict=True)
        ]
    axis.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axis, "upper left")
    header = ("", "mean confidence", "accuracy", "tiles")
    return _picture(figure, "Reliability", Table(header, rows, "by confidence"))


def risk_coverage(measured: Measurement) -> tuple[Picture, Floats, Floats]:
    """Draw the share of errors among the surest tiles, for every share of tiles kept; return both as well."""
    coverage, risk = risk_at_coverage(measured)
    figure, axis = _figure(3.4, 3.2)
    keep = np.unique(np.linspace(0, len(risk) - 1, min(len(risk), 300)).astype(int))
    axis.plot(coverage[keep], risk[keep])
    axis.set(xlabel="share of tiles kept, surest first", ylabel="share of errors", xlim=(0, 1), ylim=(0, None))
    at = [int(np.ceil(share * len(risk))) - 1 for share in (0.25, 0.5, 0.75, 0.9, 1.0)]
    rows = [[f"{coverage[k]:.2f}", number(risk[k])] for k in at]
    picture = _picture(figure, "Errors against coverage", Table(("kept", "errors"), rows, "errors by coverage"))
    return picture, coverage, risk


def risk_at_coverage(measured: Measurement) -> tuple[Floats, Floats]:
    """Return the share of tiles kept, surest first, and the share of errors among them; both float64 (n,)."""
    order = np.argsort(-measured.confidence, kind="stable")
    wrong = (measured.predicted != measured.truth)[order]
    kept = np.arange(1, len(wrong) + 1)
    return kept / len(wrong), np.cumsum(wrong) / kept


def histogram(values: NDArray[np.float32], name: str, line: float) -> Picture:
    """Draw the distribution of probabilities, with the threshold."""
    counts, edges = np.histogram(values, bins=20, range=(0, 1))
    figure, axis = _figure(4.2, 2.6)
    axis.bar(edges[:-1], counts, 0.05, align="edge", color="#7f9fc8")
    axis.axvline(line, color="black", linewidth=0.8)
    axis.set(xlabel="probability", ylabel="tiles", xlim=(0, 1))
    rows = [[f"{low:.2f} to {low + 0.05:.2f}", f"{count:,}"] for low, count in zip(edges[:-1], counts, strict=True)]
    return _picture(figure, f"Distribution of the probability of {name}", Table(("probability", "tiles"), rows))


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, columns)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axis: Any, where: str) -> None:
    legend = axis.legend(frameon=False, fontsize=8, loc=where)
    for text in legend.get_texts():
        text.set_parse_math(False)  # class names are no formulas


def _picture(figure: Figure, alt: str, numbers: Table) -> Picture:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # Without a salt and with a date, the same chart would be other bytes each time.
    with rc_context({"svg.hashsalt": "wsivit", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    source = f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return Picture(source, alt, "", round(width * 4 / 3), round(height * 4 / 3), numbers)
