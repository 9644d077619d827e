"""The lattice: tiles cover the slide, keep their place, and never drift."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsivit.errors import UsageError
from wsivit.slide.grid import TileGrid

sizes = st.integers(1, 300)


@st.composite
def grids(draw: st.DrawFn, edge: str = "pad") -> TileGrid:
    tile = draw(sizes)
    return TileGrid(
        tile_size=tile,
        overlap=draw(st.integers(0, tile - 1)),
        plane_width=draw(st.integers(1, 400)),
        plane_height=draw(st.integers(1, 400)),
        downsample_x=draw(st.floats(1, 64, allow_nan=False)),
        downsample_y=draw(st.floats(1, 64, allow_nan=False)),
        edge=edge,
    )


def covered(starts: range, tile: int, length: int) -> bool:
    """Whether intervals of one tile cover [0, length) without a gap."""
    end = 0
    for start in starts:
        if start > end:
            return False
        end = start + tile
    return end >= length


@given(grids())
def test_padded_lattice_covers_the_slide_with_no_tile_to_spare(grid: TileGrid) -> None:
    for count, length in ((grid.n_cols, grid.plane_width), (grid.n_rows, grid.plane_height)):
        starts = range(0, count * grid.step, grid.step)
        assert covered(starts, grid.tile_size, length)
        assert count == 1 or not covered(starts[:-1], grid.tile_size, length)


@given(grids("drop"))
def test_dropping_keeps_exactly_the_tiles_inside_the_slide(grid: TileGrid) -> None:
    inside = sum(start + grid.tile_size <= grid.plane_width for start in range(0, grid.plane_width, grid.step))
    assert grid.n_cols == inside
    col, row = grid.cells()
    assert not grid.padded(col, row).any()


@given(grids(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_level0_corner_is_rounded_once_from_the_exact_place(grid: TileGrid, col: int, row: int) -> None:
    x0, y0 = grid.level0_xy(col, row)
    exact_x = Fraction(grid.downsample_x) * grid.step * col
    exact_y = Fraction(grid.downsample_y) * grid.step * row
    # Half a pixel, and what a double can lose at this size: no error that grows along the row.
    assert abs(int(x0) - exact_x) <= Fraction(1, 2) + exact_x * Fraction(1, 2**50)
    assert abs(int(y0) - exact_y) <= Fraction(1, 2) + exact_y * Fraction(1, 2**50)


@given(grids())
def test_cells_are_in_reading_order_and_boxes_tile_the_plane(grid: TileGrid) -> None:
    col, row = grid.cells()
    assert len(col) == len(grid) == grid.n_cols * grid.n_rows
    assert (np.diff(row * grid.n_cols + col) == 1).all()
    boxes = grid.boxes0(col[:50], row[:50])
    assert np.allclose(boxes[:, 2] - boxes[:, 0], grid.tile_size * grid.downsample_x)
    assert np.allclose(boxes[:, 3] - boxes[:, 1], grid.tile_size * grid.downsample_y)


@given(grids())
def test_padded_marks_the_tiles_that_leave_the_plane(grid: TileGrid) -> None:
    col, row = grid.cells()
    right = (col * grid.step + grid.tile_size) > grid.plane_width
    below = (row * grid.step + grid.tile_size) > grid.plane_height
    assert (grid.padded(col, row) == (right | below)).all()


@given(grids())
def test_dict_gives_the_grid_back(grid: TileGrid) -> None:
    assert TileGrid(**grid.to_dict()) == grid


def test_no_drift_over_a_wide_slide_at_an_odd_scale() -> None:
    # 0.2738 mpp read at 0.5: adding up a rounded stride of 467 would be 260 px off at the far end of this slide.
    downsample = 0.5 / 0.2738
    grid = TileGrid(256, 0, math.ceil(250_000 / downsample), 100, downsample, downsample)
    x0, _ = grid.level0_xy(np.arange(grid.n_cols), 0)
    assert np.abs(x0 - np.arange(grid.n_cols) * 256 * downsample).max() <= 0.5


@pytest.mark.parametrize(
    ("tile", "overlap", "edge"), [(0, 0, "pad"), (256, 256, "pad"), (256, -1, "pad"), (256, 0, "crop")]
)
def test_impossible_lattices_are_refused(tile: int, overlap: int, edge: str) -> None:
    with pytest.raises(UsageError):
        TileGrid(tile, overlap, 100, 100, 1.0, 1.0, edge)  # type: ignore[arg-type]
