"""The tiffslide reader: slides that only it reads, and remote ones by fsspec URL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from wsivit.errors import SlideError
from wsivit.io import ByteSource, LocalFile
from wsivit.slide.backend import (
    Backend,
    Pixels,
    SlideFacts,
    TileMask,
    UnreadableBlockError,
    area_mean,
    block_size,
    region_level,
)
from wsivit.slide.holes import read_finer, tiff_holes
from wsivit.slide.readers.handle import LibraryHandle

if TYPE_CHECKING:
    from tiffslide import TiffSlide

# What its parsers raise of files that they do not expect, StopIteration and AttributeError included.
_ERRORS = (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, StopIteration)


class TiffSlideBackend:
    """Reads through tiffslide, with a handle per process and one read at a time: it mixes tiles up otherwise.

    Parameters
    ----------
    source : ByteSource
    witness : Backend, optional
        Asked wherever tiffslide shows nothing but black, which is also what it shows where a file is damaged.

    Raises
    ------
    SlideError
        If tiffslide cannot read it, or its pixels are not 8-bit RGB.
    """

    name = "tiffslide"

    def __init__(self, source: ByteSource, witness: Backend | None = None) -> None:
        self.source, self.witness = source, witness
        self._handle = LibraryHandle(partial(_open, source), lambda slide: slide.close())
        try:
            held = self._handle.get()
            self.facts = _facts(held.value)
            sample = held.value.read_region((0, 0), 0, (1, 1), as_array=True)
            if sample.dtype != np.uint8 or sample.shape[-1] != 3:
                raise ValueError(f"pixels are {sample.shape[-1]} x {sample.dtype}, not 8-bit RGB")
            self._holes = tiff_holes(source, self.facts.levels)
        except _ERRORS as error:
            what = str(error) or type(error).__name__
            raise SlideError(f"{source.name}: tiffslide cannot read it: {what}") from error

    def block_size(self, level: int) -> tuple[int, int]:
        """See `Backend.block_size`."""
        facts = self.facts.levels[level]
        return block_size(facts.tile_width, facts.tile_height)

    def filled(self, level: int) -> TileMask | None:
        """See `Backend.filled`."""
        return self._holes.filled(level)

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """See `Backend.block`."""
        width, height = self.block_size(level)
        facts = self.facts.levels[level]
        x, y = col * width, row * height
        size = (min(width, facts.width - x), min(height, facts.height - y))
        with self._handle.lock:
            try:
                held = self._handle.get()
                ratio = held.value.level_downsamples[level]
                place = (round(x * ratio), round(y * ratio))
                pixels = np.asarray(held.value.read_region(place, level, size, as_array=True), np.uint8)
            except _ERRORS as error:
                self._handle.close()
                raise UnreadableBlockError(f"level {level}, block ({col}, {row}): {error}") from error
        if self.witness is not None and not pixels.any() and self.witness.block_size(level) == (width, height):
            self.witness.block(level, col, row, reduce)
        holes = self._holes.left_out(level, x, y, *size)
        if holes is not None:  # where tiffslide shows black
            hole, filled = holes
            below = read_finer(self, level, (x, y, *size)) if filled else None
            if below is None and hole.all():
                return None
            shown = np.array(self.facts.background, np.uint8) if below is None else below
            pixels = np.where(hole[..., None], shown, pixels)
        return area_mean(pixels, reduce)

    def close(self) -> None:
        """See `Backend.close`."""
        self._handle.close()


def _open(source: ByteSource) -> TiffSlide:
    from tiffslide import TiffSlide

    file: Any = source.name if isinstance(source, LocalFile) else source.open()
    # Or it would read, or wait for, any other file that the OME-XML of this one names.
    return TiffSlide(file, tifffile_options={"_multifile": False})


def _facts(handle: TiffSlide) -> SlideFacts:
    properties = {key: str(value) for key, value in handle.properties.items() if value is not None}
    levels = []
    for index, size in enumerate(handle.level_dimensions):
        tile = [properties.get(f"tiffslide.level[{index}].tile-{side}") for side in ("width", "height")]
        levels.append(region_level(handle.dimensions, size, tile))
    vendor = properties.get("tiffslide.vendor", "unknown")
    return SlideFacts(vendor, tuple(levels), properties, tuple(handle.associated_images))
