"""Where the bytes of a store lie: a folder, or anything fsspec reaches by URL.

Both kinds are seen through six verbs. Writing is all or nothing: in a folder through a temporary name, fsync
and rename; elsewhere as one upload, which object stores show only when it is whole.
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
        What opens it again: the same, with the credentials that it was given with.
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
        """Write a file whole or not at all; it survives a power cut once this returns."""

    def begin(self, key: str, parts: Iterable[bytes]) -> Callable[[], None]:
        """Do the part of writing that draws from `parts`; calling the answer does the rest, maybe in another thread.

        The file is then whole, or not there; it survives a power cut for sure once another one is written below its
        key's folder by `write`.
        """

    def list(self, key: str = "") -> list[str]:
        """Names directly below a key, sorted; empty where there is nothing."""

    def remove(self, key: str) -> None:
        """Remove a file or everything below a key; nothing happens where there is nothing."""

    def remove_temporaries(self, key: str = "") -> None:
        """Remove what a killed writer left half-written below a key."""


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
        """Write a file whole or not at all."""
        self.begin(key, parts)()
        with writing(self.root / key):
            sync_folder((self.root / key).parent)

    def begin(self, key: str, parts: Iterable[bytes]) -> Callable[[], None]:
        """Write a file under a temporary name; calling the answer fsyncs it and renames it."""
        path = self.root / key
        temporary = temporary_path(path)

        def finish() -> None:
            with writing(path, temporary):
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)

        with writing(path, temporary):
            self._make_folder(path.parent)
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
        return finish

    def _make_folder(self, folder: Path) -> None:
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync_folder(made.parent)

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
        """Remove half-written files."""
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
        It may hold credentials; `url` then shows it without, `location` with them.
    """

    def __init__(self, url: str) -> None:
        self._remote = Remote(url)
        self.whole = False
        """Fetch files whole where ranges of them are wanted, and keep the last: for reading all of a file, in parts."""
        self.url, self.location = self._remote.url, self._remote.given

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return an object, or a part of it."""
        return self._remote.read(key, start, stop)

    @contextmanager
    def ranges(self, wanted: Sequence[Range]) -> Iterator[Callable[[int], bytes]]:
        """Fetch some ranges side by side, neighbours in one request."""
        if self.whole:
            files = {key: _kept_files.get(self._remote, key) for key in {key for key, _, _ in wanted}}
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

    def begin(self, key: str, parts: Iterable[bytes]) -> Callable[[], None]:
        """Gather an object; calling the answer uploads it in one request."""
        data = b"".join(parts)

        def finish() -> None:
            try:
                self._remote.write(key, data)
            except (OSError, RemoteError) as error:
                raise OutputError(f"cannot write {self.url}/{key}: {error}") from None

        return finish

    def create(self, key: str, data: bytes) -> bool:
        """Upload an object where there is none; False where there is one."""
        try:
            self._remote.write(key, data, new=True)
        except FileExistsError:
            return False
        except (OSError, RemoteError) as error:
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
    """Whole files behind URLs, the last that were used; for all stores of a process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.clear()

    def clear(self) -> None:
        """Keep nothing; with a lock of its own, as is needed after a fork."""
        self._size = 0
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, remote: Remote, key: str) -> bytes:
        """Return a file, fetched if it is not kept."""
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
            while self._size > self._most and len(self._files) > 1:
                self._size -= len(self._files.popitem(last=False)[1])
        return data


_kept_files = FileCache(256 << 20)
after_fork(_kept_files.clear)
