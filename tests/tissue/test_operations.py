"""The filters of the tissue mask against scipy's and scikit-image's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import threshold_otsu

from wsivit.tissue.operations import block_means, otsu, pieces, running_max, running_min, smoothed, touched

SHAPES = [(1, 1), (1, 9), (8, 1), (5, 7), (131, 97)]


@pytest.mark.parametrize("sigma", [1.0, 1.6, 2.5, 5.0, 12.0])
def test_smoothing_is_a_bell_curve(sigma: float) -> None:
    point = np.zeros((121, 121))
    point[60, 60] = 1
    bell, expected = smoothed(point, sigma), ndimage.gaussian_filter(point, sigma, truncate=6)
    assert bell.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(bell - expected).max() < 0.15 * expected.max()
    variance = (bell.sum(axis=0) * (np.arange(121) - 60) ** 2).sum()
    assert variance == pytest.approx(sigma**2, abs=0.3)


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothing_keeps_what_is_even_and_small_sigmas_keep_everything(shape: tuple[int, int]) -> None:
    assert smoothed(np.full(shape, 3, np.uint8), 4.0) == pytest.approx(np.full(shape, 3.0))
    values = np.random.default_rng(0).random(shape)
    assert smoothed(values, 0.3) == pytest.approx(values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 3, 5, 7, 29])
def test_running_extremes_are_scipys(shape: tuple[int, int], size: int) -> None:
    values = np.random.default_rng(size).integers(0, 255, shape).astype(np.uint8)
    assert np.array_equal(running_max(values, size), ndimage.maximum_filter(values, size))
    assert np.array_equal(running_min(values, size), ndimage.minimum_filter(values, size))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_pieces_are_scipys(seed: int, height: int, width: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask, seeds = rng.random((height, width)) < share, rng.random((height, width)) < 0.05
    numbers, sizes = pieces(mask)
    expected, count = ndimage.label(mask)
    assert np.array_equal(numbers, expected) and len(sizes) == count + 1
    assert np.array_equal(sizes, np.bincount(expected.ravel(), minlength=1))
    assert np.array_equal(touched(mask, seeds), ndimage.binary_propagation(seeds & mask, mask=mask))


def test_a_piece_that_winds_is_one() -> None:
    mask = np.zeros((99, 99), bool)
    mask[::4] = True
    mask[1::8, 0] = mask[2::8, 0] = mask[3::8, 0] = mask[5::8, -1] = mask[6::8, -1] = mask[7::8, -1] = True
    numbers, sizes = pieces(mask)
    assert sizes.tolist() == [(~mask).sum(), mask.sum()] and np.array_equal(numbers, mask)


def test_otsu_is_scikit_images() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(level, 1, 4000) for level in (0, 6)])
    assert otsu(values) == pytest.approx(threshold_otsu(values))


def test_block_means_repeat_the_last_row_and_column() -> None:
    values = np.arange(35, dtype=np.float32).reshape(5, 7)
    means = block_means(values, 2)
    assert means.shape == (3, 4) and means[0, 0] == 4 and means[2, 3] == 34


def test_tiling_loads_no_scipy() -> None:
    code = "import sys, wsivit.tiling.tile, wsivit.tiling.preview\n"
    code += "print(sorted({'scipy', 'skimage', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
