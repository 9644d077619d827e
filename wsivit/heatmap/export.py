"""Predictions as pictures and in the forms of other tools."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from wsivit.errors import UsageError
from wsivit.heatmap.heatmap_data import HeatmapData, read_heatmap_data
from wsivit.heatmap.options import Form, HeatmapOptions
from wsivit.io import Output, display_path, is_url, join, local_output, local_path, parent_and_name
from wsivit.store import TileStore

__all__ = ["Form", "HeatmapData", "HeatmapOptions", "aggregate", "export", "read_heatmap_data", "write"]


class _Writer(NamedTuple):
    """How a form is named (by no class, the one it shows, or all that were chosen) and written."""

    ending: str
    shows: Literal["all", "one", "chosen"]
    write: Callable[[HeatmapData, HeatmapOptions, Path], object]


def export(
    store: TileStore | str | os.PathLike[str],
    form: Form,
    output: str | os.PathLike[str] | None = None,
    *,
    run: str | None = None,
    options: HeatmapOptions = HeatmapOptions(),
) -> Output:
    """Write a run's predictions in the form of another tool.

    What was written by an earlier call is replaced. The slide is needed for a contact sheet only, and only where the
    store holds no pixels.

    Parameters
    ----------
    store : path or TileStore
        A tile store, with predictions for all forms but ``tissue``.
    form : str
        ``geojson`` (tiles for QuPath), ``regions`` (merged regions for QuPath), ``overlay`` (colours alone, an RGBA
        OME-TIFF for QuPath), ``ome-tiff`` and ``ome-zarr`` (the score grid), ``csv`` (as WSInfer's), ``h5`` (as
        TRIDENT's and CLAM's), or a picture: ``png``, ``argmax``, ``side-by-side``, ``uncertainty``, ``contact``.
        ``tissue`` is the outline of the tissue for QuPath, and needs no predictions.
    output : path or URL, optional
        The file, or an existing folder (a URL that ends in ``/``) to put it in under its usual name. Default: beside
        the store. GeoJSON is compressed if the name ends in ``.gz``.
    run : str, optional
        Which predictions; may be left out where there is one run only.
    options : HeatmapOptions
        Class, threshold, colours, blending.

    Returns
    -------
    Path or str
        What was written; a URL without credentials.

    Raises
    ------
    UsageError
        Without predictions, or for an unknown form, run or class.
    StoreError
        If the store or its predictions are damaged, or hold not a single number.
    OutputError
        If it cannot be written.
    """
    if form not in get_args(Form):
        raise UsageError(f"no form {form!r}; there are {', '.join(get_args(Form))}")
    opened = store if isinstance(store, TileStore) else TileStore(store)
    if form == "h5" and run is None and opened.encoders and not opened.runs:
        location = _place(opened, output, f"{safe_name(opened.parameters.slide_id)}.h5")
        with local_output(location) as path:
            _write_h5(opened, options, path)
        return display_path(location)
    if form == "tissue":
        location = _place(opened, output, f"{safe_name(opened.parameters.slide_id)}-tissue.geojson")
        with local_output(location) as path:
            _write_tissue(opened, path)
        return display_path(location)
    heat = read_heatmap_data(opened, run, options.window, options.smoothing)
    return write(heat, form, _place(opened, output, file_name(heat, form, options)), options)


def _place(store: TileStore, output: str | os.PathLike[str] | None, name: str) -> str:
    """Where an output goes: to the path given, or under its usual name into the folder given or beside the store."""
    given = None if output is None else os.fspath(output)
    return join(given or beside(store), name) if given is None or _is_folder(given) else given


def _is_folder(location: str) -> bool:
    """Whether an output goes into it under its usual name: a folder that is there, a URL that ends in ``/``."""
    if is_url(location):
        return location.endswith("/")
    folder = Path(local_path(location))
    return folder.is_dir() and not (folder / "zarr.json").exists()


def write(heat: HeatmapData, form: Form, location: str | os.PathLike[str], options: HeatmapOptions) -> Output:
    """Write one form of a run to a path or URL, and return where it is."""
    with local_output(location) as path:
        _writers()[form].write(heat, options, path)
    return display_path(location)


def aggregate(
    stores: Sequence[TileStore | str | os.PathLike[str]],
    output: str | os.PathLike[str] = "slide_scores.csv",
    *,
    run: str | None = None,
    top_k: int = 10,
    thresholds: Mapping[str, float] | None = None,
    options: HeatmapOptions = HeatmapOptions(),
) -> Output:
    """Sum slides up in one table: mean, top-k mean, noisy-or, area fraction and largest focus of every class.

    The table says with what threshold, window and smoothing each line was made.

    Parameters
    ----------
    stores : sequence of path or TileStore
    output : path or URL
    run : str, optional
        Which predictions; may be left out where each store has one run only.
    top_k : int
        How many of the highest tiles the top-k mean is of.
    thresholds : dict of str to float, optional
        Thresholds of classes that have their own; on the command line ``--thresholds.tumor 0.3``.
    options : HeatmapOptions
        The one class, if only one is asked for; threshold, blending, smoothing.

    Returns
    -------
    Path or str
        The table.
    """
    from wsivit.heatmap.tables import write_slide_scores

    rows = []
    for store in stores:
        heat = read_heatmap_data(store, run, options.window, options.smoothing)
        found = heat.summary(options.threshold, top_k, thresholds or {})
        wanted = range(len(found)) if options.class_name is None else [heat.class_index(options.class_name)]
        rows.append((heat.facts, [found[k] for k in wanted]))
    if unknown := set(thresholds or {}) - {score.class_name for _, scores in rows for score in scores}:
        raise UsageError(f"no slide has a class {', '.join(sorted(unknown))}, for which there is a threshold")
    with local_output(output) as path:
        write_slide_scores(rows, path)
    return display_path(output)


def file_name(heat: HeatmapData, form: Form, options: HeatmapOptions) -> str:
    """Usual name of an output: ``<slide_id>-<run>[-<class>]…``, without what file systems or shells stumble over."""
    writer = _writers()[form]
    words = [heat.slide_id, heat.run]
    if writer.shows == "one" or (writer.shows == "chosen" and len(heat.chosen(options.class_name)) == 1):
        words.append(heat.classes[heat.class_index(options.class_name)])
    return "-".join(map(safe_name, words)) + writer.ending


def safe_name(word: str) -> str:
    """Return a word as it can be part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", word).strip("_.") or "_"


def beside(store: TileStore) -> str:
    """Folder or URL for outputs of a store: the one it lies in."""
    return parent_and_name(store.files.location)[0]


def _writers() -> dict[Form, _Writer]:
    from wsivit.heatmap import contact_sheet as contact
    from wsivit.heatmap import figure as picture
    from wsivit.heatmap import geojson, ome_tiff, ome_zarr, tables

    return {
        "png": _Writer(".png", "chosen", picture.draw_heatmap),
        "argmax": _Writer("-argmax.png", "all", picture.draw_argmax),
        "side-by-side": _Writer("-side-by-side.png", "one", picture.draw_side_by_side),
        "uncertainty": _Writer("-uncertainty.png", "all", picture.draw_uncertainty),
        "contact": _Writer("-contact.png", "one", contact.draw_contact_sheet),
        "geojson": _Writer("-tiles.geojson", "all", lambda heat, _, path: geojson.write_tiles(heat, path)),
        "regions": _Writer("-regions.geojson", "chosen", _write_regions),
        "ome-tiff": _Writer(".ome.tif", "all", lambda heat, _, path: ome_tiff.write_scores(heat, path)),
        "overlay": _Writer("-overlay.ome.tif", "one", ome_tiff.write_overlay),
        "ome-zarr": _Writer(".ome.zarr", "all", lambda heat, _, path: ome_zarr.write_ome_zarr(heat, path)),
        "csv": _Writer(".csv", "all", lambda heat, _, path: tables.write_csv(heat, path)),
        "h5": _Writer(".h5", "all", lambda heat, options, path: _write_h5(heat.store, options, path, heat)),
        "tissue": _Writer("-tissue.geojson", "all", lambda heat, _, path: _write_tissue(heat.store, path)),
    }


def _write_h5(store: TileStore, options: HeatmapOptions, path: Path, heat: HeatmapData | None = None) -> Path:
    from wsivit.heatmap.tables import write_h5

    write_h5(store, path, heat, options.encoder)
    return path


def _write_tissue(store: TileStore, path: Path) -> Path:
    from wsivit.heatmap.geojson import write_tissue

    write_tissue(store, path)
    return path


def _write_regions(heat: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    from wsivit.heatmap.geojson import write_regions

    write_regions(heat, heat.chosen(options.class_name), options.threshold, path)
