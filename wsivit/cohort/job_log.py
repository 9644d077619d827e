"""The job log: what each verb did with each slide of a cohort, as ``ledger.csv``.

Each slide and verb has a small record file of its own, written atomically: any number of processes on any number of
machines can write at once, without a lock. The table is put together from the records.
"""

from __future__ import annotations

import csv
import io
import json
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

from wsivit.io import Files, scrub
from wsivit.slide_list import LEDGER

State: TypeAlias = Literal["not_started", "running", "interrupted", "done", "partial", "failed", "skipped"]
STATES: tuple[State, ...] = get_args(State)
CSV, PARQUET = "ledger.csv", "ledger.parquet"
LONGEST_CSV = 10_000
_READERS = 16
_LISTED = 20
"""How many slides of a kind a report names."""
COLUMNS = (
    "slide_id", "verb", "run", "state", "reason", "warning", "exit_code", "tiles", "unreadable", "bytes", "seconds",
    "scale", "worker", "updated", "versions", "fingerprint",
)  # fmt: skip
"""What of a record is in the table."""


@dataclass(frozen=True)
class JobOutcome:
    """How a verb ended with one slide.

    Attributes
    ----------
    state : str
        ``not_started``, ``running``, ``interrupted`` (its process ended without a result), ``done``, ``partial`` (some
        tiles are unreadable), ``failed`` or ``skipped``.
    reason : str
        Why it is not ``done``.
    exit_code : int
        Of the verb on this slide alone.
    retryable : bool
        A failure that is not the slide's fault, such as a full disk: the next run tries it again.
    tiles, unreadable : int
    bytes : int
        Size of the results.
    scale : str
        Microns per pixel of the slide, their source and confidence.
    fingerprint : str
        Of the content of the slide.
    outputs : tuple of str
        Files that it wrote, relative to the cohort.
    warning : str
        What is suspicious about the result: no tiles, empty glass, a class without tiles.
    """

    state: State = "done"
    reason: str = ""
    exit_code: int = 0
    retryable: bool = False
    tiles: int = 0
    unreadable: int = 0
    bytes: int = 0
    scale: str = ""
    fingerprint: str = ""
    outputs: tuple[str, ...] = ()
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class Record(JobOutcome):
    """What one verb did with one slide; see also `JobOutcome`.

    Attributes
    ----------
    slide_id, verb : str
    run : str
        Name of the model's run; empty for verbs without.
    rebuild : bool
        The results may be of another input or of other parameters, and are still to be replaced.
    seconds : float
    worker : str
        Process and machine.
    updated : str
        Time of this state, UTC.
    versions : str
    signature : str
        Of the input, by size and time.
    parameters : dict
        All options that determine the results.
    """

    slide_id: str
    verb: str
    run: str = ""
    rebuild: bool = False
    seconds: float = 0.0
    worker: str = ""
    updated: str = ""
    versions: str = ""
    signature: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


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
        """Write a record, in place of the one before of that slide and verb."""
        key = f"{_folder(record.verb, record.run)}/{record.slide_id}.json"
        self._files.write(key, [scrub(json.dumps(asdict(record))).encode()])

    def read(self, verb: str, run: str = "") -> dict[str, Record]:
        """Read all records of a verb, by slide; a damaged one counts as none."""
        folder = _folder(verb, run)
        keys = [f"{folder}/{name}" for name in self._files.list(folder) if name.endswith(".json")]
        with ThreadPoolExecutor(_READERS) as pool:  # an object store answers many requests at once
            return {record.slide_id: record for record in pool.map(self._record, keys) if record is not None}

    def _record(self, key: str) -> Record | None:
        try:
            values = json.loads(self._files.read(key))
            record = Record(**{**values, "outputs": tuple(values["outputs"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        return replace(record, state="interrupted") if _was_interrupted(record) else record

    def kinds(self) -> list[tuple[str, str]]:
        """Return the verbs that have records, each with its run."""
        return [(verb, run) for verb, _, run in (kind.partition(".") for kind in self._files.list(LEDGER))]

    def write_table(self, slides: Sequence[str]) -> list[Record]:
        """Write the table; return its records, slide by slide, ``not_started`` where a verb has none of a slide."""
        kinds = self.kinds()
        known = {kind: self.read(*kind) for kind in kinds}
        records = [
            known[verb, run].get(slide) or Record("not_started", slide_id=slide, verb=verb, run=run)
            for slide in slides
            for verb, run in kinds
        ]
        rows = [{name: getattr(record, name) for name in COLUMNS} for record in records]
        name, other = (PARQUET, CSV) if len(rows) > LONGEST_CSV else (CSV, PARQUET)
        self._files.write(name, [_parquet(rows) if name == PARQUET else _csv(rows)])
        self._files.remove(other)
        return records


def _was_interrupted(record: Record) -> bool:
    """Whether a job is recorded as running by a process of this machine that has ended."""
    host, _, process = record.worker.rpartition(":")
    if record.state != "running" or host != socket.gethostname() or not process.isdecimal():
        return False
    import psutil

    try:
        worker = psutil.Process(int(process))
        # A process that started after the record was written has only inherited the number. (Times are whole seconds.)
        younger = worker.create_time() > datetime.fromisoformat(record.updated).timestamp() + 2
        return bool(younger or worker.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def shorten(lines: list[str]) -> list[str]:
    """Shorten a long list."""
    return lines if len(lines) <= _LISTED else [*lines[:_LISTED], f"  … and {len(lines) - _LISTED} more"]


def _folder(verb: str, run: str) -> str:
    return f"{LEDGER}/{verb}.{run}" if run else f"{LEDGER}/{verb}"


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return _escape_bytes(text.getvalue()).encode()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    rows = [row | {name: _escape_bytes(row[name]) for name in ("reason", "warning")} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def _escape_bytes(text: str) -> str:
    """Write bytes of file names that are not UTF-8 as escapes, so that the table is."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
