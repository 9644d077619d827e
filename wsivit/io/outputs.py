"""Outputs that are written as files and may belong at a URL: written on this machine first, then uploaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from wsivit.io.credentials import public
from wsivit.io.files import files_at
from wsivit.io.remote import is_url, local_path, parent_and_name

Output: TypeAlias = Path | str
"""Where something was written: a path, or the URL without credentials."""


def display_path(location: str | os.PathLike[str]) -> Output:
    """Return a location as results name it."""
    return public(os.fspath(location)) if is_url(location) else Path(local_path(location))


@contextmanager
def local_output(location: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write a file or folder to; what is there at the end is at `location`.

    That is the path itself, or one on this machine that is uploaded, the document of a zarr group last.

    Raises
    ------
    OutputError
        If it cannot be uploaded.
    """
    if not is_url(location):
        yield Path(local_path(location))
        return
    folder, name = parent_and_name(location)
    with tempfile.TemporaryDirectory(prefix="wsivit-") as temporary:
        path = Path(temporary, name)
        yield path
        if path.is_dir():
            _upload_folder(path, location)
        else:
            files_at(folder).write(name, [path.read_bytes()])


def _upload_folder(path: Path, location: str | os.PathLike[str]) -> None:
    files = files_at(location)
    files.remove("")
    found = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    for key in sorted(found, key=lambda key: (-key.count("/"), key)):
        files.write(key, [(path / key).read_bytes()])
