"""Connect to a Dask cluster, and check that its workers fit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.options import CohortOptions
from wsivit.errors import UsageError
from wsivit.io import versions

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_log = logging.getLogger(__name__)
CONNECT_S = 15.0
"""Seconds that a scheduler has to answer."""
_LISTED = 5


@contextmanager
def connect(options: CohortOptions) -> Iterator[Client]:
    """Start a local cluster, or connect to the scheduler at `CohortOptions.address`.

    Raises
    ------
    UsageError
        If no scheduler answers there.
    """
    import dask
    from distributed import Client

    if options.address is None:
        with _local_cluster(options) as cluster, Client(cluster) as client:
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


def _local_cluster(options: CohortOptions) -> LocalCluster:
    import dask
    from distributed import LocalCluster

    # A worker that Dask pauses near its memory limit waits for results to be spilled to disk. What fills the memory
    # here is a slide or a model, which Dask cannot spill: the worker would wait for ever.
    with dask.config.set({"distributed.worker.memory.pause": False}):
        try:
            return LocalCluster(
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
