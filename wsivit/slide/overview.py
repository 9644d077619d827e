"""The complete slide, small: in bounded memory, and from finer levels where a coarse one is damaged or wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsivit.slide.backend import Backend, Pixels, TileFailure
from wsivit.slide.read_plan import ReadPlan, plan_downsample
from wsivit.slide.reading import Request, map_rectangles, read_rectangles

_BLOCK = 512
_SMALL = 32
_SOURCE = 2048  # side of what one block may be made of: memory stays bounded on a slide without a pyramid

_LATTICE = 24  # candidate places along each side, of which few are compared
_EACH = 5  # places compared of each kind
_MAX_PLACE, _MIN_PLACE = 16, 4  # side of a place, in pixels of the overview
_AROUND = 2  # pixels by which levels may be displaced
_FLAT = 0.5  # standard deviation of bare glass, or of nothing at all
_APART = 16.0  # grey levels that no compression or sharpening moves the mean of a place by
_DETAIL, _NO_DETAIL = 8.0, 1.5  # standard deviation of tissue, and of a place without any


class Disagreement(NamedTuple):
    """Where two levels show different things: a level-0 position, and the mean colour of level 0 and of the other."""

    x0: int
    y0: int
    level0: tuple[int, int, int]
    seen: tuple[int, int, int]

    def __str__(self) -> str:
        return f"at level-0 position ({self.x0}, {self.y0}) it shows {self.seen} where level 0 shows {self.level0}"


class OverviewImage(NamedTuple):
    """The complete slide, small.

    Attributes
    ----------
    pixels : ndarray of uint8, (h, w, 3)
    unreadable : ndarray of bool, (h, w)
        Where no level could be read; the slide's background stands there.
    level : int
        It was read from.
    rejected : dict of int to Disagreement
        Coarser levels that do not show what level 0 shows, and where.
    """

    pixels: Pixels
    unreadable: NDArray[np.bool_]
    level: int = 0
    rejected: Mapping[int, Disagreement] = MappingProxyType({})


def read_checked_overview(backend: Backend, size: tuple[int, int], threads: int | None = None) -> OverviewImage:
    """`read_overview` from the coarsest level that shows what level 0 shows, as far as a handful of places tell."""
    rejected: dict[int, Disagreement] = {}
    n_levels = len(backend.facts.levels)
    while True:
        overview = read_overview(backend, size, threads, n_levels)
        n_levels = overview.level
        disagreement = find_disagreement(backend, overview.pixels, overview.unreadable) if n_levels else None
        if disagreement is None:
            return overview._replace(rejected=rejected)
        rejected[n_levels] = disagreement


def read_overview(
    backend: Backend, size: tuple[int, int], threads: int | None = None, n_levels: int | None = None
) -> OverviewImage:
    """Bring a slide to exactly ``size`` (width, height), in bounded memory, from the finest `n_levels`."""
    width, height = size
    levels = backend.facts.levels[:n_levels]
    plan = plan_downsample((levels[0].width / width, levels[0].height / height), levels, tolerance=0)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = backend.facts.background
    unreadable = np.zeros((height, width), np.bool_)
    block = max(_SMALL, min(_BLOCK, int(_SOURCE / max(plan.residual_x, plan.residual_y))))
    for place, part in _parts(backend, plan, (0, 0, width, height), block, threads):
        if part is not None:
            pixels[place] = part
            continue
        # Something in it is damaged: small parts of it may be read, the others from finer levels.
        box = (place[1].start, place[0].start, place[1].stop, place[0].stop)
        for small, repaired in _parts(backend, plan, box, _SMALL, threads):
            small_box = (small[1].start, small[0].start, small[1].stop, small[0].stop)
            count = plan.level
            while repaired is None and count > 0:
                finer = plan_downsample((plan.downsample_x, plan.downsample_y), levels[:count], tolerance=0)
                ((_, repaired),) = _parts(backend, finer, small_box, _SMALL, 1)
                count -= 1
            pixels[small] = backend.facts.background if repaired is None else repaired
            unreadable[small] = repaired is None
    return OverviewImage(pixels, unreadable, plan.level)


def _parts(
    backend: Backend, plan: ReadPlan, box: tuple[int, int, int, int], block: int, threads: int | None
) -> Iterator[tuple[tuple[slice, slice], Pixels | None]]:
    """Read a box ``left, top, right, bottom`` in square parts; None for one that cannot be read."""
    left, top, right, bottom = box
    y, x = (grid.ravel() for grid in np.mgrid[top:bottom:block, left:right:block])
    request = Request(plan, block, block, x.astype(np.int64), y.astype(np.int64))
    for x0, y0, part in zip(x.tolist(), y.tolist(), read_rectangles(backend, request, threads), strict=True):
        place = slice(y0, min(y0 + block, bottom)), slice(x0, min(x0 + block, right))
        yield place, None if isinstance(part, TileFailure) else part[: place[0].stop - y0, : place[1].stop - x0]


# --- whether a coarse level shows what level 0 shows, from a handful of level-0 blocks


class _Places(NamedTuple):
    """Rectangles of one size in an overview: top-left corners, and sides."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    width: int
    height: int

    def select(self, chosen: NDArray[np.int64]) -> _Places:
        return self._replace(x=self.x[chosen], y=self.y[chosen])

    def patches(self, view: Pixels, around: int = 0) -> Pixels:
        """Cut them out of the overview, with some pixels around; (n, h, w, 3)."""
        rows = self.y[:, None] + np.arange(-around, self.height + around)
        columns = self.x[:, None] + np.arange(-around, self.width + around)
        patches: Pixels = view[rows[:, :, None], columns[:, None, :]]
        return patches

    def read(self, backend: Backend, size: tuple[int, int], level: int, around: int = 0) -> list[Pixels | None]:
        """Read them from a level, or a finer one where it is coarser; None for what is unreadable or was not scanned.

        `size` is that of the overview.
        """
        level0 = backend.facts.levels[0]
        wanted = (level0.width / size[0], level0.height / size[1])
        plan = plan_downsample(wanted, backend.facts.levels[: level + 1], tolerance=0)
        width, height = self.width + 2 * around, self.height + 2 * around
        request = Request(plan, width, height, self.x - around, self.y - around)
        parts = map_rectangles(lambda pixels: pixels, backend, request)
        return [None if isinstance(part, TileFailure) else part for part in parts]


def find_disagreement(
    backend: Backend, view: Pixels, unreadable: NDArray[np.bool_] | None = None, level: int | None = None
) -> Disagreement | None:
    """Compare a handful of places of an overview, or of a level at the overview's size, with level 0.

    The places are the same each time: some where the overview is perfectly flat, as where pixels were lost, some that
    look like glass, some that do not. What is unreadable or was never scanned at level 0 proves nothing.

    Parameters
    ----------
    backend : Backend
    view : ndarray of uint8, (h, w, 3)
        Brought to its size from a level other than 0.
    unreadable : ndarray of bool, (h, w), optional
        Where the overview shows nothing.
    level : int, optional
        Compare this level, no coarser than the overview, which only tells where.
    """
    size = (view.shape[1], view.shape[0])
    places = _choose_places(backend, view, unreadable)
    if not len(places.x):
        return None
    at_level0 = places.read(backend, size, 0)
    others = list(places.patches(view, _AROUND)) if level is None else places.read(backend, size, level, _AROUND)
    level0 = backend.facts.levels[0]
    scale_x, scale_y = level0.width / size[0], level0.height / size[1]
    for x, y, truth, patch in zip(places.x.tolist(), places.y.tolist(), at_level0, others, strict=True):
        if truth is None or patch is None:
            continue
        # What level 0 shows must be found somewhere around the same place of the other level.
        mean, around = truth.mean(axis=(0, 1)), patch.astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(0, 1)).mean(axis=(-2, -1))
        low, high = windows.min(axis=(0, 1)), windows.max(axis=(0, 1))
        lost = truth.mean(axis=2).std() >= _DETAIL and around.mean(axis=2).std() <= _NO_DETAIL
        if lost or np.maximum(mean - high, low - mean).max() > _APART:
            colors = (tuple(round(c) for c in part.mean(axis=(0, 1)).tolist()) for part in (truth, patch))
            return Disagreement(round(x * scale_x), round(y * scale_y), *colors)
    return None


def _choose_places(backend: Backend, view: Pixels, unreadable: NDArray[np.bool_] | None) -> _Places:
    """Choose places of three kinds (flat, plain, neither), far apart from each other."""
    places = _lattice(backend, (view.shape[1], view.shape[0]))
    if unreadable is not None and len(places.x):
        bad = places.patches(np.repeat(unreadable[..., None], 3, axis=2).astype(np.uint8), _AROUND)
        places = places.select(np.flatnonzero(~bad.any(axis=(1, 2, 3))))
    if not len(places.x):
        return places
    spread = places.patches(view).mean(axis=3).std(axis=(1, 2))
    flat = spread <= _FLAT
    plain = ~flat & (spread <= np.median(spread[~flat], keepdims=False)) if not flat.all() else ~flat
    chosen = [_far_apart(places, np.flatnonzero(kind)) for kind in (flat, plain, ~flat & ~plain)]
    return places.select(np.unique(np.concatenate(chosen)))


def _lattice(backend: Backend, size: tuple[int, int]) -> _Places:
    """Lay places evenly over an overview, each within one block of level 0 where blocks are large enough."""
    axes, sides = [], []
    level0 = backend.facts.levels[0]
    for length, length0, block in zip(size, (level0.width, level0.height), backend.block_size(0), strict=True):
        span = block * length / length0  # a block, in pixels of the overview
        inset = 1 if span >= _MIN_PLACE + 3 else 0
        side = int(np.clip(int(span) - 2 * inset, _MIN_PLACE, _MAX_PLACE))
        count = max(1, -(-length0 // block))
        blocks = np.unique(((np.arange(_LATTICE) + 0.5) * count / _LATTICE).astype(np.int64))
        at = np.ceil(blocks * span - 1e-6).astype(np.int64) + inset
        axes.append(at[(at >= _AROUND) & (at + side + _AROUND <= length)])
        sides.append(side)
    x, y = (grid.ravel() for grid in np.meshgrid(*axes))
    return _Places(x, y, *sides)


def _far_apart(places: _Places, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose a few of the candidates, each the farthest from those already chosen."""
    if len(candidates) <= _EACH:
        return candidates
    at = np.stack([places.x[candidates], places.y[candidates]], axis=1).astype(np.float64)
    chosen = [int(np.square(at - at.mean(axis=0)).sum(axis=1).argmin())]
    nearest = np.full(len(candidates), np.inf)
    while len(chosen) < _EACH:
        nearest = np.minimum(nearest, np.square(at - at[chosen[-1]]).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    return candidates[chosen]
