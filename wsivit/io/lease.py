"""One writer at a time where there is no kernel to lock: an object that says who writes, and until when.

It is made by a request that fails where there is one already (``If-None-Match``), renewed from a thread, and removed at
the end. A writer that was killed leaves it behind; once its time is over, or at once on the machine that it ran on, the
next one takes it.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from threading import Event, Thread
from typing import Any, Self

from wsivit.errors import OutputError, RemoteError, StoreLockedError
from wsivit.io.atomic import has_ended
from wsivit.io.files import Files, LocalFiles, RemoteFiles
from wsivit.io.lock import Lock, this_process
from wsivit.io.remote import parent_and_name

LEASE = 120.0
"""Seconds for which a writer may be silent."""
_SETTLE = 0.5


class Lease:
    """An exclusive lease for something at a URL, renewed until it is closed.

    Parameters
    ----------
    folder : RemoteFiles
        In which what is leased lies.
    name : str
        Of what is leased; the lease is ``.<name>.lock`` beside it.
    wait : float
        Seconds to wait for another holder.

    Raises
    ------
    StoreLockedError
        When someone else holds it still; the text says which process on which machine.
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
                    f"{folder.url}/{name} is being written by {_tell(holder)}: wait for it, or stop it"
                )
            time.sleep(0.2)
        self._thread = Thread(target=self._keep, name="wsivit-lease", daemon=True)
        self._thread.start()

    def _text(self) -> bytes:
        return json.dumps({**this_process(), "until": time.time() + LEASE, "token": self._token}).encode()

    def _take(self) -> dict[str, Any] | None:
        """Make the lease ours; or return who has it."""
        if self._folder.create(self._key, self._text()):
            return None
        holder = self._holder()
        # Ours already: an answer that was lost made the client ask again.
        if holder.get("token") == self._token:
            return None
        if not _is_over(holder):
            return holder
        self._folder.remove(self._key)
        if not self._folder.create(self._key, self._text()):
            return self._holder()
        # Another one may have found the old lease over as well, and removed ours for it.
        time.sleep(_SETTLE)
        holder = self._holder()
        return None if holder.get("token") == self._token else holder

    def _holder(self) -> dict[str, Any]:
        try:
            found = json.loads(self._folder.read(self._key))
        except FileNotFoundError:
            return {}
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"host": "another machine", "until": time.time() + LEASE}

    def _keep(self) -> None:
        while not self._stop.wait(LEASE / 4):
            try:
                if self._holder().get("token") != self._token:
                    self.lost = True
                    return
                self._folder.write(self._key, [self._text()])
            except (OutputError, RemoteError):
                continue  # tried again at the next turn; writing itself fails louder

    def check(self) -> None:
        """Raise StoreLockedError when another writer has taken over, as it may after a long silence of this one."""
        if self.lost:
            raise StoreLockedError(f"{self._folder.url}/{self._name} was taken over by {_tell(self._holder())}")

    def close(self) -> None:
        """Give the lease back; once is enough."""
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
    """Lock what lies at the root of some files, or what has an ending more to its name; close it to release it.

    Raises
    ------
    StoreLockedError
        When someone else holds it after `wait` seconds.
    OutputError
        When it cannot be locked.
    """
    if isinstance(files, LocalFiles):
        return Lock(files.root.with_name(f"{files.root.name}{ending}"), wait)
    folder, name = parent_and_name(files.location)
    return Lease(RemoteFiles(folder), f"{name}{ending}", wait)


def _is_over(holder: dict[str, Any]) -> bool:
    """Whether a holder is past its time, or a process of this machine that has ended."""
    if float(holder.get("until", 0)) < time.time():
        return True
    if holder.get("host") != socket.gethostname() or holder.get("pid") == os.getpid():
        return False
    try:
        return has_ended(int(holder["pid"]))
    except (KeyError, ValueError):
        return False


def _tell(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    ends = time.strftime("%H:%M:%S", time.localtime(float(holder.get("until", 0))))
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')} (its lease ends at {ends} unless renewed)"
