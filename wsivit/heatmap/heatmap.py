"""Predictions as a picture and, next to it, as data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wsivit._keywords import options_as_keywords
from wsivit.heatmap.aggregate import SlideScore, score_slide
from wsivit.heatmap.evidence_data import EvidenceData
from wsivit.heatmap.export import check_formats, file_name, folder_of, one_store, read_map, write
from wsivit.heatmap.options import Format, HeatmapOptions
from wsivit.io import Output, join
from wsivit.slide_list import Sources, takes_many

DEFAULT_FORMATS: tuple[Format, ...] = ("png", "geojson", "regions", "ome-tiff")


@dataclass(frozen=True)
class HeatmapOutputs:
    """What was written.

    Attributes
    ----------
    slide_id, run : str
    class_name : str
        The class that was drawn; several are joined by commas.
    files : dict of str to Path or str
        Where each format is: a path, or a URL without credentials.
    scores : tuple of SlideScore
        Scores of the slide, one per class of the run.
    """

    slide_id: str
    run: str
    class_name: str
    files: dict[Format, Output]
    scores: tuple[SlideScore, ...]

    @property
    def paths(self) -> tuple[Output, ...]:
        """All files that were written."""
        return tuple(self.files.values())

    @property
    def png(self) -> Output:
        """The picture."""
        return self.files["png"]


@takes_many("store")
@options_as_keywords
def heatmap(
    store: Sources,
    *,
    run: str | None = None,
    png: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    formats: Sequence[Format] = DEFAULT_FORMATS,
    options: HeatmapOptions = HeatmapOptions(),
    **keywords: Any,
) -> HeatmapOutputs:
    """Draw a run's predictions over the slide, and export them for QuPath and image tools.

    The slide itself is not needed: its thumbnail is in the store. Colours are absolute: the same probability has the
    same colour in every picture. Existing outputs are replaced.

    Parameters
    ----------
    store : path, URL or TileStore, or several
        A tile store with predictions. Several (a list, a folder, a table, the output of a cohort) are a `Cohort`, whose
        pictures go to ``heatmaps/`` in `output`, and give its `CohortResult`.
    run : str, optional
        Which predictions, or which evidence of a slide-level run (``<run>/<method>`` for another method than the one
        to show). Default: the only run of the store.
    png : path or URL, optional
        Where the picture goes; ``.png``, ``.jpg`` or ``.webp``.
    output : path or URL, optional
        Folder for all other files, named ``<slide_id>-<run>-…``. Default: the one that contains the store.
    formats : sequence of str
        What is written: ``png``, ``argmax``, ``side-by-side``, ``uncertainty``, ``contact`` (pictures), ``geojson``,
        ``regions``, ``overlay``, ``tissue`` (for QuPath), ``ome-tiff``, ``ome-zarr``, ``csv``; features, with the
        probabilities where there is room: ``h5``, ``parquet``, ``stamp``, ``pt``, ``h5ad``.
    options : HeatmapOptions
        Class, threshold, colours, blending; at least one of the formats must use each that is set.
    **keywords
        The fields of `options`, in its place.

    Returns
    -------
    HeatmapOutputs

    Raises
    ------
    UsageError
        Without predictions, for an unknown run, class or format, or for an option out of its range or without use.
    StoreError
        If the store or its predictions are damaged, or if no tile has a prediction.
    OutputError
        If something cannot be written.
    """
    written = formats if png is None else [*formats, "png"]
    check_formats(written, options)
    data = read_map(one_store(store), run, options)
    check_formats(written, options, data)
    for format in written:
        data.check_format(format)
    folder = folder_of(data.store) if output is None else os.fspath(output)
    paths: dict[Format, str] = {} if png is None else {"png": os.fspath(png)}
    for format in formats:
        paths.setdefault(format, join(folder, file_name(data.store, format, options, data)))
    files = {format: write(data.store, format, path, options, data) for format, path in paths.items()}
    names = ", ".join(data.classes[k] for k in data.selected_classes(options.class_name))
    # Evidence is no score of a tile: the slide's own is that of the prediction.
    scores = () if isinstance(data, EvidenceData) else tuple(score_slide(data, options.threshold))
    return HeatmapOutputs(data.slide_id, data.run, names, files, scores)
