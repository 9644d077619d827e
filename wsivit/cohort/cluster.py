"""Reaching a Dask cluster, and making sure that its workers are fit for the work."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsivit import __version__
from wsivit.cohort.cohort_layout import COHORT, CohortLayout
from wsivit.cohort.options import CohortOptions
from wsivit.errors import UsageError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_log = logging.getLogger(__name__)
_PACKAGES = ("wsivit", "numpy", "zarr", "simplejpeg", "imagecodecs", "tifffile", "openslide")


@contextmanager
def connect(options: CohortOptions, patience: float) -> Iterator[Client]:
    """Start a local cluster, or reach the scheduler that is named.

    Raises
    ------
    UsageError
        If no scheduler answers within `patience` seconds.
    """
    import dask
    from distributed import Client

    if options.address is None:
        with _local(options) as cluster, Client(cluster) as client:
            yield client
        return
    with dask.config.set({"distributed.comm.timeouts.connect": f"{patience}s"}):
        try:
            client = Client(options.address, timeout=patience)
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(
                f"{options.address}: no Dask scheduler answers there: {' '.join(str(error).split())}; start one with "
                "`dask scheduler`, or use --workers for this machine"
            ) from error
    with client:
        yield client


def _local(options: CohortOptions) -> LocalCluster:
    import dask
    from distributed import LocalCluster

    # Dask does elsewhere what a killed worker was doing, so that its log need not speak of it. A worker that is paused
    # for want of memory would wait for ever: what it has is its own, such as a model, and not results to be spilled.
    with dask.config.set({"distributed.worker.memory.pause": False}):
        return LocalCluster(
            n_workers=options.workers,
            threads_per_worker=1,
            memory_limit=1 / options.workers if options.worker_memory == "auto" else options.worker_memory,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # or a second cluster on this machine is warned of the first
            silence_logs=logging.CRITICAL,
        )


def check_workers(client: Client, tree: CohortLayout) -> None:
    """Compare the workers that are there with this process; those that come later compare themselves.

    Raises
    ------
    UsageError
        If versions differ, or a worker does not see the output.
    """
    found: Any = client.get_versions(packages=list(_PACKAGES))
    wrong = [
        f"{place} has {difference}"
        for place, theirs in {"the scheduler": found["scheduler"], **found["workers"]}.items()
        for difference in _differences(found["client"], theirs, scheduler=place == "the scheduler")
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UsageError(f"the cluster has other versions: {'; '.join(wrong[:5])}{more}: install the same everywhere")
    seen = client.run(_see, tree)
    other = [f"worker {worker} has wsivit {version}" for worker, (version, _) in seen.items() if version != __version__]
    if other:
        raise UsageError(f"{'; '.join(other[:5])}, this process {__version__}: install the same everywhere")
    blind = [worker for worker, (_, sees) in seen.items() if not sees]
    if blind:
        raise UsageError(
            f"{', '.join(blind[:5])} cannot see {tree.root}: the output must be on a file system that all workers "
            "share, or at a URL"
        )
    if not found["workers"]:
        _log.warning("the scheduler has no workers yet: waiting for them")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, scheduler: bool) -> Iterator[str]:
    """Yield in what a process differs; a scheduler runs no code of ours, but must speak with us."""
    here, there = ours["packages"], theirs["packages"]
    for name in ("python", "distributed", *(() if scheduler else _PACKAGES)):
        mine, other = (_short(name, packages.get(name)) for packages in (here, there))
        if mine != other:
            yield f"{name} {other or 'missing'}, this process {mine}"


def _short(name: str, version: str | None) -> str:
    """Pythons of one minor version work together."""
    return ".".join(str(version or "").split(".")[:2]) if name == "python" else str(version or "")


def _see(tree: CohortLayout) -> tuple[str, bool]:
    """Return what a worker runs, whatever is installed beside it, and whether it sees the output."""
    return __version__, tree.files.size(COHORT) is not None
