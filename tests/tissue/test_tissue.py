"""Masks against shapes whose extent is known, and geometry against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_slides import tissue_picture

from wsivit.errors import UsageError
from wsivit.tissue import find_tissue, mask_polygons, polygons_mask, tissue_fractions


def ellipse(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return ((x / width - 0.5) / 0.38) ** 2 + ((y / height - 0.5) / 0.36) ** 2 < 1


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("method", ["auto", "otsu"])
def test_finds_the_painted_tissue(method: str) -> None:
    tissue = find_tissue(tissue_picture(300, 220), 8.0, method)
    assert iou(tissue.mask, ellipse(300, 220)) > 0.97
    assert tissue.parameters["method"] == method


def test_none_takes_everything_and_a_callable_is_asked() -> None:
    image = tissue_picture(60, 50)
    assert find_tissue(image, None, "none").mask.all()
    left = find_tissue(image, 8.0, lambda rgb, mpp: np.arange(rgb.shape[1])[None, :].repeat(50, 0) < 30)
    assert left.mask.mean() == 0.5
    with pytest.raises(UsageError, match="bool mask"):
        find_tissue(image, 8.0, lambda rgb, mpp: rgb)
    with pytest.raises(UsageError, match="no tissue method 'magic'"):
        find_tissue(image, 8.0, "magic")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_fractions_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 9)) > 0.5
    boxes = np.sort(rng.uniform(-20, 140, (5, 2, 2)), axis=1).reshape(5, 4)
    squares = shapely.union_all([shapely.box(x * 11, y * 13, x * 11 + 11, y * 13 + 13) for y, x in np.argwhere(mask)])
    slide = shapely.box(0, 0, 99, 91)
    expected = []
    for box in boxes:
        part = shapely.box(*box).intersection(slide)
        expected.append(part.intersection(squares).area / part.area if part.area else 0)
    assert tissue_fractions(mask, boxes, (99, 91)) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.8))
def test_polygons_come_back_as_the_same_mask(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((12, 17)) < share
    mask[0, 0] = True
    outline = mask_polygons(mask, (16.003, 7.9), tolerance=0)
    assert outline.is_valid
    assert np.array_equal(polygons_mask([outline], mask.shape, (16.003, 7.9)), mask)


def test_outline_of_a_ring_has_its_hole() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:90, 10:90] = True
    mask[30:60, 40:70] = False
    outline = mask_polygons(mask, (2.0, 3.0))
    assert outline.is_valid and len(outline.geoms) == 1 and len(outline.geoms[0].interiors) == 1
    assert outline.area == pytest.approx((80 * 80 - 30 * 30) * 6, rel=0.01)


def test_points_are_no_outline() -> None:
    with pytest.raises(UsageError, match="no polygon"):
        polygons_mask([shapely.Point(1, 1)], (10, 10), (1, 1))
