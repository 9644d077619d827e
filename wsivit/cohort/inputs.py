"""Has a slide or store changed since it was worked on? First by size and time, which costs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from wsivit.io import Remote, files_at
from wsivit.store import document_key


def size_of(path: str) -> int:
    """Size of a slide in bytes, with all its files; 0 where it is not there."""
    return sum(size for _, size, _ in _facts(path))


def signature(path: str) -> str:
    """Return what changes when a slide, or any file, is written anew; empty for no path."""
    return _digest(repr(sorted(_facts(path)))) if path else ""


def document_signature(location: str, node: str = "") -> str:
    """Return what changes when a store, or a node of it, is written anew; empty where there is none."""
    try:
        return _digest(files_at(location).read(document_key(node)).decode())
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _facts(path: str) -> Iterator[tuple[str, int, str]]:
    """Yield name, size and time (or tag) of each file."""
    if "://" in path:
        about = Remote(path).facts()
        tag = next((str(about[key]) for key in ("ETag", "etag", "mtime", "created") if about.get(key)), "")
        yield "", int(about.get("size") or 0), tag
        return
    for file in _files(Path(path)):
        if file.is_file():
            facts = file.stat()
            yield str(file), facts.st_size, str(facts.st_mtime_ns)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from path.rglob("*")
    else:
        yield path
        if path.suffix.lower() == ".mrxs":
            yield from path.with_suffix("").rglob("*")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
