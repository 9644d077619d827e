"""From blocks to tiles: each block decoded once per pass, in threads, and cut, joined and resampled into tiles.

Downscaling keeps the right phase: a float box of a picture becomes pixels, each the mean of what it covers.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.slide.backend import MISSING, Backend, Color, Pixels, TileFailure, UnreadableBlockError
from wsivit.slide.read_plan import ReadPlan

_CACHE_BYTES = 192 << 20  # of blocks that a later rectangle needs again
_KEEP_BYTES = 31 << 20
_UNIT_PIXELS = 1 << 20  # source pixels of the rectangles that one thread makes in a row
_FEW = 16  # source pixels per target pixel up to which weights of eight bits do
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
    """One block that several rectangles need: `ready` is set once `pixels` is decoded."""

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
    for pixels in map_rectangles(lambda pixels: pixels, backend, request, threads):
        missing = isinstance(pixels, TileFailure) and pixels.missing
        yield _filled(request.width, request.height, backend.facts.background) if missing else pixels


def map_rectangles(
    function: Callable[[Pixels], T], backend: Backend, request: Request, threads: int | None = None
) -> Iterator[T | TileFailure]:
    """Yield ``function(pixels)`` of each rectangle in the order asked for, or why it cannot be read.

    It is called in the thread that made the pixels, while they are in its processor's cache. Memory is bounded by the
    work units in flight and a cache of blocks that a later rectangle needs again.
    """
    if not len(request.x):
        return
    work = _ReadPass(backend, request)

    def make(unit: _WorkUnit) -> list[T | TileFailure]:
        return [pixels if isinstance(pixels, TileFailure) else function(pixels) for pixels in work.read(unit)]

    if not threads:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = min(16, cpus)
    if threads == 1 or len(request.x) <= 1:
        for unit in work.units():
            yield from make(unit)
        return
    # Have glibc keep what tiles give back: it raises that limit with the largest block it has seen come and go.
    # Otherwise every tile made in a thread is faulted in again, which costs as much as decoding it.
    np.empty(_KEEP_BYTES, np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        # Started in order, so that a unit only ever waits for blocks of units that are already running.
        running: deque[Future[list[T | TileFailure]]] = deque()
        try:
            for unit in work.units():
                running.append(pool.submit(make, unit))
                if len(running) > threads + 1:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class _ReadPass:
    """One pass over a slide: which blocks each rectangle needs, and how it is made of them."""

    def __init__(self, backend: Backend, request: Request) -> None:
        self.backend, self.request, plan = backend, request, request.plan
        level = backend.facts.levels[plan.level]
        self.background = backend.facts.background
        width, height = backend.block_size(plan.level)
        self.block = (width // plan.reduce, height // plan.reduce)
        # Where content lies in the reduced level, against where pixels of `reduce` times the size would have it.
        self.shift = 0.0 if level.centred else 0.5 - 0.5 / plan.reduce
        # What a decoder has reduced stands for pixels that were not decoded.
        self.smooth = plan.resampled and plan.reduce > 1
        # The last pixel of a reduced level may be partly the codec's padding; target pixels never reach it.
        plane = (-(-level.width // plan.reduce), -(-level.height // plan.reduce))

        # What each rectangle is made of: (n, 4) left, top, right, bottom in pixels of the reduced level, inside it.
        sides, edge = [], 1 if self.smooth else 0
        for at, size, residual, limit, target in (
            (request.x, request.width, plan.residual_x, plane[0], plan.width),
            (request.y, request.height, plan.residual_y, plane[1], plan.height),
        ):
            low = np.floor(np.clip(at, 0, target) * residual + self.shift).astype(np.int64) - edge
            high = np.ceil(np.clip(at + size, 0, target) * residual + self.shift - 1e-6).astype(np.int64) + edge
            sides += [np.clip(low, 0, limit), np.clip(high, 0, limit)]
        self.boxes = np.stack([sides[0], sides[2], sides[1], sides[3]], axis=1)

        # First and one-past-last block column and row of each rectangle: (n, 4) as c0, r0, c1, r1.
        left, top, right, bottom = self.boxes.T
        width, height = self.block
        self.ranges = np.stack([left // width, top // height, -(-right // width), -(-bottom // height)], axis=1)
        inside = (left < right) & (top < bottom)
        first = self.ranges[inside][:1] if inside.any() else np.zeros((1, 4), np.int64)
        self.ranges[~inside] = first[:, [0, 1, 0, 1]]  # no block, at a place that another rectangle needs

        # Blocks are numbered in reading order within the smallest window that holds all that are needed.
        first_block, stop = self.ranges[:, :2].min(axis=0), self.ranges[:, 2:].max(axis=0)
        self.first_col, self.first_row = int(first_block[0]), int(first_block[1])
        self.n_cols, self.n_rows = int(stop[0]) - self.first_col, int(stop[1]) - self.first_row

    def units(self) -> Iterator[_WorkUnit]:
        """Cut the request into units; a shared block is decoded by the first that needs it and kept for the last."""
        # For each block, how many rectangles need it, and which is the last that does.
        count, last = (np.zeros(self.n_cols * self.n_rows, np.int64) for _ in range(2))
        c0, r0, c1, r1 = self.ranges.T
        for dc in range(int((c1 - c0).max(initial=0))):
            for dr in range(int((r1 - r0).max(initial=0))):
                here = np.flatnonzero((c0 + dc < c1) & (r0 + dr < r1))
                keys = (r0[here] + dr - self.first_row) * self.n_cols + c0[here] + dc - self.first_col
                np.add.at(count, keys, 1)
                np.maximum.at(last, keys, here)

        request = self.request
        source = request.width * request.height * request.plan.residual_x * request.plan.residual_y
        step = max(1, int(_UNIT_PIXELS // source))
        room = _CACHE_BYTES // (3 * self.block[0] * self.block[1])
        known: dict[int, _Block] = {}
        for start in range(0, len(request.x), step):
            unit = _WorkUnit(range(start, min(start + step, len(request.x))))
            needed = {
                self._key(col, row)
                for left, top, right, bottom in self.ranges[unit.span.start : unit.span.stop].tolist()
                for row in range(top, bottom)
                for col in range(left, right)
            }
            for key in sorted(needed):  # in file order
                if count[key] == 1:
                    continue  # decoded where it is used, while its pixels are in the processor's cache
                block = known.get(key)
                if block is None:
                    row, col = divmod(key, self.n_cols)
                    block = _Block(self.first_col + col, self.first_row + row, unit.ready)
                    unit.fresh.append(block)
                    if last[key] >= unit.span.stop and len(known) < room:
                        known[key] = block
                elif last[key] < unit.span.stop:
                    del known[key]
                unit.blocks[key] = block
            yield unit

    def _key(self, col: int, row: int) -> int:
        """Number of a block, from its place in the level."""
        return (row - self.first_row) * self.n_cols + col - self.first_col

    def read(self, unit: _WorkUnit) -> Iterator[Pixels | TileFailure]:
        """Decode what others need too, wait for what others decode, and make the rectangles one by one."""
        try:
            for block in unit.fresh:
                block.pixels = self._decode(block.col, block.row)
        finally:
            unit.ready.set()
        for index in unit.span:
            yield self._rectangle(index, unit.blocks)

    def _decode(self, col: int, row: int) -> Pixels | TileFailure | None:
        plan = self.request.plan
        try:
            return self.backend.block(plan.level, col, row, plan.reduce)
        except UnreadableBlockError as error:
            return TileFailure(str(error))

    def _rectangle(self, index: int, blocks: Mapping[int, _Block]) -> Pixels | TileFailure:
        request, plan = self.request, self.request.plan
        x, y = int(request.x[index]), int(request.y[index])
        x_from, x_to = max(x, 0), min(x + request.width, plan.width)
        y_from, y_to = max(y, 0), min(y + request.height, plan.height)
        if x_from >= x_to or y_from >= y_to:
            return _filled(request.width, request.height, self.background)
        window = self._window(index, blocks)
        if isinstance(window, TileFailure):
            return window
        if plan.resampled:
            rx, ry = plan.residual_x, plan.residual_y
            left, top, *_ = self.boxes[index].tolist()
            x0, y0 = left - self.shift, top - self.shift
            box = _Box(x_from * rx - x0, y_from * ry - y0, x_to * rx - x0, y_to * ry - y0)
            window = _resample(window, box, (x_to - x_from, y_to - y_from), smooth=self.smooth)
        if window.shape[:2] == (request.height, request.width):
            return window
        padded = _filled(request.width, request.height, self.background)
        padded[y_from - y : y_to - y, x_from - x : x_to - x] = window
        return padded

    def _window(self, index: int, blocks: Mapping[int, _Block]) -> Pixels | TileFailure:
        """Join blocks into what a rectangle is made of."""
        left, top, right, bottom = self.boxes[index].tolist()
        first_col, first_row, stop_col, stop_row = self.ranges[index].tolist()
        width, height = self.block
        window, scanned = None, False
        for row in range(first_row, stop_row):
            for col in range(first_col, stop_col):
                block = blocks.get(self._key(col, row))
                if block is None:
                    pixels = self._decode(col, row)
                else:
                    if not block.ready.is_set():
                        block.ready.wait()
                    pixels = block.pixels
                if isinstance(pixels, TileFailure):
                    return pixels
                scanned = scanned or pixels is not None
                x, y = col * width, row * height
                if pixels is not None and block is None and pixels.flags.writeable:
                    stored = (x, y, x + pixels.shape[1], y + pixels.shape[0])
                    if (left, top, right, bottom) == stored:
                        return pixels  # exactly what is wanted, and nobody else's: not copied
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


# --- resampling


class _Box(NamedTuple):
    """Edges in pixels of a picture, from its top-left corner; pixel i covers ``[i, i + 1)``."""

    left: float
    top: float
    right: float
    bottom: float


def _resample(picture: Pixels, box: _Box, size: tuple[int, int], *, smooth: bool) -> Pixels:
    """Bring a box of a picture to ``size`` (width, height): the mean over each target pixel's exact area.

    Computed in fixed point, one axis after the other: within 2 grey levels of the exact mean, 0.3 on average.

    Parameters
    ----------
    picture : ndarray of uint8, (h, w, 3)
    box : _Box
        Past the picture's edge its last pixels are repeated.
    size : tuple of int
    smooth : bool
        The picture's pixels are means themselves, of finer ones that were not decoded: a part of one is not as bright
        as all of it, but as the running sum through its neighbours (a cubic) has it. This halves what is lost by
        reducing twice.
    """
    (height, width, _), (new_width, new_height) = picture.shape, size
    factor_x, factor_y = (box.right - box.left) / new_width, (box.bottom - box.top) / new_height
    inside = box.left > -1e-6 and box.top > -1e-6 and box.right < width + 1e-6 and box.bottom < height + 1e-6
    if inside and all(abs(side - round(side)) < 1e-6 for side in (*box, factor_x, factor_y)):
        # Every target pixel is made of complete source pixels: Pillow averages them exactly.
        left, top, right, bottom = (round(edge) for edge in box)
        factors = (round(factor_x), round(factor_y))
        return np.array(Image.fromarray(picture).reduce(factors, box=(left, top, right, bottom)))
    rows = _mean_lines(picture.reshape(height, width * 3), *_weights(box.top, box.bottom, new_height, smooth))
    # Columns become lines, each a channel after the other: numpy transposes planes far faster than triples.
    lines = rows.reshape(new_height, width, 3).transpose(1, 2, 0).reshape(width, 3 * new_height)
    columns = _mean_lines(lines, *_weights(box.left, box.right, new_width, smooth))
    return np.ascontiguousarray(columns.reshape(new_width, 3, new_height).transpose(2, 0, 1))


def _mean_lines(lines: Pixels, first: NDArray[np.int64], parts: NDArray[np.integer], bits: int) -> Pixels:
    """Weighted means of uint8 (lines, m) along the first axis, by `_weights`; (n, m)."""
    wide = lines.astype(parts.dtype)
    total = np.full((len(first), lines.shape[1]), 1 << (bits - 1), parts.dtype)
    term = np.empty_like(total)
    for k in range(parts.shape[1]):
        np.take(wide, first + k, axis=0, out=term, mode="clip")
        term *= parts[:, k, None]
        total += term
    total >>= bits
    return (total if parts.dtype == np.uint16 else total.clip(0, 255)).astype(np.uint8)


def _weights(start: float, stop: float, n: int, smooth: bool) -> tuple[NDArray[np.int64], NDArray[np.integer], int]:
    """The lines that n equal, fractional intervals of ``[start, stop)`` are the means of.

    Returns the first line of each, int64 (n,); the weights of that and the lines behind it, (n, k), which add up to
    ``1 << bits``; and the number of bits.
    """
    edges = np.linspace(start, stop, n + 1)
    whole = np.floor(edges + 1e-9).astype(np.int64)
    margin = 1 if smooth else 0  # the cubic looks at a neighbour on each side
    first, reach = whole[:-1] - margin, int(np.ceil(edges[1:] - whole[:-1] - 1e-9).max()) + 2 * margin
    lines = first[:, None] + np.arange(reach)
    share = _sum_up_to(edges[1:, None], lines, smooth) - _sum_up_to(edges[:-1, None], lines, smooth)
    exact = smooth or reach > _FEW
    bits = 16 if exact else 8
    # Rounded as running sums: weights add up to one, and no line is favoured.
    sums = np.rint(np.cumsum(share, axis=1) * ((n << bits) / (stop - start))).astype(np.int64)
    return first, np.diff(sums, axis=1, prepend=0).astype(np.int32 if exact else np.uint16), bits


def _sum_up_to(edge: NDArray[np.float64], lines: NDArray[np.int64], smooth: bool) -> NDArray[np.float64]:
    """How much of each line is in the running sum of all lines up to an edge."""
    whole = np.floor(edge + 1e-9)
    part, beyond = edge - whole, lines - whole
    if not smooth:
        return np.where(beyond < 0, 1.0, np.where(beyond == 0, part, 0.0))
    # Lagrange's cubic through the running sum at the four edges of lines around.
    after = part * (part**2 - 1) / 6
    here = after - (part + 1) * part * (part - 2) / 2
    before = here + (part**2 - 1) * (part - 2) / 2
    return np.select([beyond < -1, beyond == -1, beyond == 0, beyond == 1], [1.0, before, here, after], 0.0)
