"""How a verb processes many slides."""

from __future__ import annotations

import os
from dataclasses import dataclass

from wsivit.errors import UsageError
from wsivit.ranges import Count, Workers, check_options


@dataclass(frozen=True)
class CohortOptions:
    """How a verb processes many slides.

    Parameters
    ----------
    workers : int
        Processes on this machine, as a local Dask cluster. 0: this process does everything, one slide after the other.
    scheduler : str, optional
        Address of a Dask scheduler, ``tcp://host:8786``; default: the variable ``DASK_SCHEDULER_ADDRESS``, if
        `workers` is 0.
    worker_memory : str
        Memory limit of a local worker, such as ``4GB``: beyond it the worker is stopped, and its slide tried on another
        one. ``auto`` shares the machine's memory out equally.
    array_task : str, optional
        ``i/n``: process the i-th of n parts of the slides only, 1 to n, as a task of a job array does.
    retry_failed : bool
        Process slides again that failed before.
    force : bool
        Process every slide again, also finished and unchanged ones, and replace its results.
    include : str, optional
        Process only slides whose id matches this pattern, such as ``site-a__*``.
    max_slides : int, optional
        Process at most so many slides.
    dry_run : bool
        Report which slides would be processed, which would fail, and what it would take; write nothing.
    """

    workers: Workers = 0
    scheduler: str | None = None
    worker_memory: str = "auto"
    array_task: str | None = None
    retry_failed: bool = False
    force: bool = False
    include: str | None = None
    max_slides: Count | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.workers and self.scheduler:
            raise UsageError("give workers, or the address of a scheduler, not both")
        if self.array_task and (self.workers or self.scheduler):
            raise UsageError("each task of an array is one process: give no workers or scheduler with array_task")
        self.part()

    @property
    def address(self) -> str | None:
        """Address of the scheduler to connect to; None for local workers, or this process."""
        if self.workers or self.array_task:
            return None  # the variable may be set for all jobs of a machine
        return self.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS") or None

    @property
    def threads(self) -> int | None:
        """Threads for each slide: local workers share the machine's CPUs; a worker of a scheduler has one thread."""
        if self.workers:
            return max(1, (os.cpu_count() or 1) // self.workers)
        return 1 if self.address else None

    def part(self) -> tuple[int, int]:
        """Which part of how many, counted from 0.

        Raises
        ------
        UsageError
            If `array_task` is not ``i/n`` with 1 <= i <= n.
        """
        if self.array_task is None:
            return 0, 1
        part, _, total = self.array_task.partition("/")
        if not (part.isdecimal() and total.isdecimal() and 0 < int(part) <= int(total)):
            raise UsageError(f"array_task must be i/n with i from 1 to n, such as 3/16, not {self.array_task!r}")
        return int(part) - 1, int(total)
