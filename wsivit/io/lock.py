"""One writer at a time: `filelock` on a small file next to what is written, which also says who holds it.

Where a file system has no locks (some network mounts), a marker file is the lock: whoever creates it holds it. Such a
marker outlives its holder. filelock takes over the marker of a process of this machine that has ended; nothing can be
known of one on another machine, so its marker stays until someone removes it, as the error says.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from wsivit.errors import OutputError, StoreLockedError

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_POLL = 0.02


class Lock:
    """An exclusive lock for something in a folder; released when closed, or by the system when the process ends.

    Parameters
    ----------
    target : Path
        What is locked; the lock file is ``.<name>.lock`` in the same folder. It is removed with the lock.
    wait : float
        Seconds to wait for another holder.

    Attributes
    ----------
    of_kernel : bool
        Whether the system keeps the lock, and not a marker file.

    Raises
    ------
    StoreLockedError
        When someone else still holds it; the text names the process and its machine.
    OutputError
        When the lock file cannot be written.
    """

    def __init__(self, target: Path, wait: float = 0.0) -> None:
        import filelock  # takes a tenth of a second, which commands that only read can do without

        self.path = lock_file(target)
        self._marker = target.with_name(f".{target.name}.lock-file")
        # Where there is no fcntl, filelock's own FileLock is a marker: at the path where ours says who holds it.
        self.of_kernel = os.name == "nt" or filelock.has_fcntl
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire(wait)
        except filelock.Timeout:
            raise StoreLockedError(f"{target} is being written by {self._holder()}") from None
        except OSError as error:
            why = "it is a file, not a folder" if target.parent.is_file() else error.strerror
            raise OutputError(f"cannot write in {target.parent}: {why}") from error
        with suppress(OSError):  # who holds it is good to know, no more
            self.path.write_bytes(json.dumps(this_process()).encode())

    def _acquire(self, wait: float) -> BaseFileLock:
        import filelock

        if self.of_kernel:
            # Not per thread: a writer may be closed by another thread than the one that opened it.
            kernel = filelock.FileLock(self.path, thread_local=False, fallback_to_soft=False)
            try:
                kernel.acquire(timeout=wait, poll_interval=_POLL)
                return kernel
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        log.warning("%s: this file system has no locks: a file says that it is being written", self.path.parent)
        self.of_kernel = False
        marker = filelock.SoftFileLock(self._marker, thread_local=False)
        marker.acquire(timeout=wait, poll_interval=_POLL)
        return marker

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
            who = f"process {holder['pid']} on {holder['host']}: wait for it, or stop it"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process: wait for it, or stop it"
        return who if self.of_kernel else f"{who}; if it has ended, remove {self._marker}"

    def check(self) -> None:
        """Do nothing: no other writer takes over a lock that is held, as it may a `Lease`."""

    def close(self) -> None:
        """Release the lock; once is enough."""
        if self._lock.is_locked:
            # While it is still held: afterwards it may be another process's. (On Windows filelock removes it.)
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def lock_file(target: Path) -> Path:
    """Return the file next to a target that is locked for it."""
    return target.with_name(f".{target.name}.lock")


def this_process() -> dict[str, int | str]:
    """Return what tells this process from others, on this machine and on others."""
    return {"pid": os.getpid(), "host": socket.gethostname()}
