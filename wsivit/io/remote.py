"""Things at URLs, through fsspec: tried again where that can help, within limits of time; credentials are not told."""

from __future__ import annotations

import errno
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

from wsivit.errors import RemoteError, UsageError
from wsivit.io.credentials import complete, public, scrub

T = TypeVar("T")
Range: TypeAlias = tuple[str, int, int]
"""Key of a file, first byte, byte after the last."""

PATIENCE_VARIABLE, TIMEOUT_VARIABLE = "WSIVIT_REMOTE_PATIENCE", "WSIVIT_REMOTE_TIMEOUT"
_PATIENCE = 120.0
_FIRST_PATIENCE = 15.0
_TIMEOUT = 60.0
_SLOWEST = 256 << 10  # bytes per second; what is slower is given up and asked for again
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 15.0
_GAP, _LONGEST = 64 << 10, 8 << 20
_FOLDERLESS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory", "http", "https", "oss", "oci"}
_CLIENT_ERRORS = {  # raised by clients besides OSError, by the module that has them
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "azure.core.exceptions": ("AzureError",),
}
_FINAL: tuple[type[OSError], ...] = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_FINAL_ERRNO = {errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.ENAMETOOLONG}
_BUSY, _GONE = {408, 425, 429}, {404, 410}
_PASSING_CODES = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}


def is_url(location: str | os.PathLike[str]) -> bool:
    """Whether something is reached through fsspec; ``file://`` is a path."""
    text = os.fspath(location)
    return "://" in text and not text.startswith("file://")


def local_path(location: str | os.PathLike[str]) -> str:
    """Return the path that a ``file://`` URL means, and all else as it is."""
    text = os.fspath(location)
    # Such a URL is the one way to write down a name that is no text: as bytes, with percent signs.
    return unquote(text[len("file://") :], errors="surrogateescape") if text.startswith("file://") else text


def join(location: str | os.PathLike[str], name: str) -> str:
    """Return where something lies below a folder or URL."""
    if not is_url(location):
        return str(Path(local_path(location)) / name)
    folder, query = _cut_query(os.fspath(location))
    return f"{folder}{'' if folder.endswith('/') else '/'}{name}{query}"


def parent_and_name(location: str | os.PathLike[str]) -> tuple[str, str]:
    """Cut a path or URL at its last ``/``."""
    if not is_url(location):
        path = Path(local_path(location))
        return str(path.parent), path.name
    whole, query = _cut_query(os.fspath(location))
    folder, _, name = whole.rstrip("/").rpartition("/")
    return f"{folder}/{query}" if folder.endswith(":/") else f"{folder}{query}", name


def _cut_query(url: str) -> tuple[str, str]:
    """Cut off what comes after the path of a web address; elsewhere a question mark is part of a name."""
    if not url.startswith(("http://", "https://")):
        return url, ""
    path, mark, query = url.partition("?")
    return path, mark + query


class Remote:
    """What lies below one URL; keys are relative, ``""`` is the URL itself. Safe in threads, over forks, to pickle.

    A request that fails in a way that may pass (a server's error 5xx or 429, a connection cut, an answer that is too
    short, or takes more than ``WSIVIT_REMOTE_TIMEOUT`` seconds, 60 if not set, and the time of its bytes) is made
    again, after growing pauses, for two minutes (``WSIVIT_REMOTE_PATIENCE``, in seconds); for fifteen seconds as long
    as the URL has not answered at all.

    Parameters
    ----------
    url : str
        ``s3://…``, ``gs://…``, ``https://…``, ``memory://…``; it may hold credentials.

    Attributes
    ----------
    url : str
        Without credentials.

    Raises
    ------
    RemoteError
        From every method, when it was given up; says where and why.
    """

    def __init__(self, url: str) -> None:
        self.url = public(url if url.endswith("://") else url.rstrip("/"))
        self.given = complete(self.url)
        self._process: int | None = None
        self._opened: tuple[Any, str] | None = None
        self._answered = False

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "given": self.given, "_process": None, "_opened": None, "_answered": self._answered}

    def _at(self, key: str) -> tuple[Any, str]:
        # A client's event loop does not survive a fork: each process opens its own.
        if self._opened is None or self._process != os.getpid():
            self._opened = _open_system(self.given, self.url)
            self._process = os.getpid()
        system, root = self._opened
        return system, join(root, key) if key and is_url(root) else f"{root}/{key}" if key else root

    def name(self, key: str) -> str:
        """URL of a key, without credentials."""
        return join(self.url, key) if key else self.url

    def read(self, key: str = "", start: int = 0, stop: int | None = None) -> bytes:
        """Return an object, or the bytes ``[start, stop)`` of it; FileNotFoundError where there is none."""
        if stop is not None and stop <= start:
            return b""
        whole = start == 0 and stop is None

        def fetch() -> bytes:
            span = {} if whole else {"start": start, "end": stop}
            data = bytes(self._call("cat_file", key, 0 if stop is None else stop - start, **span))
            return data if stop is None else self._checked(key, data, start, stop)

        return self._insist(key, "read", fetch)

    def _checked(self, key: str, data: bytes, start: int, stop: int) -> bytes:
        if len(data) > stop - start:
            raise RemoteError(f"{self.name(key)}: its server does not answer for parts of a file: download it first")
        if len(data) < stop - start:
            raise ConnectionError(f"{len(data)} of {stop - start} bytes came")
        return data

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return ranges of objects, side by side where the client can."""
        if len(ranges) < 2:
            return [self.read(*wanted) for wanted in ranges]
        system, _ = self._at("")
        paths = [self._at(key)[1] for key, _, _ in ranges]
        starts, stops = [start for _, start, _ in ranges], [stop for _, _, stop in ranges]
        timeout = self._timeout(sum(stops) - sum(starts))
        try:
            found: list[Any] = _run(system, "cat_ranges", timeout, paths, starts, stops, on_error="return")
        except _errors() as error:
            _raise_unless_transient(error, self.url, "read")
            found = [None] * len(ranges)
        # What did not come, or not whole, is asked for alone, with patience.
        return [
            part if isinstance(part, bytes) and len(part) == stop - start else self.read(key, start, stop)
            for part, (key, start, stop) in zip(found, ranges, strict=True)
        ]

    def size(self, key: str = "") -> int | None:
        """Length of an object in bytes; None where there is none."""
        try:
            size = self.facts(key).get("size")
        except (FileNotFoundError, IsADirectoryError):
            return None
        if size is None:
            raise RemoteError(f"{self.name(key)}: its server does not say how long it is: download it first")
        return int(size)

    def facts(self, key: str = "") -> dict[str, Any]:
        """What the client tells of an object; FileNotFoundError where there is none."""

        def look() -> dict[str, Any]:
            self._forget_listings(key)
            return dict(self._call("info", key))

        return self._insist(key, "look at", look)

    def write(self, key: str, data: bytes, *, new: bool = False) -> None:
        """Upload an object whole; with `new`, FileExistsError where there is one already."""

        def put() -> None:
            if not _folderless(self._at(key)[0]):
                self._call("makedirs", key.rpartition("/")[0], exist_ok=True)
            self._call("pipe_file", key, len(data), data, **({"mode": "create"} if new else {}))
            self._forget_listings(key)

        self._insist(key, "write", put)

    def list(self, key: str = "") -> list[str]:
        """Names directly below a key, sorted; empty where there is nothing."""
        return sorted(self.entries(key))

    def entries(self, key: str = "") -> dict[str, bool]:
        """Names directly below a key, and whether each is a folder; empty where there is nothing."""

        def look() -> dict[str, bool]:
            self._forget_listings(key)
            found = self._call("ls", key, detail=True)
            return {one["name"].rstrip("/").rpartition("/")[2]: one["type"] == "directory" for one in found}

        try:
            return self._insist(key, "list", look)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def remove(self, key: str = "") -> None:
        """Remove an object or everything below a key; nothing happens where there is nothing."""

        def take_away() -> None:
            self._forget_listings(key)
            if self._call("exists", key):
                self._call("rm", key, recursive=True)
            self._forget_listings(key)

        try:
            self._insist(key, "remove", take_away)
        except FileNotFoundError:
            return

    def _forget_listings(self, key: str) -> None:
        # Others write here too, and clients remember what they saw.
        system, _ = self._at(key)
        system.invalidate_cache()

    def _timeout(self, size: int) -> float:
        timeout = _seconds(TIMEOUT_VARIABLE, _TIMEOUT)
        return (timeout if self._answered else min(timeout, _FIRST_PATIENCE)) + size / _SLOWEST

    def _call(self, method: str, key: str, size: int = 0, *args: Any, **options: Any) -> Any:
        system, path = self._at(key)
        return _run(system, method, self._timeout(size), path, *args, **options)

    def _insist(self, key: str, doing: str, call: Callable[[], T]) -> T:
        """Call until it succeeds, fails for good, or patience ends."""
        begun, wait = time.monotonic(), _FIRST_WAIT
        while True:
            try:
                result = call()
            except _errors() as raised:
                error = _underlying(raised)
                _raise_unless_transient(error, self.name(key), doing)
                spent = time.monotonic() - begun
                if spent + wait > self._patience():
                    raise _given_up(self.name(key), doing, error, spent) from None
                time.sleep(wait * random.uniform(0.5, 1))
                wait = min(_LONGEST_WAIT, 2 * wait)
            else:
                self._answered = True
                return result

    def _patience(self) -> float:
        patience = _seconds(PATIENCE_VARIABLE, _PATIENCE)
        return patience if self._answered else min(patience, _FIRST_PATIENCE)


def coalesce(ranges: Sequence[Range], gap: int = _GAP, longest: int = _LONGEST) -> tuple[list[Range], list[int]]:
    """Join ranges that lie close together in a file into fewer requests.

    Returns
    -------
    requests : list of Range
    owner : list of int
        For each range, which request holds it.
    """
    requests: list[Range] = []
    owner = [0] * len(ranges)
    for place in sorted(range(len(ranges)), key=lambda k: ranges[k]):
        key, start, stop = ranges[place]
        last = requests[-1] if requests else ("", 0, 0)
        if requests and last[0] == key and start - last[2] <= gap and max(stop, last[2]) - last[1] <= longest:
            requests[-1] = (key, last[1], max(stop, last[2]))
        else:
            requests.append((key, start, stop))
        owner[place] = len(requests) - 1
    return requests, owner


def _seconds(variable: str, default: float) -> float:
    given = os.environ.get(variable, "")
    try:
        return float(given) if given else default
    except ValueError:
        raise UsageError(f"{variable} must be a number of seconds, not {given!r}") from None


def _open_system(url: str, shown: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    unusable: tuple[type[Exception], ...] = (ImportError, ValueError, TypeError, *_errors())
    try:
        system, path = url_to_fs(url)
    except unusable as error:
        raise RemoteError(f"{shown}: fsspec cannot open it: {error}") from None
    return system, path


def _run(system: Any, method: str, timeout: float, *args: Any, **options: Any) -> Any:
    if not system.async_impl:
        return getattr(system, method)(*args, **options)
    from fsspec.asyn import sync

    return sync(system.loop, getattr(system, f"_{method}"), *args, timeout=timeout, **options)


def _folderless(system: Any) -> bool:
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    return not _FOLDERLESS.isdisjoint(protocols)


def _errors() -> tuple[type[Exception], ...]:
    """What clients raise: not all of it is an OSError. A client that was not imported has raised nothing."""
    known = [(sys.modules.get(module), names) for module, names in _CLIENT_ERRORS.items()]
    return (OSError, *(getattr(module, name) for module, names in known if module for name in names))


def _status(error: BaseException) -> int | None:
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def _underlying(error: Exception) -> Exception:
    """Return what was wrong: some clients call whatever goes wrong "not found"."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, _errors()) and _status(cause) not in _GONE:
        return cause
    return error


def _code(error: BaseException) -> str:
    """Return what S3 calls it."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _raise_unless_transient(error: Exception, where: str, doing: str) -> None:
    """Raise what trying again would not change."""
    status = _status(error)
    unknown = any(word in type(error).__name__ for word in ("Credential", "Token", "Profile"))
    if unknown or status in (401, 403) or isinstance(error, PermissionError):
        raise RemoteError(
            f"{where}: access denied ({_words(error)}): give credentials in the environment, e.g. AWS_PROFILE"
        ) from None
    for kind in _FINAL:
        if isinstance(error, kind):
            raise kind(errno.ENOENT, scrub(_words(error)), where) from None
    code = _code(error)
    if code == "PreconditionFailed":
        raise FileExistsError(errno.EEXIST, "it is there already", where) from None
    if isinstance(error, OSError) and error.errno in _FINAL_ERRNO and code not in _PASSING_CODES:
        raise RemoteError(f"{where}: cannot {doing} it: {_words(error)}") from None
    if status is not None and 300 <= status < 500 and status not in _BUSY:
        raise RemoteError(f"{where}: cannot {doing} it: {_words(error)}") from None


def _given_up(where: str, doing: str, error: BaseException, spent: float) -> RemoteError:
    return RemoteError(
        f"{where}: cannot {doing} it, given up after {spent:.0f} s of trying again: {_words(error)}. Check the URL and"
        f" the connection, and run the same again: what is done is kept ({PATIENCE_VARIABLE}=SECONDS waits longer)"
    )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
