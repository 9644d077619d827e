"""Predictions as pictures and in the formats of other tools: `export_formats` is the table of all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from wsivit.errors import UsageError
from wsivit.heatmap.heatmap_data import HeatmapData, read_heatmap_data
from wsivit.heatmap.options import Format, HeatmapOptions
from wsivit.io import Output, display_path, is_url, join, local_output, local_path, parent_and_name
from wsivit.store import TileStore


class ExportFormat(NamedTuple):
    """How an export format is named and written.

    Attributes
    ----------
    ending : str
        End of the file's name.
    names : {"slide", "run", "class", "chosen"}
        What the name starts with: the slide; slide and run; these and a class; a class only if one alone is shown.
    write : callable
        Writes one file (or folder), atomically: ``write(data, options, path)``.
    """

    ending: str
    names: Literal["slide", "run", "class", "chosen"]
    write: Callable[[HeatmapData, HeatmapOptions, Path], None]


@cache
def export_formats() -> dict[Format, ExportFormat]:
    """Return all export formats. A new one is a line here, its name in `Format`, and a module that writes it."""
    # Imported at the first use: most calls of the library write nothing, and shapely takes a while to load.
    from wsivit.heatmap.contact_sheet import draw_contact_sheet
    from wsivit.heatmap.geojson import write_regions, write_tiles, write_tissue
    from wsivit.heatmap.ome_tiff import write_overlay, write_scores
    from wsivit.heatmap.ome_zarr import write_ome_zarr
    from wsivit.heatmap.pictures import draw_argmax, draw_heatmap, draw_side_by_side, draw_uncertainty
    from wsivit.heatmap.trident_h5 import write_h5
    from wsivit.heatmap.wsinfer_csv import write_csv

    return {
        "png": ExportFormat(".png", "chosen", draw_heatmap),
        "argmax": ExportFormat("-argmax.png", "run", draw_argmax),
        "side-by-side": ExportFormat("-side-by-side.png", "class", draw_side_by_side),
        "uncertainty": ExportFormat("-uncertainty.png", "run", draw_uncertainty),
        "contact": ExportFormat("-contact.png", "class", draw_contact_sheet),
        "geojson": ExportFormat("-tiles.geojson", "run", lambda data, _, path: write_tiles(data, path)),
        "regions": ExportFormat("-regions.geojson", "chosen", write_regions),
        "ome-tiff": ExportFormat(".ome.tif", "run", lambda data, _, path: write_scores(data, path)),
        "overlay": ExportFormat("-overlay.ome.tif", "class", write_overlay),
        "ome-zarr": ExportFormat(".ome.zarr", "run", lambda data, _, path: write_ome_zarr(data, path)),
        "csv": ExportFormat(".csv", "run", lambda data, _, path: write_csv(data, path)),
        "h5": ExportFormat(".h5", "run", lambda data, options, path: write_h5(data.store, path, options.encoder, data)),
        "tissue": ExportFormat("-tissue.geojson", "slide", lambda data, _, path: write_tissue(data.store, path)),
    }


def export(
    store: TileStore | str | os.PathLike[str],
    format: Format,
    output: str | os.PathLike[str] | None = None,
    *,
    run: str | None = None,
    options: HeatmapOptions = HeatmapOptions(),
) -> Output:
    """Write a run's predictions in the format of another tool.

    An existing output is replaced. Only a contact sheet needs the slide, and only if the store has no pixels.

    Parameters
    ----------
    store : path or TileStore
        A tile store, with predictions for all formats but ``tissue``.
    format : str
        ``geojson`` (tiles for QuPath), ``regions`` (merged regions for QuPath), ``overlay`` (colours alone, an RGBA
        OME-TIFF for QuPath), ``ome-tiff`` and ``ome-zarr`` (the score map), ``csv`` (as WSInfer's), ``h5`` (as
        TRIDENT's and CLAM's), or a picture: ``png``, ``argmax``, ``side-by-side``, ``uncertainty``, ``contact``.
        ``tissue`` is the outline of the tissue for QuPath, and needs no predictions.
    output : path or URL, optional
        The file, or an existing folder (a URL that ends in ``/``) for a file of the usual name. Default: next to the
        store. GeoJSON is compressed if the name ends in ``.gz``.
    run : str, optional
        Which predictions. Default: the only run of the store.
    options : HeatmapOptions
        Class, threshold, colours, blending.

    Returns
    -------
    Path or str
        What was written; a URL without credentials.

    Raises
    ------
    UsageError
        Without predictions, or for an unknown format, run or class.
    StoreError
        If the store or its predictions are damaged, or if no tile has a prediction.
    OutputError
        If it cannot be written.
    """
    check_formats([format])
    opened = store if isinstance(store, TileStore) else TileStore(store)
    if format == "tissue" or (format == "h5" and run is None and opened.encoders and not opened.runs):
        return _export_without_predictions(opened, format, output, options.encoder)
    data = read_heatmap_data(opened, run, options.window, options.smoothing)
    return write(data, format, _output_location(opened, output, file_name(data, format, options)), options)


def _export_without_predictions(
    store: TileStore, format: Format, output: str | os.PathLike[str] | None, encoder: str | None
) -> Output:
    from wsivit.heatmap.geojson import write_tissue
    from wsivit.heatmap.trident_h5 import write_h5

    name = _safe_name(store.parameters.slide_id) + export_formats()[format].ending
    location = _output_location(store, output, name)
    with local_output(location) as path:
        if format == "tissue":
            write_tissue(store, path)
        else:
            write_h5(store, path, encoder)
    return display_path(location)


def check_formats(formats: Iterable[str]) -> None:
    """Raise UsageError unless all are export formats."""
    if unknown := set(formats) - set(get_args(Format)):
        known = ", ".join(get_args(Format))
        raise UsageError(f"unknown export format {', '.join(sorted(unknown))}; choose from {known}")


def write(data: HeatmapData, format: Format, location: str | os.PathLike[str], options: HeatmapOptions) -> Output:
    """Write one format of a run to a path or URL, and return where it is."""
    with local_output(location) as path:
        export_formats()[format].write(data, options, path)
    return display_path(location)


def file_name(data: HeatmapData, format: Format, options: HeatmapOptions) -> str:
    """Usual name of an output: ``<slide_id>[-<run>[-<class>]]…``, safe on every file system and in every shell."""
    ending, names, _ = export_formats()[format]
    words = [data.slide_id] if names == "slide" else [data.slide_id, data.run]
    if names == "class" or (names == "chosen" and len(data.chosen(options.class_name)) == 1):
        words.append(data.classes[data.class_index(options.class_name)])
    return "-".join(map(_safe_name, words)) + ending


def folder_of(store: TileStore) -> str:
    """Folder or URL that contains a store: the default place of its outputs."""
    return parent_and_name(store.files.location)[0]


def _output_location(store: TileStore, output: str | os.PathLike[str] | None, name: str) -> str:
    """Return the path that was given, or the usual name in the folder that was given or contains the store."""
    if output is None:
        return join(folder_of(store), name)
    location = os.fspath(output)
    if is_url(location):
        return join(location, name) if location.endswith("/") else location
    # A store is a folder too, but not one to write into.
    folder = Path(local_path(location))
    return join(location, name) if folder.is_dir() and not (folder / "zarr.json").exists() else location


def _safe_name(word: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", word).strip("_.") or "_"
