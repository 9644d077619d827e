"""From tile scores to a score map. Pure functions.

The score map has one cell per tile stride and spans the whole slide from its corner: cell ``i`` of an axis
covers ``[i * step, (i + 1) * step)`` of the target plane. Without overlap a cell is a tile; with overlap each
tile covers several cells and contributes to each with the weight that its window has there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import UsageError
from wsivit.slide import TileGrid

Window: TypeAlias = Literal["hann", "uniform", "max"]
FloatGrid: TypeAlias = NDArray[np.float32]

_BAND_VALUES = 1 << 20  # scores blended at a time: bounds the working memory, whatever the slide's size


class CellStatus(IntEnum):
    """What is known of a cell. The first three, and missing, are those of tiles."""

    OK = 0
    PADDED = 1
    UNREADABLE = 2
    UNPREDICTED = 3
    MISSING = 4
    EMPTY = 255


# Of several tiles over one cell the last of this list counts: what could not be read stays visible, and
# beside that, the best that is known.
_RANKED = np.array(
    [
        CellStatus.EMPTY,
        CellStatus.MISSING,
        CellStatus.UNPREDICTED,
        CellStatus.PADDED,
        CellStatus.OK,
        CellStatus.UNREADABLE,
    ],
    np.uint8,
)
_RANK = np.array([list(_RANKED).index(code) for code in range(5)], np.uint8)


@dataclass(frozen=True)
class ScoreMap:
    """Scores on a lattice that spans the whole slide.

    Attributes
    ----------
    scores : float32 (h, w, c)
        Blended score of each class; NaN where nothing was predicted.
    coverage : float32 (h, w)
        Share, in [0, 1], of the window weight over the cell that predicted tiles hold: 1 where every tile of
        the lattice over the cell was predicted, 0 where none was. With the max window, of the tiles' area.
    status : uint8 (h, w)
        `CellStatus` of each cell.
    downsample0 : (float, float)
        Level-0 pixels per cell, ``x, y``; exact.
    size0 : (float, float)
        Level-0 extent ``width, height`` of the slide; the last cells may reach past it.
    window : {"hann", "uniform", "max"}
    smoothing0 : float
        Standard deviation in level-0 pixels of the Gaussian that was applied; 0 for none.
    spread : float32 (h, w), optional
        Standard deviation over the views of the tiles, blended like the scores; only with several views.
    """

    scores: FloatGrid
    coverage: FloatGrid
    status: NDArray[np.uint8]
    downsample0: tuple[float, float]
    size0: tuple[float, float]
    window: Window = "hann"
    smoothing0: float = 0.0
    spread: FloatGrid | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells ``(height, width)``."""
        return self.coverage.shape[0], self.coverage.shape[1]

    @property
    def best_class(self) -> FloatGrid:
        """Index of the highest class of each cell, float32 (h, w); NaN where nothing was predicted."""
        known = self.coverage > 0
        best = np.where(known[..., None], self.scores, 0).argmax(axis=-1)
        return np.where(known, best, np.nan).astype(np.float32)

    @property
    def uncertainty(self) -> FloatGrid:
        """The spread where there is one, else `entropy` of each cell's scores; float32 (h, w) in [0, 1]."""
        return entropy(self.scores) if self.spread is None else self.spread

    @property
    def uncertainty_kind(self) -> Literal["spread", "entropy"]:
        """Which of the two `uncertainty` is."""
        return "entropy" if self.spread is None else "spread"

    def cell_areas(self, mpp: tuple[float, float]) -> NDArray[np.float64]:
        """Area of each cell on the slide in mm², float64 (h, w); `mpp` is of level 0, ``x, y``."""
        x, y = (
            # The last cell may reach past the slide: only what is on it counts.
            np.diff(np.minimum(np.arange(count + 1) * step, size)) * scale / 1000
            for count, step, size, scale in zip(reversed(self.shape), self.downsample0, self.size0, mpp, strict=True)
        )
        return np.outer(y, x)


def stitch(
    grid: TileGrid,
    col: ArrayLike,
    row: ArrayLike,
    scores: ArrayLike,
    status: ArrayLike | None = None,
    window: Window = "hann",
    spread: ArrayLike | None = None,
) -> ScoreMap:
    """Blend the scores of tiles, in any order, into one grid of cells at stride resolution.

    Each cell is the mean of the tiles over it, weighted by the window's integral over the cell and divided by
    the weights that are there: a constant field stays constant, also at edges and next to gaps. The window
    ``"max"`` takes the highest score of each class instead.

    Parameters
    ----------
    grid : TileGrid
    col, row : array_like (n,)
        Places of the tiles; each at most once.
    scores : array_like (n, c)
        A tile with a NaN counts as not predicted.
    status : array_like (n,), optional
        Tile status (`wsivit.store.parameters.Status`); all readable when left out.
    window : {"hann", "uniform", "max"}
    spread : array_like (n,), optional
        Standard deviation over the views of each tile.

    Returns
    -------
    ScoreMap

    Raises
    ------
    UsageError
        For an unknown window, arrays of unequal length, or tiles outside the grid.
    """
    if window not in get_args(Window):
        raise UsageError(f"window must be one of {', '.join(get_args(Window))}, not {window!r}")
    # The spread is blended as one more class: it then fits the scores cell by cell.
    values = scores if spread is None else np.column_stack([scores, spread])
    tiles = _Tiles.checked(grid, col, row, values, status)
    height, width = -(-grid.plane_height // grid.step), -(-grid.plane_width // grid.step)
    out = ScoreMap(
        np.empty((height, width, tiles.scores.shape[1]), np.float32),
        np.empty((height, width), np.float32),
        np.empty((height, width), np.uint8),
        grid.stride0,
        (grid.plane_width * grid.downsample_x, grid.plane_height * grid.downsample_y),
        window,
    )
    rows_per_band = max(1, _BAND_VALUES // max(1, width * tiles.scores.shape[1]))
    for start in range(0, height, rows_per_band):
        _blend_band(tiles, grid, out, slice(start, min(height, start + rows_per_band)))
    if spread is None:
        return out
    return replace(out, scores=out.scores[..., :-1], spread=out.scores[..., -1])


def entropy(probabilities: FloatGrid) -> FloatGrid:
    """Shannon entropy over the last axis, as a share of the highest possible one.

    One class alone is taken as the probability of yes. NaN stays NaN.
    """
    p = probabilities
    if p.shape[-1] == 1:
        p = np.concatenate([p, 1 - p], axis=-1)
    result = np.zeros(p.shape[:-1], np.float32)
    total = np.maximum(p.sum(axis=-1), np.finfo(np.float32).tiny)
    for k in range(p.shape[-1]):
        share = p[..., k] / total
        result -= share * np.log(np.maximum(share, np.finfo(np.float32).tiny))
    return np.clip(result / np.float32(math.log(p.shape[-1])), 0, 1, out=result)


def smooth(score_map: ScoreMap, sigma0: float) -> ScoreMap:
    """Blur the scores with a Gaussian of `sigma0` level-0 pixels, normalised next to gaps; gaps stay gaps.

    Raises
    ------
    UsageError
        For a negative `sigma0`.
    """
    from scipy.ndimage import gaussian_filter

    if not (sigma0 >= 0 and math.isfinite(sigma0)):
        raise UsageError(f"the smoothing must be a length of at least 0, not {sigma0}")
    if sigma0 == 0:
        return score_map
    sigma = sigma0 / score_map.downsample0[1], sigma0 / score_map.downsample0[0]
    known = np.isfinite(score_map.scores[..., 0])
    weight = gaussian_filter(known.astype(np.float64), sigma, mode="constant")

    def blur(band: FloatGrid) -> FloatGrid:
        blurred = gaussian_filter(np.where(known, band, 0).astype(np.float64), sigma, mode="constant")
        return np.where(known, blurred / np.where(known, weight, 1), np.nan).astype(np.float32)

    scores = np.stack([blur(band) for band in np.moveaxis(score_map.scores, -1, 0)], axis=-1)
    spread = None if score_map.spread is None else blur(score_map.spread)
    return replace(score_map, scores=scores, spread=spread, smoothing0=math.hypot(score_map.smoothing0, sigma0))


def _window_weights(grid: TileGrid, window: Window) -> NDArray[np.float64]:
    """Integrals of the window over each cell that a tile reaches, along one axis; a maximum counts area."""
    edges = np.minimum(np.arange(0, grid.tile_size + grid.step, grid.step), grid.tile_size) / grid.tile_size
    integral = edges - np.sin(2 * np.pi * edges) / (2 * np.pi) if window == "hann" else edges
    return np.diff(integral)


@dataclass(frozen=True)
class _Tiles:
    """Checked tiles in the order of their rows."""

    col: NDArray[np.int64]
    row: NDArray[np.int64]
    scores: NDArray[np.float32]
    predicted: NDArray[np.bool_]
    rank: NDArray[np.uint8]

    @classmethod
    def checked(
        cls, grid: TileGrid, col: ArrayLike, row: ArrayLike, scores: ArrayLike, status: ArrayLike | None
    ) -> _Tiles:
        cols, rows = np.asarray(col, np.int64), np.asarray(row, np.int64)
        values = np.asarray(scores, np.float32)
        states = np.zeros(len(cols), np.uint8) if status is None else np.asarray(status, np.uint8)
        if values.ndim != 2 or not len(cols) == len(rows) == len(values) == len(states):
            shapes = ", ".join(str(a.shape) for a in (cols, rows, values, states))
            raise UsageError(f"col, row, scores and status must have one entry per tile, not {shapes}")
        inside = (cols >= 0) & (cols < grid.n_cols) & (rows >= 0) & (rows < grid.n_rows)
        if not inside.all():
            outside = np.count_nonzero(~inside)
            raise UsageError(f"{outside} tiles lie outside the grid of {grid.n_cols} x {grid.n_rows}")
        # A score of a tile without pixels is a model's answer to a blank image: it does not count.
        without_pixels = np.isin(states, (CellStatus.UNREADABLE, CellStatus.MISSING))
        predicted = np.isfinite(values).all(axis=1) & ~without_pixels
        rank = _RANK[np.where(predicted | without_pixels, states, CellStatus.UNPREDICTED)]
        order = np.argsort(rows, kind="stable")
        return cls(cols[order], rows[order], values[order], predicted[order], rank[order])


def _blend_band(tiles: _Tiles, grid: TileGrid, out: ScoreMap, band: slice) -> None:
    """Fill the cell rows `band` of `out` from the tile rows that reach into them, as a dense lattice."""
    highest = out.window == "max"
    weights = _window_weights(grid, out.window)
    first = min(max(0, band.start - len(weights) + 1), grid.n_rows)
    last = max(first, min(grid.n_rows, band.stop))
    part = slice(*np.searchsorted(tiles.row, (first, last)))
    place = tiles.row[part] - first, tiles.col[part]
    shape = last - first, grid.n_cols
    predicted, rank = np.zeros(shape, np.bool_), np.zeros(shape, np.uint8)
    predicted[place], rank[place] = tiles.predicted[part], tiles.rank[part]
    absent = -np.inf if highest else 0.0
    scores = np.full((*shape, tiles.scores.shape[1]), absent)
    scores[place] = np.where(tiles.predicted[part, None], tiles.scores[part], absent)

    def over_cells(lattice: NDArray[Any], taps: NDArray[Any], combine: np.ufunc) -> NDArray[Any]:
        # The window is a product of one along x and one along y: two passes instead of one per pair of taps.
        along_x = _accumulate(lattice.swapaxes(0, 1), taps, 0, slice(0, out.shape[1]), combine)
        return _accumulate(along_x.swapaxes(0, 1), taps, first, band, combine)

    weight = over_cells(predicted.astype(np.float64), weights, np.add)
    possible = over_cells(np.ones(shape), weights, np.add)
    equal = np.ones(len(weights), np.uint8)
    total = over_cells(scores, equal, np.maximum) if highest else over_cells(scores, weights, np.add)
    divisor = np.where(weight > 0, 1.0 if highest else weight, np.nan)
    out.scores[band] = total / divisor[..., None]
    out.coverage[band] = weight / np.where(possible > 0, possible, 1.0)
    out.status[band] = _RANKED[over_cells(rank, equal, np.maximum)]


def _accumulate(tiles: NDArray[Any], taps: NDArray[Any], first: int, band: slice, combine: np.ufunc) -> NDArray[Any]:
    """Combine the tile rows, from row `first` on, into the cell rows `band`: tile ``r`` covers cells ``r + k``."""
    start = -np.inf if combine is np.maximum and tiles.dtype.kind == "f" else 0
    out = np.full((band.stop - band.start, *tiles.shape[1:]), start, tiles.dtype)
    for k, tap in enumerate(taps):
        low, high = max(band.start, first + k), min(band.stop, first + k + len(tiles))
        if low < high:
            target = out[low - band.start : high - band.start]
            combine(target, tiles[low - first - k : high - first - k] * tap, out=target)
    return out
