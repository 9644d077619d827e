"""Predictions as pictures and in the forms of other tools."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from wsivit.errors import UsageError
from wsivit.export.options import Form, HeatmapOptions
from wsivit.export.source import Heat, read_heat
from wsivit.store import TileStore

__all__ = ["Form", "Heat", "HeatmapOptions", "export", "read_heat", "score_slides", "write"]


class _Writer(NamedTuple):
    """How a form is named (by no class, the one it shows, or all that were chosen) and written."""

    ending: str
    shows: Literal["all", "one", "chosen"]
    write: Callable[[Heat, HeatmapOptions, Path], object]


def export(
    store: TileStore | str | os.PathLike[str],
    form: Form,
    output: str | os.PathLike[str] | None = None,
    *,
    run: str | None = None,
    options: HeatmapOptions = HeatmapOptions(),
) -> Path:
    """Write a run's predictions in the form of another tool.

    What was written by an earlier call is replaced. The slide is needed for a contact sheet only, and only where the
    store holds no pixels.

    Parameters
    ----------
    store : path or TileStore
        A tile store with predictions.
    form : str
        ``geojson`` (tiles for QuPath), ``regions`` (merged regions for QuPath), ``overlay`` (colours alone, an RGBA
        OME-TIFF for QuPath), ``ome-tiff`` and ``ome-zarr`` (the score grid), ``csv`` (as WSInfer's), ``h5`` (as
        TRIDENT's and CLAM's), or a picture: ``png``, ``argmax``, ``side-by-side``, ``contact``.
    output : path, optional
        The file, or an existing folder to put it in under its usual name. Default: beside the store. GeoJSON is
        compressed if the name ends in ``.gz``.
    run : str, optional
        Which predictions; may be left out where there is one run only.
    options : HeatmapOptions
        Class, threshold, colours, blending.

    Returns
    -------
    Path
        What was written.

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
    heat = read_heat(store, run, options.window, options.smoothing)
    given = None if output is None else Path(output)
    if given is None or (given.is_dir() and not (given / "zarr.json").exists()):
        given = (given or beside(heat.store)) / file_name(heat, form, options)
    return write(heat, form, given, options)


def write(heat: Heat, form: Form, path: Path, options: HeatmapOptions) -> Path:
    """Write one form of a run to a path, and return that."""
    _writers()[form].write(heat, options, path)
    return path


def score_slides(
    stores: Sequence[TileStore | str | os.PathLike[str]],
    output: str | os.PathLike[str] = "slide_scores.csv",
    *,
    run: str | None = None,
    top_k: int = 10,
    options: HeatmapOptions = HeatmapOptions(),
) -> Path:
    """Sum slides up in one table: mean, top-k mean, noisy-or, area fraction and largest focus of every class.

    Parameters
    ----------
    stores : sequence of path or TileStore
    output : path
    run : str, optional
        Which predictions; may be left out where each store has one run only.
    top_k : int
        How many of the highest tiles the top-k mean is of.
    options : HeatmapOptions
        Threshold, blending, smoothing.

    Returns
    -------
    Path
        The table.
    """
    from wsivit.export.tables import write_slide_scores

    rows = []
    for store in stores:
        heat = read_heat(store, run, options.window, options.smoothing)
        rows.append((heat.slide_id, heat.run, heat.summary(options.threshold, top_k)))
    write_slide_scores(rows, Path(output))
    return Path(output)


def file_name(heat: Heat, form: Form, options: HeatmapOptions) -> str:
    """Usual name of an output: ``<slide_id>-<run>[-<class>]…``, without what file systems or shells stumble over."""
    writer = _writers()[form]
    words = [heat.slide_id, heat.run]
    if writer.shows == "one" or (writer.shows == "chosen" and len(heat.chosen(options.class_name)) == 1):
        words.append(heat.classes[heat.class_index(options.class_name)])
    return "-".join(re.sub(r"[^\w.+-]+", "_", word).strip("_.") or "_" for word in words) + writer.ending


def beside(store: TileStore) -> Path:
    """Folder for outputs of a store: the one it lies in, or the current one for a store behind a URL."""
    return Path() if "://" in store.url else store.path.parent


def _writers() -> dict[Form, _Writer]:
    from wsivit.export import contact, geojson, ome_tiff, ome_zarr, picture, tables

    return {
        "png": _Writer(".png", "chosen", picture.draw_heatmap),
        "argmax": _Writer("-argmax.png", "all", picture.draw_argmax),
        "side-by-side": _Writer("-side-by-side.png", "one", picture.draw_side_by_side),
        "contact": _Writer("-contact.png", "one", contact.draw_contact_sheet),
        "geojson": _Writer("-tiles.geojson", "all", lambda heat, _, path: geojson.write_tiles(heat, path)),
        "regions": _Writer("-regions.geojson", "chosen", _write_regions),
        "ome-tiff": _Writer(".ome.tif", "all", lambda heat, _, path: ome_tiff.write_scores(heat, path)),
        "overlay": _Writer("-overlay.ome.tif", "one", ome_tiff.write_overlay),
        "ome-zarr": _Writer(".ome.zarr", "all", lambda heat, _, path: ome_zarr.write_ome_zarr(heat, path)),
        "csv": _Writer(".csv", "all", lambda heat, _, path: tables.write_csv(heat, path)),
        "h5": _Writer(".h5", "all", lambda heat, _, path: tables.write_h5(heat, path)),
    }


def _write_regions(heat: Heat, options: HeatmapOptions, path: Path) -> None:
    from wsivit.export.geojson import write_regions

    write_regions(heat, heat.chosen(options.class_name), options.threshold, path)
