"""Outputs of a verb: how results name them, how they reach a URL, and the progress bar meanwhile."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
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
    """Yield a path to write a file or folder to: `location` itself, or for a URL one that is uploaded at the end.

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
        if not path.is_dir():
            files_at(folder).write(name, [path.read_bytes()])
            return
        files = files_at(location)
        files.remove("")
        keys = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        # Deepest first, so the document of a zarr group comes last: readers see nothing before it is complete.
        for key in sorted(keys, key=lambda key: (-key.count("/"), key)):
            files.write(key, [(path / key).read_bytes()])


@contextmanager
def progress_bar(total: int, what: str, unit: str, *, show: bool) -> Iterator[Callable[..., object]]:
    """Yield a function that advances a bar by a number, and may put a note behind it.

    It draws nothing unless `show`, and nothing into a file: only on a terminal or in a notebook.
    """
    from tqdm.auto import tqdm

    disable = None if show else True  # None: where standard error is no terminal
    with tqdm(total=total, desc=what, unit=unit, disable=disable, dynamic_ncols=True, smoothing=0.1) as bar:

        def advance(by: int, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(by)

        yield advance
