"""Predictions as pictures and in the formats of other tools: `export_formats` is the table of all of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from wsivit._keywords import options_as_keywords
from wsivit.errors import UsageError
from wsivit.heatmap.evidence_data import has_evidence, read_evidence_data
from wsivit.heatmap.heatmap_data import HeatmapData, read_heatmap_data
from wsivit.heatmap.options import Format, HeatmapOptions
from wsivit.io import Output, display_path, is_url, join, local_output, local_path, parent_and_name
from wsivit.slide_list import Sources, find_stores, is_one
from wsivit.store import TileStore


class ExportFormat(NamedTuple):
    """How an export format is named and written.

    Attributes
    ----------
    ending : str
        End of the file's name.
    names : {"slide", "run", "class", "selected"}
        What the name starts with: the slide; slide and run; these and a class; a class only if a single one is shown.
    options : str
        Fields of `HeatmapOptions` that the format uses, separated by spaces.
    write : callable
        Writes one file (or folder), atomically: ``write(data, options, path)``.
    """

    ending: str
    names: Literal["slide", "run", "class", "selected"]
    options: str
    write: Callable[[HeatmapData, HeatmapOptions, Path], None]


@cache
def export_formats() -> dict[Format, ExportFormat]:
    """Return all export formats. A new one is a line here, its name in `Format`, and a function that writes it."""
    # Imported at the first use: most calls of the library write nothing, and shapely takes a while to load.
    from wsivit.heatmap.geojson import write_regions, write_tiles, write_tissue
    from wsivit.heatmap.ome_images import write_ome_tiff, write_ome_zarr, write_overlay
    from wsivit.heatmap.pictures import (
        draw_argmax,
        draw_contact_sheet,
        draw_heatmap,
        draw_side_by_side,
        draw_uncertainty,
    )
    from wsivit.heatmap.tile_tables import write_csv, write_h5

    stitching = "window smoothing"
    colors = "cmap alpha vmin vmax size interpolation"
    of_class = f"class_name threshold {stitching} {colors}"
    return {
        "png": ExportFormat(".png", "selected", of_class, draw_heatmap),
        "argmax": ExportFormat("-argmax.png", "run", f"{stitching} alpha size", draw_argmax),
        "side-by-side": ExportFormat("-side-by-side.png", "class", of_class, draw_side_by_side),
        "uncertainty": ExportFormat("-uncertainty.png", "run", f"{stitching} {colors}", draw_uncertainty),
        "contact": ExportFormat("-contact.png", "class", "class_name", draw_contact_sheet),
        "geojson": ExportFormat("-tiles.geojson", "run", "", lambda data, _, path: write_tiles(data, path)),
        "regions": ExportFormat("-regions.geojson", "selected", f"class_name threshold {stitching}", write_regions),
        "ome-tiff": ExportFormat(".ome.tif", "run", stitching, lambda data, _, path: write_ome_tiff(data, path)),
        "overlay": ExportFormat("-overlay.ome.tif", "class", f"class_name {stitching} {colors}", write_overlay),
        "ome-zarr": ExportFormat(".ome.zarr", "run", stitching, lambda data, _, path: write_ome_zarr(data, path)),
        "csv": ExportFormat(".csv", "run", "", lambda data, _, path: write_csv(data, path)),
        "h5": ExportFormat(
            ".h5", "run", "encoder", lambda data, options, path: write_h5(data.store, path, options.encoder, data)
        ),
        "tissue": ExportFormat("-tissue.geojson", "slide", "", lambda data, _, path: write_tissue(data.store, path)),
    }


@options_as_keywords
def export(
    store: Sources,
    format: Format,
    output: str | os.PathLike[str] | None = None,
    *,
    run: str | None = None,
    options: HeatmapOptions = HeatmapOptions(),
    **keywords: Any,
) -> Output | tuple[Output, ...]:
    """Write a run's predictions in the format of another tool.

    An existing output is replaced. Only a contact sheet needs the slide, and only if the store has no pixels.

    Parameters
    ----------
    store : path or TileStore, or several
        A tile store, with predictions for all formats but ``tissue``. Several (a list, a folder, a table, the output of
        a cohort) give a file each in the folder `output`, next to each store without it.
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
        Class, threshold, colours, blending; each format uses some of them.
    **keywords
        The fields of `options`, in its place.

    Returns
    -------
    Path or str
        What was written; a URL without credentials. Of several stores a tuple of these.

    Raises
    ------
    UsageError
        Without predictions, for an unknown format, run or class, or for an option that the format does not use.
    StoreError
        If the store or its predictions are damaged, or if no tile has a prediction.
    OutputError
        If it cannot be written.
    """
    check_formats([format], options)
    if is_one(store):
        return _export_one(one_store(store), format, output, run, options)
    stores = [one_store(found) for found in find_stores(store)]
    if output is not None:
        slide, times = Counter(opened.parameters.slide_id for opened in stores).most_common(1)[0]
        if times > 1:
            raise UsageError(f"{times} stores are of a slide {slide}: export each into a folder of its own")
        if not is_url(output):
            Path(local_path(output)).mkdir(parents=True, exist_ok=True)
    folder = None if output is None else join(output, "")
    written = [_export_one(opened, format, folder, run, options) for opened in stores]
    return tuple(written)


def one_store(source: Sources) -> TileStore:
    """Open a store, unless it is open."""
    if isinstance(source, str | os.PathLike):
        return TileStore(source)
    if not isinstance(source, TileStore):
        raise UsageError(f"{source!r} is no tile store")
    return source


def _export_one(
    opened: TileStore, format: Format, output: str | os.PathLike[str] | None, run: str | None, options: HeatmapOptions
) -> Output:
    if format != "tissue" and (format != "h5" or run is not None or opened.runs or not opened.encoders):
        data = read_map(opened, run, options)
        check_formats([format], options, data)
        return write(data, format, _output_location(opened, output, file_name(data, format, options)), options)
    # The outline of the tissue, and features, need no predictions.
    from wsivit.heatmap.geojson import write_tissue
    from wsivit.heatmap.tile_tables import write_h5

    name = _safe_name(opened.parameters.slide_id) + export_formats()[format].ending
    location = _output_location(opened, output, name)
    with local_output(location) as path:
        if format == "tissue":
            write_tissue(opened, path)
        else:
            write_h5(opened, path, options.encoder)
    return display_path(location)


def read_map(store: TileStore, run: str | None, options: HeatmapOptions) -> HeatmapData:
    """Read what a run predicts of the tiles, or for a slide-level run the evidence of each tile."""
    if has_evidence(store, run):
        return read_evidence_data(store, run, options.window, options.smoothing)
    return read_heatmap_data(store, run, options.window, options.smoothing)


def check_formats(formats: Iterable[str], options: HeatmapOptions, data: HeatmapData | None = None) -> None:
    """Check that formats exist, and that each option which is set is used by at least one of them.

    Raises
    ------
    UsageError
        With the unknown format, or the option without use; of the classes in `data`, if given.
    """
    if unknown := set(formats) - set(get_args(Format)):
        known = ", ".join(get_args(Format))
        raise UsageError(f"unknown export format {', '.join(sorted(unknown))}; choose from {known}")
    table: dict[str, ExportFormat] = {name: known for name, known in export_formats().items()}  # noqa: C416 - of any text
    if data is not None and len(data.selected_classes(options.class_name)) > 1:
        table["png"] = table["argmax"]  # the picture of several classes
    used = {name for format in formats for name in table[format].options.split()}
    for field in fields(options):
        if field.name not in used and getattr(options, field.name) != field.default:
            users = ", ".join(format for format, known in table.items() if field.name in known.options.split())
            several = " of a run with several classes" if data is not None and "png" in formats else ""
            raise UsageError(
                f"{field.name} makes no difference to {', '.join(formats)}{several}: leave it out; it is for {users}"
            )


def write(data: HeatmapData, format: Format, location: str | os.PathLike[str], options: HeatmapOptions) -> Output:
    """Write one format of a run to a path or URL, and return where it is."""
    data.check_format(format)
    with local_output(location) as path:
        export_formats()[format].write(data, data.fit(options), path)
    return display_path(location)


def file_name(data: HeatmapData, format: Format, options: HeatmapOptions) -> str:
    """Usual name of an output: ``<slide_id>[-<run>[-<class>]]…``, safe on every file system and in every shell."""
    ending, names, _, _ = export_formats()[format]
    words = [data.slide_id] if names == "slide" else [data.slide_id, data.run]
    if names == "class" or (names == "selected" and len(data.selected_classes(options.class_name)) == 1):
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
