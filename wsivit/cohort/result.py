"""What came of a verb over many slides, for programs and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wsivit.cohort.job_log import STATES, Record
from wsivit.cohort.jobs import Job
from wsivit.errors import SlideError, UnreadableTilesError

LISTED = 20
"""How many slides of a kind are named in a report."""


@dataclass(frozen=True)
class CohortResult:
    """What came of a verb over many slides.

    Attributes
    ----------
    verb, output : str
    slides : int
        How many were asked for.
    jobs : tuple of Job
        What there was to do, and why; `Job.slide`, `Job.why`.
    records : tuple of Record
        What the ledger now has of the verb and these slides.
    estimate : str
        Of a plan: what it would take.
    """

    verb: str
    output: str
    slides: int
    jobs: tuple[Job, ...]
    records: tuple[Record, ...]
    estimate: str = ""

    @property
    def exit_code(self) -> int:
        """0 where all is done; 4 where some tiles are missing; the code of the failures, 3 where these differ."""
        codes = {record.exit_code or SlideError.exit_code for record in self.records if record.state == "failed"}
        if codes:
            return codes.pop() if len(codes) == 1 else SlideError.exit_code
        unfinished = any(record.state in ("partial", "running") for record in self.records)
        return UnreadableTilesError.exit_code if unfinished else 0

    def report(self) -> str:
        """Tell it to a person."""
        head = f"{self.verb}: {self.slides} slides, {len(self.jobs)} to do"
        lines = [head, *listed([f"  {job.slide.id}: {job.why}" for job in self.jobs if job.why != "new"])]
        if self.estimate:
            return "\n".join([*lines, self.estimate])
        return "\n".join([*lines, *summary(self.records), f"ledger   {self.output}"])


def summary(records: Sequence[Record]) -> list[str]:
    """Count the records of one verb by state, and name those that need a look."""
    count = Counter(record.state for record in records)
    states = ", ".join(f"{count[state]} {state.replace('_', ' ')}" for state in STATES if count[state])
    tiles, size = sum(record.tiles for record in records), sum(record.bytes for record in records)
    seconds = sum(record.seconds for record in records)
    lines = [f"{states or 'nothing'}: {tiles} tiles, {size / 1e9:.3g} GB, {seconds:.0f} s of work"]
    for state in ("failed", "partial", "running", "skipped"):
        lines += listed([_line(record) for record in records if record.state == state])
    lines += listed([f"WARNING  {record.slide_id}: {record.warning}" for record in records if record.warning])
    return lines


def _line(record: Record) -> str:
    code = f" (exit code {record.exit_code})" if record.exit_code else ""
    where = f" by {record.worker} since {record.when}" if record.state == "running" else ""
    return f"{record.state:8} {record.slide_id}: {record.reason}{code}{where}"


def listed(lines: list[str]) -> list[str]:
    """Shorten a list that is long."""
    more = [f"  … and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return lines[:LISTED] + more
