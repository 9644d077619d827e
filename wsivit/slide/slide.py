"""A slide: one interface over every reader."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from wsivit.errors import ScaleError, UnreadableTilesError, UsageError
from wsivit.io import complete, is_url, public
from wsivit.slide.agreement import Disagreement, find_disagreement
from wsivit.slide.backend import Backend, Color, JpegColor, Pixels, TileFailure, TileMask
from wsivit.slide.fingerprint import fingerprint
from wsivit.slide.identity import slide_id
from wsivit.slide.info import SlideInfo, color_warnings, objective, private_items, resolve_or_explain, shown_pictures
from wsivit.slide.overview import OverviewImage, checked_survey, read_overview
from wsivit.slide.read_plan import Level, ReadPlan, plan_read
from wsivit.slide.readers.isolated import IsolatedBackend
from wsivit.slide.readers.native import NativeBackend, NativeTiles
from wsivit.slide.reading import Request, map_rectangles, read_rectangles
from wsivit.slide.scale import ScaleSource, SlideScale, resolve_scale, scale_sources

_log = logging.getLogger(__name__)
_LOOK = 256
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
        self, path: str, backend: Backend, reason: str, mpp: float | None = None, jpeg_color: JpegColor = "auto"
    ) -> None:
        self.path = public(path) if is_url(path) else path
        self.reader = backend.name
        self.reader_reason = reason
        self.threads: int | None = _REMOTE_THREADS if is_url(path) else None
        self._backend = backend
        self._mpp = mpp
        self._jpeg_color = jpeg_color

    def __repr__(self) -> str:
        width, height = self.dimensions
        return f"<Slide {self.id!r}: {width}x{height}, {len(self.levels)} levels, {self.format}, {self.reader} reader>"

    def __reduce__(self) -> tuple[Any, ...]:
        from wsivit.slide.open_slide import reopen

        return reopen, (complete(self.path), self.open_options, self.reader_reason, self.threads, self.isolated)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of this process; reading again opens them again."""
        self._backend.close()

    # --- what it is

    @property
    def open_options(self) -> dict[str, Any]:
        """What `open_slide` needs, besides the path, to open the same view of the slide; ready for JSON."""
        how = {"reader": self.reader, "mpp": self._mpp, "jpeg_color": self._jpeg_color}
        scene = self._backend.facts.scene
        return how if scene is None else {**how, "scene": scene}

    @property
    def isolated(self) -> bool:
        """Whether it is decoded in a process of its own."""
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
    def bounds(self) -> tuple[int, int, int, int]:
        """``x, y, width, height`` of the region that is not empty, in level-0 pixels; all of it where unknown."""
        return self._backend.facts.bounds or (0, 0, *self.dimensions)

    @property
    def background(self) -> Color:
        """Colour of what was not scanned; white unless the slide names another."""
        return self._backend.facts.background

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be known of the file's other pictures and of its structure."""
        return self._backend.facts.warnings

    @cached_property
    def fingerprint(self) -> str:
        """``"sha256:<hex>"`` of the content: the same under every name."""
        return fingerprint(self.path)

    @cached_property
    def scale_sources(self) -> tuple[ScaleSource, ...]:
        """Every place in the slide that speaks of its scale, in order of trust."""
        return scale_sources(self._backend.facts.properties)

    @cached_property
    def scale(self) -> SlideScale:
        """Microns per level-0 pixel, and why.

        Raises
        ------
        ScaleError
            If no source is usable; the text names every one looked at.
        """
        try:
            return resolve_scale(self.scale_sources, given=self._mpp, vendor=self.format)
        except ScaleError as error:
            raise ScaleError(f"{self.path}: {error}") from None

    def info(self, private: bool = False) -> SlideInfo:
        """Everything about the slide in plain values; private values only with `private`."""
        verdict, problem = resolve_or_explain(self.scale_sources, self._mpp, self.format)
        first = self.levels[0]
        tile = (first.tile_width, first.tile_height) if first.tile_width and first.tile_height else None
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
            scale=verdict,
            scale_error=problem,
            scale_sources=self.scale_sources,
            objective=objective(self.scale_sources),
            tile_size=tile,
            compression=first.compression,
            filled_tiles=tuple(
                0 if filled is None else int(filled.where.sum())
                for filled in map(self.filled_tiles, range(len(self.levels)))
            ),
            warnings=(*self.warnings, *color_warnings(self.thumbnail(_LOOK))),
            scene=self._backend.facts.scene,
            others=shown_pictures(self._backend.facts, private),
            private=private_items(self._backend.facts, private),
        )

    # --- pixels

    def plan(self, mpp: float, *, tolerance: float = 0.02, downscale: Literal["dct", "area"] = "dct") -> ReadPlan:
        """Decide how a scale is reached; see `wsivit.slide.read_plan.plan_read`."""
        try:
            return plan_read(mpp, self.scale, self.levels, tolerance=tolerance, downscale=downscale)
        except ScaleError as error:
            text = str(error)
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
        return map_rectangles(function, self._backend, _tiles(plan, size, x, y), self.threads)

    def overview(self, mpp: float | None, *, max_side: int | None = None) -> Pixels:
        """Read the whole slide, small.

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
        """Read the whole slide at about a scale, and where it cannot be read, from a level that agrees with level 0."""
        overview = checked_survey(self._backend, self._overview_size(mpp, None), self.threads)
        for level, found in overview.rejected.items():
            _log.warning(
                "%s: level %d of the slide is wrong, %s: the overview is read from level %d, which takes longer",
                *(self.path, level, found, overview.level),
            )
        return overview

    def disagreement(self, level: int, view: Pixels) -> Disagreement | None:
        """Compare a level with level 0 at a handful of places, chosen by a view of the whole slide."""
        at = self.levels[level]
        if at.width >= view.shape[1]:
            return find_disagreement(self._backend, view, level=level)
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
        """Read the whole slide with its longest side at most `max_side` pixels; uint8 (h, w, 3)."""
        return self.overview(None, max_side=max_side)

    def native_tiles(self, level: int) -> NativeTiles | None:
        """Return the level's compressed JPEG tiles, where they can be copied as they are; else None."""
        backend = self._backend
        return backend.native_tiles(level) if isinstance(backend, NativeBackend | IsolatedBackend) else None


def _tiles(plan: ReadPlan, size: int, x: ArrayLike, y: ArrayLike) -> Request:
    if size < 1:
        raise UsageError(f"tile size must be at least 1 pixel, not {size}")
    return Request(plan, size, size, np.asarray(x, np.int64).ravel(), np.asarray(y, np.int64).ravel())
