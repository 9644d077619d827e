"""Load labelled samples of any kind: stores, slides, a cohort table, an image folder, food-101, a set of the hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from wsivit.data.hub_sets import labelled_hub
from wsivit.data.image_sources import (
    is_food101,
    is_image_folder,
    labelled_folder,
    labelled_food101,
)
from wsivit.data.index import is_index, labelled_index
from wsivit.data.labelled_tiles import (
    EmptyStoreError,
    LabelledTiles,
    NoLabelError,
    Samples,
    combine,
    label_from_store,
    readable_tiles,
    same_scale,
)
from wsivit.data.splits import SIDE_NAMES
from wsivit.data.tile_sources import StoreSource
from wsivit.errors import UsageError
from wsivit.io import is_url, join
from wsivit.ranges import Mpp, TileSize, check_options
from wsivit.slide import JpegColor, Reader, open_slide, slide_stem
from wsivit.slide_list import COHORT, SlideRow, Sources, locations, read_table, slides_below
from wsivit.store import TileStore
from wsivit.tiling import LABEL, TileOptions, find_annotations, tile

Item = TypeVar("Item")
_log = logging.getLogger(__name__)

PICTURE_SIDE = 256
"""Side that pictures of folders are brought to before the model's input is made of them, in pixels."""
LABEL_COLUMN = "label"
"""Label column of a table where no other is named."""
_TILE_FIRST = "make a store of it with wsivit tile (--codec none copies no pixels)"


_LARGEST = {"mpp": 1000, "tile_size": 16_384, "slide_mpp": 1000, "override_slide_mpp": 1000}


@dataclass(frozen=True)
class SlideOptions:
    """How slides that are given as data are read.

    Parameters
    ----------
    mpp : float, optional
        Scale of the tiles, in microns per pixel. Slides are tiled at it; of stores only those at it are taken.
        Default: for slides 0.5, or that of the run; of stores all, which must have one scale.
    tile_size : int, optional
        Side of the tiles, in pixels, likewise. Default: for slides 256, or that of the run.
    slide_mpp : float, optional
        Microns per pixel of the slides themselves, where their files do not say.
    override_slide_mpp : float, optional
        Microns per pixel of all slides, whatever their files say; the column mpp of a table goes first.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}
        Which reader opens slides; auto takes the fastest that reads them rightly.
    jpeg_color : {"auto", "rgb", "ycbcr"}
        What the slides' JPEG tiles hold, where they are labelled wrongly.
    scene : str, optional
        Which picture of files that hold several, by number or name as info lists them (also --series); default: the
        largest that is a slide.
    """

    mpp: Mpp | None = None
    tile_size: TileSize | None = None
    slide_mpp: Mpp | None = None
    override_slide_mpp: Mpp | None = None
    reader: Reader = "auto"
    jpeg_color: JpegColor = "auto"
    scene: str | None = None

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class SlideTiler:
    """Tiles slides into stores of coordinates.

    Parameters
    ----------
    folder : Path, optional
        Where the stores go. Default: nowhere, slides are refused.
    options : SlideOptions
    mpp : float
        Scale where the options name none, in microns per pixel.
    tile_size : int
        Likewise, in pixels.
    """

    folder: Path | None
    options: SlideOptions = SlideOptions()
    mpp: float = TileOptions.mpp
    tile_size: int = TileOptions.tile_size

    def store(
        self,
        slide: str | os.PathLike[str],
        annotations: str | os.PathLike[str] | None = None,
        slide_mpp: float | None = None,
    ) -> Path:
        """Tile one slide without its pixels, or reuse its store; return the store's path.

        Parameters
        ----------
        slide : path
        annotations : path, optional
            Default: those next to the slide, if there are any.
        slide_mpp : float, optional
            Of this slide; instead of that of the options.
        """
        assert self.folder is not None
        given = self.options
        how = TileOptions(mpp=given.mpp or self.mpp, tile_size=given.tile_size or self.tile_size, codec="none")
        with open_slide(
            slide,
            mpp=slide_mpp or given.override_slide_mpp,
            missing_mpp=given.slide_mpp,
            reader=given.reader,
            jpeg_color=given.jpeg_color,
            scene=given.scene,
        ) as opened:
            return tile(opened, self.folder, how, annotations=annotations or find_annotations(slide)).store.path


def load_samples(
    data: Sources,
    label: str | None = None,
    *,
    side: int = PICTURE_SIDE,
    min_classes: int = 2,
    tiler: SlideTiler | None = None,
) -> Samples:
    """Collect labelled pictures from any kind of data.

    Parameters
    ----------
    data : path, str or TileStore, or several
        Tile stores, slides, folders of them, cohort tables (``.csv``), an index of stores (``.parquet``); or an image
        folder, food-101 in torchvision's layout, ``food101`` or ``hf:<id>`` from the hub.
    label : str, optional
        Label column of the stores or the table. Pictures in folders need none; slides have ``region``, of the
        annotations next to them; tables ``label``.
    side : int
        Side that pictures of folders are brought to, in pixels.
    min_classes : int
        How many classes must occur: two to learn, one to measure.
    tiler : SlideTiler, optional
        Makes stores of slides, and says which stores to take; without it slides are refused.

    Raises
    ------
    UsageError
        Something is none of these, has no such label, or there are too few classes.
    StoreMismatchError
        The data differ in scale or tile size.
    """
    loader = _Loader(label, side, tiler)
    parts = [part for item in locations(data) for part in loader.load(item)]
    # Of stores only those of the scale and tile size that were asked for.
    options = tiler.options if tiler else SlideOptions()
    fitting = [
        part
        for part in parts
        if not isinstance(part.source, StoreSource)
        or (options.tile_size in (None, part.source.size) and same_scale(options.mpp, part.source.mpp))
    ]
    if not fitting:
        asked = [f"{options.mpp} microns per pixel"] if options.mpp else []
        asked += [f"tiles of {options.tile_size} px"] if options.tile_size else []
        raise UsageError(f"none of the {len(parts)} stores has {' and '.join(asked)}")
    if len(fitting) < len(parts):
        left_out = len(parts) - len(fitting)
        _log.warning("%d of %d stores have another scale or tile size and are left out", left_out, len(parts))
    return combine(fitting, label or fitting[0].label, min_classes=min_classes)


@dataclass(frozen=True)
class _Loader:
    """Loads one item of the data after the other."""

    label: str | None
    side: int
    tiler: SlideTiler | None

    def load(self, item: str) -> list[LabelledTiles]:
        if item == "food101" or item.startswith("hf:"):
            return labelled_hub(item.removeprefix("hf:"), self.label, self.side)
        if is_index(item):
            return labelled_index(item, self.label)
        if TileStore.is_store(item):
            return [self._store(item)]
        path = Path(item)
        if path.suffix.lower() == ".csv":
            return self._table(path)
        if (path / COHORT).is_file():
            return self._table(path / COHORT, of_cohort=True)
        if path.is_dir():
            return self._folder(path)
        if path.is_file() or is_url(item):
            return [self._slide(item)]
        raise UsageError(
            f"{item}: there is no such store, slide, table, folder or data set (of the hub: hf:owner/name)"
        )

    def _folder(self, folder: Path) -> list[LabelledTiles]:
        below = [folder / name for name in slides_below(str(folder))]
        stores = [path for path in below if TileStore.is_store(path)]
        if stores:
            return _labelled(folder, stores, self._store)
        for food in (folder, folder / "food-101"):
            if is_food101(food):
                return [labelled_food101(food, self.side)]
        if is_image_folder(folder):
            return [labelled_folder(folder, self.side)]
        if below:
            return _labelled(folder, below, self._slide)
        raise UsageError(f"{folder}: holds neither tile stores, nor slides, nor pictures in folders of classes")

    def _store(self, path: str | Path) -> LabelledTiles:
        source = StoreSource(path)
        if self.label is None:
            known = source.store.labels
            raise UsageError(f"{path}: which label? (--label){'; it has ' + ', '.join(known) if known else ''}")
        return label_from_store(source, self.label)

    def _slide(self, path: str | Path) -> LabelledTiles:
        if self.tiler is None or self.tiler.folder is None:
            raise UsageError(f"{path}: is no tile store; {_TILE_FIRST}")
        source = StoreSource(self.tiler.store(path))
        label = self.label or LABEL
        if label not in source.store.labels:
            raise NoLabelError(
                f"{path}: where are its labels? There are no annotations next to it (its name with .geojson or .xml), "
                f"which give the label {LABEL!r}; or give a cohort table (.csv) with its path and a label"
            )
        return label_from_store(source, label)

    def _table(self, path: Path, *, of_cohort: bool = False) -> list[LabelledTiles]:
        """Label the tiles of a table's slides by its column of that name, one value per slide, else by the stores' own.

        Slides without a value are left out; a row with neither store nor path names ``<slide>.zarr`` next to the table.
        Of a cohort's own table, slides without tiles or labels are left out too.
        """
        rows = read_table(str(path))
        for row in rows:
            if row.split and row.split.lower() not in SIDE_NAMES:
                raise UsageError(f"{path}, line {row.line}: split {row.split!r} is none of {', '.join(SIDE_NAMES)}")
        label = self.label or LABEL_COLUMN
        if of_cohort:
            label = self.label or (LABEL_COLUMN if LABEL_COLUMN in rows[0].values else LABEL)
        elif self.label is None and LABEL_COLUMN not in rows[0].values:
            raise UsageError(f"{path}: which label? (--label); its columns are {', '.join(rows[0].values)}")
        wanted = [row for row in rows if row.values.get(label) != ""]
        if not wanted:
            raise UsageError(f"{path}: no slide has a value of {label!r}")
        if len(wanted) < len(rows):
            _log.warning("%s: %d slides without a value of %r are left out", path, len(rows) - len(wanted), label)

        def labelled(row: SlideRow) -> LabelledTiles:
            if of_cohort and not TileStore.is_store(row.store):
                raise NoLabelError(f"{row.store}: slide {row.id} has no tiles: run wsivit tile first")
            source = StoreSource(self._store_of_row(path, row), row.patient, row.site, row.scanner)
            if label in row.values:
                index = readable_tiles(source)
                part = LabelledTiles(source, index, np.zeros(len(index), np.int64), (row.values[label],), label=label)
            else:
                part = label_from_store(source, label)
            if row.split:
                part = replace(part, side=np.full(len(part.index), SIDE_NAMES[row.split.lower()], np.int8))
            return part

        return _labelled(path, wanted, labelled) if of_cohort else [labelled(row) for row in wanted]

    def _store_of_row(self, table: Path, row: SlideRow) -> str | Path:
        path = row.store or row.path or join(table.parent, f"{row.id}.zarr")
        if not TileStore.is_store(path) and not (row.store or row.path):
            path = join(table.parent, f"{slide_stem(row.id)}.zarr")  # where the table has names of files
        if TileStore.is_store(path):
            return path
        slide = row.id or slide_stem(path)
        if path.endswith(".zarr") or not (is_url(path) or Path(path).exists()):
            raise UsageError(f"{table}, slide {slide}: {path} is neither a tile store nor a slide")
        if self.tiler is None or self.tiler.folder is None:
            raise UsageError(f"{table}, slide {slide}: {path} is a slide: {_TILE_FIRST}")
        return self.tiler.store(path, row.annotations or None, row.mpp)


def _labelled(where: Path, items: Sequence[Item], load: Callable[[Item], LabelledTiles]) -> list[LabelledTiles]:
    """Load the items that have labels: among many slides one without stops nothing, but is counted."""
    parts, refused = list[LabelledTiles](), list[Exception]()
    for item in items:
        try:
            parts.append(load(item))
        except (NoLabelError, EmptyStoreError) as error:
            refused.append(error)
    if refused and not parts:
        raise refused[0]
    if refused:
        _log.warning(
            "%s: %d of %d slides have no labels or no tiles and are left out; the first: %s",
            *(where, len(refused), len(items), refused[0]),
        )
    return parts
