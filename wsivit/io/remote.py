"""Objects at URLs, through fsspec, with retries within limits of time; credentials never show.

Retries are ours: fsspec's HTTP client makes none, and s3fs five attempts, which a longer outage outlasts. tenacity
would replace the loop in `Remote._retry`, ten lines, but not the rules that tell transient errors of the clients from
final ones, and would be one more dependency.
"""

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
_SLOWEST = 256 << 10  # bytes per second; a slower answer is abandoned and requested again
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 15.0
_GAP, _LONGEST = 64 << 10, 8 << 20  # bytes: a gap costs less than another request; a longer request holds up a thread
# Object stores, where folders need not be made.
_FOLDERLESS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory", "http", "https", "oss", "oci"}
# What clients raise besides OSError, by module. A client that was not imported has raised nothing.
_CLIENT_ERRORS = {
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
    """Whether a location is reached through fsspec; ``file://`` is a path."""
    text = os.fspath(location)
    return "://" in text and not text.startswith("file://")


def local_path(location: str | os.PathLike[str]) -> str:
    """Return the path of a ``file://`` URL, and all else unchanged."""
    text = os.fspath(location)
    # Such a URL is the only way to write a name that is not valid text: as bytes, with percent signs.
    return unquote(text[len("file://") :], errors="surrogateescape") if text.startswith("file://") else text


def join(location: str | os.PathLike[str], name: str) -> str:
    """Return the location of a name below a folder or URL."""
    if not is_url(location):
        return str(Path(local_path(location)) / name)
    folder, query = _cut_query(os.fspath(location))
    return f"{folder}{'' if folder.endswith('/') else '/'}{name}{query}"


def parent_and_name(location: str | os.PathLike[str]) -> tuple[str, str]:
    """Cut a path or URL at its last ``/``."""
    if not is_url(location):
        path = Path(local_path(location))
        return str(path.parent), path.name
    path_of_url, query = _cut_query(os.fspath(location))
    folder, _, name = path_of_url.rstrip("/").rpartition("/")
    return f"{folder}/{query}" if folder.endswith(":/") else f"{folder}{query}", name


def _cut_query(url: str) -> tuple[str, str]:
    """Cut off what comes after the path of a web address; elsewhere a question mark is part of a name."""
    if not url.startswith(("http://", "https://")):
        return url, ""
    path, mark, query = url.partition("?")
    return path, mark + query


class Remote:
    """Objects below one URL; keys are relative, ``""`` is the URL itself. Safe in threads, over forks, to pickle.

    Transient failures (errors 5xx or 429, a cut connection, an answer that is too short or takes longer than
    ``WSIVIT_REMOTE_TIMEOUT``, 60 seconds by default, and the time of its bytes) are retried after growing pauses for
    ``WSIVIT_REMOTE_PATIENCE``, 120 seconds by default; for 15 seconds while the URL has never answered.

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
        From every method, when retries end; says where and why.
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
            from fsspec.core import url_to_fs

            unusable: tuple[type[Exception], ...] = (ImportError, ValueError, TypeError, *_errors())
            try:
                self._opened = url_to_fs(self.given)
            except unusable as error:
                raise RemoteError(f"{self.url}: fsspec cannot open it: {error}") from None
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
        length = None if stop is None else stop - start

        def fetch() -> bytes:
            span = {} if start == 0 and stop is None else {"start": start, "end": stop}
            data = bytes(self._call("cat_file", key, length or 0, **span))
            if length is not None and len(data) > length:
                raise RemoteError(
                    f"{self.name(key)}: its server does not answer for parts of a file: download it first"
                )
            if length is not None and len(data) < length:
                raise ConnectionError(f"{len(data)} of {length} bytes came")
            return data

        return self._retry(key, "read", fetch)

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return ranges of objects, side by side where the client can."""
        if len(ranges) < 2:
            return [self.read(*wanted) for wanted in ranges]
        system, _ = self._at("")
        paths = [self._at(key)[1] for key, _, _ in ranges]
        starts, stops = [start for _, start, _ in ranges], [stop for _, _, stop in ranges]
        timeout = self._timeout(sum(stops) - sum(starts))
        try:
            parts: list[Any] = _run(system, "cat_ranges", timeout, paths, starts, stops, on_error="return")
        except _errors() as error:
            _raise_unless_transient(error, self.url, "read")
            parts = [None] * len(ranges)
        # Ranges that did not come, or not completely, are requested one by one, with retries.
        return [
            part if isinstance(part, bytes) and len(part) == stop - start else self.read(key, start, stop)
            for part, (key, start, stop) in zip(parts, ranges, strict=True)
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
        """What the client reports about an object; FileNotFoundError where there is none."""

        def look() -> dict[str, Any]:
            self._invalidate()
            return dict(self._call("info", key))

        return self._retry(key, "look at", look)

    def write(self, key: str, data: bytes, *, new: bool = False) -> None:
        """Upload an object whole; with `new`, FileExistsError where there is one already."""

        def put() -> None:
            protocol = self._at(key)[0].protocol
            if _FOLDERLESS.isdisjoint((protocol,) if isinstance(protocol, str) else protocol):
                self._call("makedirs", key.rpartition("/")[0], exist_ok=True)
            self._call("pipe_file", key, len(data), data, **({"mode": "create"} if new else {}))
            self._invalidate()

        self._retry(key, "write", put)

    def list(self, key: str = "") -> list[str]:
        """Names directly below a key, sorted; empty where there is nothing."""
        return sorted(self.entries(key))

    def entries(self, key: str = "") -> dict[str, bool]:
        """Names directly below a key, and whether each is a folder; empty where there is nothing."""

        def look() -> dict[str, bool]:
            self._invalidate()
            entries = self._call("ls", key, detail=True)
            return {entry["name"].rstrip("/").rpartition("/")[2]: entry["type"] == "directory" for entry in entries}

        try:
            return self._retry(key, "list", look)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def remove(self, key: str = "") -> None:
        """Remove an object or everything below a key; nothing happens where there is nothing."""

        def delete() -> None:
            self._invalidate()
            if self._call("exists", key):
                self._call("rm", key, recursive=True)
            self._invalidate()

        try:
            self._retry(key, "remove", delete)
        except FileNotFoundError:
            return

    def _invalidate(self) -> None:
        self._at("")[0].invalidate_cache()  # of listings: others write here too

    def _timeout(self, size: int) -> float:
        timeout = _seconds(TIMEOUT_VARIABLE, _TIMEOUT)
        return (timeout if self._answered else min(timeout, _FIRST_PATIENCE)) + size / _SLOWEST

    def _call(self, method: str, key: str, size: int = 0, *args: Any, **options: Any) -> Any:
        system, path = self._at(key)
        return _run(system, method, self._timeout(size), path, *args, **options)

    def _retry(self, key: str, doing: str, call: Callable[[], T]) -> T:
        """Call until it succeeds, fails for good, or patience ends."""
        begun, wait = time.monotonic(), _FIRST_WAIT
        patience = _seconds(PATIENCE_VARIABLE, _PATIENCE)
        while True:
            try:
                result = call()
            except _errors() as raised:
                error, cause = raised, raised.__cause__
                # Some clients call whatever goes wrong "not found": the cause is what went wrong.
                if isinstance(raised, FileNotFoundError) and isinstance(cause, _errors()):
                    error = raised if _status(cause) in _GONE else cause
                _raise_unless_transient(error, self.name(key), doing)
                spent = time.monotonic() - begun
                if spent + wait > (patience if self._answered else min(patience, _FIRST_PATIENCE)):
                    raise RemoteError(
                        f"{self.name(key)}: cannot {doing} it, gave up after {spent:.0f} s of retries: {_words(error)}."
                        " Check the URL and the connection, and run the same again: completed work is kept"
                        f" ({PATIENCE_VARIABLE}=SECONDS waits longer)"
                    ) from None
                time.sleep(wait * random.uniform(0.5, 1))
                wait = min(_LONGEST_WAIT, 2 * wait)
            else:
                self._answered = True
                return result


def coalesce(ranges: Sequence[Range], gap: int = _GAP, longest: int = _LONGEST) -> tuple[list[Range], list[int]]:
    """Merge ranges that lie close together in a file into fewer requests.

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


def _run(system: Any, method: str, timeout: float, *args: Any, **options: Any) -> Any:
    if not system.async_impl:
        return getattr(system, method)(*args, **options)
    from fsspec.asyn import sync

    return sync(system.loop, getattr(system, f"_{method}"), *args, timeout=timeout, **options)


def _errors() -> tuple[type[Exception], ...]:
    known = [(sys.modules.get(module), names) for module, names in _CLIENT_ERRORS.items()]
    return (OSError, *(getattr(module, name) for module, names in known if module for name in names))


def _status(error: BaseException) -> int | None:
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def _raise_unless_transient(error: Exception, where: str, doing: str) -> None:
    """Raise errors that a retry would not change."""
    status = _status(error)
    unauthenticated = any(word in type(error).__name__ for word in ("Credential", "Token", "Profile"))
    if unauthenticated or status in (401, 403) or isinstance(error, PermissionError):
        raise RemoteError(
            f"{where}: access denied ({_words(error)}): give credentials in the environment, e.g. AWS_PROFILE"
        ) from None
    for kind in _FINAL:
        if isinstance(error, kind):
            raise kind(errno.ENOENT, scrub(_words(error)), where) from None
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    code = str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""  # S3's own name
    if code == "PreconditionFailed":
        raise FileExistsError(errno.EEXIST, "it exists already", where) from None
    if isinstance(error, OSError) and error.errno in _FINAL_ERRNO and code not in _PASSING_CODES:
        raise RemoteError(f"{where}: cannot {doing} it: {_words(error)}") from None
    if status is not None and 300 <= status < 500 and status not in _BUSY:
        raise RemoteError(f"{where}: cannot {doing} it: {_words(error)}") from None


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
