"""One slide, one verb: what is to be done and why, doing it, and what is written down of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache

import wsivit
from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobLog, Record
from wsivit.cohort.tasks import JobOutcome, Skipped, Task, failure
from wsivit.errors import StoreLockedError, UsageError, WsivitError
from wsivit.io import versions
from wsivit.slide_list import CohortSlide


class VersionError(UsageError):
    """A worker of another version than who gives it work."""


@dataclass(frozen=True)
class Job:
    """One slide that something is to be done with; it is sent to workers.

    Attributes
    ----------
    slide : CohortSlide
    why : str
        For people.
    anew : bool
        What is there was made of other input, or with other parameters.
    """

    slide: CohortSlide
    why: str
    rebuild: bool = False


@dataclass(frozen=True)
class JobRunner:
    """A verb and the cohort that it is applied to: what all jobs have in common.

    Attributes
    ----------
    verb : Task
    tree : CohortLayout
    dry : bool
        Nothing may be written: it is a plan.
    version : str
        Of the wsivit that gives out the work.
    """

    verb: Task
    tree: CohortLayout
    dry: bool = False
    version: str = wsivit.__version__

    def decide(self, slide: CohortSlide, record: Record | None, *, again: bool, retry_failed: bool) -> Job | None:
        """Say whether, and why, something is to be done with a slide; None where all is as it should be."""
        if record is None or record.state == "not_started":
            return Job(slide, "new", again)
        changed = _differences(record.parameters, self.verb.parameters(slide)) or self._change(slide, record)
        if changed or again:
            return Job(slide, changed or "asked to do it again", rebuild=True)
        if record.state == "running":
            return Job(slide, "was not finished", record.rebuild)
        if record.state == "failed" and (retry_failed or record.retryable):
            return Job(slide, f"failed before: {record.reason}", record.rebuild)
        gone = [path for path in record.outputs if self._is_gone(path)]
        return Job(slide, f"{gone[0]} is gone") if gone else None

    def _change(self, slide: CohortSlide, record: Record) -> str:
        now = self.verb.signature(slide, self.tree)
        if now == record.signature:
            return ""
        if record.state == "skipped":
            return "there is something to do now"
        try:
            same = record.fingerprint and self.verb.fingerprint(slide) == record.fingerprint
        except (WsivitError, OSError):
            same = False  # the verb will say what is wrong
        if same and self.dry:
            return ""
        if same:
            JobLog(self.tree.files).write(replace(record, signature=now))
            return ""
        return "its input has changed"

    def _is_gone(self, path: str) -> bool:
        inside = "://" not in path and not path.startswith("/")
        whole = CohortLayout(path.rpartition("/")[0]) if not inside else self.tree
        return whole.files.size(path if inside else path.rpartition("/")[2]) is None

    def do(self, job: Job) -> Record:
        """Do a job, and write down how it went; only what no verb should raise is raised."""
        self.check_version()
        began = time.monotonic()
        self.begin(job)
        try:
            outcome = self.verb.do(job.slide, self.tree, rebuild=job.rebuild)
        except StoreLockedError as error:  # its holder writes the record
            return self.record(job.slide, replace(failure(error), state="running"))
        except Skipped as error:
            outcome = JobOutcome("skipped", str(error))
        except (WsivitError, OSError) as error:
            outcome = failure(error)
        return self.end(job, outcome, time.monotonic() - began)

    def begin(self, job: Job) -> None:
        """Write down that a job is being done."""
        record = self.record(job.slide, JobOutcome("running", job.why))
        JobLog(self.tree.files).write(replace(record, rebuild=job.rebuild))

    def end(self, job: Job, outcome: JobOutcome, seconds: float) -> Record:
        """Write down how a job went."""
        record = self.record(job.slide, outcome)
        record = replace(record, seconds=round(seconds, 3), rebuild=job.rebuild and outcome.state == "failed")
        JobLog(self.tree.files).write(record)
        return record

    def record(self, slide: CohortSlide, outcome: JobOutcome) -> Record:
        """Return what is written down of a slide that is in some state."""
        return Record(
            slide.id,
            self.verb.verb,
            self.verb.run,
            **asdict(outcome),
            worker=f"{socket.gethostname()}:{os.getpid()}",
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
            signature=self.verb.signature(slide, self.tree),
            parameters=self.verb.parameters(slide),
        )

    def check_version(self) -> None:
        """Refuse work from another version of wsivit.

        Raises
        ------
        VersionError
        """
        if self.version != wsivit.__version__:
            raise VersionError(
                f"worker {socket.gethostname()} has wsivit {wsivit.__version__}, the client {self.version}: "
                "install the same on both"
            )


def choose(
    runner: JobRunner, slides: Sequence[CohortSlide], known: Mapping[str, Record], *, again: bool, retry_failed: bool
) -> list[Job]:
    """Return what is to be done, in order."""
    jobs = (runner.decide(slide, known.get(slide.id), again=again, retry_failed=retry_failed) for slide in slides)
    return [job for job in jobs if job is not None]


def _differences(there: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}
    changed = [key for key in {**there, **plain} if there.get(key) != plain.get(key)]
    return "; ".join(f"{key}: {there.get(key)!r} there, {plain.get(key)!r} asked for" for key in changed)


@cache
def _versions() -> str:
    return ", ".join(f"{name} {number}" for name, number in versions().items())
