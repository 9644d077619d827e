"""Outputs appear whole or not at all: written under a temporary name beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from wsivit.errors import OutputError, OutputExistsError, WsivitError

_TEMPORARY = ".tmp-"


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path, put in the place of `path` at the end; gone after an error.

    Parameters
    ----------
    path : Path
    folder : bool
        Whether a folder is written; one that is there is then replaced, and never otherwise.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    if path.is_dir() and not folder:
        raise OutputExistsError(f"{path} is a folder; give the name of a file")
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        try:
            yield temporary
            if folder:
                _remove(path)
            temporary.replace(path)
        finally:
            _remove(temporary)
    except WsivitError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _sweep(path: Path) -> None:
    """Remove what writers of this output left that were killed: their processes are no more."""
    for left in path.parent.glob(f"{_TEMPORARY}*-{escape(path.name)}"):
        process = left.name.removeprefix(_TEMPORARY).partition("-")[0]
        if process.isdigit() and not _lives(int(process)):
            _remove(left)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
