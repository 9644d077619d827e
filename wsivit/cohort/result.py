"""The result of a verb over many slides, for programs and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wsivit.cohort.job_log import STATES, Record
from wsivit.cohort.jobs import Job
from wsivit.errors import SlideError, UnreadableTilesError

_LISTED = 20
"""How many slides of a kind a report names."""


@dataclass(frozen=True)
class CohortResult:
    """The result of a verb over many slides.

    Attributes
    ----------
    verb, output : str
    slides : int
        How many were selected.
    jobs : tuple of Job
        Slides that had to be processed, and why; `Job.slide`, `Job.why`.
    records : tuple of Record
        Status of the selected slides.
    estimate : str
        Of a dry run: what it would take.
    """

    verb: str
    output: str
    slides: int
    jobs: tuple[Job, ...]
    records: tuple[Record, ...]
    estimate: str = ""

    @property
    def exit_code(self) -> int:
        """0 where all is done, 4 where tiles are unreadable; else the code of the failures, 3 where these differ."""
        codes = {record.exit_code or SlideError.exit_code for record in self.records if record.state == "failed"}
        if codes:
            return codes.pop() if len(codes) == 1 else SlideError.exit_code
        unfinished = any(record.state in ("partial", "running") for record in self.records)
        return UnreadableTilesError.exit_code if unfinished else 0

    def report(self) -> str:
        """Summarize it for people."""
        head = f"{self.verb}: {self.slides} slides, {len(self.jobs)} to do"
        lines = [head, *shorten([f"  {job.slide.id}: {job.why}" for job in self.jobs if job.why != "new"])]
        if self.estimate:
            return "\n".join([*lines, self.estimate])
        return "\n".join([*lines, *summary(self.records), f"ledger   {self.output}"])


def summary(records: Sequence[Record]) -> list[str]:
    """Count the records of one verb by state, and list those that need attention."""
    count = Counter(record.state for record in records)
    states = ", ".join(f"{count[state]} {state.replace('_', ' ')}" for state in STATES if count[state])
    tiles, size = sum(record.tiles for record in records), sum(record.bytes for record in records)
    seconds = sum(record.seconds for record in records)
    lines = [f"{states or 'nothing'}: {tiles} tiles, {size / 1e9:.3g} GB, {seconds:.0f} s of work"]
    for state in ("failed", "partial", "running", "skipped"):
        lines += shorten([_line(record) for record in records if record.state == state])
    return lines


def _line(record: Record) -> str:
    code = f" (exit code {record.exit_code})" if record.exit_code else ""
    where = f" by {record.worker} since {record.updated}" if record.state == "running" else ""
    return f"{record.state:8} {record.slide_id}: {record.reason}{code}{where}"


def shorten(lines: list[str]) -> list[str]:
    """Shorten a long list."""
    return lines if len(lines) <= _LISTED else [*lines[:_LISTED], f"  … and {len(lines) - _LISTED} more"]
