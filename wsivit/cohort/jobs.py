"""One slide, one verb: whether there is something to do and why, doing it, and the record of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache

import wsivit
from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobLog, JobOutcome, Record
from wsivit.cohort.tasks import Skipped, Task
from wsivit.errors import OutputError, RemoteError, StoreLockedError, UsageError, WsivitError
from wsivit.slide_list import SlideRow
from wsivit.store import versions

UNEXPECTED = 1
"""Exit code of a job whose worker was lost, or that raised what no verb should raise."""


class VersionError(UsageError):
    """A worker has another version of wsivit than the process that gives it jobs."""


@dataclass(frozen=True)
class Job:
    """One slide to process; it is sent to workers.

    Attributes
    ----------
    slide : SlideRow
    why : str
        For people.
    rebuild : bool
        The existing results are of another input or of other parameters.
    """

    slide: SlideRow
    why: str
    rebuild: bool = False


@dataclass(frozen=True)
class JobRunner:
    """A verb and the cohort that it is applied to: what all jobs have in common.

    Attributes
    ----------
    task : Task
    layout : CohortLayout
    dry_run : bool
        Write nothing.
    version : str
        Of wsivit in the process that makes the jobs.
    """

    task: Task
    layout: CohortLayout
    dry_run: bool = False
    version: str = wsivit.__version__

    def decide(self, slide: SlideRow, record: Record | None, *, force: bool, retry_failed: bool) -> Job | None:
        """Decide whether to process a slide, and say why; None where its results are up to date."""
        if record is None or record.state == "not_started":
            return Job(slide, "new", force)
        changed = _differences(record.parameters, self.task.parameters(slide)) or self._change(slide, record)
        if changed or force:
            return Job(slide, changed or "forced", rebuild=True)
        if record.state == "running":
            return Job(slide, "was interrupted", record.rebuild)
        if record.state == "failed" and (retry_failed or record.retryable):
            return Job(slide, f"failed before: {record.reason}", record.rebuild)
        missing = [path for path in record.outputs if self._is_missing(path)]
        return Job(slide, f"{missing[0]} is missing") if missing else None

    def _change(self, slide: SlideRow, record: Record) -> str:
        signature = self.task.signature(slide, self.layout)
        if signature == record.signature:
            return ""
        if record.state == "skipped":
            return "there is something to do now"
        try:
            same = record.fingerprint and self.task.fingerprint(slide) == record.fingerprint
        except (WsivitError, OSError):
            same = False  # the verb will report what is wrong
        if not same:
            return "its input has changed"
        if not self.dry_run:  # or each run would read the content of the copied slide
            JobLog(self.layout.files).write(replace(record, signature=signature))
        return ""

    def _is_missing(self, output: str) -> bool:
        if "://" not in output and not output.startswith("/"):
            return self.layout.files.size(output) is None
        folder, _, name = output.rpartition("/")  # of a store that was tiled elsewhere
        return CohortLayout(folder).files.size(name) is None

    def do(self, job: Job) -> Record:
        """Do a job and record how it ended; raises only what no verb should raise.

        Raises
        ------
        VersionError
            On a worker of another version.
        """
        if self.version != wsivit.__version__:  # workers can join at any time
            raise VersionError(
                f"worker {socket.gethostname()} has wsivit {wsivit.__version__}, the client {self.version}: "
                "install the same on both"
            )
        start = time.monotonic()
        self._write(job, JobOutcome("running", job.why), rebuild=job.rebuild)
        try:
            outcome = self.task.do(job.slide, self.layout, rebuild=job.rebuild)
        except StoreLockedError as error:  # the process that holds the lock writes the record
            return self._record(job.slide, replace(failure(error), state="running"))
        except Skipped as error:
            outcome = JobOutcome("skipped", str(error))
        except (WsivitError, OSError) as error:
            outcome = failure(error)
        return self.end(job, outcome, time.monotonic() - start)

    def end(self, job: Job, outcome: JobOutcome, seconds: float = 0.0) -> Record:
        """Record how a job ended."""
        # What failed while it replaced results has still to replace them.
        rebuild = job.rebuild and outcome.state == "failed"
        return self._write(job, outcome, seconds=round(seconds, 3), rebuild=rebuild)

    def _write(self, job: Job, outcome: JobOutcome, *, rebuild: bool, seconds: float = 0.0) -> Record:
        record = replace(self._record(job.slide, outcome), seconds=seconds, rebuild=rebuild)
        JobLog(self.layout.files).write(record)
        return record

    def _record(self, slide: SlideRow, outcome: JobOutcome) -> Record:
        return Record(
            **asdict(outcome),
            slide_id=slide.id,
            verb=self.task.verb,
            run=self.task.run,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
            signature=self.task.signature(slide, self.layout),
            parameters=self.task.parameters(slide),
        )


def failure(error: BaseException) -> JobOutcome:
    """Describe an error; those that are not the slide's fault can be retried."""
    text = " ".join(str(error).split())
    if isinstance(error, WsivitError):
        return JobOutcome("failed", text, error.exit_code, isinstance(error, OutputError | RemoteError))
    if isinstance(error, OSError):
        return JobOutcome("failed", text, OutputError.exit_code, retryable=True)
    return JobOutcome("failed", f"{type(error).__name__}: {text}", UNEXPECTED, retryable=True)


def _differences(existing: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}
    changed = [key for key in {**existing, **plain} if existing.get(key) != plain.get(key)]
    return "; ".join(f"{key}: was {existing.get(key)!r}, now {plain.get(key)!r}" for key in changed)


@cache
def _versions() -> str:
    return ", ".join(f"{name} {number}" for name, number in versions().items())
