"""Where a slide's bytes come from: a local file, or anything that fsspec reaches by URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol


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
        self._open_files: dict[str, int] = {}

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        return os.pread(self._open_files.get("") or self._open(), count, offset)

    def _open(self) -> int:
        """Open for this process and those that it forks: pread does not move the file's position."""
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        kept = self._open_files.setdefault("", descriptor)  # another thread may have been quicker; a lock may not fork
        if kept != descriptor:
            os.close(descriptor)
        return kept

    def read_spread(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `ByteSource.read_spread`."""
        return [self.read(start, stop - start) for start, stop in ranges]

    def open(self) -> IO[bytes]:
        """See `ByteSource.open`."""
        return self.path.open("rb")

    def close(self) -> None:
        """See `ByteSource.close`."""
        descriptor = self._open_files.pop("", None)
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_open_files"):
            self.close()
