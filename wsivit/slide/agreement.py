"""Whether a coarse level shows what level 0 shows, from a handful of level-0 blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsivit.slide.backend import Backend, Pixels, TileFailure
from wsivit.slide.read_plan import plan_downsample
from wsivit.slide.reading import Request, map_rectangles

_LATTICE = 24  # places looked at along each side, of which few are compared
_EACH = 5  # places compared of each kind
_MOST, _FEWEST = 16, 4  # side of a place, in pixels of the view
_AROUND = 2  # pixels by which levels may be displaced
_FLAT = 0.5  # standard deviation of bare glass, or of nothing at all
_APART = 16.0  # grey levels that no compression or sharpening moves the mean of a place by
_DETAIL, _NO_DETAIL = 8.0, 1.5  # standard deviation of tissue, and of a place without any


class Disagreement(NamedTuple):
    """Where two levels show different things.

    Attributes
    ----------
    x0, y0 : int
        Level-0 position.
    level0, seen : tuple of int
        Mean colour of level 0 and of the other level.
    """

    x0: int
    y0: int
    level0: tuple[int, int, int]
    seen: tuple[int, int, int]

    def __str__(self) -> str:
        return f"at level-0 position ({self.x0}, {self.y0}) it shows {self.seen} where level 0 shows {self.level0}"


class _Places(NamedTuple):
    """Rectangles of one size in a view of the whole slide: top-left corners, and sides."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    width: int
    height: int

    def where(self, chosen: NDArray[np.int64]) -> _Places:
        return self._replace(x=self.x[chosen], y=self.y[chosen])

    def patches(self, view: Pixels, around: int = 0) -> Pixels:
        """Cut them out of the view, with some pixels around; (n, h, w, 3)."""
        rows = self.y[:, None] + np.arange(-around, self.height + around)
        columns = self.x[:, None] + np.arange(-around, self.width + around)
        patches: Pixels = view[rows[:, :, None], columns[:, None, :]]
        return patches


def find_disagreement(
    backend: Backend, view: Pixels, unreadable: NDArray[np.bool_] | None = None, level: int | None = None
) -> Disagreement | None:
    """Compare a handful of places of a view of the whole slide, or of a level at the view's size, with level 0.

    The places are the same each time: some where the view is perfectly flat, as where pixels were lost, some that
    look like glass, some that do not. What is unreadable or was never scanned at level 0 tells nothing.

    Parameters
    ----------
    backend : Backend
    view : ndarray of uint8, (h, w, 3)
        Brought to its size from a level other than 0.
    unreadable : ndarray of bool, (h, w), optional
        Where the view shows nothing.
    level : int, optional
        Compare this level, no coarser than the view; the view only tells where.

    Returns
    -------
    Disagreement or None
    """
    places = _choose(backend, view, unreadable)
    if not len(places.x):
        return None
    at_level0 = _read(backend, (view.shape[1], view.shape[0]), 0, places)
    if level is None:
        seen: list[Pixels | None] = list(places.patches(view, _AROUND))
    else:
        seen = _read(backend, (view.shape[1], view.shape[0]), level, places, _AROUND)
    scale_x, scale_y = (side / shown for side, shown in zip(_size(backend), view.shape[1::-1], strict=True))
    for x, y, truth, patch in zip(places.x.tolist(), places.y.tolist(), at_level0, seen, strict=True):
        if truth is not None and patch is not None and _differ(truth, patch):
            means = (tuple(round(c) for c in one.mean(axis=(0, 1)).tolist()) for one in (truth, patch))
            return Disagreement(round(x * scale_x), round(y * scale_y), *means)
    return None


def _size(backend: Backend) -> tuple[int, int]:
    return backend.facts.levels[0].width, backend.facts.levels[0].height


def _differ(truth: Pixels, patch: Pixels) -> bool:
    """Whether what level 0 shows is found nowhere around the same place of the other level."""
    mean, around = truth.mean(axis=(0, 1)), patch.astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(0, 1)).mean(axis=(-2, -1))
    low, high = windows.min(axis=(0, 1)), windows.max(axis=(0, 1))
    apart = np.maximum(mean - high, low - mean).max()
    lost = truth.mean(axis=2).std() >= _DETAIL and around.mean(axis=2).std() <= _NO_DETAIL
    return bool(apart > _APART or lost)


def _choose(backend: Backend, view: Pixels, unreadable: NDArray[np.bool_] | None) -> _Places:
    """Choose places of three kinds, far apart from each other."""
    places = _lattice(backend, view.shape[1::-1])
    if unreadable is not None and len(places.x):
        bad = places.patches(np.repeat(unreadable[..., None], 3, axis=2).astype(np.uint8), _AROUND)
        places = places.where(np.flatnonzero(~bad.any(axis=(1, 2, 3))))
    if not len(places.x):
        return places
    spread = places.patches(view).mean(axis=3).std(axis=(1, 2))
    flat = spread <= _FLAT
    plain = ~flat & (spread <= np.median(spread[~flat], keepdims=False)) if not flat.all() else ~flat
    chosen = [_far_apart(places, np.flatnonzero(kind)) for kind in (flat, plain, ~flat & ~plain)]
    return places.where(np.unique(np.concatenate(chosen)))


def _lattice(backend: Backend, size: tuple[int, int]) -> _Places:
    """Lay places evenly over a view of that size, each within one block of level 0 where blocks are large enough."""
    axes, sides = [], []
    for shown, whole, block in zip(size, _size(backend), backend.block_size(0), strict=True):
        span = block * shown / whole  # a block, in pixels of the view
        inset = 1 if span >= _FEWEST + 3 else 0
        side = int(np.clip(int(span) - 2 * inset, _FEWEST, _MOST))
        count = max(1, -(-whole // block))
        blocks = np.unique(((np.arange(_LATTICE) + 0.5) * count / _LATTICE).astype(np.int64))
        at = np.ceil(blocks * span - 1e-6).astype(np.int64) + inset
        axes.append(at[(at >= _AROUND) & (at + side + _AROUND <= shown)])
        sides.append(side)
    x, y = (grid.ravel() for grid in np.meshgrid(*axes))
    return _Places(x, y, *sides)


def _far_apart(places: _Places, some: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose a few of them, each the farthest from those that are chosen."""
    if len(some) <= _EACH:
        return some
    at = np.stack([places.x[some], places.y[some]], axis=1).astype(np.float64)
    chosen = [int(np.square(at - at.mean(axis=0)).sum(axis=1).argmin())]
    nearest = np.full(len(some), np.inf)
    while len(chosen) < _EACH:
        nearest = np.minimum(nearest, np.square(at - at[chosen[-1]]).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    return some[chosen]


def _read(backend: Backend, size: tuple[int, int], level: int, places: _Places, around: int = 0) -> list[Pixels | None]:
    """Read places from a level, or a finer one where it is coarser; None for what cannot be read or was not scanned."""
    wanted = tuple(side / shown for side, shown in zip(_size(backend), size, strict=True))
    plan = plan_downsample((wanted[0], wanted[1]), backend.facts.levels[: level + 1], tolerance=0)
    width, height = places.width + 2 * around, places.height + 2 * around
    request = Request(plan, width, height, places.x - around, places.y - around)
    found = map_rectangles(lambda pixels: pixels, backend, request)
    return [None if isinstance(one, TileFailure) else one for one in found]
