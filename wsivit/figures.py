"""Pictures of a run, worth putting in a paper. matplotlib is imported when the first is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """Make a figure of that many inches, apart from pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    for axis in [axes] if columns == 1 else axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_curves(path: str | os.PathLike[str], rows: Sequence[Mapping[str, float]]) -> None:
    """Draw loss and accuracy over the epochs; `rows` as :func:`wsivit.trainer.epoch_table` gives them."""
    figure, (left, right) = new_figure(9, 3.6, 2)
    epochs = [row["epoch"] for row in rows]
    for axis, lines, name in (
        (left, {"train_loss": "training", "validation_loss": "held out"}, "loss"),
        (right, {"validation_accuracy": "accuracy", "validation_balanced_accuracy": "balanced accuracy"}, "held out"),
    ):
        for key, text in lines.items():
            axis.plot(epochs, [row.get(key) for row in rows], marker="o", markersize=3, label=text)
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    right.set_ylim(top=1.01)
    figure.savefig(Path(path), dpi=DPI)
