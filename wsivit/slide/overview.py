"""The whole slide at a glance: read block by block, from finer levels where a coarse one is damaged or wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsivit.slide.agreement import Disagreement, find_disagreement
from wsivit.slide.backend import Backend, Pixels, TileFailure
from wsivit.slide.read_plan import ReadPlan, plan_downsample
from wsivit.slide.reading import Request, read_rectangles

_BLOCK = 512
_SMALL = 32
_SOURCE = 2048  # side of what one block may be made of: memory stays bounded on a slide without a pyramid


class OverviewImage(NamedTuple):
    """The whole slide, small.

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


def checked_survey(backend: Backend, size: tuple[int, int], threads: int | None = None) -> OverviewImage:
    """`read_overview` from the coarsest level that shows what level 0 shows, as far as a handful of places tell."""
    rejected: dict[int, Disagreement] = {}
    n_levels = len(backend.facts.levels)
    while True:
        overview = read_overview(backend, size, threads, n_levels)
        found = find_disagreement(backend, overview.pixels, overview.unreadable) if overview.level else None
        if found is None:
            return overview._replace(rejected=rejected)
        n_levels = overview.level
        rejected[overview.level] = found


def read_overview(
    backend: Backend, size: tuple[int, int], threads: int | None = None, n_levels: int | None = None
) -> OverviewImage:
    """Bring a whole slide to exactly ``size`` (width, height), in bounded memory, from the finest `n_levels`."""
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
        rows, columns = place
        box = (columns.start, rows.start, columns.stop, rows.stop)
        for small, repaired in _parts(backend, plan, box, _SMALL, threads):
            found = repaired if repaired is not None else _from_finer_levels(backend, plan, small)
            pixels[small] = backend.facts.background if found is None else found
            unreadable[small] = found is None
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
        shown = None if isinstance(part, TileFailure) else part[: place[0].stop - y0, : place[1].stop - x0]
        yield place, shown


def _from_finer_levels(backend: Backend, plan: ReadPlan, place: tuple[slice, slice]) -> Pixels | None:
    """Read a part again from each level that is finer than the plan's; None where all are damaged."""
    rows, columns = place
    box = (columns.start, rows.start, columns.stop, rows.stop)
    for count in range(plan.level, 0, -1):
        levels = backend.facts.levels[:count]
        finer = plan_downsample((plan.downsample_x, plan.downsample_y), levels, tolerance=0)
        ((_, part),) = _parts(backend, finer, box, _SMALL, 1)
        if part is not None:
            return part
    return None
