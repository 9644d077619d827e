"""The slides of a cohort table as labelled tiles. No torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsivit.data.image_folders import SPLIT_FOLDERS
from wsivit.data.labelled_tiles import LabelledTiles, StoreSource, label_from_store, readable_tiles
from wsivit.data.slide_tiles import SlideTiler
from wsivit.errors import UsageError
from wsivit.slide_list import Line, read_manifest
from wsivit.store import TileStore

_log = logging.getLogger(__name__)

LABEL_COLUMN = "label"
"""Of a table, where no other is named."""
TILE_FIRST = "make a store of it with wsivit tile (--codec none copies no pixels)"


@dataclass(frozen=True)
class CohortRow:
    """One slide of a cohort.

    Attributes
    ----------
    slide : str
    path : Path
        Its tile store, or the slide itself.
    patient, site, scanner : str
        Empty where the table does not say.
    side : int or None
        Side of the split, where the table says.
    annotations : Path or None
    slide_mpp : float or None
        Microns per pixel of the slide itself.
    values : dict of str to str
        All columns.
    """

    slide: str
    path: Path
    patient: str
    site: str
    scanner: str
    side: int | None
    annotations: Path | None
    slide_mpp: float | None
    values: dict[str, str]


def read_cohort(path: Path) -> list[CohortRow]:
    """Read a cohort CSV.

    Columns (any of their usual names): ``slide_id|slide|wsi``, ``store`` or ``path`` (of the store or the slide; else
    ``<slide>.zarr`` beside the table), ``patient|case_id``, ``site``, ``scanner``, ``split``; of slides
    ``annotations`` and ``slide_mpp``; every other column can be a label.

    Raises
    ------
    UsageError
        Naming the line that cannot be used.
    """
    return [_row(path, line) for line in read_manifest(str(path))]


def labelled_cohort(path: Path, label: str | None, tiler: SlideTiler | None = None) -> list[LabelledTiles]:
    """Label the tiles of a cohort: by the table's column of that name, one value per slide, else by the stores' own.

    Slides without a value are left out.

    Parameters
    ----------
    path : Path
    label : str, optional
        Default: the table's column ``label``.
    tiler : SlideTiler, optional
        Makes stores of rows that are slides; without it they are refused.
    """
    rows = read_cohort(path)
    if label is None and LABEL_COLUMN not in rows[0].values:
        raise UsageError(f"{path}: which label? (--label); its columns are {', '.join(rows[0].values)}")
    label = label or LABEL_COLUMN
    wanted = [row for row in rows if row.values.get(label) != ""]
    if not wanted:
        raise UsageError(f"{path}: no slide has a value of {label!r}")
    if len(wanted) < len(rows):
        _log.warning("%s: %d slides without a value of %r are left out", path, len(rows) - len(wanted), label)
    return [_labelled(row, label, _store(path, row, tiler)) for row in wanted]


def _labelled(row: CohortRow, label: str, store: Path) -> LabelledTiles:
    source = StoreSource(store, row.patient, row.site, row.scanner)
    if label in row.values:
        index = readable_tiles(source)
        part = LabelledTiles(source, index, np.zeros(len(index), np.int64), (row.values[label],), label=label)
    else:
        part = label_from_store(source, label)
    return part if row.side is None else replace(part, side=np.full(len(part.index), row.side, np.int8))


def _store(table: Path, row: CohortRow, tiler: SlideTiler | None) -> Path:
    """Return the store of a row; that of a slide is made."""
    if TileStore.is_store(row.path):
        return row.path
    if row.path.suffix == ".zarr" or not row.path.exists():
        raise UsageError(f"{table}, slide {row.slide}: {row.path} is neither a tile store nor a slide")
    if tiler is None:
        raise UsageError(f"{table}, slide {row.slide}: {row.path} is a slide: {TILE_FIRST}")
    return tiler.store(row.path, row.annotations, row.slide_mpp)


def _row(table: Path, line: Line) -> CohortRow:
    where = line.store or line.path
    slide = line.slide or Path(where).stem
    split = line.split.lower()
    if split and split not in SPLIT_FOLDERS:
        raise UsageError(f"{table}, line {line.number}: split {split!r} is none of {', '.join(SPLIT_FOLDERS)}")
    return CohortRow(
        slide=slide,
        path=table.parent / (where or f"{slide}.zarr"),
        patient=line.patient,
        site=line.site,
        scanner=line.scanner,
        side=SPLIT_FOLDERS.get(split),
        annotations=table.parent / line.annotations if line.annotations else None,
        slide_mpp=_scale(table, line),
        values=line.values,
    )


def _scale(table: Path, line: Line) -> float | None:
    try:
        return float(line.mpp) if line.mpp else None
    except ValueError:
        raise UsageError(f"{table}, line {line.number}: {line.mpp!r} is no scale") from None
