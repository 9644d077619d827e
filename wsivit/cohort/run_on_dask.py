"""Jobs spread over a Dask cluster: small slides whole, large ones shard by shard.

What the workers did is on disk and in the ledger when they say so. A worker that is lost has its slide done by another,
which goes on after the last whole shard; a scheduler that is lost is waited for, and given what is not done yet.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from wsivit.cohort import parts
from wsivit.cohort.cluster import check_workers, connect
from wsivit.cohort.job_log import JobLog, Record
from wsivit.cohort.jobs import Job, JobRunner, VersionError
from wsivit.cohort.options import CohortOptions
from wsivit.cohort.run_serial import BROKEN, unexpected_failure
from wsivit.cohort.tasks import JobOutcome, failure
from wsivit.errors import WsivitError

if TYPE_CHECKING:
    from distributed import Client, Future

Then: TypeAlias = Callable[[Job, Any], Sequence["Record | Future[Any]"]]
"""What to do with a future's result: it gives records, and further futures to wait for."""

_log = logging.getLogger(__name__)
PATIENCE = 15.0
"""Seconds that a scheduler may take to answer."""
_LONG_PATIENCE = 600.0
"""Seconds to wait for a scheduler that was lost."""
_AHEAD = 4
"""Slides given out per thread of the cluster, so that no worker waits and no scheduler is flooded."""
_FIRST, _SECOND = 20, 10
_LOST_AGAIN = (
    "its workers were lost again and again: it takes more memory than a worker may have (--worker-memory), or native "
    "code crashes on it (--subprocess)"
)


class _Lost(Exception):
    """The scheduler is gone, and with it what it was given."""


def run_on_dask(runner: JobRunner, jobs: Iterable[Job], options: CohortOptions) -> Iterator[Record]:
    """Do jobs on a cluster; records come as they are ready.

    Raises
    ------
    UsageError
        If the scheduler cannot be reached, or its workers are not fit.
    """
    left = {job.slide.id: job for job in jobs}
    if not left:
        return
    from distributed.comm.core import CommClosedError

    for patience in itertools.chain([PATIENCE], itertools.repeat(_LONG_PATIENCE)):
        try:
            with connect(options, patience) as client:
                check_workers(client, runner.tree)
                for record in _Round(client, runner, options).run(left.values()):
                    del left[record.slide_id]
                    yield record
                return
        except (_Lost, CommClosedError):
            _log.warning("the scheduler is lost: waiting for it to come back")
        for record in _finished_meanwhile(runner, left):
            del left[record.slide_id]
            yield record


def _finished_meanwhile(runner: JobRunner, left: dict[str, Job]) -> list[Record]:
    """What workers still finished when the scheduler was gone."""
    known = JobLog(runner.tree.files).read(runner.verb.verb, runner.verb.run)
    found = (known[name] for name in left if name in known)
    return [
        record
        for record in found
        if record.state not in ("running", "not_started")
        and runner.decide(left[record.slide_id].slide, record, again=False, retry_failed=False) is None
        and not left[record.slide_id].rebuild
    ]


@dataclass
class _Share:
    """How far a large slide is that many write."""

    left: int
    seconds: float = 0.0
    why: str = ""


class _Round:
    """The work given to one scheduler, for as long as it lives."""

    def __init__(self, client: Client, runner: JobRunner, options: CohortOptions) -> None:
        self._client, self._bench, self._options = client, runner, options
        self._then: dict[str, tuple[Job, Then]] = {}
        self._shares: dict[str, _Share] = {}

    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        """Give out jobs, a few at a time, and what follows from them."""
        from distributed import as_completed

        small, large = deque[Job](), deque[Job]()
        for job in jobs:
            (large if parts.is_large(self._bench, job, self._options.split_gb) else small).append(job)
        first = [self._give(job, self._begun, parts.begin, priority=_FIRST) for job in large]
        first += [self._whole(small.popleft()) for _ in range(min(len(small), self._ahead()))]
        futures = as_completed(first)
        for future in futures:
            for step in self._settle(future):
                if isinstance(step, Record):
                    if small:  # whoever finishes a slide makes room for the next one
                        futures.add(self._whole(small.popleft()))
                    yield step
                else:
                    futures.add(step)

    def _ahead(self) -> int:
        return max(16, _AHEAD * sum(map(int, self._client.nthreads().values())))

    def _give(
        self, job: Job, then: Then, function: Callable[..., Any], *more: object, priority: int = 0
    ) -> Future[Any]:
        name = f"{self._bench.verb.verb}-{job.slide.id}-{uuid.uuid4().hex[:8]}"
        future = self._client.submit(function, self._bench, job, *more, key=name, priority=priority, pure=False)
        self._then[name] = job, then
        return future

    def _whole(self, job: Job) -> Future[Any]:
        return self._give(job, _as_it_is, JobRunner.do)

    def _settle(self, future: Future[Any]) -> Sequence[Record | Future[Any]]:
        """Return what follows from a future that is over."""
        from distributed.client import FutureCancelledError

        job, then = self._then.pop(str(future.key))
        if future.status == "finished":
            try:
                result = future.result()
            except FutureCancelledError:  # the scheduler went between the two lines
                raise _Lost from None
            return then(job, result)
        if future.status != "error":
            raise _Lost
        error = future.exception()
        if isinstance(error, VersionError):  # no slide would fare better
            raise error
        return self._failed(job, error)

    def _failed(self, job: Job, error: BaseException) -> Sequence[Record]:
        from distributed import KilledWorker

        share = self._shares.get(job.slide.id)
        if share is not None and share.left == 0:
            return []  # another part of it failed before
        self._shares[job.slide.id] = _Share(0)
        if isinstance(error, KilledWorker):
            outcome = JobOutcome("failed", _LOST_AGAIN, BROKEN, retryable=True)
        else:
            outcome = failure(error) if isinstance(error, WsivitError | OSError) else unexpected_failure(error)
        return [self._bench.end(job, outcome, 0.0)]

    def _begun(self, job: Job, begun: Record | list[range]) -> Sequence[Record | Future[Any]]:
        if isinstance(begun, Record):
            return [begun]
        self._shares[job.slide.id] = _Share(len(begun))
        return [self._give(job, self._written, parts.write, shard, priority=_SECOND) for shard in begun]

    def _written(self, job: Job, result: tuple[float, str]) -> Sequence[Future[Any]]:
        share, (seconds, why) = self._shares[job.slide.id], result
        if share.left == 0:
            return []  # another part of it failed
        share.left, share.seconds, share.why = share.left - 1, share.seconds + seconds, share.why or why
        if share.left:
            return []
        del self._shares[job.slide.id]
        return [self._give(job, _as_it_is, parts.finish, share.seconds, share.why, priority=_SECOND)]


def _as_it_is(_job: Job, record: Record) -> Sequence[Record]:
    return [record]
