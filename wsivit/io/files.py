"""Where the files of a store are: a folder, or anything fsspec reaches by URL.

`Files` is the interface over both. Writes are atomic: in a folder through a temporary name, fsync and rename; elsewhere
as one upload, which object stores show only when it is complete.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Protocol

from wsivit.errors import OutputError, RemoteError
from wsivit.io.atomic import TEMPORARY, remove, sync_folder, temporary_path, writing
from wsivit.io.processes import READ_ONLY, after_fork, read_at
from wsivit.io.remote import Range, Remote, coalesce, is_url, local_path


class Files(Protocol):
    """The files below one root; keys are relative, with ``/`` between their parts.

    Attributes
    ----------
    url : str
        Of the root, as it may be shown and kept.
    location : str
        What opens it again: the same, with its credentials.
    """

    url: str
    location: str

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file, or the bytes ``[start, stop)`` of it; FileNotFoundError where there is none."""

    def ranges(self, wanted: Sequence[Range]) -> AbstractContextManager[Callable[[int], bytes]]:
        """Give a function that reads the k-th of the ranges, in any thread; FileNotFoundError for no file."""

    def size(self, key: str) -> int | None:
        """Length of a file in bytes; None where there is none."""

    def write(self, key: str, parts: Iterable[bytes]) -> None:
        """Write a file atomically; it survives a power cut once this returns."""

    def begin(self, key: str, parts: Iterable[bytes]) -> Callable[[], object]:
        """Start writing: draw all of `parts`. Calling the result, in any thread, completes the file.

        It survives a power cut once `write` has written another file in the same folder.
        """

    def list(self, key: str = "") -> list[str]:
        """Names directly below a key, sorted; empty where there is nothing."""

    def remove(self, key: str) -> None:
        """Remove a file or everything below a key; nothing happens where there is nothing."""

    def remove_temporaries(self, key: str = "") -> None:
        """Remove unfinished files of killed writers below a key."""


def files_at(location: str | os.PathLike[str]) -> Files:
    """Return the files below a folder or URL (``s3://…``, ``memory://…``)."""
    return RemoteFiles(os.fspath(location)) if is_url(location) else LocalFiles(Path(local_path(location)))


class LocalFiles:
    """Files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = self.location = str(root)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file, or a part of it."""
        with (self.root / key).open("rb") as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    @contextmanager
    def ranges(self, wanted: Sequence[Range]) -> Iterator[Callable[[int], bytes]]:
        """Open the files of some ranges; each is read when it is asked for."""
        # Opened for each batch: a thousand stores then hold no file handles, and none is shared over a fork.
        handles: dict[str, int] = {}
        try:
            for key in {key for key, _, _ in wanted}:
                handles[key] = os.open(f"{self.url}/{key}", READ_ONLY)
            places = [(handles[key], stop - start, start) for key, start, stop in wanted]
            yield lambda k: read_at(*places[k])
        finally:
            for handle in handles.values():
                os.close(handle)

    def size(self, key: str) -> int | None:
        """Length of a file."""
        try:
            return (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, key: str, parts: Iterable[bytes]) -> None:
        """Write a file atomically."""
        self.begin(key, parts)()
        with writing(self.root / key):
            sync_folder((self.root / key).parent)

    def begin(self, key: str, parts: Iterable[bytes]) -> Callable[[], object]:
        """Write a file under a temporary name; calling the result fsyncs and renames it."""
        path = self.root / key
        temporary = temporary_path(path)

        def finish() -> None:
            with writing(path, temporary):
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)

        with writing(path, temporary):
            # The names of new folders must survive a power cut as well.
            new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in new:
                sync_folder(folder.parent)
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
        return finish

    def list(self, key: str = "") -> list[str]:
        """Names directly below a key."""
        try:
            return sorted(entry.name for entry in (self.root / key).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, key: str) -> None:
        """Remove a file or a folder with everything in it."""
        remove(self.root / key)

    def remove_temporaries(self, key: str = "") -> None:
        """Remove unfinished files."""
        for folder, _, names in os.walk(self.root / key):
            for name in names:
                if name.startswith(TEMPORARY):
                    with suppress(OSError):
                        Path(folder, name).unlink()


class RemoteFiles:
    """Files below a URL of fsspec.

    Parameters
    ----------
    url : str
        It may hold credentials; `url` is without, `location` with them.
    """

    def __init__(self, url: str) -> None:
        self._remote = Remote(url)
        self.whole = False
        """Fetch and cache complete files where ranges are requested: for readers that read all of a file in parts."""
        self.url, self.location = self._remote.url, self._remote.given

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return an object, or a part of it."""
        return self._remote.read(key, start, stop)

    @contextmanager
    def ranges(self, wanted: Sequence[Range]) -> Iterator[Callable[[int], bytes]]:
        """Fetch some ranges concurrently, neighbours in one request."""
        if self.whole:
            files = {key: _file_cache.get(self._remote, key) for key in {key for key, _, _ in wanted}}
            yield lambda k: files[wanted[k][0]][wanted[k][1] : wanted[k][2]]
            return
        requests, owner = coalesce(wanted)
        parts = self._remote.read_many(requests)

        def fetch(k: int) -> bytes:
            (_, start, stop), first = wanted[k], requests[owner[k]][1]
            return parts[owner[k]][start - first : stop - first]

        yield fetch

    def size(self, key: str) -> int | None:
        """Length of an object."""
        return self._remote.size(key)

    def write(self, key: str, parts: Iterable[bytes]) -> None:
        """Upload an object in one request."""
        self.begin(key, parts)()

    def begin(self, key: str, parts: Iterable[bytes]) -> Callable[[], object]:
        """Collect an object; calling the result uploads it in one request."""
        data = b"".join(parts)

        return lambda: self.upload(key, data)

    def upload(self, key: str, data: bytes, *, new: bool = False) -> bool:
        """Upload an object; with `new` only where there is none: False where there is one."""
        try:
            self._remote.write(key, data, new=new)
        except (OSError, RemoteError) as error:
            if new and isinstance(error, FileExistsError):
                return False
            raise OutputError(f"cannot write {self.url}/{key}: {error}") from None
        return True

    def list(self, key: str = "") -> list[str]:
        """Names directly below a key."""
        return self._remote.list(key)

    def remove(self, key: str) -> None:
        """Remove an object or everything below a key."""
        self._remote.remove(key)

    def remove_temporaries(self, key: str = "") -> None:
        """Do nothing: uploads leave nothing behind."""


class FileCache:
    """The complete files at URLs that were used last; for all stores of a process."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget all, with a new lock: after a fork the old one may be held by a thread that is gone."""
        self._size = 0
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, remote: Remote, key: str) -> bytes:
        """Return a file, fetched if it is not cached."""
        name = remote.name(key)
        with self._lock:
            if name in self._files:
                self._files.move_to_end(name)
                return self._files[name]
        data = remote.read(key)
        with self._lock:
            if name not in self._files:
                self._files[name] = data
                self._size += len(data)
            while self._size > self._max_bytes and len(self._files) > 1:
                self._size -= len(self._files.popitem(last=False)[1])
        return data


_file_cache = FileCache(256 << 20)
after_fork(_file_cache.clear)
