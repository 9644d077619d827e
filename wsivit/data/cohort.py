"""A cohort table: which slides there are, of whom, and what is known about each. No torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsivit.data.images import SPLIT_FOLDERS
from wsivit.data.samples import Labelled, StoreSource, label_from_store, readable_tiles
from wsivit.errors import UsageError
from wsivit.store import TileStore

ALIASES = {
    "slide": ("slide_id", "slide", "wsi", "image_id", "filename"),
    "path": ("path", "store", "slide_path"),
    "patient": ("patient", "patient_id", "case_id", "case", "submitter_id"),
    "site": ("site", "centre", "center", "institution", "hospital"),
    "split": ("split", "set", "partition"),
}


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

    Columns (any of their usual names): ``slide_id|slide|wsi``, ``path`` (of the store; else ``<slide>.zarr`` beside
    the table), ``patient|case_id``, ``site``, ``split``; every other column can be a label.

    Raises
    ------
    UsageError
        Naming the line that cannot be used.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a readable CSV: {error}") from error
    if not lines:
        raise UsageError(f"{path}: the cohort is empty")
    names = {key: next((c for c in lines[0] if c and c.strip().lower() in known), "") for key, known in ALIASES.items()}
    if not (names["slide"] or names["path"]):
        raise UsageError(f"{path}: needs a column slide_id or path; it has {', '.join(lines[0])}")
    return [_row(path, number, line, names) for number, line in enumerate(lines, 2)]


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


def _row(path: Path, number: int, line: dict[str, str], names: dict[str, str]) -> CohortRow:
    def cell(key: str) -> str:
        return (line.get(names[key]) or "").strip() if names[key] else ""

    slide = cell("slide") or Path(cell("path")).stem
    store = path.parent / (cell("path") or f"{slide}.zarr")
    if not slide:
        raise UsageError(f"{path}, line {number}: neither slide nor path")
    if not TileStore.is_store(store):
        what = (
            "is a slide: tile it first (wsivit tile, with --codec none to copy no pixels)"
            if store.is_file()
            else ("is no tile store")
        )
        raise UsageError(f"{path}, line {number}: {store} {what}")
    split = cell("split").lower()
    if split and split not in SPLIT_FOLDERS:
        raise UsageError(f"{path}, line {number}: split {split!r} is none of {', '.join(SPLIT_FOLDERS)}")
    values = {key: (value or "").strip() for key, value in line.items() if key}
    return CohortRow(slide, store, cell("patient"), cell("site"), SPLIT_FOLDERS.get(split), values)
