"""Figures of a run, at the resolution of print. matplotlib is imported when the first is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsivit.evaluation.metrics import Measurement
from wsivit.slide import round_length

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]

DPI = 150
BEST = "tune_loss"
"""What chooses the epoch whose weights are kept: the lowest."""


def new_figure(
    width: float,
    height: float,
    columns: int = 1,
    rows: int = 1,
    layout: Literal["constrained"] | None = "constrained",
    heights: Sequence[float] | None = None,
) -> tuple[Figure, Any]:
    """Make a figure of a width and height in inches, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, height_ratios=heights)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_curves(path: PathLike, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw loss and accuracy over the epochs; `rows` as :func:`wsivit.training.callbacks.epoch_table` gives them.

    The epoch of the lowest tune loss, whose weights are kept, is marked.
    """
    figure, (left, right) = new_figure(9, 3.9, 2)
    epochs = [row["epoch"] for row in rows]
    accuracies = {"tune_accuracy": "accuracy", "tune_balanced_accuracy": "balanced accuracy"}
    for axis, lines, name, loc in (
        (left, {"train_loss": "training", "tune_loss": "tune part"}, "loss", "upper right"),
        (right, accuracies, "tune part", "lower right"),
    ):
        for key, text in lines.items():
            axis.plot(epochs, [row.get(key) for row in rows], marker="o", markersize=3, label=text)
        axis.set(xlabel="epoch", ylabel=name)
        _count_epochs(axis)
        axis.legend(loc=loc, frameon=False)  # searching for the best place takes long, and warns of it
    right.set_ylim(top=1.01)
    measured = [row for row in rows if BEST in row]
    if measured:
        best = min(measured, key=lambda row: row[BEST])  # of equals the first, as the Trainer keeps it
        for axis in (left, right):
            axis.axvline(best["epoch"], color="0.6", linewidth=0.8, linestyle="--", zorder=0)
        left.plot(best["epoch"], best[BEST], marker="*", markersize=12, color="C1")
        left.set_title(f"kept: epoch {best['epoch']:g}, tune loss {best[BEST]:.3g}", fontsize=9)
    figure.supxlabel(
        "Training loss is a mean over the epoch, of augmented tiles and with regularisation: it may lie above the "
        "tune loss, of plain tiles at its end.",
        fontsize=7.5,
        color="0.4",
    )
    figure.savefig(Path(path), dpi=DPI)


def _count_epochs(axis: Any) -> None:
    """Mark whole epochs: there are none between."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(alpha=0.25)


def draw_confusion(path: PathLike, measured: Measurement, classes: Sequence[str]) -> None:
    """Draw the confusion matrix: counts and percentages of the true class in the cells, the latter as colour too."""
    counts = measured.confusion()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.2 + 0.65 * len(classes), 3.6, 18))
    figure, axis = new_figure(side + 0.9, side)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axis.set(xlabel="predicted", ylabel="true", xticks=ticks, yticks=ticks)
    axis.set_xticklabels(classes, rotation=0 if len(classes) < 5 else 90)
    axis.set_yticklabels(classes)
    axis.spines[:].set_visible(False)
    if len(classes) <= 20:
        for row, column in np.ndindex(*counts.shape):
            ink = "white" if share[row, column] > 0.55 else "black"
            text = f"{counts[row, column]:,.0f}\n{share[row, column]:.0%}" if counts[row].any() else "–"
            axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=9 if len(classes) < 8 else 7)
    figure.colorbar(image, ax=axis, label="share of the true class", format=_percent_ticks())
    figure.savefig(Path(path), dpi=DPI)


def _percent_ticks() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1)


def draw_roc(path: PathLike, measured: Measurement, classes: Sequence[str]) -> None:
    """Draw the ROC curve of each class against the rest; of two classes the second only, of many the mean alone."""
    figure, axis = new_figure(4.6, 4.4)
    drawn = [1] if len(classes) == 2 else list(range(len(classes)))
    grid = np.linspace(0, 1, 501)
    curves = []
    for index in drawn:
        area = measured.auroc(index)
        if np.isnan(area):
            continue
        false, true = measured.roc(index)
        curves.append(np.interp(grid, false, true))
        if len(drawn) <= 12:
            axis.plot(false, true, label=f"{classes[index]}  {area:.3f}")
    if len(drawn) > 12 and curves:
        axis.plot(grid, np.mean(curves, axis=0), label=f"mean of {len(curves)} classes")
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    axis.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
    axis.set_aspect("equal")
    if curves:
        axis.legend(frameon=False, title="area under the curve", loc="lower right")
    figure.savefig(Path(path), dpi=DPI)


def draw_reliability(path: PathLike, measured: Measurement) -> None:
    """Draw how often predictions of each confidence are right, above how many there are."""
    figure, (axis, below) = new_figure(4.6, 5.6, rows=2, heights=(3, 1.1))
    confidence, right, weight = measured.reliability()
    edges = np.linspace(0, 1, len(weight) + 1)
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--", label="perfect")
    filled = weight > 0
    axis.plot(confidence[filled], right[filled], linewidth=0.8, color="C0")
    # A bin of few tiles says little: its dot is as small.
    axis.scatter(
        confidence[filled], right[filled], s=8 + 120 * weight[filled] / weight.sum(), label="accuracy", zorder=3
    )
    axis.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axis.set_title(f"calibration error {measured.metrics(areas=False)['ece']:.3f}", fontsize=10)
    axis.legend(frameon=False, loc="upper left")
    below.bar(edges[:-1], weight, 1 / len(weight), align="edge", color="0.8", edgecolor="white")
    for left, count in zip(edges[:-1][filled], weight[filled], strict=True):
        below.text(left + 0.5 / len(weight), count, f"{count:,.0f}", ha="center", va="bottom", fontsize=6, rotation=90)
    below.set(xlabel="confidence", ylabel="tiles", xlim=(0, 1), ylim=(0, 1.45 * max(weight.max(), 1)))
    figure.savefig(Path(path), dpi=DPI)


def draw_examples(
    path: PathLike, tiles: NDArray[np.uint8], captions: Sequence[tuple[str, bool]], mpp: float | None = None
) -> None:
    """Draw tiles (n, h, w, 3) in a grid, each under its caption: green where it is right, red where not.

    With a scale `mpp`, in microns per pixel, there is a scale bar on the first tile.
    """
    columns = min(6, max(1, len(tiles)))
    figure, axis = _tile_grid(columns, -(-len(tiles) // columns), 2.0, 2.25)
    if mpp is not None and len(tiles):
        side = mpp * tiles.shape[2]
        length, label = round_length(side / 3)
        x, y = 0.15, 2.08
        axis.plot([x, x + 1.9 * length / side], [y, y], color="white", linewidth=4, solid_capstyle="butt", zorder=3)
        axis.plot([x, x + 1.9 * length / side], [y, y], color="black", linewidth=2, solid_capstyle="butt", zorder=4)
        box = {"facecolor": "white", "alpha": 0.8, "pad": 1.0, "edgecolor": "none"}
        axis.text(x, y - 0.06, label, fontsize=7, va="bottom", bbox=box, zorder=4)
    for index, (tile, (text, right)) in enumerate(zip(tiles, captions, strict=True)):
        x, y = index % columns * 2.0, index // columns * 2.25
        axis.imshow(tile, extent=(x + 0.05, x + 1.95, y + 2.2, y + 0.35))
        color = "#1a7f37" if right else "#c1121f"
        axis.text(x + 1, y + 0.32, text, fontsize=8, color=color, ha="center", va="bottom", parse_math=False)
    figure.savefig(Path(path), dpi=DPI)


def draw_augmented(
    path: PathLike, before: NDArray[np.uint8], after: NDArray[np.float32], warnings: Sequence[str] = ()
) -> None:
    """Draw tiles above their augmented versions (0 to 1), for a person to judge; warnings go above both."""
    lines = [line for warning in warnings for line in wrap(f"WARNING: {warning}", max(40, 16 * len(before)))]
    top = 0.2 * len(lines)
    figure, axis = _tile_grid(len(before), 2, 1.5, 1.5, top)
    rows: tuple[NDArray[Any], NDArray[Any]] = (before, after)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            x, y = 1.5 * column, 1.5 * row
            axis.imshow(picture, extent=(x + 0.03, x + 1.47, y + 1.47, y + 0.03))
    axis.text(0.03, -0.05, "\n".join(lines), color="#B00020", weight="bold", fontsize=9, va="bottom", parse_math=False)
    figure.savefig(Path(path), dpi=DPI)


def _tile_grid(columns: int, rows: int, width: float, height: float, top: float = 0.0) -> tuple[Figure, Any]:
    """Make one axis, measured in inches from the top left, for tiles of that room each, and room above them."""
    # One axis for all of them: an axis for each tile, and their layout, take some tenths of a second per tile.
    size = columns * width, rows * height + top
    figure, axis = new_figure(*size, layout=None)
    axis.set_position((0, 0, 1, 1))
    axis.set_axis_off()
    # Else the last picture would set the limits.
    axis.set(xlim=(0, size[0]), ylim=(rows * height, -top), autoscale_on=False)
    return figure, axis


def draw_comparison(
    path: PathLike,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    accuracies: Sequence[tuple[str, float, tuple[float, float] | None]],
    basis: str = "",
) -> None:
    """Draw the runs' tune loss and accuracy over the epochs, and their accuracy with its interval.

    The axis of the accuracy is complete: cut, it would make small differences look large. `basis` says on how many
    tiles and patients it rests.
    """
    figure, (left, middle, right) = new_figure(12.5, 4.0, 3)
    for axis, key, name, loc in (
        (left, "tune_loss", "loss on the tune part", "upper right"),
        (middle, "tune_accuracy", "accuracy on the tune part", "lower right"),
    ):
        for run, rows in curves.items():
            axis.plot([r["epoch"] for r in rows], [r.get(key) for r in rows], marker="o", markersize=3, label=run)
        axis.set(xlabel="epoch", ylabel=name)
        _count_epochs(axis)
        if any(curves.values()):
            axis.legend(loc=loc, frameon=False)
    middle.set_ylim(0, 1.01)
    for row, (_, value, interval) in enumerate(accuracies):
        text = f"{value:.3f}"
        if interval is not None:
            low, high = interval
            # The bootstrap's percentiles need not enclose the value itself.
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            right.errorbar(value, row, xerr=error, fmt="o", capsize=4, color=f"C{row % 10}")
            text += f"  ({low:.3f} to {high:.3f})"
        else:
            right.plot(value, row, "o", color=f"C{row % 10}")
        # Inside the axis on either side.
        right.annotate(
            text, (value, row), textcoords="offset points", xytext=(0, 8), ha="right" if value > 0.5 else "left"
        )
    named = any(interval is not None for _, _, interval in accuracies)
    what = "accuracy on the same tiles, 95 % interval" if named else "accuracy; too few patients for intervals"
    right.set(xlabel=what, ylim=(len(accuracies) - 0.4, -0.6), xlim=(-0.01, 1.01))
    right.set_yticks(range(len(accuracies)), [run for run, _, _ in accuracies])
    right.grid(alpha=0.25, axis="x")
    figure.supxlabel(basis, fontsize=8, color="0.4", parse_math=False)
    figure.savefig(Path(path), dpi=DPI)
