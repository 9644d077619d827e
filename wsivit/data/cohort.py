"""The slides of a cohort table as labelled tiles. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsivit.data.images import SPLIT_FOLDERS
from wsivit.data.samples import Labelled, StoreSource, label_from_store, readable_tiles
from wsivit.errors import UsageError
from wsivit.manifest import Line, read_manifest
from wsivit.store import TileStore


@dataclass(frozen=True)
class CohortRow:
    """One slide of a cohort.

    Attributes
    ----------
    slide : str
    store : Path
        Its tile store.
    patient, site : str
        Empty where the table does not say.
    side : int or None
        Side of the split, where the table says.
    values : dict of str to str
        All columns.
    """

    slide: str
    store: Path
    patient: str
    site: str
    side: int | None
    values: dict[str, str]


def read_cohort(path: Path) -> list[CohortRow]:
    """Read a cohort CSV.

    Columns (any of their usual names): ``slide_id|slide|wsi``, ``store`` or ``path`` (of the store; else
    ``<slide>.zarr`` beside the table), ``patient|case_id``, ``site``, ``split``; every other column can be a label.

    Raises
    ------
    UsageError
        Naming the line that cannot be used.
    """
    return [_row(path, line) for line in read_manifest(str(path))]


def labelled_cohort(path: Path, label: str) -> list[Labelled]:
    """Label the tiles of a cohort: by the table's column of that name, one value per slide, else by the stores' own.

    Slides without a value are left out.
    """
    rows = read_cohort(path)
    found = []
    for row in rows:
        if label in row.values and not row.values[label]:
            continue
        source = StoreSource(row.store, row.patient, row.site)
        part = _whole_slide(source, row.values[label]) if label in row.values else label_from_store(source, label)
        side = None if row.side is None else np.full(len(part.index), row.side, np.int8)
        found.append(Labelled(part.source, part.index, part.code, part.classes, side))
    if not found:
        raise UsageError(f"{path}: no slide has a value of {label!r}")
    return found


def _whole_slide(source: StoreSource, value: str) -> Labelled:
    index = readable_tiles(source)
    return Labelled(source, index, np.zeros(len(index), np.int64), (value,))


def _row(path: Path, line: Line) -> CohortRow:
    where = line.store or line.path
    slide = line.slide or Path(where).stem
    store = path.parent / (where or f"{slide}.zarr")
    if not TileStore.is_store(store):
        what = (
            "is a slide: tile it first (wsivit tile, with --codec none to copy no pixels)"
            if store.is_file()
            else ("is no tile store")
        )
        raise UsageError(f"{path}, line {line.number}: {store} {what}")
    split = line.split.lower()
    if split and split not in SPLIT_FOLDERS:
        raise UsageError(f"{path}, line {line.number}: split {split!r} is none of {', '.join(SPLIT_FOLDERS)}")
    return CohortRow(slide, store, line.patient, line.site, SPLIT_FOLDERS.get(split), line.values)
