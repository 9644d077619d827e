"""From blocks to tiles: each block decoded once per pass, in threads, and cut, joined and resampled into tiles."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsivit.slide.backend import MISSING, Backend, Color, Pixels, TileFailure, UnreadableBlockError
from wsivit.slide.read_plan import ReadPlan
from wsivit.slide.resample import Box, margin, resample

_CACHE_BYTES = 192 << 20
_KEEP_BYTES = 31 << 20
_PIECE_PIXELS = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """Rectangles of one size to cut out of a plan's target plane.

    Attributes
    ----------
    plan : ReadPlan
    width, height : int
        Of each rectangle, in target pixels.
    x, y : ndarray of int64
        Top-left corners; may lie outside the plane.
    """

    plan: ReadPlan
    width: int
    height: int
    x: NDArray[np.int64]
    y: NDArray[np.int64]


@dataclass(eq=False)
class _Block:
    """One block that several rectangles need: `ready` is set when `pixels` is there."""

    col: int
    row: int
    ready: Event
    pixels: Pixels | TileFailure | None = None


@dataclass(eq=False)
class _WorkUnit:
    """A run of rectangles that one thread makes, with the shared blocks that it needs and is the first to need."""

    span: range
    ready: Event = field(default_factory=Event)
    fresh: list[_Block] = field(default_factory=list)
    blocks: dict[int, _Block] = field(default_factory=dict)


def read_rectangles(backend: Backend, request: Request, threads: int | None = None) -> Iterator[Pixels | TileFailure]:
    """Yield each rectangle in the order asked for, background where nothing was scanned; see `map_rectangles`."""
    for made in map_rectangles(lambda pixels: pixels, backend, request, threads):
        missing = isinstance(made, TileFailure) and made.missing
        yield _filled(request.width, request.height, backend.facts.background) if missing else made


def map_rectangles(
    function: Callable[[Pixels], T], backend: Backend, request: Request, threads: int | None = None
) -> Iterator[T | TileFailure]:
    """Yield ``function(pixels)`` of each rectangle in the order asked for, or why it cannot be read.

    It is called in the thread that made the pixels, while they are in its processor's cache. Memory is bounded by the
    pieces in flight and a cache of blocks that a later rectangle needs again.
    """
    if not len(request.x):
        return
    work = _ReadPass(backend, request)

    def make(piece: _WorkUnit) -> list[T | TileFailure]:
        return [made if isinstance(made, TileFailure) else function(made) for made in work.make(piece)]

    threads = threads or available_cpus()
    if threads == 1 or len(request.x) <= 1:
        for piece in work.pieces():
            yield from make(piece)
        return
    _keep_freed_memory()
    with ThreadPoolExecutor(threads) as pool:
        # Started in order, so that a piece only ever waits for blocks of pieces that are already running.
        flying: deque[Future[list[T | TileFailure]]] = deque()
        try:
            for piece in work.pieces():
                flying.append(pool.submit(make, piece))
                if len(flying) > threads + 1:
                    yield from flying.popleft().result()
            while flying:
                yield from flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()


def _keep_freed_memory() -> None:
    """Have glibc keep what tiles give back: it raises that limit with the largest block it has seen come and go.

    Otherwise every tile made in a thread is faulted in anew, which costs as much as decoding it.
    """
    np.empty(_KEEP_BYTES, np.uint8)


def available_cpus() -> int:
    """CPUs that this process may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class _ReadPass:
    """One pass over a slide: which blocks each rectangle needs, and how it is made of them."""

    def __init__(self, backend: Backend, request: Request) -> None:
        self.backend, self.request, plan = backend, request, request.plan
        level = backend.facts.levels[plan.level]
        self.background = backend.facts.background
        # The last pixel of a reduced level may be partly the codec's padding; whole target pixels never reach it.
        self.plane = (-(-level.width // plan.reduce), -(-level.height // plan.reduce))
        width, height = backend.block_size(plan.level)
        self.block = (width // plan.reduce, height // plan.reduce)
        # Where content lies in the reduced level, against where pixels of `reduce` times the size would have it.
        self.shift = 0.0 if level.centred else 0.5 - 0.5 / plan.reduce
        # What a decoder has reduced stands for pixels that were never there.
        self.smooth = plan.resampled and plan.reduce > 1
        self.boxes = self._source_boxes()
        self.ranges = self._block_ranges()
        # Blocks are numbered in reading order within the smallest window that holds all that are needed.
        first, stop = self.ranges[:, :2].min(axis=0), self.ranges[:, 2:].max(axis=0)
        self.first_col, self.first_row = int(first[0]), int(first[1])
        self.n_cols, self.n_rows = int(stop[0] - first[0]), int(stop[1] - first[1])

    def _key(self, col: int, row: int) -> int:
        """Number of a block, from its place in the level."""
        return (row - self.first_row) * self.n_cols + col - self.first_col

    def _source_boxes(self) -> NDArray[np.int64]:
        """What each rectangle is made of: (n, 4) left, top, right, bottom in pixels of the plane, inside it."""
        plan, request = self.request.plan, self.request
        sides = []
        for at, size, residual, limit, target in (
            (request.x, request.width, plan.residual_x, self.plane[0], plan.width),
            (request.y, request.height, plan.residual_y, self.plane[1], plan.height),
        ):
            edge = margin(self.smooth)
            low = np.floor(np.clip(at, 0, target) * residual + self.shift).astype(np.int64) - edge
            high = np.ceil(np.clip(at + size, 0, target) * residual + self.shift - 1e-6).astype(np.int64) + edge
            sides += [np.clip(low, 0, limit), np.clip(high, 0, limit)]
        return np.stack([sides[0], sides[2], sides[1], sides[3]], axis=1)

    def _block_ranges(self) -> NDArray[np.int64]:
        """First and one-past-last block column and row of each rectangle: (n, 4) as c0, r0, c1, r1."""
        left, top, right, bottom = self.boxes.T
        width, height = self.block
        ranges = np.stack([left // width, top // height, -(-right // width), -(-bottom // height)], axis=1)
        inside = (left < right) & (top < bottom)
        some = ranges[inside][:1] if inside.any() else np.zeros((1, 4), np.int64)
        ranges[~inside] = some[:, [0, 1, 0, 1]]  # none, at a place that another needs
        return ranges

    def _uses(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each block of the level, how many rectangles need it, and which is the last that does."""
        count, last = (np.zeros(self.n_cols * self.n_rows, np.int64) for _ in range(2))
        c0, r0, c1, r1 = self.ranges.T
        for dc in range(int((c1 - c0).max(initial=0))):
            for dr in range(int((r1 - r0).max(initial=0))):
                here = np.flatnonzero((c0 + dc < c1) & (r0 + dr < r1))
                keys = (r0[here] + dr - self.first_row) * self.n_cols + c0[here] + dc - self.first_col
                np.add.at(count, keys, 1)
                np.maximum.at(last, keys, here)
        return count, last

    def pieces(self) -> Iterator[_WorkUnit]:
        """Cut the request into pieces; a shared block is decoded by the first that needs it and kept for the last."""
        request, (count, last) = self.request, self._uses()
        source = request.width * request.height * request.plan.residual_x * request.plan.residual_y
        step = max(1, int(_PIECE_PIXELS // source))
        room = _CACHE_BYTES // (3 * self.block[0] * self.block[1])
        known: dict[int, _Block] = {}
        for start in range(0, len(request.x), step):
            piece = _WorkUnit(range(start, min(start + step, len(request.x))))
            for key in self._keys(piece.span):
                if count[key] == 1:
                    continue  # decoded where it is used, while its pixels are in the processor's cache
                block = known.get(key)
                if block is None:
                    row, col = divmod(key, self.n_cols)
                    block = _Block(self.first_col + col, self.first_row + row, piece.ready)
                    piece.fresh.append(block)
                    if last[key] >= piece.span.stop and len(known) < room:
                        known[key] = block
                elif last[key] < piece.span.stop:
                    del known[key]
                piece.blocks[key] = block
            yield piece

    def _keys(self, span: range) -> list[int]:
        """Blocks that the rectangles of a span need, each once, in file order."""
        keys = {
            self._key(col, row)
            for c0, r0, c1, r1 in self.ranges[span.start : span.stop].tolist()
            for row in range(r0, r1)
            for col in range(c0, c1)
        }
        return sorted(keys)

    def make(self, piece: _WorkUnit) -> Iterator[Pixels | TileFailure]:
        """Decode what others need too, wait for what others decode, and make the rectangles one by one."""
        try:
            for block in piece.fresh:
                block.pixels = self._decode(block.col, block.row)
        finally:
            piece.ready.set()
        for index in piece.span:
            yield self._rectangle(index, piece.blocks)

    def _decode(self, col: int, row: int) -> Pixels | TileFailure | None:
        plan = self.request.plan
        try:
            return self.backend.block(plan.level, col, row, plan.reduce)
        except UnreadableBlockError as error:
            return TileFailure(str(error))

    def _pixels(self, block: _Block | None, col: int, row: int) -> Pixels | TileFailure | None:
        """Pixels of a block, shared or not."""
        if block is None:
            return self._decode(col, row)
        if not block.ready.is_set():
            block.ready.wait()
        return block.pixels

    def _rectangle(self, index: int, blocks: Mapping[int, _Block]) -> Pixels | TileFailure:
        request, plan = self.request, self.request.plan
        x, y = int(request.x[index]), int(request.y[index])
        x_from, x_to = max(x, 0), min(x + request.width, plan.width)
        y_from, y_to = max(y, 0), min(y + request.height, plan.height)
        if x_from >= x_to or y_from >= y_to:
            return _filled(request.width, request.height, self.background)
        left, top, *_ = box = tuple(self.boxes[index].tolist())
        window = self._window(box, self.ranges[index].tolist(), blocks)
        if isinstance(window, TileFailure):
            return window
        if plan.resampled:
            rx, ry = plan.residual_x, plan.residual_y
            x0, y0 = left - self.shift, top - self.shift
            box = Box(x_from * rx - x0, y_from * ry - y0, x_to * rx - x0, y_to * ry - y0)
            window = resample(window, box, (x_to - x_from, y_to - y_from), smooth=self.smooth)
        if window.shape[:2] == (request.height, request.width):
            return window
        padded = _filled(request.width, request.height, self.background)
        padded[y_from - y : y_to - y, x_from - x : x_to - x] = window
        return padded

    def _window(
        self, box: tuple[int, int, int, int], ranges: list[int], blocks: Mapping[int, _Block]
    ) -> Pixels | TileFailure:
        """Join blocks into the box ``left, top, right, bottom`` of the plane."""
        left, top, right, bottom = box
        width, height = self.block
        window, scanned = None, False
        for row in range(ranges[1], ranges[3]):
            for col in range(ranges[0], ranges[2]):
                block = blocks.get(self._key(col, row))
                pixels = self._pixels(block, col, row)
                if isinstance(pixels, TileFailure):
                    return pixels
                scanned = scanned or pixels is not None
                x, y = col * width, row * height
                whole = pixels is not None and box == (x, y, x + pixels.shape[1], y + pixels.shape[0])
                if pixels is not None and whole and block is None and pixels.flags.writeable:
                    return pixels
                if window is None:
                    window = np.empty((bottom - top, right - left, 3), np.uint8)
                x0, y0, x1, y1 = max(left, x), max(top, y), min(right, x + width), min(bottom, y + height)
                part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
                window[part] = self.background if pixels is None else pixels[y0 - y : y1 - y, x0 - x : x1 - x]
        if window is None:
            return np.empty((0, 0, 3), np.uint8)
        return window if scanned else MISSING


def _filled(width: int, height: int, color: Color) -> Pixels:
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = color
    return pixels
