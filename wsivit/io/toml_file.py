"""Files of options: TOML, read with errors that name the file and the nearest key that exists."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wsivit.errors import InputNotFoundError, UsageError


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    UsageError
        It is no TOML, or cannot be read.
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputNotFoundError(f"{os.fspath(path)}: there is no such file") from None
    except OSError as error:
        raise UsageError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from None
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{os.fspath(path)}: is not TOML: {error}") from None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Name the nearest of the known names, as the end of a sentence; empty where none is near."""
    near = get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
