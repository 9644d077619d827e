"""One writer at a time: a kernel lock on a small file beside the store, which says who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Self

from wsivit.errors import OutputError, StoreLockedError


class Lock:
    """An exclusive lock for something in a folder; released when closed, or by the kernel when the process ends.

    The file goes away with the lock. On network file systems the lock is as good as their ``flock``: where that is not
    supported at all, taking it is an error, not a pretence.

    Parameters
    ----------
    target : Path
        What is locked; the lock file is ``.<name>.lock`` in the same folder.
    wait : float
        Seconds to wait for another holder.

    Raises
    ------
    StoreLockedError
        When someone else holds it still; the text says which process on which machine.
    OutputError
        When the lock file cannot be made.
    """

    def __init__(self, target: Path, wait: float = 0.0) -> None:
        self.path = target.with_name(f".{target.name}.lock")
        self._handle: int | None = None
        deadline = time.monotonic() + wait
        while not self._try(target):
            if time.monotonic() >= deadline:
                raise StoreLockedError(f"{target} is being written by {self._holder()}: wait for it, or stop it")
            time.sleep(0.02)

    def _try(self, target: Path) -> bool:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"cannot write in {target.parent}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us removed the file after we opened it: ours is not the one that others see.
            if os.fstat(handle).st_ino != self.path.stat().st_ino:
                raise FileNotFoundError
        except OSError as error:
            os.close(handle)
            if error.errno not in (None, errno.EAGAIN, errno.EACCES, errno.ENOENT):
                raise OutputError(f"cannot lock {self.path}: {error.strerror}") from error
            return False
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        self._handle = handle
        return True

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def close(self) -> None:
        """Release the lock; once is enough."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
