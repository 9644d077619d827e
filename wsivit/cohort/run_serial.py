"""Jobs done by this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wsivit.cohort.job_log import Record
from wsivit.cohort.jobs import Job, JobRunner
from wsivit.cohort.tasks import JobOutcome

BROKEN = 1
"""Exit code of what no verb returned from: its worker was lost, or it broke."""


def run_serial(runner: JobRunner, jobs: Iterable[Job]) -> Iterator[Record]:
    """Do jobs one after the other; one that breaks does not stop the others."""
    from dask.local import SynchronousExecutor

    for job in jobs:
        future = SynchronousExecutor().submit(runner.do, job)
        error = future.exception()
        if error is None:
            yield future.result()
        elif isinstance(error, Exception):
            yield runner.end(job, unexpected_failure(error), 0.0)
        else:  # someone wants it to stop
            raise error


def unexpected_failure(error: BaseException) -> JobOutcome:
    """Sum up an error that no verb should raise."""
    return JobOutcome("failed", " ".join(f"{type(error).__name__}: {error}".split()), BROKEN, retryable=True)
