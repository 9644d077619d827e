"""One writer at a time: a kernel lock on a small file beside the store, which says who holds it.

Where a file system has no such locks (some network mounts), the file itself is the lock: whoever creates it holds it.
Such a lock outlives its holder. That of a process of this machine that has ended is taken over; of one on another
machine nothing can be known, so it stays until the file is removed, as the error says.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from wsivit.errors import OutputError, StoreLockedError

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_HELD = (errno.EAGAIN, errno.EACCES)


class Lock:
    """An exclusive lock for something in a folder; released when closed, or by the kernel when the process ends.

    Its file goes away with it.

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
        self.path = lock_file(target)
        self._created = target.with_name(f".{target.name}.lock-file")  # the lock where the kernel has none
        self._here: Lock | None = None
        self._handle: int | None = None
        deadline = time.monotonic() + wait
        while not self._try(target):
            if time.monotonic() >= deadline:
                raise StoreLockedError(f"{target} is being written by {self._holder()}")
            time.sleep(0.02)

    def _try(self, target: Path) -> bool:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            why = "it is a file, not a folder" if target.parent.is_file() else error.strerror
            raise OutputError(f"cannot write in {target.parent}: {why}") from error
        try:
            taken = self._take(handle)
        except OSError as error:
            os.close(handle)
            raise OutputError(f"cannot lock {self.path}: {error.strerror}") from error
        if not taken:
            os.close(handle)
            return False
        with suppress(OSError):  # who holds it is good to know, no more
            os.truncate(handle, 0)
            os.pwrite(handle, _this_process(), 0)
        self._handle = handle
        return True

    def _take(self, handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            if error.errno in _NO_LOCKS:
                return self._create()
            raise
        try:
            # The holder before us removed the file after we opened it: ours is not the one that others see.
            return os.fstat(handle).st_ino == self.path.stat().st_ino
        except FileNotFoundError:
            return False

    def _create(self) -> bool:
        """Take the lock by creating its file; a lock in this machine's own folder keeps its other processes out."""
        folder, name = Path(tempfile.gettempdir()), hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:16]
        if self.path.parent == folder:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        try:
            here = Lock(folder / f"wsivit-{name}")
        except StoreLockedError:
            return False
        log.warning("%s: this file system has no locks: a file says that it is being written", self.path.parent)
        left = _read(self._created)
        if left is not None and left["host"] == socket.gethostname():
            self._created.unlink()  # its process is no more: it would have the lock that we have
        try:
            with self._created.open("xb") as file:
                file.write(_this_process())
        except FileExistsError:
            here.close()
            return False
        self._here = here
        return True

    @property
    def of_kernel(self) -> bool:
        """Whether the kernel keeps the lock, and not a file."""
        return self._here is None

    def _holder(self) -> str:
        created = _read(self._created)
        holder = created or _read(self.path)
        if holder is None:
            return "another process: wait for it, or stop it"
        who = f"process {holder['pid']} on {holder['host']}"
        if created:
            return f"{who}: wait for it, or stop it; if it is no more, remove {self._created}"
        return f"{who}: wait for it, or stop it"

    def close(self) -> None:
        """Release the lock; once is enough."""
        if self._handle is None:
            return
        with suppress(OSError):  # the kernel's lock is released all the same
            if self._here is not None:
                self._created.unlink(missing_ok=True)
                self._here.close()
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def lock_file(target: Path) -> Path:
    """Return the file beside a target that is locked for it."""
    return target.with_name(f".{target.name}.lock")


def _this_process() -> bytes:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()


def _read(path: Path) -> dict[str, int | str] | None:
    try:
        holder = json.loads(path.read_text())
        return {"pid": int(holder["pid"]), "host": str(holder["host"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
