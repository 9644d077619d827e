"""Predictions as something to look at: the picture, and beside it the same as data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from wsivit.errors import UsageError
from wsivit.heatmap.export import beside, file_name, write
from wsivit.heatmap.heatmap_data import read_heatmap_data
from wsivit.heatmap.options import Form, HeatmapOptions
from wsivit.heatmap.slide_score import SlideScore
from wsivit.io import Output, join
from wsivit.store import TileStore

__all__ = ["DEFAULT_FORMS", "HeatmapOptions", "HeatmapOutputs", "heatmap"]

DEFAULT_FORMS: tuple[Form, ...] = ("png", "geojson", "regions", "ome-tiff")


@dataclass(frozen=True)
class HeatmapOutputs:
    """What was written.

    Attributes
    ----------
    slide_id, run : str
    class_name : str
        The class that was drawn; several are joined by commas.
    files : dict of str to Path or str
        Where each form is: a path, or a URL without credentials.
    scores : tuple of SlideScore
        The slide summed up, one per class of the run.
    """

    slide_id: str
    run: str
    class_name: str
    files: dict[Form, Output]
    scores: tuple[SlideScore, ...]

    @property
    def paths(self) -> tuple[Output, ...]:
        """All files that were written."""
        return tuple(self.files.values())

    @property
    def png(self) -> Output:
        """The picture."""
        return self.files["png"]


def heatmap(
    store: TileStore | str | os.PathLike[str],
    *,
    run: str | None = None,
    png: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    forms: Sequence[Form] = DEFAULT_FORMS,
    options: HeatmapOptions = HeatmapOptions(),
) -> HeatmapOutputs:
    """Draw a run's predictions over the slide, and export them for QuPath and image tools.

    The slide itself is not needed: its thumbnail is in the store. Colours are absolute: the same probability has the
    same colour in every picture. Outputs of an earlier call are replaced.

    Parameters
    ----------
    store : path, URL or TileStore
        A tile store with predictions.
    run : str, optional
        Which predictions; may be left out where there is one run only.
    png : path or URL, optional
        Where the picture goes; ``.png``, ``.jpg`` or ``.webp``.
    output : path or URL, optional
        Folder for everything else, named ``<slide_id>-<run>-…``. Default: beside the store.
    forms : sequence of str
        What is written: ``png``, ``argmax``, ``side-by-side``, ``contact`` (pictures), ``geojson``, ``regions``,
        ``overlay`` (for QuPath), ``ome-tiff``, ``ome-zarr``, ``csv``, ``h5``.
    options : HeatmapOptions
        Class, threshold, colours, blending.

    Returns
    -------
    HeatmapOutputs

    Raises
    ------
    UsageError
        Without predictions, for an unknown run, class or form, or for an option out of its range.
    StoreError
        If the store or its predictions are damaged, or hold not a single number.
    OutputError
        If something cannot be written.
    """
    if unknown := set(forms) - set(get_args(Form)):
        raise UsageError(f"no form {', '.join(sorted(unknown))}; there are {', '.join(get_args(Form))}")
    heat = read_heatmap_data(store, run, options.window, options.smoothing)
    folder = beside(heat.store) if output is None else os.fspath(output)
    paths: dict[Form, str] = {} if png is None else {"png": os.fspath(png)}
    for form in forms:
        paths.setdefault(form, join(folder, file_name(heat, form, options)))
    files = {form: write(heat, form, path, options) for form, path in paths.items()}
    names = ", ".join(heat.classes[k] for k in heat.chosen(options.class_name))
    return HeatmapOutputs(heat.slide_id, heat.run, names, files, tuple(heat.summary(options.threshold)))
