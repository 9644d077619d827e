"""Jobs, one slide and one verb each: which there are and why, doing them here or on Dask, and their records.

Results are on disk and in the job log before a worker reports them, so nothing is lost with a worker or a scheduler.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import wsivit
from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobLog, JobOutcome, Record
from wsivit.cohort.options import CohortOptions
from wsivit.cohort.tasks import Skipped, Task
from wsivit.errors import OutputError, RemoteError, StoreLockedError, UsageError, WsivitError
from wsivit.io import versions
from wsivit.slide_list import SlideRow

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
CONNECT_S = 15.0
"""Seconds that a scheduler has to answer."""
_LISTED = 5
"""Workers that a message names."""
UNEXPECTED = 1
"""Exit code of a job whose worker was lost, or that raised what no verb should raise."""
_AHEAD = 4
"""Jobs that the scheduler holds per thread: no worker waits, and 100,000 slides do not fill the scheduler's memory."""
_WORKERS_LOST = JobOutcome(
    "failed",
    "each worker that had it was lost: it takes more memory than a worker may have (--worker-memory), or native code "
    "crashes on it (--subprocess)",
    UNEXPECTED,
    retryable=True,
)


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
        # Records are JSON, in which tuples are lists.
        wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in self.task.parameters(slide).items()}
        existing = record.parameters
        compared = [key for key in {**existing, **wanted} if key not in self.task.unused(record)]
        changed = [key for key in compared if existing.get(key) != wanted.get(key)]
        differences = "; ".join(f"{key}: was {existing.get(key)!r}, now {wanted.get(key)!r}" for key in changed)
        why = differences or self._changed_input(slide, record)
        if why or force:
            return Job(slide, why or "forced", rebuild=True)
        if record.state in ("running", "interrupted"):
            return Job(slide, "was interrupted", record.rebuild)
        if record.state == "failed" and (retry_failed or record.retryable):
            return Job(slide, f"failed before: {record.reason}", record.rebuild)
        for output in record.outputs:
            files, name = self.layout.files, output
            if "://" in output or output.startswith("/"):  # of a store that was tiled elsewhere
                folder, _, name = output.rpartition("/")
                files = CohortLayout(folder).files
            if files.size(name) is None:
                return Job(slide, f"{output} is missing")
        return None

    def _changed_input(self, slide: SlideRow, record: Record) -> str:
        """Say how the input has changed since the record; empty where it has not."""
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
        running = self._record(job.slide, JobOutcome("running", job.why))
        JobLog(self.layout.files).write(replace(running, rebuild=job.rebuild))
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
        record = replace(self._record(job.slide, outcome), seconds=round(seconds, 3), rebuild=rebuild)
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
            versions=", ".join(f"{name} {number}" for name, number in versions().items()),
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
            submitted[str(future.key)] = job
            return future

        try:
            check_workers(client, layout)
            ahead = max(16, _AHEAD * sum(client.nthreads().values()))
            completed = as_completed([submit(job) for job in islice(jobs, ahead)])
            for future in completed:
                job = submitted.pop(str(future.key))
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


@contextmanager
def connect(options: CohortOptions) -> Iterator[Client]:
    """Start a local cluster, or connect to the scheduler at `CohortOptions.address`.

    Raises
    ------
    UsageError
        If no scheduler answers there, or the workers do not start.
    """
    import dask
    from distributed import Client, LocalCluster

    if options.address is None:
        # A worker that Dask pauses near its memory limit waits for results to be spilled to disk. What fills the memory
        # here is a slide or a model, which Dask cannot spill: the worker would wait for ever.
        with dask.config.set({"distributed.worker.memory.pause": False}):
            try:
                cluster = LocalCluster(
                    n_workers=options.workers,
                    threads_per_worker=1,
                    memory_limit=1 / options.workers if options.worker_memory == "auto" else options.worker_memory,
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard_address": ":0"},  # the default port warns where a second cluster runs
                    silence_logs=logging.CRITICAL,  # a killed worker is no news: its slide goes to another one
                )
            except RuntimeError as error:
                raise UsageError(
                    f"the workers did not start ({error}): does a script start them outside of its main guard, "
                    'if __name__ == "__main__":, or are there more of them than fit into memory?'
                ) from None
        with cluster, Client(cluster) as client:
            yield client
        return
    with dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_S}s"}):
        try:
            client = Client(options.address, timeout=CONNECT_S)
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(
                f"{options.address}: no Dask scheduler answers there: {' '.join(str(error).split())}; start one with "
                "`dask scheduler`, or use --workers for this machine"
            ) from error
    with client:
        yield client


def check_workers(client: Client, layout: CohortLayout) -> None:
    """Compare the workers that have joined with this process; `JobRunner.do` checks those that join later.

    Raises
    ------
    UsageError
        If versions differ, or a worker does not see the output.
    """
    own, exists = _describe_process(layout)
    workers: dict[str, Any] = client.run(_describe_process, layout, on_error="return")
    different, blind = [], []
    for worker, answer in workers.items():
        if isinstance(answer, BaseException):
            different.append(f"worker {worker} cannot run wsivit ({answer})")
            continue
        theirs, sees = answer
        different += [
            f"worker {worker} has {name} {theirs.get(name, 'missing')}, this process {number}"
            for name, number in own.items()
            if theirs.get(name) != number
        ]
        blind += [worker] if exists and not sees else []
    if different:
        more = f" and {len(different) - _LISTED} more" if len(different) > _LISTED else ""
        raise UsageError(f"{'; '.join(different[:_LISTED])}{more}: install the same everywhere")
    if blind:
        raise UsageError(
            f"{', '.join(blind[:_LISTED])} cannot see {layout.root}: the output must be on a file system that all "
            "workers share, or at a URL"
        )
    if not workers:
        _log.warning("the scheduler has no workers yet: waiting for them")


def _describe_process(layout: CohortLayout) -> tuple[dict[str, str], bool]:
    """Return the versions that a process has, and whether it sees the output."""
    # Pythons of one minor version work together.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, "distributed": version("distributed"), **versions()}, layout.exists
