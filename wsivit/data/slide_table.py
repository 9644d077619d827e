"""The slides of a table as labelled tiles. No torch."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsivit.data.image_sources import SPLIT_FOLDERS
from wsivit.data.labelled_tiles import LabelledTiles, StoreSource, label_from_store, readable_tiles
from wsivit.data.slide_tiles import SlideTiler
from wsivit.errors import UsageError
from wsivit.io import is_url, join
from wsivit.slide_list import SlideRow, read_table
from wsivit.store import TileStore

_log = logging.getLogger(__name__)

LABEL_COLUMN = "label"
"""Of a table, where no other is named."""
TILE_FIRST = "make a store of it with wsivit tile (--codec none copies no pixels)"


def labelled_cohort(path: Path, label: str | None, tiler: SlideTiler | None = None) -> list[LabelledTiles]:
    """Label the tiles of a table's slides: by its column of that name, one value per slide, else by the stores' own.

    Slides without a value are left out.

    Parameters
    ----------
    path : Path
        See `wsivit.slide_list.read_table`; a row with neither store nor path names ``<slide>.zarr`` beside the table.
    label : str, optional
        Default: the table's column ``label``.
    tiler : SlideTiler, optional
        Makes stores of rows that are slides; without it they are refused.

    Raises
    ------
    UsageError
        Naming the line, slide or column that cannot be used.
    """
    rows = read_table(str(path))
    for row in rows:
        if row.split and row.split.lower() not in SPLIT_FOLDERS:
            raise UsageError(f"{path}, line {row.line}: split {row.split!r} is none of {', '.join(SPLIT_FOLDERS)}")
    if label is None and LABEL_COLUMN not in rows[0].values:
        raise UsageError(f"{path}: which label? (--label); its columns are {', '.join(rows[0].values)}")
    label = label or LABEL_COLUMN
    wanted = [row for row in rows if row.values.get(label) != ""]
    if not wanted:
        raise UsageError(f"{path}: no slide has a value of {label!r}")
    if len(wanted) < len(rows):
        _log.warning("%s: %d slides without a value of %r are left out", path, len(rows) - len(wanted), label)
    return [_labelled(row, label, _store(path, row, tiler)) for row in wanted]


def _labelled(row: SlideRow, label: str, store: str | Path) -> LabelledTiles:
    source = StoreSource(store, row.patient, row.site, row.scanner)
    if label in row.values:
        index = readable_tiles(source)
        tiles = LabelledTiles(source, index, np.zeros(len(index), np.int64), (row.values[label],), label=label)
    else:
        tiles = label_from_store(source, label)
    if not row.split:
        return tiles
    return replace(tiles, side=np.full(len(tiles.index), SPLIT_FOLDERS[row.split.lower()], np.int8))


def _store(table: Path, row: SlideRow, tiler: SlideTiler | None) -> str | Path:
    """Return the store of a row; that of a slide is made."""
    path = row.store or row.path or join(table.parent, f"{row.id}.zarr")
    if TileStore.is_store(path):
        return path
    slide = row.id or Path(path).stem
    if path.endswith(".zarr") or not (is_url(path) or Path(path).exists()):
        raise UsageError(f"{table}, slide {slide}: {path} is neither a tile store nor a slide")
    if tiler is None:
        raise UsageError(f"{table}, slide {slide}: {path} is a slide: {TILE_FIRST}")
    return tiler.store(path, row.annotations or None, row.mpp)
