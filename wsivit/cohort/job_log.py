"""The ledger: what was done with each slide of a cohort, in a table that can be looked at while it grows.

Each slide and verb has a small record of its own, written whole or not at all, so that any number of processes on any
number of machines may write at once and none waits for another. The table is folded from the records.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from wsivit.io import Files, scrub
from wsivit.slide_list import LEDGER

State: TypeAlias = Literal["not_started", "running", "done", "partial", "failed", "skipped"]
STATES: tuple[State, ...] = ("not_started", "running", "done", "partial", "failed", "skipped")
CSV, PARQUET = "ledger.csv", "ledger.parquet"
LONGEST_CSV = 10_000
_READERS = 16


@dataclass(frozen=True)
class Record:
    """What one verb did with one slide.

    Attributes
    ----------
    slide_id, verb : str
    run : str
        Name of the model's run; empty for verbs without.
    state : str
        ``not_started``, ``running``, ``done``, ``partial`` (some tiles cannot be read), ``failed`` or ``skipped``.
    reason : str
        Why not ``done``.
    warning : str
        What is suspicious about what was made: no tiles, empty glass, a class without tiles.
    exit_code : int
        That the verb would have ended with on this slide alone.
    passing : bool
        A failure that is not the slide's own, such as a full disk: it is tried again unasked.
    anew : bool
        What is there may be of other input or parameters, and is to be replaced still.
    tiles, unreadable : int
    bytes : int
        Of what was made.
    seconds : float
    scale : str
        The verdict on the slide's microns per pixel.
    worker : str
        Which process on which machine.
    when : str
        When it came to this state, UTC.
    versions : str
    signature, fingerprint : str
        Of what it was made from, by size and time, and by content.
    parameters : dict
        What it was made with.
    outputs : tuple of str
        Files that it made, relative to the cohort.
    """

    slide_id: str
    verb: str
    run: str = ""
    state: State = "not_started"
    reason: str = ""
    warning: str = ""
    exit_code: int = 0
    retryable: bool = False
    rebuild: bool = False
    tiles: int = 0
    unreadable: int = 0
    bytes: int = 0
    seconds: float = 0.0
    scale: str = ""
    worker: str = ""
    when: str = ""
    versions: str = ""
    signature: str = ""
    fingerprint: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()


COLUMNS = tuple(
    entry.name
    for entry in fields(Record)
    if entry.name not in ("retryable", "rebuild", "signature", "parameters", "outputs")
)
"""What of a record is in the table."""


class JobLog:
    """The records of a cohort.

    Parameters
    ----------
    files : Files
        Of the cohort's folder.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def write(self, record: Record) -> None:
        """Write a record in place of what was known of that slide and verb."""
        key = f"{LEDGER}/{_kind(record.verb, record.run)}/{record.slide_id}.json"
        self._files.write(key, [scrub(json.dumps(asdict(record))).encode()])

    def read(self, verb: str, run: str = "") -> dict[str, Record]:
        """Read all records of a verb, by slide; one that is damaged is as good as none."""
        return self._read(_kind(verb, run))

    def _read(self, kind: str) -> dict[str, Record]:
        names = [name for name in self._files.list(f"{LEDGER}/{kind}") if name.endswith(".json")]
        with ThreadPoolExecutor(_READERS) as pool:  # an object store answers many at once
            found = pool.map(lambda name: self._record(f"{LEDGER}/{kind}/{name}"), names)
            return {record.slide_id: record for record in found if record is not None}

    def _record(self, key: str) -> Record | None:
        try:
            values = json.loads(self._files.read(key))
            return Record(**{**values, "outputs": tuple(values["outputs"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def all(self, slides: Sequence[str]) -> list[Record]:
        """Every record, slide by slide, with ``not_started`` for what was begun for other slides only."""
        found = [(*_verb_and_run(kind), self._read(kind)) for kind in self._files.list(LEDGER)]
        return [records.get(slide) or Record(slide, verb, run) for slide in slides for verb, run, records in found]

    def write_table(self, slides: Sequence[str]) -> list[Record]:
        """Write the table, and return what is in it."""
        records = self.all(slides)
        name, other = (PARQUET, CSV) if len(records) > LONGEST_CSV else (CSV, PARQUET)
        self._files.write(name, [_parquet(records) if name == PARQUET else _csv(records)])
        self._files.remove(other)
        return records


def _kind(verb: str, run: str) -> str:
    return f"{verb}.{run}" if run else verb


def _verb_and_run(kind: str) -> tuple[str, str]:
    return kind.partition(".")[0], kind.partition(".")[2]


def _rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    return [{name: getattr(record, name) for name in COLUMNS} for record in records]


def _readable(text: str) -> str:
    """Show bytes in a name that are no text by their numbers, so that the table is UTF-8."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _csv(records: Sequence[Record]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(records))
    return _readable(text.getvalue()).encode()


def _parquet(records: Sequence[Record]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    rows = [row | {name: _readable(row[name]) for name in ("reason", "warning")} for row in _rows(records)]
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())
