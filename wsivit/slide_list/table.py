"""Tables of slides: which there are, where they are, of which patients, and what else is known about each."""

from __future__ import annotations

import codecs
import csv
import io
import os
import posixpath
from dataclasses import dataclass, field
from pathlib import Path

from wsivit.errors import UsageError
from wsivit.io import files_at, local_path

ALIASES = {
    "id": ("slide_id", "slide", "wsi", "image_id", "filename"),
    "path": ("path", "slide_path"),
    "store": ("store", "store_path"),
    "patient": ("patient", "patient_id", "case_id", "case", "submitter_id"),
    "site": ("site", "centre", "center", "institution", "hospital"),
    "split": ("split", "set", "partition"),
    "scanner": ("scanner", "scanner_model"),
    "mpp": ("slide_mpp", "mpp"),
    "annotations": ("annotations", "annotation"),
}
"""Each field of a row, and the column names that stand for it."""
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

    CSV, with commas, semicolons or tabs, in UTF-8 (or UTF-16 with its mark). Relative paths start at its folder.

    Raises
    ------
    UsageError
        If it cannot be read, is empty, or names neither slides nor paths; the text names the line.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, line) for line in reader]  # blank lines count too
    except csv.Error as error:
        raise UsageError(f"{path}: not a readable CSV: {error}") from error
    if not lines:
        raise UsageError(f"{path}: the table is empty")
    columns = [column for column in lines[0][1] if column]
    names = {key: next((c for c in columns if c.strip().lower() in known), "") for key, known in ALIASES.items()}
    if not (names["id"] or names["path"] or names["store"]):
        raise UsageError(f"{path}: needs a column slide_id or path; it has {', '.join(columns)}")
    return [_row(path, number, line, names) for number, line in lines]


def _row(table: str, number: int, line: dict[str, str], names: dict[str, str]) -> SlideRow:
    where = f"{table}, line {number}"
    if None in line:
        raise UsageError(f"{where}: has more cells than the first line has columns")
    values = {key: (value or "").strip() for key, value in line.items()}
    cells = {key: values[name] if name else "" for key, name in names.items()}
    if not (cells["id"] or cells["path"] or cells["store"]):
        raise UsageError(f"{where}: neither slide nor path")
    mpp = cells.pop("mpp")
    try:
        scale = float(mpp) if mpp else None
    except ValueError:
        raise UsageError(f"{where}: {mpp!r} is no scale in microns per pixel") from None
    folder = parent(table)
    cells |= {key: resolve(folder, cells[key]) for key in ("path", "store", "annotations") if cells[key]}
    if cells["path"].endswith(".zarr"):  # a store, in the column of the slides
        cells |= {"path": "", "store": cells["store"] or cells["path"]}
    return SlideRow(**cells, mpp=scale, values=values, line=number)


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
    return absolute(path if "://" in path else posixpath.join(folder, path))
