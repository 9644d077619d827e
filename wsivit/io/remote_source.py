"""A slide at a URL: read in blocks that are kept, the more at once the longer it is read in order."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import IO, Any
from weakref import WeakValueDictionary

from wsivit.errors import RemoteError, SlideNotFoundError
from wsivit.io.credentials import complete
from wsivit.io.handles import PerProcess
from wsivit.io.remote import Remote, coalesce

BLOCK = 256 << 10
"""Bytes that are asked for at least."""
WINDOW = 16
"""Blocks that are asked for at most, at once."""
KEPT = 256
"""Blocks that are kept of one slide."""
_SMALL = 32 << 20  # files that are kept whole as they are read
_AHEAD = 2  # blocks before the end of what was fetched in order, at which the next is asked for


@dataclass
class _Blocks:
    """What one process holds of a file."""

    lock: Any = field(default_factory=Lock)
    kept: OrderedDict[int, Future[bytes]] = field(default_factory=OrderedDict)
    windows: dict[int, int] = field(default_factory=dict)
    """How many blocks to fetch at those that follow what was fetched."""
    ahead: ThreadPoolExecutor | None = None


class RemoteFile:
    """A file at an fsspec URL.

    It is read in blocks of 256 kB. Reading on where a request ended doubles the next one, up to 4 MB, which is then
    made before it is needed. 64 MB are kept.

    Parameters
    ----------
    url : str
        ``s3://…``, ``https://…``, ``memory://…``

    Raises
    ------
    SlideNotFoundError
        If there is nothing there.
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
        if len(parts) == 1:
            return parts[0][start : start + stop - offset]
        return b"".join(parts)[start : start + stop - offset]

    def read_spread(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `ByteSource.read_spread`."""
        if self.size <= _SMALL:
            return [self.read(start, stop - start) for start, stop in ranges]
        wanted = [("", start, min(stop, self.size)) for start, stop in ranges]
        requests, owner = coalesce(wanted)
        parts = self._fetched(requests)
        return [
            parts[owner[k]][start - requests[owner[k]][1] : stop - requests[owner[k]][1]]
            for k, (_, start, stop) in enumerate(wanted)
        ]

    def _fetched(self, requests: list[tuple[str, int, int]]) -> list[bytes]:
        try:
            return self._remote.read_many(requests)
        except OSError as error:  # it was there when it was opened: its tiles are not damaged
            raise RemoteError(f"{self.name}: it was there, and is gone: {error}") from None

    def _block(self, number: int) -> bytes:
        state = self._blocks.get()
        with state.lock:
            found = state.kept.get(number)
            if found is not None:
                state.kept.move_to_end(number)
            fresh = {} if found is not None else self._claim(state, number)
            ahead = self._next(state, number) if found is not None else {}
        if ahead:
            self._pool(state).submit(self._fill, state, ahead)
        if fresh:
            self._fill(state, fresh)
            found = fresh[number]
        assert found is not None
        return found.result()

    def _claim(self, state: _Blocks, first: int) -> dict[int, Future[bytes]]:
        """Take on a run of blocks that nobody has; the lock is held."""
        window = state.windows.pop(first, 1)
        end = min(first + window, -(-self.size // BLOCK))
        stop = next((k for k in range(first, end) if k in state.kept), end)
        fresh: dict[int, Future[bytes]] = {k: Future() for k in range(first, stop)}
        state.kept.update(fresh)
        state.windows[stop] = min(WINDOW, 2 * window)
        while len(state.kept) > KEPT:
            state.kept.popitem(last=False)
        while len(state.windows) > KEPT:
            del state.windows[next(iter(state.windows))]
        return fresh

    def _next(self, state: _Blocks, number: int) -> dict[int, Future[bytes]]:
        """Take on what follows a run that is nearly used up; the lock is held."""
        for end in range(number + 1, number + 1 + _AHEAD):
            in_order = state.windows.get(end, 0) > 2
            if in_order and end not in state.kept and end * BLOCK < self.size:
                return self._claim(state, end)
        return {}

    def _pool(self, state: _Blocks) -> ThreadPoolExecutor:
        if state.ahead is None:
            state.ahead = ThreadPoolExecutor(2, thread_name_prefix="wsivit-ahead")
        return state.ahead

    def _fill(self, state: _Blocks, fresh: dict[int, Future[bytes]]) -> None:
        """Fetch a run of blocks in one request; who waits for them is told, whatever comes."""
        first, last = min(fresh), max(fresh)
        try:
            (data,) = self._fetched([("", first * BLOCK, min((last + 1) * BLOCK, self.size))])
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
        """Let go of what was kept."""
        state = self._blocks.get()
        with state.lock:
            state.kept.clear()
            state.windows.clear()
            pool, state.ahead = state.ahead, None
        if pool is not None:
            pool.shutdown(wait=True)


_opened: WeakValueDictionary[str, RemoteFile] = WeakValueDictionary()


def remote_file(url: str) -> RemoteFile:
    """Open a file at a URL; the one that is open already, with what is kept of it, where there is one."""
    found = _opened.get(complete(url))
    if found is None:
        found = _opened[complete(url)] = RemoteFile(url)
    return found


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
