"""One slide, or one store, that is open in the viewer."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import ScaleError, StoreError, WsivitError
from wsivit.io import is_url
from wsivit.slide import Slide, fingerprint, open_slide
from wsivit.store import TileStore, locate_slide
from wsivit.tiling import Annotation, read_annotations
from wsivit.viewer.painted_labels import PaintedLabels
from wsivit.viewer.pyramid import BLANK, Pyramid, SlidePyramid, StorePyramid, TileAnswer, shrink
from wsivit.viewer.score_bands import shown_runs

_LOOK_AGAIN = 1.0  # seconds between two looks at whether the slide's file is still the same
_RECENT_BYTES = 24 << 20  # of decoded tiles that are kept: another page, or the same one later, wants them again
GONE = "The slide is not where it was: what is shown comes from the store."
REPLACED = "The file of the slide was replaced by another: what is shown comes from the store."
LOST = "The slide is gone, or was replaced by another: there are no pixels."


@dataclass(frozen=True)
class ViewSource:
    """Where a slide that is viewed comes from.

    Attributes
    ----------
    key : str
        Stands for it in the addresses of the page: made of the fingerprint, not of a path.
    name : str
        Id of the slide.
    path, store : str
        One may be empty: of a store without a slide at hand, or a slide without a store.
    annotations : str
    open_options : dict
        Of `open_slide`, for a slide without a store.
    """

    key: str
    name: str
    path: str = ""
    store: str = ""
    annotations: str = ""
    open_options: Mapping[str, Any] = field(default_factory=dict)


class ViewedSlide:
    """A slide with what is known of it; safe in threads.

    Parameters
    ----------
    source : ViewSource
    label : str
        Name of the column that is painted.
    """

    def __init__(self, source: ViewSource, label: str) -> None:
        self.source = source
        self.store = TileStore(source.store) if source.store else None
        self.painted = PaintedLabels(self.store, label) if self.store is not None else None
        self.notice = ""
        self._lock = threading.Lock()
        self._generation = 0
        self._slide: Slide | None = None
        self._signature: object = None
        self._looked = 0.0
        self._recent: OrderedDict[tuple[str, int, int, int], TileAnswer] = OrderedDict()
        self._recent_bytes = 0
        self._reading = threading.Lock()
        self._thumbnails: dict[int, tuple[NDArray[np.uint8], tuple[float, float]]] = {}
        self._pyramid = self._open_pyramid()

    # Pixels

    @property
    def pyramid(self) -> tuple[str, Pyramid]:
        """The pyramid, and a name for it that changes when it does."""
        with self._lock:
            if self._slide is not None and time.monotonic() - self._looked > _LOOK_AGAIN:
                self._looked = time.monotonic()
                if _signature(self._slide.path) != self._signature and not self._is_same():
                    self._pyramid.close()
                    self._pyramid = self._open_pyramid()
                    self._generation += 1
            return f"p{self._generation}", self._pyramid

    def tile(self, pyramid: str, level: int, col: int, row: int) -> TileAnswer | None:
        """Return a tile of the pyramid of that name; None where there is another by now, or no such tile."""
        name, current = self.pyramid
        if name != pyramid or not 0 <= level < len(current.levels) or not current.levels[level].has(col, row):
            return None
        if current.levels[level].native:
            return current.tile(level, col, row)
        place = name, level, col, row
        with self._lock:
            if place in self._recent:
                self._recent.move_to_end(place)
                return self._recent[place]
        answer = current.tile(level, col, row)
        with self._lock:
            self._recent[place] = answer
            self._recent_bytes += len(answer.jpeg)
            while self._recent_bytes > _RECENT_BYTES:
                self._recent_bytes -= len(self._recent.popitem(last=False)[1].jpeg)
        return answer

    def thumbnail(self, max_side: int) -> tuple[NDArray[np.uint8], tuple[float, float]] | None:
        """Return the complete slide at low power; None where there are no pixels."""
        if self.store is not None:
            pixels, downsample = self.store.thumbnail
            if self._slide is None or max(pixels.shape) >= max_side // 2:
                return shrink(pixels, downsample, max_side)
        if self._slide is None:
            return None
        with self._reading:  # read once, however many pages ask
            if max_side not in self._thumbnails:
                self._thumbnails[max_side] = self.pyramid[1].thumbnail(max_side)
            return self._thumbnails[max_side]

    def _is_same(self) -> bool:
        """Whether the slide is there with the same content, if under another time stamp."""
        assert self._slide is not None
        expected = self.store.parameters.slide_fingerprint if self.store is not None else self._slide.fingerprint
        try:
            same = fingerprint(self._slide.path) == expected
        except (WsivitError, OSError):
            return False
        self._signature = _signature(self._slide.path)
        return same

    def _open_pyramid(self) -> Pyramid:
        """Open the slide; where it is gone or another, take the store."""
        first, path = self._slide is None, "" if self._slide is None else self._slide.path
        self._slide = None
        if self.store is None:
            if not first:
                self.notice = LOST
                return _NoPixels()
            self._slide = open_slide(self.source.path, **self.source.open_options)
            self._slide.fingerprint  # noqa: B018 - known before the file can change
        else:
            parameters = self.store.parameters
            try:
                located = locate_slide(parameters, self.store.files)
                self._slide = open_slide(located, **parameters.open_options, max_pixels=2**63 - 1)
            except (WsivitError, OSError):
                there = Path(path or parameters.slide_path).exists()
                self.notice = REPLACED if there else GONE
                return StorePyramid(self.store)
        self._slide.threads = 1  # the viewer's own threads read
        self._signature = _signature(self._slide.path)
        self._looked = time.monotonic()
        return SlidePyramid(self._slide)

    def close(self) -> None:
        """Close the slide's files."""
        self._pyramid.close()

    # What is known

    @property
    def size0(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""
        if self.store is not None:
            return self.store.parameters.slide_size
        assert self._slide is not None
        return self._slide.dimensions

    @cached_property
    def mpp(self) -> tuple[float, float] | None:
        """Microns per level-0 pixel, ``x, y``; None where the slide does not say."""
        if self.store is not None:
            return self.store.parameters.slide_mpp
        assert self._slide is not None
        try:
            return self._slide.scale.mpp_x, self._slide.scale.mpp_y
        except ScaleError:
            return None

    @cached_property
    def bounds(self) -> tuple[int, int, int, int]:
        """The part that was scanned, ``x, y, width, height`` in level-0 pixels."""
        if self.store is not None:
            bounds = self.store.parameters.slide_bounds
            return bounds if any(bounds) else (0, 0, *self.size0)
        assert self._slide is not None
        return self._slide.bounds

    @cached_property
    def background(self) -> tuple[int, int, int]:
        """Colour of what was not scanned."""
        return (255, 255, 255) if self._slide is None else self._slide.background

    @cached_property
    def annotations(self) -> list[Annotation]:
        """Regions that people drew; none where none were given."""
        if not self.source.annotations:
            return []
        corner = (self.bounds[0], self.bounds[1])
        return read_annotations(self.source.annotations, view_origin=corner, slide_size=self.size0)

    def describe(self, read_only: bool) -> dict[str, Any]:
        """Return all that the page needs to begin; neither paths nor texts of the slide."""
        name, pyramid = self.pyramid
        facts: dict[str, Any] = {
            "key": self.source.key,
            "name": self.source.name,
            "size0": self.size0,
            "mpp": self.mpp,
            "bounds": self.bounds,
            "background": self.background,
            "pyramid": name,
            "levels": [asdict(level) for level in pyramid.levels],
            "notice": self.notice,
            "annotations": bool(self.source.annotations),
            "store": None,
        }
        if self.store is None or self.painted is None:
            return facts
        grid = self.store.grid
        facts["store"] = {
            "file": Path(self.store.url).name,
            "tiles": len(self.store),
            "grid": grid.to_dict() | {"step": grid.step, "n_cols": grid.n_cols, "n_rows": grid.n_rows},
            "mpp": self.store.parameters.mpp,
            "runs": shown_runs(self.store),
            "labels": self.store.labels,
            "qc": sorted(self.store.qc),
            "painted": self.painted.name,
            "offered": [] if read_only else self.painted.offered(),
            "read_only": read_only,
        }
        return facts

    def require_store(self) -> TileStore:
        """Return the store; StoreError for a slide without one."""
        if self.store is None:
            raise StoreError("this slide has no store: tile it first")
        return self.store


class _NoPixels(Pyramid):
    levels = ()

    def tile(self, level: int, col: int, row: int) -> TileAnswer:
        return BLANK

    def thumbnail(self, max_side: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        return np.full((1, 1, 3), 255, np.uint8), (1.0, 1.0)


def _signature(path: str) -> object:
    """What changes with the file of a slide; constant for one at a URL."""
    if is_url(path):
        return None
    try:
        stat = Path(path).stat()
    except OSError:
        return "gone"
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
