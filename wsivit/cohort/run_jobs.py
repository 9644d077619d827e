"""Jobs done by this process, or by the workers of a Dask cluster.

Results are on disk and in the job log before a worker reports them, so nothing is lost with a worker or a scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.dask_cluster import check_workers, connect
from wsivit.cohort.job_log import JobOutcome
from wsivit.cohort.jobs import UNEXPECTED, Job, VersionError, failure
from wsivit.cohort.options import CohortOptions
from wsivit.errors import RemoteError

Result = TypeVar("Result")

_AHEAD = 4
"""Jobs that the scheduler holds per thread: no worker waits, and 100,000 slides do not fill the scheduler's memory."""
_WORKERS_LOST = JobOutcome(
    "failed",
    "each worker that had it was lost: it takes more memory than a worker may have (--worker-memory), or native code "
    "crashes on it (--isolate)",
    UNEXPECTED,
    retryable=True,
)


def run_jobs(
    work: Callable[[Job], Result],
    on_failure: Callable[[Job, JobOutcome], Result],
    jobs: Iterable[Job],
    options: CohortOptions,
    layout: CohortLayout,
) -> Iterator[Result]:
    """Do jobs where the options say; yield each result when it is ready. A job that raises does not stop the others.

    Parameters
    ----------
    work : callable
        Does one job; sent to workers.
    on_failure : callable
        Makes the result of a job that raised, or whose workers were lost.
    jobs : iterable of Job
    options : CohortOptions
    layout : CohortLayout
        Which all workers must see.

    Raises
    ------
    UsageError
        If the scheduler does not answer, or workers have other versions or do not see the output.
    RemoteError
        If the scheduler is lost.
    """
    if options.workers or options.address:
        yield from _run_on_dask(work, on_failure, iter(jobs), options, layout)
        return
    for job in jobs:
        try:
            result = work(job)
        except Exception as error:
            result = on_failure(job, failure(error))
        yield result


def _run_on_dask(
    work: Callable[[Job], Result],
    on_failure: Callable[[Job, JobOutcome], Result],
    jobs: Iterator[Job],
    options: CohortOptions,
    layout: CohortLayout,
) -> Iterator[Result]:
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    submitted: dict[str, Job] = {}
    with connect(options) as client:

        def submit(job: Job) -> object:
            future = client.submit(work, job, pure=False)
            submitted[future.key] = job
            return future

        try:
            check_workers(client, layout)
            ahead = max(16, _AHEAD * sum(client.nthreads().values()))
            completed = as_completed([submit(job) for job in islice(jobs, ahead)])
            for future in completed:
                job = submitted.pop(future.key)
                if future.status == "finished":
                    result = future.result()
                elif future.status == "error":
                    error = future.exception()
                    if isinstance(error, VersionError):  # every other job would fail alike
                        raise error
                    # Dask gives a job to another worker when one is lost, four in all.
                    result = on_failure(job, _WORKERS_LOST if isinstance(error, KilledWorker) else failure(error))
                else:
                    raise CommClosedError(future.status)
                for following in islice(jobs, 1):
                    completed.add(submit(following))
                yield result
        except (CommClosedError, FutureCancelledError) as error:
            raise RemoteError(
                f"{options.address or 'the local cluster'}: the Dask scheduler was lost; finished slides are recorded. "
                "Start it again and repeat the same command: it processes the rest"
            ) from error
