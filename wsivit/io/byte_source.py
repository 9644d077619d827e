"""Where a slide's bytes come from: a local file, or anything that fsspec reaches by URL.

fsspec's own caches (``readahead``, ``blockcache``, ``background``) belong to one open file and one thread. A slide is
read by many threads and, after a fork, processes: `RemoteFile` keeps its blocks for all of them, fetches each once, and
reads ahead where a thread reads in order.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO, Any, Protocol
from weakref import WeakValueDictionary, ref

from wsivit.errors import RemoteError, SlideNotFoundError
from wsivit.io.credentials import complete
from wsivit.io.processes import READ_ONLY, CachedHandle, PerProcess, nothing, read_at
from wsivit.io.remote import Remote, coalesce

BLOCK = 256 << 10
"""Bytes of a block, the least that is requested."""
WINDOW = 16
"""Blocks of the largest request."""
MAX_BLOCKS = 256
"""Blocks that are kept of one slide."""
_SMALL = 32 << 20  # bytes: of smaller files all blocks are kept, so scattered reads are served from blocks too
_AHEAD = 2  # blocks before the end of what was fetched in order, at which the next is requested


class ByteSource(Protocol):
    """Bytes by place. Methods may be called from several threads and, after a fork, from several processes."""

    name: str
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return so many bytes from there; `OSError` if they cannot be read."""

    def read_spread(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ``[start, stop)`` of each range, of places that lie far apart and are read once."""

    def open(self) -> IO[bytes]:
        """A file-like object of its own, to be closed by the caller."""

    def close(self) -> None:
        """Release files; reading again opens them again."""


class LocalFile:
    """A file of this machine, read by position; a `ByteSource`.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.name, self.path, self.size = str(path), path, path.stat().st_size
        self._handle: Callable[[], CachedHandle[int] | None] = nothing

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        handle = self._handle()
        if handle is None:
            # For this process and those that it forks: pread does not move the file's position.
            handle = CachedHandle(os.open(self.path, READ_ONLY), os.close)
            self._handle = ref(handle)
        return read_at(handle.value, count, offset)

    def read_spread(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `ByteSource.read_spread`."""
        return [self.read(start, stop - start) for start, stop in ranges]

    def open(self) -> IO[bytes]:
        """See `ByteSource.open`."""
        return self.path.open("rb")

    def close(self) -> None:
        """See `ByteSource.close`."""
        handle = self._handle()
        if handle is not None:
            handle.release()

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self.close()


@dataclass
class _Blocks:
    """What one process holds of a file."""

    lock: Any = field(default_factory=Lock)
    kept: OrderedDict[int, Future[bytes]] = field(default_factory=OrderedDict)
    windows: dict[int, int] = field(default_factory=dict)
    """By the block that follows a fetched run: how many blocks to fetch next, once it is read."""
    ahead: ThreadPoolExecutor | None = None


class RemoteFile:
    """A file at an fsspec URL, read in blocks of 256 kB of which 64 MB are kept; a `ByteSource`.

    Reading on where a request ended doubles the next request, up to 4 MB, which is then made before it is needed.

    Parameters
    ----------
    url : str
        ``s3://…``, ``https://…``, ``memory://…``

    Raises
    ------
    SlideNotFoundError
        If it does not exist.
    RemoteError
        If it cannot be reached, or fsspec does not know how.
    """

    def __init__(self, url: str) -> None:
        self._remote = Remote(url)
        self.name = self._remote.url
        size = self._remote.size()
        if size is None:
            raise SlideNotFoundError(f"{self.name}: there is no such slide")
        self.size = size
        self._blocks = PerProcess(_Blocks)

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        stop = min(offset + count, self.size)
        if stop <= offset:
            return b""
        first, last = offset // BLOCK, (stop - 1) // BLOCK
        parts = [self._block(number) for number in range(first, last + 1)]
        start = offset - first * BLOCK
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        return joined[start : start + stop - offset]

    def read_spread(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `ByteSource.read_spread`."""
        if self.size <= _SMALL:
            return [self.read(start, stop - start) for start, stop in ranges]
        wanted = [("", start, min(stop, self.size)) for start, stop in ranges]
        requests, owner = coalesce(wanted)
        parts = self._fetch(requests)
        return [
            parts[owner[k]][start - requests[owner[k]][1] : stop - requests[owner[k]][1]]
            for k, (_, start, stop) in enumerate(wanted)
        ]

    def _fetch(self, requests: list[tuple[str, int, int]]) -> list[bytes]:
        try:
            return self._remote.read_many(requests)
        except OSError as error:  # not a SlideError: its tiles are not damaged
            raise RemoteError(f"{self.name}: it existed when it was opened, and is gone: {error}") from None

    def _block(self, number: int) -> bytes:
        state = self._blocks.get()
        fresh: dict[int, Future[bytes]] = {}
        ahead: dict[int, Future[bytes]] = {}
        pool = None
        with state.lock:
            block = state.kept.get(number)
            if block is None:
                fresh = self._claim(state, number)
                block = fresh[number]
            else:
                state.kept.move_to_end(number)
                # Where the run that is read in order ends soon, claim what follows it.
                for end in range(number + 1, number + 1 + _AHEAD):
                    in_order = state.windows.get(end, 0) > 2
                    if in_order and end not in state.kept and end * BLOCK < self.size:
                        ahead = self._claim(state, end)
                        pool = state.ahead = state.ahead or ThreadPoolExecutor(2, thread_name_prefix="wsivit-ahead")
                        break
        if pool is not None:
            pool.submit(self._fill, state, ahead)
        if fresh:
            self._fill(state, fresh)
        return block.result()

    def _claim(self, state: _Blocks, first: int) -> dict[int, Future[bytes]]:
        """Reserve a run of blocks that nobody has, for the caller to fill; the lock is held."""
        window = state.windows.pop(first, 1)
        end = min(first + window, -(-self.size // BLOCK))
        stop = next((k for k in range(first, end) if k in state.kept), end)
        fresh: dict[int, Future[bytes]] = {k: Future() for k in range(first, stop)}
        state.kept.update(fresh)
        state.windows[stop] = min(WINDOW, 2 * window)
        while len(state.kept) > MAX_BLOCKS:
            state.kept.popitem(last=False)
        while len(state.windows) > MAX_BLOCKS:
            del state.windows[next(iter(state.windows))]
        return fresh

    def _fill(self, state: _Blocks, fresh: dict[int, Future[bytes]]) -> None:
        """Fetch a run of blocks in one request; whoever waits for them gets the bytes or the error."""
        first, last = min(fresh), max(fresh)
        try:
            (data,) = self._fetch([("", first * BLOCK, min((last + 1) * BLOCK, self.size))])
        except BaseException as error:
            with state.lock:
                for number in fresh:
                    state.kept.pop(number, None)
            for future in fresh.values():
                future.set_exception(error)
            if not isinstance(error, RemoteError):
                raise
            return
        for number, future in fresh.items():
            future.set_result(data[(number - first) * BLOCK : (number - first + 1) * BLOCK])

    def open(self) -> IO[bytes]:
        """See `ByteSource.open`."""
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        """Forget all blocks."""
        state = self._blocks.get()
        with state.lock:
            state.kept.clear()
            state.windows.clear()
            pool, state.ahead = state.ahead, None
        if pool is not None:
            pool.shutdown(wait=True)


_opened: WeakValueDictionary[str, RemoteFile] = WeakValueDictionary()


def remote_file(url: str) -> RemoteFile:
    """Open a file at a URL; where it is open already, return that one with the blocks it has."""
    file = _opened.get(complete(url))
    if file is None:
        file = _opened[complete(url)] = RemoteFile(url)
    return file


class _Stream(io.RawIOBase):
    """A file-like object over the blocks."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
