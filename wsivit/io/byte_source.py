"""Where a slide's bytes come from: a local file, or anything that fsspec reaches by URL."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol
from weakref import ref

from wsivit.io.handles import READ_ONLY, CachedHandle, nothing, read_at


class ByteSource(Protocol):
    """Bytes by place. Methods may be called from several threads and, after a fork, from several processes."""

    name: str
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return so many bytes from there; `OSError` if they cannot be had."""

    def read_spread(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ``[start, stop)`` of each range, of places that lie far apart and are read once."""

    def open(self) -> IO[bytes]:
        """A file-like object of its own, to be closed by the caller."""

    def close(self) -> None:
        """Let go of files; reading again opens them again."""


class LocalFile:
    """A file of this machine, read by position.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.name, self.path, self.size = str(path), path, path.stat().st_size
        self._held: Callable[[], CachedHandle[int] | None] = nothing

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        held = self._held() or self._open()
        return read_at(held.value, count, offset)

    def _open(self) -> CachedHandle[int]:
        """Open for this process and those that it forks: pread does not move the file's position."""
        held = CachedHandle(os.open(self.path, READ_ONLY), os.close)
        self._held = ref(held)
        return held

    def read_spread(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `ByteSource.read_spread`."""
        return [self.read(start, stop - start) for start, stop in ranges]

    def open(self) -> IO[bytes]:
        """See `ByteSource.open`."""
        return self.path.open("rb")

    def close(self) -> None:
        """See `ByteSource.close`."""
        held = self._held()
        if held is not None:
            held.release()

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self.close()
