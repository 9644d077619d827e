"""One writer at a time.

In a folder, `Lock`: `filelock` on a small file next to what is written, which also names the holder. Where a file
system has no locks (some network mounts), a marker file is the lock: whoever creates it holds it. Such a marker
outlives its holder. filelock takes over the marker of a process of this machine that has ended; nothing is known of one
on another machine, so its marker stays until someone removes it, as the error says.

At a URL, `Lease`: an object that names the writer and says until when. It is created by a request that fails where one
exists (``If-None-Match``), renewed from a thread, and removed at the end. A killed writer leaves it behind; the next
one takes it over once it has expired, or at once on the machine of the killed one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from wsivit.errors import OutputError, RemoteError, StoreLockedError
from wsivit.io.files import Files, LocalFiles, RemoteFiles
from wsivit.io.processes import has_ended
from wsivit.io.remote import parent_and_name

log = logging.getLogger(__name__)

LEASE = 120.0
"""Seconds for which a lease is valid unless renewed."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_POLL = 0.02
_SETTLE = 0.5


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
        When another process still holds it; the text names the process and its machine.
    OutputError
        When the lock file cannot be written.
    """

    def __init__(self, target: Path, wait: float = 0.0) -> None:
        import filelock  # takes a tenth of a second, which commands that only read can do without

        self.path = lock_file(target)
        marker = target.with_name(f".{target.name}.lock-file")
        # Where there is no fcntl, filelock's own FileLock is a marker: at the path where ours says who holds it.
        self.of_kernel = os.name == "nt" or filelock.has_fcntl
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.of_kernel:
                # Not per thread: a writer may be closed by another thread than the one that opened it.
                self._lock: filelock.BaseFileLock
                self._lock = filelock.FileLock(self.path, thread_local=False, fallback_to_soft=False)
                try:
                    self._lock.acquire(timeout=wait, poll_interval=_POLL)
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    self.of_kernel = False
            if not self.of_kernel:
                log.warning("%s: this file system has no locks: a file marks the writer", self.path.parent)
                self._lock = filelock.SoftFileLock(marker, thread_local=False)
                self._lock.acquire(timeout=wait, poll_interval=_POLL)
        except filelock.Timeout:
            try:
                holder = json.loads(self.path.read_text())
                who = f"process {holder['pid']} on {holder['host']}"
            except (OSError, ValueError, KeyError, TypeError):
                who = "another process"
            advice = "wait for it, or stop it" + ("" if self.of_kernel else f"; if it has ended, remove {marker}")
            raise StoreLockedError(f"{target} is being written by {who}: {advice}") from None
        except OSError as error:
            why = "it is a file, not a folder" if target.parent.is_file() else error.strerror
            raise OutputError(f"cannot write in {target.parent}: {why}") from error
        with suppress(OSError):  # the name of the holder only serves the message above
            self.path.write_bytes(json.dumps(_this_process()).encode())

    def check(self) -> None:
        """Do nothing: no other writer takes over a lock that is held, as one may take over a `Lease`."""

    def close(self) -> None:
        """Release the lock; further calls do nothing."""
        if self._lock.is_locked:
            # While it is still held: afterwards it may be another process's. (On Windows filelock removes it.)
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Lease:
    """An exclusive lease for something at a URL, renewed until it is closed.

    Parameters
    ----------
    folder : RemoteFiles
        The parent of what is leased.
    name : str
        Of what is leased; the lease is ``.<name>.lock`` next to it.
    wait : float
        Seconds to wait for another holder.

    Raises
    ------
    StoreLockedError
        When another process still holds it; the text names the process and its machine.
    OutputError
        When it cannot be written.
    """

    def __init__(self, folder: RemoteFiles, name: str, wait: float = 0.0) -> None:
        self._folder, self._name, self._key = folder, name, f".{name}.lock"
        self._token = uuid.uuid4().hex
        self._stop, self.lost = Event(), False
        deadline = time.monotonic() + wait
        while (holder := self._take()) is not None:
            if time.monotonic() >= deadline:
                raise StoreLockedError(
                    f"{folder.url}/{name} is being written by {_describe(holder)}: wait for it, or stop it"
                )
            time.sleep(0.2)
        self._thread = Thread(target=self._renew, name="wsivit-lease", daemon=True)
        self._thread.start()

    def _text(self) -> bytes:
        return json.dumps({**_this_process(), "until": time.time() + LEASE, "token": self._token}).encode()

    def _take(self) -> dict[str, Any] | None:
        """Take the lease; or return its holder."""
        if self._folder.create(self._key, self._text()):
            return None
        holder = self._holder()
        # Ours already: an answer that was lost made the client repeat the request.
        if holder.get("token") == self._token:
            return None
        expired = float(holder.get("until", 0)) < time.time()
        if not expired and holder.get("host") == socket.gethostname() and holder.get("pid") != os.getpid():
            with suppress(KeyError, ValueError):
                expired = has_ended(int(holder["pid"]))
        if not expired:
            return holder
        self._folder.remove(self._key)
        if not self._folder.create(self._key, self._text()):
            return self._holder()
        # Another writer may also have seen the old lease expire, and removed ours instead of it.
        time.sleep(_SETTLE)
        holder = self._holder()
        return None if holder.get("token") == self._token else holder

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads(self._folder.read(self._key))
        except FileNotFoundError:
            return {}
        except ValueError:
            holder = None
        return holder if isinstance(holder, dict) else {"host": "another machine", "until": time.time() + LEASE}

    def _renew(self) -> None:
        while not self._stop.wait(LEASE / 4):
            try:
                if self._holder().get("token") != self._token:
                    self.lost = True
                    return
                self._folder.write(self._key, [self._text()])
            except (OutputError, RemoteError):
                continue  # the next turn tries again; writing the store itself fails louder

    def check(self) -> None:
        """Raise StoreLockedError when another writer has taken over, as it may after a long silence of this one."""
        if self.lost:
            raise StoreLockedError(f"{self._folder.url}/{self._name} was taken over by {_describe(self._holder())}")

    def close(self) -> None:
        """Remove the lease; further calls do nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        if not self.lost and self._holder().get("token") == self._token:
            self._folder.remove(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def exclusive(files: Files, ending: str = "", wait: float = 0.0) -> Lock | Lease:
    """Lock the root of some files, or its name with an ending; close it to release it.

    Raises
    ------
    StoreLockedError
        When another process still holds it after `wait` seconds.
    OutputError
        When it cannot be locked.
    """
    if isinstance(files, LocalFiles):
        return Lock(files.root.with_name(f"{files.root.name}{ending}"), wait)
    folder, name = parent_and_name(files.location)
    return Lease(RemoteFiles(folder), f"{name}{ending}", wait)


def lock_file(target: Path) -> Path:
    """Return the file next to a target that is locked for it."""
    return target.with_name(f".{target.name}.lock")


def _this_process() -> dict[str, int | str]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    ends = time.strftime("%H:%M:%S", time.localtime(float(holder.get("until", 0))))
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')} (its lease ends at {ends} unless renewed)"
