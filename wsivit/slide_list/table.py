"""Tables of slides: which there are, where they are, of whom, and what else is known about each."""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass, field

from wsivit.errors import UsageError
from wsivit.io import files_at

ALIASES = {
    "slide": ("slide_id", "slide", "wsi", "image_id", "filename"),
    "path": ("path", "slide_path"),
    "store": ("store", "store_path"),
    "patient": ("patient", "patient_id", "case_id", "case", "submitter_id"),
    "site": ("site", "centre", "center", "institution", "hospital"),
    "split": ("split", "set", "partition"),
    "scanner": ("scanner", "scanner_model"),
    "mpp": ("slide_mpp", "mpp"),
    "annotations": ("annotations", "annotation"),
}
"""What a column means, and the names that it goes by."""
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Line:
    """One line of a table; what it does not say is empty.

    Attributes
    ----------
    number : int
        Of the line in the file, the header being 1.
    slide, path, store, patient, site, split, scanner, mpp, annotations : str
        As written.
    values : dict of str to str
        All columns, by the names that the table has for them.
    """

    number: int
    slide: str = ""
    path: str = ""
    store: str = ""
    patient: str = ""
    site: str = ""
    split: str = ""
    scanner: str = ""
    mpp: str = ""
    annotations: str = ""
    values: dict[str, str] = field(default_factory=dict)


def read_manifest(path: str) -> list[Line]:
    """Read a table of slides: CSV, with commas, semicolons or tabs, in UTF-8 (or UTF-16 with its mark).

    Raises
    ------
    UsageError
        If it cannot be read, is empty, or names neither slides nor paths; the text names the line.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        lines = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path}: not a readable CSV: {error}") from error
    if not lines:
        raise UsageError(f"{path}: the cohort is empty")
    columns = [column for column in lines[0] if column]
    names = {key: next((c for c in columns if c.strip().lower() in known), "") for key, known in ALIASES.items()}
    if not (names["slide"] or names["path"] or names["store"]):
        raise UsageError(f"{path}: needs a column slide_id or path; it has {', '.join(columns)}")
    return [_line(path, number, line, names) for number, line in enumerate(lines, 2)]


def read_text(path: str) -> str:
    """Read a text file at a path or URL; UsageError where it is not there, or not text."""
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


def _line(path: str, number: int, line: dict[str, str], names: dict[str, str]) -> Line:
    if None in line:
        raise UsageError(f"{path}, line {number}: has more cells than the first line has columns")
    values = {key: (value or "").strip() for key, value in line.items()}
    found = Line(number, **{key: values[name] if name else "" for key, name in names.items()}, values=values)
    if not (found.slide or found.path or found.store):
        raise UsageError(f"{path}, line {number}: neither slide nor path")
    return found
