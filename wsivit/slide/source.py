"""Where a slide's bytes come from: a local file, or anything that fsspec reaches by URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, Protocol

from wsivit.errors import SlideError, SlideNotFoundError


class ByteSource(Protocol):
    """Bytes by place. Methods may be called from several threads and, after a fork, from several processes."""

    name: str
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return so many bytes from there; `OSError` if they cannot be had."""

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


class RemoteFile:
    """A file at an fsspec URL, read range by range.

    Parameters
    ----------
    url : str
        ``s3://…``, ``https://…``, ``memory://…``

    Raises
    ------
    SlideNotFoundError
        If there is nothing there.
    SlideError
        If it cannot be reached, or fsspec does not know how.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        self._pid = 0
        try:
            self.size = int(self._system().info(self._path)["size"])
        except FileNotFoundError as error:
            raise SlideNotFoundError(f"{url}: there is no such slide") from error
        except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
            raise SlideError(f"{url}: cannot be reached: {error}") from error

    def _system(self) -> Any:
        """The file system of this process: fsspec's are not safe across a fork."""
        if self._pid != os.getpid():
            from fsspec.core import url_to_fs

            self._fs, self._path = url_to_fs(self.name)
            self._pid = os.getpid()
        return self._fs

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        return bytes(self._system().cat_file(self._path, start=offset, end=offset + count))

    def open(self) -> IO[bytes]:
        """See `ByteSource.open`."""
        file: IO[bytes] = self._system().open(self._path, "rb")
        return file

    def close(self) -> None:
        """Nothing stays open."""


def is_url(path: str) -> bool:
    """Whether a path is an fsspec URL."""
    return "://" in path
