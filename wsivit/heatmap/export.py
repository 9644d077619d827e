"""Predictions and features in the formats of other tools, and as pictures: `export_formats` is the table of all."""

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
from wsivit.heatmap.feature_bag import FeatureBag, chosen_encoder, read_features
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
    suffixes : tuple of str
        How a file of this format may end, where a person names it.
    names : {"slide", "run", "class", "selected", "encoder"}
        What the name starts with: the slide; slide and run; these and a class; a class only if a single one is shown;
        a folder of the encoder's name, and in it the slide, as TRIDENT, CLAM and STAMP look for them.
    options : str
        Fields of `HeatmapOptions` that the format uses, separated by spaces.
    write : callable
        Writes one file (or folder), atomically: ``write(content, options, path)``. The content is a `FeatureBag` for
        names of an encoder, a `TileStore` for those of a slide, else `HeatmapData`.
    """

    ending: str
    suffixes: tuple[str, ...]
    names: Literal["slide", "run", "class", "selected", "encoder"]
    options: str
    write: Callable[[Any, HeatmapOptions, Path], None]


@cache
def export_formats() -> dict[Format, ExportFormat]:
    """Return all export formats. A new one is a line here, its name in `Format`, and a function that writes it."""
    # Imported at the first use: most calls of the library write nothing, and shapely takes a while to load.
    from wsivit.heatmap.anndata_h5ad import write_h5ad
    from wsivit.heatmap.contact_sheet import draw_contact_sheet
    from wsivit.heatmap.figure import PICTURE_FORMATS
    from wsivit.heatmap.geojson import write_regions, write_tiles, write_tissue
    from wsivit.heatmap.ome_images import write_ome_tiff, write_ome_zarr, write_overlay
    from wsivit.heatmap.parquet_table import write_parquet
    from wsivit.heatmap.pictures import (
        draw_argmax,
        draw_heatmap,
        draw_side_by_side,
        draw_uncertainty,
    )
    from wsivit.heatmap.stamp_h5 import write_stamp_h5
    from wsivit.heatmap.torch_file import write_torch_file
    from wsivit.heatmap.trident_h5 import write_trident_h5
    from wsivit.heatmap.wsinfer_csv import write_csv

    def plain(write: Callable[[Any, Path], None]) -> Callable[[Any, HeatmapOptions, Path], None]:
        return lambda content, _, path: write(content, path)

    picture, geojson = tuple(PICTURE_FORMATS), (".geojson", ".json", ".geojson.gz", ".json.gz")
    h5, tiff = (".h5", ".hdf5"), (".tif", ".tiff")
    stitching = "window smoothing"
    colors = "cmap alpha vmin vmax size interpolation hatch_trained"
    of_class = f"class_name threshold {stitching} {colors}"
    of_regions = f"class_name threshold {stitching}"
    return {
        "png": ExportFormat(".png", picture, "selected", of_class, draw_heatmap),
        "argmax": ExportFormat("-argmax.png", picture, "run", f"{stitching} alpha size hatch_trained", draw_argmax),
        "side-by-side": ExportFormat("-side-by-side.png", picture, "class", of_class, draw_side_by_side),
        "uncertainty": ExportFormat("-uncertainty.png", picture, "run", f"{stitching} {colors}", draw_uncertainty),
        "contact": ExportFormat("-contact.png", picture, "class", "class_name", draw_contact_sheet),
        "geojson": ExportFormat("-tiles.geojson", geojson, "run", "", plain(write_tiles)),
        "regions": ExportFormat("-regions.geojson", geojson, "selected", of_regions, write_regions),
        "ome-tiff": ExportFormat(".ome.tif", tiff, "run", stitching, plain(write_ome_tiff)),
        "overlay": ExportFormat(
            "-overlay.ome.tif",
            tiff,
            "class",
            f"class_name {stitching} cmap alpha vmin vmax size interpolation",
            write_overlay,
        ),
        "ome-zarr": ExportFormat(".ome.zarr", (".zarr",), "run", stitching, plain(write_ome_zarr)),
        "csv": ExportFormat(".csv", (".csv",), "run", "", plain(write_csv)),
        "h5": ExportFormat(".h5", h5, "encoder", "encoder", plain(write_trident_h5)),
        "stamp": ExportFormat("-stamp.h5", h5, "encoder", "encoder", plain(write_stamp_h5)),
        "pt": ExportFormat(".pt", (".pt", ".pth"), "encoder", "encoder", plain(write_torch_file)),
        "parquet": ExportFormat(".parquet", (".parquet",), "encoder", "encoder", plain(write_parquet)),
        "h5ad": ExportFormat(".h5ad", (".h5ad",), "encoder", "encoder", plain(write_h5ad)),
        "tissue": ExportFormat("-tissue.geojson", geojson, "slide", "", plain(write_tissue)),
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
    """Write a run's predictions, or an encoder's features, in the format of another tool.

    An existing output is replaced. Only a contact sheet needs the slide, and only if the store has no pixels.

    Parameters
    ----------
    store : path or TileStore, or several
        A tile store, with predictions for all formats but ``tissue`` and those of features. Several (a list, a folder,
        a table, the output of a cohort) give a file each in the folder `output`, next to each store without it.
    format : str
        ``geojson`` (tiles for QuPath), ``regions`` (merged regions for QuPath), ``overlay`` (colours alone, an RGBA
        OME-TIFF for QuPath), ``ome-tiff`` and ``ome-zarr`` (the score map), ``csv`` (as WSInfer's), or a picture:
        ``png``, ``argmax``, ``side-by-side``, ``uncertainty``, ``contact``. Of features: ``h5`` (as TRIDENT's and
        CLAM's), ``stamp`` (as STAMP's), ``pt`` (a torch tensor, as CLAM's), ``parquet``, ``h5ad`` (AnnData). ``tissue``
        is the outline of the tissue for QuPath.
    output : path or URL, optional
        The file, where the name ends as the format does; else a folder for a file of the usual name. Default: next to
        the store. GeoJSON is compressed if the name ends in ``.gz``.
    run : str, optional
        Which predictions. Default: the only run of the store. ``h5`` and ``parquet`` hold the probabilities of a run
        that is named here, and of the only one where the store has no features.
    options : HeatmapOptions
        Class, threshold, colours, blending, encoder; each format uses some of them.
    **keywords
        The fields of `options`, in its place: ``export(store, "png", cmap="magma")``.

    Returns
    -------
    Path or str
        What was written; a URL without credentials. Of several stores a tuple of these.

    Raises
    ------
    UsageError
        Without predictions or features, for an unknown format, run or class, for an option that the format does not
        use, or a name that ends as another format does.
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
    names = export_formats()[format].names
    # Features and the outline of the tissue need no predictions.
    of_features = names == "encoder" and (run is None and (bool(opened.encoders) or not opened.runs))
    data = None
    if names != "slide" and not of_features:
        data = read_map(opened, run, options)
        check_formats([format], options, data)
    name = file_name(opened, format, options, data)
    return write(opened, format, _output_location(opened, format, output, name), options, data)


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
    formats = list(formats)
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


def write(
    store: TileStore,
    format: Format,
    location: str | os.PathLike[str],
    options: HeatmapOptions,
    data: HeatmapData | None = None,
) -> Output:
    """Write one format of a store, or of a run of it, to a path or URL, and return where it is."""
    names = export_formats()[format].names
    content: FeatureBag | HeatmapData | TileStore = data or store
    if names == "encoder":
        content = read_features(store, options.encoder, data)
    elif names == "slide":
        content = store
    if data is not None:
        data.check_format(format)
        options = data.fit(options)
    with local_output(location) as path:
        export_formats()[format].write(content, options, path)
    return display_path(location)


def file_name(store: TileStore, format: Format, options: HeatmapOptions, data: HeatmapData | None) -> str:
    """Usual name of an output: ``<slide_id>[-<run>[-<class>]]…``, safe on every file system and in every shell.

    Features are in a folder of the encoder's name: ``<encoder>/<slide_id>.h5``.
    """
    known = export_formats()[format]
    words, folder = [store.parameters.slide_id], ""
    if data is not None and known.names != "slide":
        words.append(data.run)
        if known.names == "class" or (
            known.names == "selected" and len(data.selected_classes(options.class_name)) == 1
        ):
            words.append(data.classes[data.class_index(options.class_name)])
    if known.names == "encoder" and (encoder := chosen_encoder(store, options.encoder)) is not None:
        folder = f"{_safe_name(encoder)}/"
    return folder + "-".join(map(_safe_name, words)) + known.ending


def folder_of(store: TileStore) -> str:
    """Folder or URL that contains a store: the default place of its outputs."""
    return parent_and_name(store.files.location)[0]


def _output_location(store: TileStore, format: Format, output: str | os.PathLike[str] | None, name: str) -> str:
    """Return the file that was named, or the usual name in the folder that was named or contains the store.

    What ends like a file of the format is one, everything else a folder: were it otherwise, the outputs of many slides
    into a folder that does not exist yet would all have its name, and replace one another.
    """
    if output is None:
        return join(folder_of(store), name)
    location = os.fspath(output)
    ends = location.lower()
    if not is_url(location):
        folder = Path(local_path(location))
        if (folder / "zarr.json").exists():  # a store, which is never replaced, or an earlier OME-Zarr
            return location
        if folder.is_dir():
            return join(location, name)
    if not ends.endswith("/"):
        if ends.endswith(export_formats()[format].suffixes):
            return location
        foreign = {suffix for known in export_formats().values() for suffix in known.suffixes} | _NO_FOLDERS
        if ends.endswith(tuple(foreign)):
            suffixes = ", ".join(export_formats()[format].suffixes)
            raise UsageError(f"{location}: {format} is written as {suffixes}; name such a file, or a folder")
    return join(location, name)


_NO_FOLDERS = {".pdf", ".svg", ".gif", ".txt", ".tsv", ".xlsx", ".npy", ".npz", ".xml", ".zip"}
"""Ends of names that a person means as a file."""


def _safe_name(word: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", word).strip("_.") or "_"
