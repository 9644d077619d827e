"""Jobs done by this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wsivit.cohort.ledger import Record
from wsivit.cohort.verbs import Outcome
from wsivit.cohort.work import Bench, Job

BROKEN = 1
"""Exit code of what no verb returned from: its worker was lost, or it broke."""


def in_turn(bench: Bench, jobs: Iterable[Job]) -> Iterator[Record]:
    """Do jobs one after the other; one that breaks does not stop the others."""
    from dask.local import SynchronousExecutor

    for job in jobs:
        future = SynchronousExecutor().submit(bench.do, job)
        error = future.exception()
        if error is None:
            yield future.result()
        elif isinstance(error, Exception):
            yield bench.end(job, broken(error), 0.0)
        else:  # someone wants it to stop
            raise error


def broken(error: BaseException) -> Outcome:
    """Sum up an error that no verb should raise."""
    return Outcome("failed", " ".join(f"{type(error).__name__}: {error}".split()), BROKEN, passing=True)
