"""The tiffslide reader: slides that only it reads, and remote ones by fsspec URL."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from wsivit.errors import SlideError
from wsivit.resolution import Level
from wsivit.slide.base import Pixels, SlideFacts, UnreadableBlockError

if TYPE_CHECKING:
    from tiffslide import TiffSlide

_ERRORS = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, NotImplementedError)


class TiffSlideBackend:
    """Reads through tiffslide, with a handle per process and one read at a time: it mixes tiles up otherwise.

    Parameters
    ----------
    url : str
        A path, or any URL that fsspec knows.

    Raises
    ------
    SlideError
        If tiffslide cannot read it, or its pixels are not 8-bit RGB.
    """

    name = "tiffslide"

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._handle: TiffSlide | None = None
        self._pid = 0
        try:
            handle = self._open()
            self.facts = _facts(handle)
            self._check(handle)
        except _ERRORS as error:
            raise SlideError(f"{url}: tiffslide cannot read it: {error}") from error

    def _open(self) -> TiffSlide:
        if self._handle is None or self._pid != os.getpid():
            from tiffslide import TiffSlide

            self._handle, self._pid = TiffSlide(self.url), os.getpid()
        return self._handle

    def _check(self, handle: TiffSlide) -> None:
        sample = handle.read_region((0, 0), 0, (1, 1), as_array=True)
        if sample.dtype != np.uint8 or sample.shape[-1] != 3:
            raise ValueError(f"pixels are {sample.shape[-1]} x {sample.dtype}, not 8-bit RGB")

    def block_size(self, level: int) -> tuple[int, int]:
        """The file's own tiles where their size is sensible, else 512 x 512."""
        facts = self.facts.levels[level]
        width, height = facts.tile_width or 0, facts.tile_height or 0
        return (width, height) if 128 <= min(width, height) <= max(width, height) <= 1024 else (512, 512)

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels:
        """See `Backend.block`. tiffslide shows black, and says nothing, where a file is damaged."""
        width, height = self.block_size(level)
        facts = self.facts.levels[level]
        x, y = col * width, row * height
        size = (min(width, facts.width - x), min(height, facts.height - y))
        with self._lock:
            try:
                handle = self._open()
                ratio = handle.level_downsamples[level]
                place = (round(x * ratio), round(y * ratio))
                return np.asarray(handle.read_region(place, level, size, as_array=True), np.uint8)
            except _ERRORS as error:
                self._handle = None
                raise UnreadableBlockError(f"level {level}, block ({col}, {row}): {error}") from error

    def close(self) -> None:
        """Close the handle of this process."""
        with self._lock:
            if self._handle is not None and self._pid == os.getpid():
                self._handle.close()
            self._handle = None

    def __del__(self) -> None:
        self.close()


def _facts(handle: TiffSlide) -> SlideFacts:
    properties = {key: str(value) for key, value in handle.properties.items() if value is not None}
    width0, height0 = handle.dimensions
    levels = []
    for index, (width, height) in enumerate(handle.level_dimensions):
        tile = [properties.get(f"tiffslide.level[{index}].tile-{side}") for side in ("width", "height")]
        tile_width, tile_height = (int(side) if side else None for side in tile)
        levels.append(Level(width, height, width0 / width, height0 / height, tile_width, tile_height))
    vendor = properties.get("tiffslide.vendor", "unknown")
    return SlideFacts(vendor, tuple(levels), properties, tuple(handle.associated_images))
