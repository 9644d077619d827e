"""Names for slides that are safe to write into file names and pages."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

_LONGEST = 100
_COMPOUND = (".ome.tiff", ".ome.tif")


def slide_id(path: str) -> str:
    """Return a safe name: the file's own without its extension where that is safe already.

    Otherwise unsafe characters become ``_`` and a short hash of the name keeps it apart from others like it.
    """
    name = PurePosixPath(path.replace("\\", "/").rstrip("/")).name
    ending = next((e for e in _COMPOUND if name.lower().endswith(e)), PurePosixPath(name).suffix)
    stem = name[: len(name) - len(ending)] if ending and len(ending) <= 9 else name
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:_LONGEST]
    if safe == stem:
        return safe
    return f"{safe or 'slide'}-{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
