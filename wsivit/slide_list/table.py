"""Tables of slides: which there are, where they are, of which patients, and what else is known about each."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path

from wsivit.errors import UsageError
from wsivit.io import files_at, local_path
from wsivit.slide import slide_id
from wsivit.slide_list.folders import SUFFIXES

ALIASES = {
    "id": ("slide_id", "slide", "slide_name", "wsi", "wsi_id", "image_id", "image", "filename", "file"),
    "path": ("path", "slide_path", "file_path", "wsi_path", "image_path"),
    "store": ("store", "store_path"),
    "patient": ("patient", "patient_id", "case_id", "case", "submitter_id"),
    "site": ("site", "centre", "center", "institution", "hospital"),
    "split": ("split", "set", "partition"),
    "scanner": ("scanner", "scanner_model"),
    "mpp": ("slide_mpp", "mpp", "microns_per_pixel"),
    "annotations": ("annotations", "annotation", "annotation_path"),
}
"""Each field of a row, and the column names that stand for it, best first; case, spaces and signs do not matter."""
_MISSING = ("nan", "<na>", "#n/a")  # as pandas and Excel write an empty cell
_NO_SCALE = (*_MISSING, "na", "n/a", "none", "null", "-", "?")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class SlideRow:
    """One slide, or tile store, of many: a row of a table, or a file in a folder.

    Attributes
    ----------
    id : str
        As the table has it. `find_slides` makes it unique and safe in file names.
    path : str
        Absolute path or URL of the slide; empty where only a store is known.
    store : str
        Absolute path or URL of its tile store; empty where none is known.
    patient, site, split, scanner : str
        Empty where unknown.
    annotations : str
        Absolute path or URL; empty where there are none.
    mpp : float or None
        Microns per level-0 pixel of the slide, where the table says.
    values : dict of str to str
        All columns, under the table's own names.
    line : int
        Of the table, whose header is line 1; 0 for a slide that is in no table.
    """

    id: str = ""
    path: str = ""
    store: str = ""
    patient: str = ""
    site: str = ""
    split: str = ""
    scanner: str = ""
    annotations: str = ""
    mpp: float | None = None
    values: dict[str, str] = field(default_factory=dict)
    line: int = 0

    @property
    def source(self) -> str:
        """The slide, or else the store."""
        return self.path or self.store


def read_table(path: str) -> list[SlideRow]:
    """Read a table of slides, whether these exist or not.

    CSV, with commas, semicolons or tabs, in UTF-8 (or UTF-16 with its mark). Relative paths start at its folder. Rows
    without any value are skipped; ``NaN`` counts as no value. Where there is no column of paths, a slide that is named
    by its file is looked for next to the table.

    Raises
    ------
    UsageError
        If it cannot be read, is empty, or names neither slides nor paths; the text names the line.
    """
    return _rows(path, _read_csv(path), ("id", "path", "store"), "slide_id or path")


def read_patient_table(path: str) -> list[SlideRow]:
    """Read a table of patients, or of their slides, with what is known of each: labels, sites, times.

    As `read_table`, but a row may name a patient without a slide, and ``.xlsx`` and ``.parquet`` are read too.

    Raises
    ------
    UsageError
        If it cannot be read, is empty, or names neither patients nor slides; the text names the line.
    """
    ending = posixpath.splitext(path)[1].lower()
    lines = _read_frame(path, ending) if ending in (".xlsx", ".xls", ".parquet") else _read_csv(path)
    return _rows(path, lines, ("patient", "id", "path", "store"), "patient or slide_id")


def _rows(path: str, lines: list[tuple[int, list[str]]], needed: tuple[str, ...], names: str) -> list[SlideRow]:
    lines = [(number, cells) for number, cells in lines if any(cells)]  # Excel keeps rows that were emptied
    if len(lines) < 2:
        raise UsageError(f"{path}: the table is empty")
    columns = lines[0][1]
    fields = _columns_of_fields(path, columns)
    if not {*needed} & fields.keys():
        raise UsageError(f"{path}: needs a column {names}; it has {', '.join(filter(None, columns))}")
    return [_row(path, number, columns, cells, fields, needed, names) for number, cells in lines[1:]]


def _read_csv(path: str) -> list[tuple[int, list[str]]]:
    """Return the cells of each line and its number, the header first."""
    text, first = read_text(path), 0
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    if header.lower().startswith("sep=") and len(header.strip()) == 5:  # for Excel, which hides it
        delimiter, text, first = header[4], text.partition("\n")[2], 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [(reader.line_num + first, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UsageError(f"{path}: not a readable CSV: {error}") from error


def _read_frame(path: str, ending: str) -> list[tuple[int, list[str]]]:
    """Return the cells of an Excel sheet or a Parquet file as text, as `_read_csv` does."""
    import pandas as pd  # loaded for these two alone

    try:
        frame = pd.read_parquet(path) if ending == ".parquet" else pd.read_excel(path)
    except ImportError as error:
        raise UsageError(f"{path}: reading Excel needs `pip install openpyxl`; or save the sheet as CSV") from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: not a readable table: {error}") from error
    cells = [[_cell_text(value) for value in row] for row in frame.itertuples(index=False)]
    return [(number, row) for number, row in enumerate([[str(name).strip() for name in frame.columns], *cells], 1)]


def _cell_text(value: object) -> str:
    """Write a cell as a CSV has it: an empty cell as nothing, 1.0 of a column with empty cells as 1."""
    if value is None or value != value or str(value) in ("<NA>", "NaT"):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _columns_of_fields(table: str, columns: list[str]) -> dict[str, str]:
    """Name the column of each field that has one: the first alias that a column has."""
    plain = [re.sub(r"[\W_]+", "", column.casefold()) for column in columns]
    fields = {}
    for key, aliases in ALIASES.items():
        for alias in aliases:
            named = [column for column, name in zip(columns, plain, strict=True) if name == alias.replace("_", "")]
            if len(named) > 1:
                raise UsageError(f"{table}: the columns {' and '.join(map(repr, named))} are the same; keep one")
            if named:
                fields[key] = named[0]
                break
    return fields


def _row(
    table: str,
    number: int,
    columns: list[str],
    line: list[str],
    fields: dict[str, str],
    needed: tuple[str, ...],
    names: str,
) -> SlideRow:
    where, folder = f"{table}, line {number}", parent(table)
    if any(line[len(columns) :]):
        raise UsageError(f"{where}: has more cells than the first line has columns")
    cells = [*line, *[""] * (len(columns) - len(line))]
    values = {
        name: "" if value.lower() in _MISSING else value
        for name, value in zip(columns, cells, strict=False)
        if name or value
    }
    row = {key: values[fields[key]] if key in fields else "" for key in ALIASES}
    if not any(row[key] for key in needed):
        raise UsageError(f"{where}: neither {names.replace('_id', '').replace(' or ', ' nor ')}")
    mpp, scale = row.pop("mpp"), None
    if mpp.lower() not in ("", *_NO_SCALE):
        try:
            # Spreadsheets of many countries write a decimal comma.
            scale = float(re.sub(r"^(\d+),(\d+)$", r"\1.\2", mpp))
        except ValueError:
            scale = math.nan
        if not 0 < scale < math.inf:
            raise UsageError(f"{where}: {mpp!r} is no scale in microns per pixel")
    row |= {key: resolve(folder, row[key]) for key in ("path", "store", "annotations") if row[key]}
    if posixpath.splitext(row["id"])[1].lower() in SUFFIXES:
        # The slide is named by its file. An id may end like one without being it: our own tables have such.
        file = resolve(folder, row["id"])
        if not (row["path"] or row["store"]):
            row["path"] = file if re.search(r"[/\\]", row["id"]) or Path(file).exists() else ""
            row["id"] = slide_id(row["id"])
        elif posixpath.basename(row["path"]) == posixpath.basename(file):
            row["id"] = slide_id(row["id"])
    if row["path"].endswith(".zarr"):  # a store, in the column of the slides
        row |= {"path": "", "store": row["store"] or row["path"]}
    return SlideRow(**row, mpp=scale, values=values, line=number)


def read_text(path: str) -> str:
    """Read a text file at a path or URL; UsageError where it is missing, or is not text."""
    folder, _, name = path.rpartition("/")
    try:
        raw = files_at(folder or ("/" if path.startswith("/") else ".")).read(name)
    except OSError as error:
        raise UsageError(f"{path}: not a readable CSV: {error.strerror or error}") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}, line {line}: not a readable CSV: it is not UTF-8; save it as “CSV UTF-8” and try again"
        ) from error


def absolute(path: str) -> str:
    """Return an absolute path without a slash at its end; a URL keeps its own form."""
    return path.rstrip("/") if "://" in path else os.path.normpath(Path(path).absolute())


def parent(path: str) -> str:
    """Return the folder that a file is in, as an absolute path or a URL."""
    return absolute(path).rpartition("/")[0] or "/"


def resolve(folder: str, path: str) -> str:
    """Return an absolute path or URL for a path relative to a folder, a ``file:`` URL or an absolute one."""
    path = local_path(path)
    if "\\" in path and "/" not in path and not Path(folder, path).exists():
        path = path.replace("\\", "/")  # relative, as written on Windows
    return absolute(path if "://" in path else posixpath.join(folder, path))
