"""A slide: one interface over every reader, and how it is opened."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from wsivit.errors import LimitError, ScaleError, UnreadableTilesError, UsageError
from wsivit.io import LocalFile, complete, is_url, local_path, public
from wsivit.ranges import PixelLimit, check_option
from wsivit.slide.backend import Backend, Color, JpegColor, Pixels, SlideFacts, TileFailure, TileMask
from wsivit.slide.dicom import series_path
from wsivit.slide.identity import fingerprint, slide_id
from wsivit.slide.metadata import SlideInfo, color_warnings, private_items, reported_pictures
from wsivit.slide.overview import (
    Disagreement,
    OverviewImage,
    find_disagreement,
    read_checked_overview,
    read_overview,
)
from wsivit.slide.preflight import MAX_PIXELS, check_pixel_limit, check_slide
from wsivit.slide.read_plan import Level, ReadPlan, plan_read
from wsivit.slide.readers.isolated import IsolatedBackend
from wsivit.slide.readers.native import NativeBackend, NativeTiles
from wsivit.slide.reading import Request, map_rectangles, read_rectangles
from wsivit.slide.scale import ScaleSource, SlideScale, objective_power, resolve_scale, scale_sources
from wsivit.slide.select_reader import Reader, open_backend, reopen_backend
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


def open_slide(
    path: str | os.PathLike[str],
    *,
    reader: Reader = "auto",
    mpp: float | None = None,
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    subprocess: bool = False,
) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path : str or path-like
        A slide file, a folder with one DICOM series (or any file of it, or its DICOMDIR), or any URL that fsspec knows
        (``s3://…``, ``https://…``).
    reader : {"auto", "native", "openslide", "tiffslide", "image"}, optional
        ``"auto"`` takes the fastest that reads the slide correctly and says why in `Slide.reader_reason`; another
        choice is never silently replaced.
    mpp : float, optional
        Microns per level-0 pixel, instead of what the slide says or because it says nothing.
    jpeg_color : {"auto", "rgb", "ycbcr"}, optional
        What JPEG tiles hold, for a slide that is labelled wrongly (its glass is magenta or salmon); ``"auto"``
        believes the slide.
    scene : int or str, optional
        Which picture of a file that holds several, by its number (from 0, as `info` lists them) or its name; default:
        the largest that is a slide.
    max_pixels : int, optional
        Refuse a slide of more pixels than this at its finest level.
    subprocess : bool, optional
        Decode in a subprocess with a limit on time (60 s a block) and memory (4 GiB), so that a slide on which native
        code crashes or hangs cannot crash this process. Enabled automatically for malformed files.

    Returns
    -------
    Slide

    Raises
    ------
    SlideNotFoundError
        If there is nothing at `path`.
    SlideError
        If no reader (or not the one asked for) reads it; the text says why of each.
    LimitError
        If it has more than `max_pixels` pixels.
    UsageError
        If the reader is unknown, `jpeg_color` cannot be applied by it, there is no such scene, or a folder holds
        several DICOM series.
    """
    check_option("reader", reader, Reader)
    check_option("jpeg_color", jpeg_color, JpegColor)
    check_option("max_pixels", max_pixels, PixelLimit)
    path = series_path(local_path(path))
    source, anomalies = check_slide(path, max_pixels)
    backend: Backend
    layout = None
    if subprocess or (anomalies and isinstance(source, LocalFile)):
        backend = IsolatedBackend(path, reader, jpeg_color, max_pixels, scene)
        reason = f"{backend.reason}; in a process of its own: {anomalies[0] if anomalies else 'asked for'}"
    else:
        backend, reason, layout = open_backend(source, reader, jpeg_color, scene)
    slide = Slide(path, backend, reason, mpp, jpeg_color, layout)
    try:
        check_pixel_limit(math.prod(slide.dimensions), max_pixels)
    except LimitError as error:
        slide.close()
        raise LimitError(f"{path}: {error}") from None
    return slide


def info(
    slide: str | os.PathLike[str],
    *,
    slide_mpp: float | None = None,
    reader: Reader = "auto",
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    subprocess: bool = False,
    private: bool = False,
) -> SlideInfo:
    """Describe a slide: format, size, levels, scale and where it came from, and what in it could name a patient.

    Parameters
    ----------
    slide : str or path-like
        A slide file, or a folder with one DICOM series.
    slide_mpp : float, optional
        Microns per level-0 pixel, instead of what the slide says or because it says nothing.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}, optional
        Which reader opens it.
    jpeg_color : {"auto", "rgb", "ycbcr"}, optional
        What its JPEG tiles hold, where it is labelled wrongly.
    scene : int or str, optional
        Which of the file's pictures, by number or name.
    max_pixels : int, optional
        Refuse a slide of more pixels than this.
    subprocess : bool, optional
        Decode in a subprocess; see `open_slide`.
    private : bool, optional
        Show the values of private items too, not only their names.

    Returns
    -------
    SlideInfo
    """
    options: dict[str, Any] = {"scene": scene, "max_pixels": max_pixels, "subprocess": subprocess}
    with open_slide(slide, reader=reader, mpp=slide_mpp, jpeg_color=jpeg_color, **options) as opened:
        return opened.info(private)


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
