"""Has an input changed since it was processed? Signatures by size and time, which take no reading of pixels."""

from __future__ import annotations

import hashlib

from wsivit.io import Remote, files_at
from wsivit.slide import slide_files
from wsivit.store import document_key


def signature(path: str) -> str:
    """Return a digest that changes when a file, or any file of a slide, is written again; empty for no path."""
    if not path:
        return ""
    if "://" in path:
        facts = Remote(path).facts()
        tag = next((str(facts[key]) for key in ("ETag", "etag", "mtime", "created") if facts.get(key)), "")
        return _digest(repr([("", int(facts.get("size") or 0), tag)]))
    stats = ((str(file), file.stat()) for file in slide_files(path))
    return _digest(repr(sorted((name, stat.st_size, str(stat.st_mtime_ns)) for name, stat in stats)))


def document_signature(location: str, node: str = "") -> str:
    """Return a digest that changes when a store, or a node of it, is written again; empty where there is none."""
    try:
        return _digest(files_at(location).read(document_key(node)).decode())
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
