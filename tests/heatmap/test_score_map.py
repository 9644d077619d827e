"""Stitching against brute force at pixel level, and slide scores against closed forms."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.heatmap import CellStatus, ScoreMap, Window, entropy, slide_scores, smooth, stitch
from wsivit.slide.grid import TileGrid

WINDOWS: tuple[Window, ...] = ("hann", "uniform", "max")


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    size = draw(st.integers(4, 24))
    return TileGrid(
        tile_size=size,
        overlap=draw(st.integers(0, size - 1)),
        plane_width=draw(st.integers(1, 120)),
        plane_height=draw(st.integers(1, 120)),
        downsample_x=draw(st.sampled_from([1.0, 3.9998, 16.003])),
        downsample_y=draw(st.sampled_from([1.0, 4.0002])),
        edge=draw(st.sampled_from(["pad", "drop"])),
    )


def at_pixel_level(
    grid: TileGrid, col: NDArray[Any], row: NDArray[Any], scores: NDArray[Any], window: Window
) -> NDArray[np.float64]:
    """Blend on a fine raster: 8 samples of the window per pixel and axis, averaged over each cell."""
    fine = 8
    height, width = -(-grid.plane_height // grid.step), -(-grid.plane_width // grid.step)
    u = (np.arange(grid.tile_size * fine) + 0.5) / (grid.tile_size * fine)
    w = np.outer(*[np.sin(np.pi * u) ** 2 if window == "hann" else np.ones_like(u)] * 2)
    pad = grid.tile_size
    shape = ((height * grid.step + pad) * fine, (width * grid.step + pad) * fine)
    total, weight = np.zeros(shape), np.zeros(shape)
    for x, y, s in zip(col * grid.step * fine, row * grid.step * fine, scores, strict=True):
        part = np.s_[y : y + len(u), x : x + len(u)]
        total[part] += w * s
        weight[part] += w
    cell = grid.step * fine
    total, weight = (
        a[: height * cell, : width * cell].reshape(height, cell, width, cell).sum(axis=(1, 3)) for a in (total, weight)
    )
    with np.errstate(invalid="ignore"):
        return total / np.where(weight > 0, weight, np.nan)


@given(grids(), st.floats(0, 1, width=32), st.sampled_from(WINDOWS), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_constant_field_comes_out_constant(grid: TileGrid, value: float, window: Window, random: Any) -> None:
    col, row = grid.cells()
    keep = np.array([random.random() < 0.7 for _ in col], bool)
    score_map = stitch(grid, col[keep], row[keep], np.full((keep.sum(), 2), value), window=window)
    known = score_map.coverage > 0
    assert (score_map.scores[known] == np.float32(value)).all()
    assert np.isnan(score_map.scores[~known]).all()
    assert score_map.coverage.max(initial=0) <= 1 + 1e-6
    if keep.all() and len(keep) and grid.edge == "pad":
        np.testing.assert_allclose(score_map.coverage, 1, rtol=1e-6)


@given(grids(), st.sampled_from(["hann", "uniform"]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_blending_equals_the_window_at_pixel_level(grid: TileGrid, window: Window, seed: int) -> None:
    rng = np.random.default_rng(seed)
    col, row = grid.cells()
    keep = rng.random(len(col)) < 0.6
    col, row, scores = col[keep], row[keep], rng.random(keep.sum())
    shuffled = rng.permutation(len(col))
    score_map = stitch(grid, col[shuffled], row[shuffled], scores[shuffled, None], window=window)
    expected = at_pixel_level(grid, col, row, scores, window)
    np.testing.assert_allclose(score_map.scores[..., 0], expected, atol=0.02)


def test_max_takes_the_highest_of_each_class() -> None:
    grid = TileGrid(4, 2, 8, 2, 1.0, 1.0)
    score_map = stitch(grid, [0, 1, 2], [0, 0, 0], [[0.1, 0.9], [0.7, 0.3], [0.2, 0.8]], window="max")
    np.testing.assert_allclose(score_map.scores[0, :, 0], [0.1, 0.7, 0.7, 0.2])
    np.testing.assert_allclose(score_map.scores[0, :, 1], [0.9, 0.9, 0.8, 0.8])


def test_without_overlap_the_grid_is_the_tiles_exactly() -> None:
    grid = TileGrid(256, 0, 1000, 600, 3.9998, 4.0002)
    col, row = grid.cells()
    scores = np.random.default_rng(1).random((len(grid), 3)).astype(np.float32)
    score_map = stitch(grid, col, row, scores)
    np.testing.assert_array_equal(score_map.scores.reshape(-1, 3), scores)
    assert score_map.shape == (3, 4)
    assert score_map.downsample0 == (256 * 3.9998, 256 * 4.0002)
    assert score_map.size0 == (1000 * 3.9998, 600 * 4.0002)


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = TileGrid(16, 9, 300, 400, 1.0, 1.0)
    col, row = grid.cells()
    rng = np.random.default_rng(2)
    scores, status = rng.random((len(grid), 2)), rng.choice([0, 1, 2], len(grid))
    whole = stitch(grid, col, row, scores, status)
    monkeypatch.setattr(sys.modules[stitch.__module__], "_BAND_VALUES", 300)
    banded = stitch(grid, col, row, scores, status)
    for name in ("scores", "coverage", "status"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(banded, name))


def test_status_band_says_what_is_known() -> None:
    grid = TileGrid(10, 0, 70, 10, 1.0, 1.0)
    scores = np.array([[0.5], [0.5], [0.9], [np.nan], [np.nan], [0.9]])
    score_map = stitch(grid, [0, 1, 2, 3, 4, 5], [0] * 6, scores, [0, 1, 2, 0, 2, 4])
    expected = ["OK", "PADDED", "UNREADABLE", "UNPREDICTED", "UNREADABLE", "MISSING", "EMPTY"]
    assert [CellStatus(code).name for code in score_map.status[0]] == expected
    assert np.isnan(score_map.scores[0, 2:]).all()  # a score that came with a tile without pixels is not believed


def test_an_unreadable_tile_stays_visible_under_its_neighbours() -> None:
    grid = TileGrid(10, 5, 20, 5, 1.0, 1.0)
    score_map = stitch(grid, [0, 1, 2], [0] * 3, [[0.2], [np.nan], [0.4]], [0, 2, 0])
    assert score_map.status[0].tolist() == [0, 2, 2, 0]
    np.testing.assert_allclose(score_map.scores[0, :, 0], [0.2, 0.2, 0.4, 0.4], rtol=1e-6)
    assert score_map.coverage[0, 0] == 1 and 0 < score_map.coverage[0, 1] < 1


def test_stitch_refuses_what_makes_no_sense() -> None:
    grid = TileGrid(10, 0, 60, 10, 1.0, 1.0)
    with pytest.raises(UsageError, match="window"):
        stitch(grid, [0], [0], [[1.0]], window="gauss")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one entry per tile"):
        stitch(grid, [0, 1], [0, 0], [[1.0]])
    with pytest.raises(UsageError, match="1 tiles lie outside the grid of 6 x 1"):
        stitch(grid, [0, 6], [0, 0], [[1.0], [1.0]])


def test_a_slide_of_200000_pixels_a_side_stitches_in_under_1_gb() -> None:
    grid = TileGrid(224, 160, 200_000, 200_000, 1.0, 1.0)  # 9.8 million tiles, a cell every 64 pixels
    col, row = grid.cells()
    scores = np.full((len(grid), 2), 0.25, np.float32)
    tracemalloc.start()
    score_map = stitch(grid, col, row, scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    inputs = col.nbytes + row.nbytes + scores.nbytes
    assert score_map.shape == (3125, 3125)
    assert peak + inputs < 1e9


def test_entropy_of_certain_and_even_scores() -> None:
    p = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [np.nan] * 3], np.float32)
    np.testing.assert_allclose(entropy(p), [0, 1, np.log(2) / np.log(3), np.nan], atol=1e-6)
    np.testing.assert_allclose(entropy(np.array([[0.5], [1.0], [0.0]], np.float32)), [1, 0, 0], atol=1e-6)


def one_class(values: Any, mpp_cell: float = 100.0) -> ScoreMap:
    values = np.asarray(values, float)
    grid = TileGrid(10, 0, values.shape[1] * 10, values.shape[0] * 10, mpp_cell / 10, mpp_cell / 10)
    col, row = grid.cells()
    return stitch(grid, col, row, values.reshape(-1, 1))


def test_smoothing_keeps_constants_and_gaps() -> None:
    field = np.full((9, 9), 0.4)
    field[2:4, 3:8] = np.nan
    score_map = smooth(one_class(field), sigma0=150.0)
    np.testing.assert_allclose(score_map.scores[..., 0], np.float32(field), rtol=1e-6)
    assert score_map.smoothing0 == 150.0
    assert smooth(score_map, 0) is score_map
    spike = np.zeros((9, 9))
    spike[4, 4] = 1
    assert 0 < smooth(one_class(spike), 100.0).scores[4, 5, 0] < 0.2
    with pytest.raises(UsageError, match="at least 0"):
        smooth(score_map, -1)


def test_slide_scores_in_closed_form() -> None:
    field = np.full((5, 6), 0.1)
    field[0, 0:2] = field[1, 2] = 0.8  # a focus of three cells: the third by its corner
    field[4, 5] = 0.6
    field[3, 0] = np.nan
    (score,) = slide_scores(field.reshape(-1, 1), {"tumor": 0.5}, one_class(field), (1.0, 1.0), top_k=2)
    known = field[np.isfinite(field)]
    assert score.class_name == "tumor" and score.n_tiles == 29
    assert score.mean == pytest.approx(known.mean())
    assert score.top_k_mean == pytest.approx(0.8)
    assert score.noisy_or == pytest.approx(1 - np.prod(1 - known))
    assert score.area_fraction == pytest.approx(4 / 29)
    assert score.largest_focus_mm2 == pytest.approx(3 * 0.1**2)


def test_slide_scores_at_the_ends_of_the_scale() -> None:
    certain = np.array([[1.0, 0.0]])
    score_map = one_class(certain)
    (score,) = slide_scores(certain.reshape(-1, 1), {"a": 0.5}, score_map, (1.0, 1.0))
    assert score.noisy_or == 1.0 and score.top_k == 2
    with pytest.raises(UsageError, match="threshold"):
        slide_scores([[0.5]], {"a": 1.5}, score_map, (1.0, 1.0))
    with pytest.raises(UsageError, match="top_k"):
        slide_scores([[0.5]], {"a": 0.5}, score_map, (1.0, 1.0), top_k=0)
    with pytest.raises(UsageError, match="no tile has a prediction"):
        slide_scores([[np.nan]], {"a": 0.5}, score_map, (1.0, 1.0))


def test_cells_past_the_slide_count_only_with_what_is_on_it() -> None:
    grid = TileGrid(10, 0, 25, 10, 1.0, 1.0)
    score_map = stitch(grid, [0, 1, 2], [0, 0, 0], [[1.0]] * 3)
    np.testing.assert_allclose(score_map.cell_areas((100.0, 100.0)), [[1.0, 1.0, 0.5]])


def test_the_spread_is_blended_like_the_scores() -> None:
    grid = TileGrid(16, 9, 300, 400, 1.0, 1.0)
    col, row = grid.cells()
    rng = np.random.default_rng(3)
    scores, status = rng.random((len(grid), 2)), rng.choice([0, 1, 2], len(grid))
    plain = stitch(grid, col, row, scores, status)
    both = stitch(grid, col, row, scores, status, "hann", scores[:, 1])
    np.testing.assert_array_equal(both.scores, plain.scores)
    np.testing.assert_array_equal(both.spread, plain.scores[..., 1])
    assert (plain.uncertainty_kind, both.uncertainty_kind) == ("entropy", "spread")
    np.testing.assert_array_equal(both.uncertainty, both.spread)
