"""Arrays as the page reads them: a JSON header, then the arrays, each at a multiple of eight bytes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGN = 8
_TYPES = {"|u1": "u1", "<i2": "i2", "<i4": "i4", "<f4": "f4"}
_COMPRESS_FROM = 16 << 10


def pack_arrays(arrays: Mapping[str, NDArray[Any]], **facts: Any) -> bytes:
    """Pack arrays of uint8, int16, int32 or float32, and facts that JSON can hold, for `unpack` in ``api.js``."""
    places, parts, at = {}, [], 0
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        places[name] = {"type": _TYPES[array.dtype.str], "shape": array.shape, "at": at}
        parts += [raw, bytes(-len(raw) % _ALIGN)]
        at += len(raw) + -len(raw) % _ALIGN
    header = json.dumps({"arrays": places, **facts}, ensure_ascii=False).encode()
    header += b" " * (-(len(header) + 4) % _ALIGN)
    return b"".join([len(header).to_bytes(4, "little"), header, *parts])


def compress(body: bytes) -> bytes | None:
    """Compress a large body for ``Content-Encoding: gzip``, quickly; None where that is not worth it."""
    return gzip.compress(body, 1, mtime=0) if len(body) >= _COMPRESS_FROM else None
