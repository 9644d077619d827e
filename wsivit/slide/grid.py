"""Where the tiles are: a lattice over the slide, at one scale. Pure geometry.

The lattice lives in the *target plane*: the whole slide at the tile's scale, ``plane_width`` x ``plane_height``
pixels, anchored at the slide's top-left corner. Tile ``(col, row)`` is the square of ``tile_size`` pixels whose
corner is at ``(col * step, row * step)`` of that plane, whatever the tissue mask says: masks may change, a tile's
identity does not. Level-0 coordinates follow from the exact float downsample, rounded once and never accumulated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import UsageError
from wsivit.slide.read_plan import ReadPlan

Edge: TypeAlias = Literal["pad", "drop"]
IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class TileGrid:
    """A lattice of square tiles over a slide.

    Parameters
    ----------
    tile_size : int
        Side of a tile, in pixels of the target plane.
    overlap : int
        Pixels that neighbours share, on each axis.
    plane_width, plane_height : int
        The whole slide at the tile's scale, in pixels.
    downsample_x, downsample_y : float
        Level-0 pixels per target-plane pixel.
    edge : {"pad", "drop"}
        What becomes of tiles that reach past the slide: kept and padded, or left out.

    Raises
    ------
    UsageError
        For a tile size below 1 or an overlap outside ``[0, tile_size)``.
    """

    tile_size: int
    overlap: int
    plane_width: int
    plane_height: int
    downsample_x: float
    downsample_y: float
    edge: Edge = "pad"

    def __post_init__(self) -> None:
        if self.tile_size < 1:
            raise UsageError(f"tile size must be at least 1 pixel, not {self.tile_size}")
        if not 0 <= self.overlap < self.tile_size:
            raise UsageError(f"overlap must be in [0, {self.tile_size}), not {self.overlap}")
        if self.edge not in ("pad", "drop"):
            raise UsageError(f"edge must be 'pad' or 'drop', not {self.edge!r}")

    @classmethod
    def from_plan(cls, plan: ReadPlan, tile_size: int, overlap: int = 0, edge: Edge = "pad") -> Self:
        """Lay the lattice over the target plane of a reading plan."""
        return cls(tile_size, overlap, plan.width, plan.height, plan.downsample_x, plan.downsample_y, edge)

    @property
    def step(self) -> int:
        """Distance of neighbouring tiles, in target-plane pixels."""
        return self.tile_size - self.overlap

    @property
    def stride0(self) -> tuple[float, float]:
        """Distance of neighbouring tiles ``(x, y)``, in level-0 pixels: exact, not rounded."""
        return self.step * self.downsample_x, self.step * self.downsample_y

    @property
    def n_cols(self) -> int:
        """Tiles per row."""
        return self._count(self.plane_width)

    @property
    def n_rows(self) -> int:
        """Tiles per column."""
        return self._count(self.plane_height)

    def _count(self, length: int) -> int:
        if self.edge == "drop":
            return max(0, (length - self.tile_size) // self.step + 1)
        # The last tile is the first one that reaches the end: one more would lie inside its overlap.
        return max(1, -((self.overlap - length) // self.step))

    def __len__(self) -> int:
        return self.n_cols * self.n_rows

    def cells(self) -> tuple[IntArray, IntArray]:
        """All ``(col, row)``, in reading order; two int64 arrays of length ``len(grid)``."""
        row, col = np.divmod(np.arange(len(self), dtype=np.int64), max(1, self.n_cols))
        return col, row

    def plane_xy(self, col: ArrayLike, row: ArrayLike) -> tuple[IntArray, IntArray]:
        """Top-left corners in target-plane pixels, int64, exact."""
        return np.asarray(col, np.int64) * self.step, np.asarray(row, np.int64) * self.step

    def level0_xy(self, col: ArrayLike, row: ArrayLike) -> tuple[IntArray, IntArray]:
        """Top-left corners ``x0, y0`` in level-0 pixels, int64, each rounded once from its exact place."""
        stride_x, stride_y = self.stride0
        x0 = np.rint(np.asarray(col, np.float64) * stride_x).astype(np.int64)
        y0 = np.rint(np.asarray(row, np.float64) * stride_y).astype(np.int64)
        return x0, y0

    def boxes0(self, col: ArrayLike, row: ArrayLike) -> NDArray[np.float64]:
        """Exact extents ``(n, 4)`` as ``x_min, y_min, x_max, y_max`` in level-0 pixels, not clipped to the slide."""
        x, y = self.plane_xy(np.atleast_1d(col), np.atleast_1d(row))
        corners = np.stack([x, y, x + self.tile_size, y + self.tile_size], axis=1).astype(np.float64)
        return corners * [self.downsample_x, self.downsample_y, self.downsample_x, self.downsample_y]

    def padded(self, col: ArrayLike, row: ArrayLike) -> NDArray[np.bool_]:
        """Which tiles reach past the slide and so hold pixels that are not the slide's."""
        x, y = self.plane_xy(col, row)
        past: NDArray[np.bool_] = (x + self.tile_size > self.plane_width) | (y + self.tile_size > self.plane_height)
        return past

    def to_dict(self) -> dict[str, int | float | str]:
        """Plain values for JSON; ``TileGrid(**d)`` gives the grid back."""
        return asdict(self)
