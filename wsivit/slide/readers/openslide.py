"""The OpenSlide reader: every format that OpenSlide knows, read block by block, reopened after an error."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import numpy as np
import openslide

from wsivit.errors import SlideError, UsageError
from wsivit.io import LocalFile, PerProcess
from wsivit.slide.backend import (
    JpegColor,
    Pixels,
    SlideFacts,
    TileMask,
    UnreadableBlockError,
    area_mean,
    block_size,
    region_level,
    scanned,
    ycbcr_to_rgb,
)
from wsivit.slide.holes import Holes, dicom_holes, read_finer, tiff_holes
from wsivit.slide.readers.handle import LibraryHandle

_CACHE = PerProcess(lambda: openslide.OpenSlideCache(32 << 20))  # one for all slides: memory does not grow with them


class OpenSlideBackend:
    """Reads through OpenSlide.

    Parameters
    ----------
    path : Path
        The file that OpenSlide is to open (for DICOM, any one of the series).
    color : {"auto", "rgb", "ycbcr"}, optional
        ``"ycbcr"`` where a DICOM series says RGB of frames that hold YCbCr: OpenSlide believes it.

    Raises
    ------
    SlideError
        If OpenSlide cannot read the file.
    UsageError
        If `color` is given for a slide where it cannot be applied.
    """

    name = "openslide"

    def __init__(self, path: Path, color: JpegColor = "auto") -> None:
        self.path = path
        self._convert = color == "ycbcr"
        self._handle = LibraryHandle(partial(_open, path), openslide.OpenSlide.close)
        held = self._handle.get()
        try:
            self.facts = _facts(held.value)
        except (openslide.OpenSlideError, KeyError, ValueError, ArithmeticError) as error:
            raise SlideError(f"{path}: OpenSlide cannot read it: its metadata are damaged ({error})") from error
        self._downsamples = tuple(held.value.level_downsamples)
        if color == "rgb" or (self._convert and self.facts.format != "dicom"):
            raise UsageError(f"{path}: jpeg_color={color!r} cannot be applied to a {self.facts.format} slide")

    def block_size(self, level: int) -> tuple[int, int]:
        """See `Backend.block_size`."""
        facts = self.facts.levels[level]
        return block_size(facts.tile_width, facts.tile_height)

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """See `Backend.block`. OpenSlide takes level-0 positions: a coarse level is right to half of their pixels."""
        width, height = self.block_size(level)
        pixels = self.region(level, col * width, row * height, width, height)
        return None if pixels is None else area_mean(pixels, reduce)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels | None:
        """Read a rectangle of a level, in its own pixels, cut at its end; None and errors as of `block`."""
        facts, ratio = self.facts.levels[level], self._downsamples[level]
        size = (min(width, facts.width - x), min(height, facts.height - y))
        place = (round(x * ratio), round(y * ratio))
        held = self._handle.get()
        try:
            rgba = np.asarray(held.value.read_region(place, level, size))
        except openslide.OpenSlideError:
            self._handle.close()  # dead after any thread's first error: read once more with a handle of its own
            try:
                with openslide.OpenSlide(self.path) as handle:
                    rgba = np.asarray(handle.read_region(place, level, size))
            except openslide.OpenSlideError as error:
                # Of Ventana slides it takes a tile that is left out for a damaged one.
                holes = self._holes.left_out(level, x, y, *size) if level else None
                if holes is not None and holes[1]:
                    return read_finer(self, level, (x, y, *size))
                raise UnreadableBlockError(f"level {level}, level-0 position {place}: {error}") from error
        pixels = scanned(rgba, self.facts.background)
        if self._convert and pixels is not None:
            pixels = ycbcr_to_rgb(pixels)
        # Of an Aperio slide OpenSlide fills what is left out; of other TIFFs it shows nothing there.
        holes = self._holes.left_out(level, x, y, *size) if level and rgba[..., 3].min(initial=255) == 0 else None
        below = read_finer(self, level, (x, y, *size)) if holes is not None and holes[1] else None
        if below is None or holes is None or pixels is None:
            return pixels if below is None else below
        return np.where((holes[0] & (rgba[..., 3] == 0))[..., None], below, pixels)

    @cached_property
    def _holes(self) -> Holes:
        if self.facts.format == "dicom":
            return dicom_holes(self.path, self.facts.levels)
        return tiff_holes(LocalFile(self.path), self.facts.levels)

    def filled(self, level: int) -> TileMask | None:
        """See `Backend.filled`."""
        return self._holes.filled(level) if level else None

    def close(self) -> None:
        """See `Backend.close`."""
        self._handle.close()


def _open(path: Path) -> openslide.OpenSlide:
    try:
        slide = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideError(f"{path}: OpenSlide cannot read it: {error or 'unknown format'}") from error
    slide.set_cache(_CACHE.get())
    return slide


def _facts(handle: openslide.OpenSlide) -> SlideFacts:
    properties = {key: str(value) for key, value in handle.properties.items()}
    levels = []
    for index, (width, height) in enumerate(handle.level_dimensions):
        tile = [properties.get(f"openslide.level[{index}].tile-{side}") for side in ("width", "height")]
        levels.append(region_level(handle.dimensions, (width, height), tile))
    red, green, blue = bytes.fromhex(properties.get("openslide.background-color", "").lstrip("#") or "ffffff")
    bounds = [properties.get(f"openslide.bounds-{side}") for side in ("x", "y", "width", "height")]
    x, y, width, height = (int(side or 0) for side in bounds)
    return SlideFacts(
        format=properties.get("openslide.vendor", "unknown"),
        levels=tuple(levels),
        properties=properties,
        associated=tuple(handle.associated_images),
        background=(red, green, blue),
        bounds=None if None in bounds else (x, y, width, height),
    )
