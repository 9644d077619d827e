"""What the processes that read tiles need of shared memory, before they start and when it runs out.

They hand over batches in ``/dev/shm``. A container has 64 MB of it; a batch that does not fit would be lost in silence,
and the training would wait for it for ever.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
AHEAD = 2
"""Batches that each process has ready (the loader's own default)."""
_HELD = 3
"""Batches that the training holds: the one it learns from, the next one, one that is being pinned."""
_SHARE = 0.9
"""Of what is free; the rest is for others."""


def free_bytes(folder: Path | None = None) -> int | None:
    """Free shared memory in bytes; None where there is no such file system, as on macOS."""
    try:
        found = os.statvfs(folder or FOLDER)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize


def fitting_workers(workers: int, batch_bytes: int, processes: int = 1) -> int:
    """Return with how many workers the batches fit into shared memory, and say so where that is fewer.

    Parameters
    ----------
    workers : int
        That are wanted, by each training process.
    batch_bytes : int
        Of the largest batch.
    processes : int
        Training processes on this machine, which share the memory.

    Returns
    -------
    int
        `workers`; fewer; or 0, threads of this process, where that is faster than the few that fit.
    """
    free = free_bytes()
    if free is None or not workers:
        return workers
    batches = int(_SHARE * free / processes) // batch_bytes
    if batches >= AHEAD * workers + _HELD:
        return workers
    fitting = max(0, (batches - _HELD) // AHEAD)
    chosen = fitting if 2 * fitting >= workers else 0
    _log.warning(
        "%s has %.0f MB free, and %d workers need %.0f MB for their batches: tiles are read by %s; for more, %s",
        FOLDER,
        free / 1e6,
        workers,
        processes * (AHEAD * workers + _HELD) * batch_bytes / 1e6,
        f"{chosen} workers" if chosen else "threads of this process",
        "give it more (docker run --shm-size=2g) or take a smaller --batch-size",
    )
    return chosen
