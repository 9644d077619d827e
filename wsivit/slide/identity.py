"""Names for slides that are safe to write into file names and pages."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

_LONGEST = 100
_ENDING = re.compile(r"(?<=.)(\.ome\.(tiff?|tf[28]|btf)|\.(?=\d*[a-z])[a-z0-9]{1,8})$", re.IGNORECASE)
"""What of a file's name is its format: a number is not (``1.2.276.0.1`` of an archive), and ``.ome.tif`` is one."""


def slide_stem(path: str) -> str:
    """Return the name that a slide shares with what belongs to it: ``case`` of ``case.svs`` and ``case.ome.tif``."""
    name = PurePosixPath(path.replace("\\", "/").rstrip("/")).name
    return _ENDING.sub("", name)


def slide_id(path: str) -> str:
    """Return a safe name: the file's own without its extension where that is safe already.

    Otherwise unsafe characters become ``_`` and a short hash of the name keeps it apart from others like it.
    """
    stem = slide_stem(path)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:_LONGEST]
    if safe == stem:
        return safe
    return f"{safe or 'slide'}-{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
