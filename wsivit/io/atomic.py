"""Atomic writes: outputs are written under a temporary name next to their place, then renamed.

`replacing` is for files and folders that any code writes; `Files.write` uses the same pieces and syncs to disk as well;
`replace_directory` swaps a complete folder, such as a tile store, for an older one.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsivit.errors import OutputError, OutputExistsError, WsivitError
from wsivit.io.processes import has_ended

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files."""


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end, or is removed after an error.

    Parameters
    ----------
    path : Path
        Its folder is created if need be.
    folder : bool
        Whether a folder is written. Only then an existing folder is replaced.

    Raises
    ------
    OutputExistsError
        If a folder is in the place of a file.
    OutputError
        If it cannot be written.
    """
    if path.is_dir() and not folder:
        raise OutputExistsError(f"{path} is a folder; give the name of a file")
    temporary = temporary_path(path)
    with writing(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Killed writers of this output left theirs: names begin with the number of their process.
        for leftover in path.parent.glob(f"{TEMPORARY}*"):
            process, _, rest = leftover.name.removeprefix(TEMPORARY).partition("-")
            if rest.partition("-")[2] == path.name and process.isdigit() and has_ended(int(process)):
                remove(leftover)
        yield temporary
        if folder:
            replace_directory(temporary, path)
        else:
            temporary.replace(path)


@contextmanager
def writing(
    path: Path, temporary: Path | None = None, errors: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[None]:
    """Turn a failed write into an OutputError that names `path`, and remove the unfinished `temporary`.

    `errors` are those of the library that writes, such as torch's.
    """
    try:
        yield
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                remove(temporary)
        if isinstance(error, errors) and not isinstance(error, WsivitError):
            raise OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
        raise


def temporary_path(path: Path) -> Path:
    """Return a name next to `path` that no other writer has: two machines may run processes of the same number."""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def remove(path: Path) -> None:
    """Remove a file, or a folder with everything in it; nothing happens where there is nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    if os.name == "nt":  # which opens no folders, and writes names at once
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def staging_path(target: Path) -> Path:
    """Path of the folder that is to replace `target`, while it is written."""
    return target.with_name(f".{target.name}.new")


def replace_directory(new: Path, target: Path) -> None:
    """Rename a folder to its final name and remove the old one. On Linux, one of them is in place at every moment."""
    if target.exists() and _exchange_names(new, target):
        sync_folder(target.parent)
        shutil.rmtree(new)
        return
    # In two renames; `recover_replace` sees from what exists which of them were made.
    old = _old_path(target)
    if target.exists():
        remove(old)
        target.rename(old)
    new.rename(target)
    sync_folder(target.parent)
    remove(old)


def recover_replace(target: Path, new: Path) -> None:
    """Finish a `replace_directory` that was killed between its two renames."""
    old = _old_path(target)
    if not old.exists():
        return
    if not target.exists():
        (new if new.exists() else old).rename(target)
        sync_folder(target.parent)
    remove(old)


def _old_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _exchange_names(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux, or an old one
        return False
    working_folder, swap_both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(working_folder, os.fsencode(one), working_folder, os.fsencode(other), swap_both) == 0)
