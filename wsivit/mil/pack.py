"""A pack: the tiles of all slides in one memory-mapped file, for cohorts that do not fit into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.io import writing

TILES, INDEX = "tiles.f16", "index.json"


class PackWriter:
    """Writes slides one after the other into ``tiles.f16``, and where each is into ``index.json``, which comes last.

    Parameters
    ----------
    folder : Path
        Created if need be; an older pack in it is replaced.
    dim : int
        Length of a vector.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / INDEX).unlink(missing_ok=True)
            self._file = (folder / TILES).open("wb")
        self._counts: list[int] = []
        self._sha256: list[str] = []

    def add(self, tiles: NDArray[np.float16]) -> None:
        """Append the tiles of a slide, (n, d)."""
        raw = np.ascontiguousarray(tiles, np.float16)
        with writing(self.folder / TILES):
            self._file.write(raw.data)
        self._counts.append(len(raw))
        self._sha256.append(hashlib.sha256(raw.data).hexdigest())

    def finish(self) -> Iterator[NDArray[np.float16]]:
        """Close the pack and yield each slide's tiles, in order, read from the disk as they are used."""
        index = {"dim": self.dim, "counts": self._counts, "sha256": self._sha256}
        with writing(self.folder / INDEX):
            self._file.close()
            (self.folder / INDEX).write_text(json.dumps(index) + "\n")
        return open_pack(self.folder)


def open_pack(folder: Path, *, verify: bool = False) -> Iterator[NDArray[np.float16]]:
    """Yield each slide's tiles of a pack, (n, d), read from the disk as they are used.

    Raises
    ------
    StoreError
        The pack is incomplete, or with `verify` a slide of it is not what was written.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        dim, counts = int(index["dim"]), index["counts"]
        total = sum(counts)
        if (folder / TILES).stat().st_size != 2 * dim * total:
            raise ValueError("its file of tiles has another size than its index says")
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{folder}: not a complete pack of features: {error}; remove the folder") from error
    # One map for all slides: there is a limit to how many a process may have.
    tiles = np.memmap(folder / TILES, np.float16, "r", shape=(max(total, 1), dim)) if total else None
    start = 0
    for place, count in enumerate(counts):
        part = np.zeros((0, dim), np.float16) if tiles is None else tiles[start : start + count]
        if verify and hashlib.sha256(np.ascontiguousarray(part).data).hexdigest() != index["sha256"][place]:
            raise StoreError(f"{folder}: slide {place} of the pack is damaged; remove the folder")
        yield part
        start += count
