"""Writing a file whole or not at all: under a temporary name, which is then changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsivit.errors import OutputError, WsivitError


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Make what goes wrong a clear error, and leave nothing half-written."""
    try:
        yield
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, WsivitError):
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        raise
