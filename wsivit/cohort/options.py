"""How a verb is run over many slides."""

from __future__ import annotations

import os
from dataclasses import dataclass

from wsivit.errors import UsageError


@dataclass(frozen=True)
class CohortOptions:
    """How a verb is run over many slides.

    Parameters
    ----------
    workers : int
        Processes on this machine, as a local Dask cluster. 0: this process does it all, one slide after the other.
    scheduler : str, optional
        Address of a Dask scheduler, ``tcp://host:8786``; default: the variable ``DASK_SCHEDULER_ADDRESS``, if
        `workers` is 0.
    worker_memory : str
        Most memory of a local worker, such as ``4GB``, before it is stopped and its slide tried elsewhere; ``auto`` is
        its share of the machine.
    split_gb : float
        Slides of at least so many GB on disk are tiled by all workers at once, shard by shard.
    shard : str, optional
        ``i/n``: do the i-th of n parts of the work only, 1 to n, as a task of a job array does.
    retry_failed : bool
        Try again what failed before.
    again : bool
        Do all of it anew, also what is done and unchanged.
    only : str, optional
        Do only slides whose id matches this pattern, such as ``site-a__*``.
    limit : int, optional
        Do at most so many slides.
    plan : bool
        Say what would be done, what it would take, and which slides would be refused; write nothing.
    """

    workers: int = 0
    scheduler: str | None = None
    worker_memory: str = "auto"
    split_gb: float = 1.0
    shard: str | None = None
    retry_failed: bool = False
    again: bool = False
    only: str | None = None
    limit: int | None = None
    plan: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UsageError(f"workers must be 0 or more, not {self.workers}")
        if self.workers and self.scheduler:
            raise UsageError("give workers, or a scheduler that has some, not both")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit must be at least 1, not {self.limit}")
        if self.shard and (self.workers or self.scheduler):
            raise UsageError("a shard is done by the process that it is given to: give no workers or scheduler with it")
        self.part()

    @property
    def address(self) -> str | None:
        """Address of the scheduler to use; None for no distant one."""
        if self.workers or self.shard:
            return None
        return self.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS") or None

    @property
    def threads(self) -> int | None:
        """Threads for each slide: the machine's CPUs are shared out among local workers; a distant one has one each."""
        if self.workers:
            return max(1, (os.cpu_count() or 1) // self.workers)
        return 1 if self.address else None

    def part(self) -> tuple[int, int]:
        """Which part of how many, counted from 0.

        Raises
        ------
        UsageError
            If `shard` is not ``i/n`` with 1 <= i <= n.
        """
        if self.shard is None:
            return 0, 1
        words = self.shard.split("/")
        if len(words) != 2 or not all(word.isdecimal() for word in words) or not 0 < int(words[0]) <= int(words[1]):
            raise UsageError(f"shard must be i/n with i from 1 to n, such as 3/16, not {self.shard!r}")
        return int(words[0]) - 1, int(words[1])
