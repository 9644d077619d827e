"""What can go wrong, as one tree.

Each error also inherits the builtin that a caller would catch, carries the exit code of the command line,
and its text says what happened, to which file, and what to do::

    WsivitError
    ├── UsageError (ValueError)                  2  wrong use: an option, a label, a model name
    │   ├── OptionError                          2  … an option that is out of its range
    │   └── InputNotFoundError (FileNotFoundError)
    ├── SlideError (OSError)                     3  a slide that cannot be read
    │   └── SlideNotFoundError (FileNotFoundError)
    ├── UnreadableTilesError (RuntimeError)      4  done, but some tiles could not be read
    ├── ScaleError (ValueError)                  5  no usable microns per pixel
    ├── LimitError (ValueError)                  6  refused by a limit that can be raised
    ├── RemoteError                              3  a URL that does not answer, after retries
    ├── OutputError (OSError)                    7  cannot write
    │   └── OutputExistsError (FileExistsError)
    └── StoreError (ValueError)                  8  a tile store that is invalid
        ├── StoreMismatchError                   8  … or of other parameters than asked for
        └── StoreLockedError                     8  … or being written by someone else
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import ClassVar

_redactions: list[Callable[[str], str]] = []


def redact_with(redact: Callable[[str], str]) -> None:
    """Register a function that removes secrets from the text of every error; `wsivit.io.credentials` does."""
    _redactions.append(redact)


def redacted(text: str) -> str:
    """Return a text without secrets."""
    for redact in _redactions:
        text = redact(text)
    return text


def shorten(value: object) -> str:
    """Return a value as JSON of at most 100 characters, for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


class WsivitError(Exception):
    """Base of all errors that wsivit raises on purpose. Their text never holds a credential."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in args))


class UsageError(WsivitError, ValueError):
    """An option, name or combination that makes no sense."""

    exit_code = 2


class OptionError(UsageError):
    """An option of a wrong type, out of its range, or none of its choices.

    Parameters
    ----------
    option : str
        Its name in Python; the command line puts its own in place of it.
    problem : str
        The rest of the sentence.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(option, problem)
        self.option, self.problem = self.args  # without secrets

    def __str__(self) -> str:
        return f"{self.option} {self.problem}"


class InputNotFoundError(UsageError, FileNotFoundError):
    """An input other than the slide, such as annotations, does not exist."""


class SlideError(WsivitError, OSError):
    """A slide that cannot be read."""

    exit_code = 3


class SlideNotFoundError(SlideError, FileNotFoundError):
    """There is no such slide."""


class UnreadableTilesError(WsivitError, RuntimeError):
    """The slide was read, but some of its tiles could not be."""

    exit_code = 4


class ScaleError(WsivitError, ValueError):
    """The physical scale is missing, absurd, or cannot give what was asked for."""

    exit_code = 5


class LimitError(WsivitError, ValueError):
    """The input is beyond a limit that the caller can raise."""

    exit_code = 6


class RemoteError(WsivitError):
    """Something at a URL that cannot be reached or read completely, after retries.

    No `OSError` on purpose: what takes those for a damaged tile must not take this for one.
    """

    exit_code = 3


class OutputError(WsivitError, OSError):
    """An output cannot be written."""

    exit_code = 7


class OutputExistsError(OutputError, FileExistsError):
    """An output exists and is overwritten only on request."""


class StoreError(WsivitError, ValueError):
    """A tile store (or a part of it) that is missing, damaged or of another format."""

    exit_code = 8


class StoreMismatchError(StoreError):
    """A tile store made with other parameters, or of another slide."""


class StoreLockedError(StoreError):
    """A tile store that another process is writing."""
