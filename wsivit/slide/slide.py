"""A slide: one interface over every reader."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from wsivit.errors import ScaleError, UnreadableTilesError, UsageError
from wsivit.io import complete, is_url, public
from wsivit.slide.backend import Backend, Color, JpegColor, Pixels, SlideFacts, TileFailure, TileMask
from wsivit.slide.identity import fingerprint, slide_id
from wsivit.slide.metadata import SlideInfo, color_warnings, private_items, reported_pictures
from wsivit.slide.notebook import slide_html
from wsivit.slide.overview import (
    Disagreement,
    OverviewImage,
    find_disagreement,
    read_checked_overview,
    read_overview,
)
from wsivit.slide.read_plan import Level, ReadPlan, plan_downsample, plan_read
from wsivit.slide.readers.isolated import IsolatedBackend
from wsivit.slide.readers.native import NativeBackend, NativeTiles
from wsivit.slide.reading import Request, map_rectangles, read_rectangles
from wsivit.slide.scale import ScaleSource, SlideScale, objective_power, resolve_scale, scale_sources
from wsivit.slide.select_reader import reopen_backend
from wsivit.slide.tiff_layout import Layout

_log = logging.getLogger(__name__)
_COLOR_SIDE = 256  # pixels of the view in which `info` looks at colours
_REMOTE_THREADS = 16
T = TypeVar("T")


class Slide:
    """A whole-slide image, opened by `wsivit.open_slide`.

    It can be pickled, used from threads and after a fork, and closes as a context manager.

    Attributes
    ----------
    path : str
        As it was given; of a URL without its credentials.
    reader : str
        ``"native"``, ``"openslide"``, ``"tiffslide"`` or ``"image"``.
    reader_reason : str
        Why this reader.
    threads : int or None
        Threads that `read_tiles` decodes with; None for as many as there are CPUs. A remote slide has 16, that wait.
    """

    def __init__(
        self, path: str, backend: Backend, reason: str, mpp: float | None, color: JpegColor, layout: Layout | None
    ) -> None:
        self.path = public(path) if is_url(path) else path
        self.reader = backend.name
        self.reader_reason = reason
        self.threads: int | None = _REMOTE_THREADS if is_url(path) else None
        self._backend = backend
        self._mpp = mpp
        self._jpeg_color = color
        # What opening decided about a TIFF, for copies in other processes. Readers of its levels are the backend's.
        self._layout = None if layout is None else replace(layout, tiled=[])

    def __repr__(self) -> str:
        width, height = self.dimensions
        return f"<Slide {self.id!r}: {width}x{height}, {len(self.levels)} levels, {self.format}, {self.reader} reader>"

    def __reduce__(self) -> tuple[Any, ...]:
        facts = self._backend.facts
        state = (self.open_options, self.reader_reason, self.threads, self.isolated, self._layout, facts)
        return _reopen, (complete(self.path), *state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of this process; reading again opens them again."""
        self._backend.close()

    def _repr_html_(self) -> str:
        return slide_html(self)

    # --- what it is

    @property
    def open_options(self) -> dict[str, Any]:
        """What `open_slide` needs, besides the path, to open the same view of the slide; ready for JSON."""
        options = {"reader": self.reader, "mpp": self._mpp, "jpeg_color": self._jpeg_color}
        scene = self._backend.facts.scene
        return options if scene is None else {**options, "scene": scene}

    @property
    def isolated(self) -> bool:
        """Whether it is decoded in a subprocess."""
        return isinstance(self._backend, IsolatedBackend)

    @property
    def id(self) -> str:
        """A name that is safe in file names and pages, from the file's own."""
        return slide_id(self.path)

    @property
    def format(self) -> str:
        """``"aperio"``, ``"generic-tiff"``, ``"hamamatsu"``, ``"dicom"``, ..."""
        return self._backend.facts.format

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, finest first."""
        return self._backend.facts.levels

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.levels[0].width, self.levels[0].height

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level, finest first."""
        return tuple((level.width, level.height) for level in self.levels)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, the mean of both axes."""
        return tuple((level.downsample_x + level.downsample_y) / 2 for level in self.levels)

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """``x, y, width, height`` of the region that is not empty, in level-0 pixels; all of it where unknown."""
        return self._backend.facts.bounds or (0, 0, *self.dimensions)

    @property
    def background(self) -> Color:
        """Colour of what was not scanned; white unless the slide names another."""
        return self._backend.facts.background

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user must know of the file's other pictures and of its structure."""
        return self._backend.facts.warnings

    @cached_property
    def fingerprint(self) -> str:
        """``"sha256:<hex>"`` of the content: the same under every name."""
        return fingerprint(self.path)

    @cached_property
    def scale_sources(self) -> tuple[ScaleSource, ...]:
        """Every place in the slide that states its scale, in order of trust."""
        return scale_sources(self._backend.facts.properties)

    @cached_property
    def scale(self) -> SlideScale:
        """Microns per level-0 pixel, and why.

        Raises
        ------
        ScaleError
            If no source is usable; the text names each of them.
        """
        try:
            return resolve_scale(self.scale_sources, given=self._mpp, vendor=self.format)
        except ScaleError as error:
            raise ScaleError(f"{self.path}: {error}") from None

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel, the mean of both axes; see `scale`.

        Raises
        ------
        ScaleError
            If the slide does not state it and none was given.
        """
        return (self.scale.mpp_x + self.scale.mpp_y) / 2

    @property
    def is_default_scene(self) -> bool:
        """Whether it is what its file shows unless another picture is asked for: the largest, of equals the first."""
        facts, (width, height) = self._backend.facts, self.dimensions
        own = (width * height, -(facts.scene or 0))
        others = [other for other in facts.others if other.kind == "picture" and not other.problem]
        return all((other.width * other.height, -other.number) < own for other in others)

    @property
    def has_scale(self) -> bool:
        """Whether its scale is known."""
        try:
            return bool(self.scale)
        except ScaleError:
            return False

    def info(self, private: bool = False) -> SlideInfo:
        """Everything about the slide in plain values; private values only with `private`."""
        scale, problem = None, None
        try:
            scale = resolve_scale(self.scale_sources, given=self._mpp, vendor=self.format)
        except ScaleError as error:
            problem = str(error)
        first, facts = self.levels[0], self._backend.facts
        filled = (self.filled_tiles(level) for level in range(len(self.levels)))
        return SlideInfo(
            path=self.path,
            id=self.id,
            format=self.format,
            reader=self.reader,
            reader_reason=self.reader_reason,
            fingerprint=self.fingerprint,
            dimensions=self.dimensions,
            levels=self.levels,
            bounds=self.bounds,
            scale=scale,
            scale_error=problem,
            scale_sources=self.scale_sources,
            objective=objective_power(self.scale_sources),
            tile_size=(first.tile_width, first.tile_height) if first.tile_width and first.tile_height else None,
            compression=first.compression,
            filled_tiles=tuple(0 if mask is None else int(mask.where.sum()) for mask in filled),
            warnings=(*self.warnings, *color_warnings(self.thumbnail(_COLOR_SIDE))),
            scene=facts.scene,
            others=reported_pictures(facts, private),
            private=private_items(facts, private),
        )

    # --- pixels

    def plan(self, mpp: float, *, tolerance: float = 0.02, downscale: Literal["dct", "area"] = "dct") -> ReadPlan:
        """Decide how a scale is reached; see `wsivit.slide.plan_read`."""
        try:
            return plan_read(mpp, self.scale, self.levels, tolerance=tolerance, downscale=downscale)
        except ScaleError as error:
            text = str(error)  # that of `scale` names the file already
            raise ScaleError(text if text.startswith(self.path) else f"{self.path}: {text}") from None

    def read(self, plan: ReadPlan, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle of the plan's target plane.

        Parameters
        ----------
        plan : ReadPlan
        x, y : int
            Its top-left corner, in target pixels; it may reach outside the slide, which is `background` there.
        width, height : int

        Returns
        -------
        ndarray of uint8, (height, width, 3)

        Raises
        ------
        UnreadableTilesError
            If a native tile below it cannot be read.
        """
        if min(width, height) < 1:
            raise UsageError(f"a region must be at least 1x1 pixels, not {width}x{height}")
        request = Request(plan, width, height, np.array([x], np.int64), np.array([y], np.int64))
        (pixels,) = read_rectangles(self._backend, request, threads=1)
        if isinstance(pixels, TileFailure):
            raise UnreadableTilesError(f"{self.path}: region at ({x}, {y}) cannot be read: {pixels.reason}")
        return pixels

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """Read a rectangle of a level, as OpenSlide's method of this name.

        Parameters
        ----------
        location : tuple of int
            ``x, y`` of its top-left corner in level-0 pixels; between two pixels of the level, the nearest is taken.
        level : int
        size : tuple of int
            Width and height in pixels of the level.

        Returns
        -------
        PIL.Image.Image
            RGB; `background` outside the slide and where nothing was scanned, which OpenSlide leaves transparent.

        Raises
        ------
        UsageError
            If there is no such level, or the size is not positive.
        UnreadableTilesError
            If a native tile below it cannot be read.
        """
        if not 0 <= level < len(self.levels):
            raise UsageError(f"{self.path}: there is no level {level}: it has levels 0 to {len(self.levels) - 1}")
        downsample = self.levels[level].downsample_x, self.levels[level].downsample_y
        plan = plan_downsample(downsample, self.levels, tolerance=0)  # that level, as it is
        x, y = (round(at / factor) for at, factor in zip(location, downsample, strict=True))
        return Image.fromarray(self.read(plan, x, y, *size))

    def get_thumbnail(self, size: tuple[int, int]) -> Image.Image:
        """Read the complete slide as a PIL image that fits into a width and height, as OpenSlide's method."""
        factor = max(side / most for side, most in zip(self.dimensions, size, strict=True))
        width, height = (max(1, round(side / max(1.0, factor))) for side in self.dimensions)
        return Image.fromarray(read_overview(self._backend, (width, height), self.threads).pixels)

    def read_tiles(self, plan: ReadPlan, size: int, x: ArrayLike, y: ArrayLike) -> Iterator[Pixels | TileFailure]:
        """Read many tiles; in reading order each native tile is decoded once.

        Parameters
        ----------
        plan : ReadPlan
        size : int
            Side of a tile, in target pixels.
        x, y : array_like of int
            Top-left corners in the target plane.

        Yields
        ------
        ndarray of uint8, (size, size, 3), or TileFailure
            In the order asked for.
        """
        return self.map_tiles(lambda pixels: pixels, plan, size, x, y)

    def map_tiles(
        self, function: Callable[[Pixels], T], plan: ReadPlan, size: int, x: ArrayLike, y: ArrayLike
    ) -> Iterator[T | TileFailure]:
        """Read many tiles and yield ``function(tile)`` of each, called in the thread that read it; see `read_tiles`."""
        if size < 1:
            raise UsageError(f"tile size must be at least 1 pixel, not {size}")
        request = Request(plan, size, size, np.asarray(x, np.int64).ravel(), np.asarray(y, np.int64).ravel())
        return map_rectangles(function, self._backend, request, self.threads)

    def overview(self, mpp: float | None, *, max_side: int | None = None) -> Pixels:
        """Read the complete slide, small.

        Its exact downsample is ``dimensions / shape``. Parts that cannot be read are `background`.

        Parameters
        ----------
        mpp : float or None
            About the scale wanted (never finer than level 0); None to go by `max_side` alone.
        max_side : int, optional
            Longest side allowed.

        Returns
        -------
        ndarray of uint8, (height, width, 3)
        """
        return read_overview(self._backend, self._overview_size(mpp, max_side), self.threads).pixels

    def read_overview(self, mpp: float) -> OverviewImage:
        """Read the complete slide at about a scale, from a level that agrees with level 0, finer where damaged."""
        overview = read_checked_overview(self._backend, self._overview_size(mpp, None), self.threads)
        for level, disagreement in overview.rejected.items():
            _log.warning(
                "%s: level %d of the slide is wrong, %s: the overview is read from level %d, which takes longer",
                *(self.path, level, disagreement, overview.level),
            )
        return overview

    def disagreement(self, level: int, view: Pixels) -> Disagreement | None:
        """Compare a level with level 0 at a handful of places, chosen by an overview of the slide."""
        at = self.levels[level]
        if at.width >= view.shape[1]:
            return find_disagreement(self._backend, view, level=level)
        # The level is coarser than the view: its own pixels are the finest that can be compared.
        coarse = read_overview(self._backend, (at.width, at.height), self.threads, level + 1)
        return find_disagreement(self._backend, coarse.pixels, coarse.unreadable)

    def filled_tiles(self, level: int) -> TileMask | None:
        """Which native tiles the file leaves out at a level and a finer one fills; None if none."""
        return self._backend.filled(level)

    def _overview_size(self, mpp: float | None, max_side: int | None) -> tuple[int, int]:
        if mpp is None and max_side is None:
            raise UsageError("an overview needs a scale or a longest side")
        width, height = self.dimensions
        x, y = (1.0, 1.0) if mpp is None else (max(1.0, mpp / self.scale.mpp_x), max(1.0, mpp / self.scale.mpp_y))
        shrink = max(1.0, max(width / x, height / y) / max_side) if max_side else 1.0
        return max(1, round(width / x / shrink)), max(1, round(height / y / shrink))

    def thumbnail(self, max_side: int) -> Pixels:
        """Read the complete slide with its longest side at most `max_side` pixels; uint8 (h, w, 3)."""
        return self.overview(None, max_side=max_side)

    def native_tiles(self, level: int) -> NativeTiles | None:
        """Return the level's compressed JPEG tiles, where they can be copied as they are; else None."""
        backend = self._backend
        return backend.native_tiles(level) if isinstance(backend, NativeBackend | IsolatedBackend) else None


def _reopen(
    path: str,
    options: dict[str, Any],
    reason: str,
    threads: int | None,
    isolated: bool,
    layout: Layout | None,
    facts: SlideFacts,
) -> Slide:
    """Open a slide as it was opened before, in another process, which need not repeat what was decided then."""
    reader, color, scene = options["reader"], options["jpeg_color"], options.get("scene")
    backend: Backend
    if isolated:
        backend = IsolatedBackend(path, reader, color, sys.maxsize, scene)
    else:
        backend = reopen_backend(path, reader, color, scene, layout, facts)
    slide = Slide(path, backend, reason, options["mpp"], color, layout)
    slide.threads = threads
    return slide
