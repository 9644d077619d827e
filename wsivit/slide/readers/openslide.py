"""The OpenSlide reader: every format that OpenSlide knows, read block by block, reopened after an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from weakref import ref

import numpy as np
import openslide

from wsivit.errors import SlideError, UsageError
from wsivit.io import CachedHandle, LocalFile, PerProcess, nothing
from wsivit.slide.backend import (
    WHITE,
    Color,
    JpegColor,
    Pixels,
    SlideFacts,
    TileMask,
    UnreadableBlockError,
    area_mean,
    block_size,
    reducible,
    scanned,
    ycbcr_to_rgb,
)
from wsivit.slide.holes import Holes, read_finer, tiff_holes
from wsivit.slide.read_plan import Level


@dataclass
class _Handle:
    """What one process holds of a slide."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    slide: Callable[[], CachedHandle[openslide.OpenSlide] | None] = nothing


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
        self._local = PerProcess(_Handle)
        held = self._open()
        try:
            self.facts = _facts(held.value)
        except (openslide.OpenSlideError, KeyError, ValueError, ArithmeticError) as error:
            raise SlideError(f"{path}: OpenSlide cannot read it: its metadata are damaged ({error})") from error
        self._downsamples = tuple(held.value.level_downsamples)
        if color == "rgb" or (self._convert and self.facts.format != "dicom"):
            raise UsageError(f"{path}: jpeg_color={color!r} cannot be applied to a {self.facts.format} slide")

    def _open(self) -> CachedHandle[openslide.OpenSlide]:
        """The handle of this process; one made before a fork is left alone."""
        local = self._local.get()
        with local.lock:
            held = local.slide()
            if held is None:
                try:
                    slide = openslide.OpenSlide(self.path)
                except (openslide.OpenSlideError, OSError) as error:
                    raise SlideError(f"{self.path}: OpenSlide cannot read it: {error or 'unknown format'}") from error
                held = CachedHandle(slide, openslide.OpenSlide.close)
                local.slide = ref(held)
                slide.set_cache(_CACHE.get())
            return held

    def block_size(self, level: int) -> tuple[int, int]:
        """See `base.block_size`."""
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
        held = self._open()
        try:
            rgba = np.asarray(held.value.read_region(place, level, size))
        except openslide.OpenSlideError:
            rgba = self._retry(place, level, size)
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
        return tiff_holes(LocalFile(self.path), self.facts.levels)

    def filled(self, level: int) -> TileMask | None:
        """See `Backend.filled`."""
        return self._holes.filled(level) if level else None

    def _retry(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Read once more with a handle of its own: the shared one is dead after any thread's first error."""
        self.close()
        try:
            with openslide.OpenSlide(self.path) as handle:
                return np.asarray(handle.read_region(place, level, size))
        except openslide.OpenSlideError as error:
            raise UnreadableBlockError(f"level {level}, level-0 position {place}: {error}") from error

    def close(self) -> None:
        """Close the handle of this process."""
        local = self._local.get()
        with local.lock:
            held, local.slide = local.slide(), nothing
        if held is not None:
            held.release()

    def __del__(self) -> None:
        if hasattr(self, "_local"):
            self.close()


def _facts(handle: openslide.OpenSlide) -> SlideFacts:
    properties = {key: str(value) for key, value in handle.properties.items()}
    return SlideFacts(
        format=properties.get("openslide.vendor", "unknown"),
        levels=tuple(_level(handle, properties, index) for index in range(handle.level_count)),
        properties=properties,
        associated=tuple(handle.associated_images),
        background=_color(properties.get("openslide.background-color")),
        bounds=_bounds(properties),
    )


def _level(handle: openslide.OpenSlide, properties: dict[str, str], index: int) -> Level:
    (width0, height0), (width, height) = handle.dimensions, handle.level_dimensions[index]
    tile = [properties.get(f"openslide.level[{index}].tile-{side}") for side in ("width", "height")]
    tile_width, tile_height = (int(side) if side else None for side in tile)
    level = Level(width, height, width0 / width, height0 / height, tile_width, tile_height)
    return reducible(level, *block_size(tile_width, tile_height))


def _color(text: str | None) -> Color:
    if not text:
        return WHITE
    red, green, blue = bytes.fromhex(text.lstrip("#"))
    return red, green, blue


def _bounds(properties: dict[str, str]) -> tuple[int, int, int, int] | None:
    sides = [properties.get(f"openslide.bounds-{side}") for side in ("x", "y", "width", "height")]
    if None in sides:
        return None
    x, y, width, height = (int(side) for side in sides if side)
    return x, y, width, height
